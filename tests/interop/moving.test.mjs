// From the package's own server with its SQLite store to this backend: the published client, unchanged, continues with its
// cursor, its drafts and what it has, and nothing that was committed there is committed again.
//
//     INSIEME_TEST_MOVE_EVENTS   how many events the larger database has   [default: 2000]

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { createInMemoryClientStore, createSqliteClientStore, createSqliteSyncStore } from "insieme/node";
import { signHs256 } from "../conformance/lib/tokens.mjs";
import { startReference } from "../conformance/reference.mjs";
import { App, closeAll, serverLog } from "./lib/app.mjs";
import { onReference, startBackend } from "./lib/backend.mjs";
import { openSqlite } from "./lib/sqlite.mjs";

const EVENTS = Number(process.env.INSIEME_TEST_MOVE_EVENTS ?? 2_000);
const BACK = fileURLToPath(new URL("../../examples/moving/to_reference.py", import.meta.url));
const CONVERTER = fileURLToPath(new URL("../../examples/moving/from_reference.py", import.meta.url));
const skip = onReference && "it moves away from that server";

let dir;
before(() => {
  dir = mkdtempSync(join(tmpdir(), "insieme-moving-"));
});
after(async () => {
  await closeAll();
  rmSync(dir, { recursive: true, force: true });
});

/** The export of a store. */
const exported = (store) => {
  const file = `${store}.jsonl`;
  execFileSync("python3", [CONVERTER, store], { stdio: ["ignore", openSync(file, "w"), "pipe"] });
  return file;
};

/** Ann's store, which outlives her client. */
const annStore = () => createSqliteClientStore(openSqlite(join(dir, "ann.db")), { journalMode: "DELETE" });

const token = (clientId, projectId) =>
  signHs256({ clientId, projectIds: [projectId], exp: Math.floor(Date.now() / 1000) + 3600 }, "conformance-secret");

/** What of an event must be the same before and after. */
const kept = ({ committedId, id, projectId, userId, partition, type, schemaVersion, payload, meta }) => ({
  committedId, id, projectId, userId: userId ?? undefined, partition, type, schemaVersion, payload, clientTs: meta?.clientTs,
});

test("the published client continues with its cursor after its server's database was imported", { skip }, async () => {
  const store = join(dir, "reference.db");
  const database = openSqlite(store);
  const server = await startReference({ store: createSqliteSyncStore(database, { journalMode: "DELETE" }) });
  const reference = { ...server, token };
  const [project, other] = [randomUUID(), "other project/ü"];

  const ann = await new App(reference, project, { clientId: "ann", store: annStore() }).start();
  const bob = await new App(reference, other, { clientId: "bob" }).start();
  for (let n = 0; n < 40; n += 1) {
    await ann.submit({ n, text: "ü\u0000\u{1f600}", nested: { b: 1.5, a: [n] } }, { userId: n % 2 ? "u-1" : undefined });
    await bob.submit({ n });
  }
  await ann.drained();
  await bob.drained();
  await ann.has(40);
  const before = (await serverLog(reference, project)).map(kept);
  assert.equal(before.length, 40);
  await ann.close();
  // What a client committed itself moves its cursor only when it syncs: once more, there.
  const synced = await new App(reference, project, { clientId: "ann", store: annStore() }).start();
  const { cursor } = synced.toldOf("synced").at(-1);
  assert.equal(cursor, before.at(-1).committedId);
  await synced.close();
  await bob.close();
  await server.stop();
  const times = database.prepare("SELECT server_ts FROM committed_events WHERE project_id = @project ORDER BY committed_id")
    .all({ project }).map(({ server_ts: time }) => time);
  database.close();

  const backend = await startBackend({ importFile: exported(store) });
  try {
    // A client that comes anew sees the same events under the same ids.
    const after = (await serverLog(backend, project)).map(kept);
    assert.deepEqual(after, before);
    assert.equal((await serverLog(backend, other)).length, 40);
    // The times are the reference server's.
    assert.deepEqual(backend.log(project).map(({ timestamp }) => timestamp), times);

    // The client that was there continues: it is sent nothing that it has, and commits after it.
    const again = await new App(backend, project, { clientId: "ann", store: annStore() }).start();
    assert.deepEqual(again.toldOf("sync_page").flatMap(({ events }) => events ?? []), []);
    await again.submit({ n: "new" });
    await again.drained();
    await again.has(41);
    const log = await serverLog(backend, project);
    assert.equal(log.length, 41);
    assert.ok(log.at(-1).committedId > cursor);
    assert.deepEqual(again.toldOf("error"), []);
    await again.close();

    // A draft that the old server had committed, and whose answer was lost, is known.
    const lost = createInMemoryClientStore();
    await lost.init();
    const of = before[7];
    await lost.insertDraft({
      id: of.id, projectId: of.projectId, userId: of.userId, partition: of.partition, type: of.type,
      schemaVersion: of.schemaVersion, payload: of.payload, clientTs: of.clientTs, createdAt: of.clientTs,
    });
    const late = await new App(backend, project, { clientId: "ann", store: lost }).start();
    await late.drained();
    assert.deepEqual(late.toldOf("rejected"), []);
    const all = (await serverLog(backend, project)).map(kept);
    assert.equal(all.length, 41, "it was not committed again");
    await closeAll();

    // And back: the package's own server has the same events, and the client continues there.
    const [file, back] = [join(dir, "back.jsonl"), join(dir, "back.db")];
    backend.run(["export", file]);
    execFileSync("python3", [BACK, file, back]);
    const backDatabase = openSqlite(back);
    const backServer = await startReference({ store: createSqliteSyncStore(backDatabase, { journalMode: "DELETE" }) });
    const there = { ...backServer, token };
    assert.deepEqual((await serverLog(there, project)).map(kept), all);
    const third = await new App(there, project, { clientId: "ann", store: annStore() }).start();
    await third.submit({ n: "there" });
    await third.drained();
    await third.has(42);
    assert.ok((await serverLog(there, project)).at(-1).committedId > all.at(-1).committedId);
    await closeAll();
    await backServer.stop();
    backDatabase.close();
  } finally {
    await closeAll();
    await backend.stop();
  }
});

test(`a database of ${EVENTS} events is imported, with ids that were never used`, { skip }, async () => {
  const path = join(dir, "large.db");
  const database = openSqlite(path);
  const store = createSqliteSyncStore(database, { journalMode: "DELETE", synchronous: "OFF" });
  await store.init();
  database.exec("BEGIN");
  const row = database.prepare(
    "INSERT INTO committed_events VALUES (@committed_id, @id, @project_id, NULL, 'main', 'note.added', 1, @payload, NULL, 5, @server_ts, 7)",
  );
  let committedId = 100;
  for (let n = 0; n < EVENTS; n += 1) {
    committedId += n % 10 === 0 ? 5 : 1;
    row.run({ committed_id: committedId, id: `e-${n}`, project_id: `project-${n % 50}`, payload: Buffer.from(JSON.stringify({ n })), server_ts: 1_600_000_000_000 + n });
  }
  database.exec("COMMIT");
  database.close();

  const backend = await startBackend({ importFile: exported(path) });
  try {
    console.log(backend.imported.trim());
    const log = backend.log("project-9");
    assert.equal(log.length, EVENTS / 50);
    assert.deepEqual(log.slice(0, 2).map(({ eventId, timestamp }) => [eventId, timestamp]), [[114, 1_600_000_000_009], [184, 1_600_000_000_059]]);
    assert.equal(backend.log("project-49").at(-1).eventId, committedId);
    const app = await new App(backend, "project-3", { clientId: "cid" }).start();
    await app.has(EVENTS / 50);
    await app.submit({ n: "new" });
    await app.drained();
    assert.ok((await app.store.listCommitted()).at(-1).committedId > committedId);
  } finally {
    await closeAll();
    await backend.stop();
  }
});
