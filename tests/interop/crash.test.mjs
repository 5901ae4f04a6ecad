// The frontend dies in the middle of a submit; the client finds back by itself, and there is exactly one commit.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { createSqliteClientStore } from "insieme/node";
import { App, closeAll } from "./lib/app.mjs";
import { onReference, startBackend } from "./lib/backend.mjs";
import { openSqlite } from "./lib/sqlite.mjs";

const skip = onReference && "the package's server keeps nothing over a restart";

let backend;
let dir;
before(async () => {
  dir = mkdtempSync(join(tmpdir(), "insieme-crash-"));
  if (!skip) backend = await startBackend();
});
afterEach(closeAll);
after(async () => {
  await backend?.stop();
  rmSync(dir, { recursive: true, force: true });
});

/** A submit on its way when the frontend dies: not read yet, or in the log and not decided. */
const MIDDLES = {
  "that it has not read": async (submit) => {
    backend.pauseFrontend();
    const id = await submit();
    await backend.killFrontend();
    return id;
  },
  "that is in the log and not decided": async (submit) => {
    const before = await backend.draftsStored();
    backend.pauseValidator();
    const id = await submit();
    while ((await backend.draftsStored()) === before) await new Promise((resolve) => setTimeout(resolve, 10));
    await backend.killFrontend();
    backend.resumeValidator();
    return id;
  },
};

for (const [which, dieInTheMiddle] of Object.entries(MIDDLES)) {
  test(`a frontend killed with a submit ${which}: the client reconnects, and there is one commit`, { skip }, async () => {
    const project = randomUUID();
    const ann = await new App(backend, project).start();
    const bob = await new App(backend, project).start();
    await ann.submit({ n: "before" });
    await ann.drained();

    const id = await dieInTheMiddle(() => ann.submit({ n: "in the middle" }));
    await backend.startFrontend();

    await ann.drained();
    const last = await bob.submit({ n: "after" });
    await ann.until("the other's event", async () => (await ann.committed()).includes(last));
    await bob.has(3);
    assert.equal((await ann.committed()).filter((other) => other === id).length, 1);
    assert.equal(backend.log(project).length, 3, "three events in the log: one commit of each");
    assert.deepEqual(await ann.committed(), await bob.committed());
  });
}

test("a frontend killed again and again under submits: each event is committed exactly once", { skip }, async () => {
  const project = randomUUID();
  const apps = [await new App(backend, project).start(), await new App(backend, project).start()];
  const sent = [];
  let writing = true;
  const writers = apps.map(async (app) => {
    for (let n = 0; writing; n += 1) {
      sent.push(await app.submit({ n }));
      await app.until("room", async () => (await app.store.loadDraftsOrdered()).length < 20);
    }
  });
  for (let round = 0; round < 4; round += 1) {
    const before = apps[0].toldOf("committed").length;
    await apps[0].until("some commits", () => apps[0].toldOf("committed").length >= before + 10);
    await backend.killFrontend();
    await backend.startFrontend();
  }
  writing = false;
  await Promise.all(writers);
  for (const app of apps) {
    await app.drained();
    await app.has(sent.length);
    assert.deepEqual(app.toldOf("rejected"), []);
  }
  assert.equal(backend.log(project).length, sent.length, "one commit of each");
  assert.deepEqual(new Set(await apps[0].committed()), new Set(sent));
  assert.deepEqual(await apps[0].committed(), await apps[1].committed());
});

test("frontend and application both die in the middle of a submit: the next run of the application sorts it out", { skip }, async () => {
  const project = randomUUID();
  const clientId = `device-${randomUUID()}`;
  const file = join(dir, "crash.db");
  const first = openSqlite(file);
  const ann = await new App(backend, project, { clientId, store: createSqliteClientStore(first, { journalMode: "DELETE" }) }).start();
  const id = await MIDDLES["that is in the log and not decided"](() => ann.submit({ n: 1 }));
  await ann.close();
  first.close();
  await backend.startFrontend();

  const second = openSqlite(file);
  const again = await new App(backend, project, { clientId, store: createSqliteClientStore(second, { journalMode: "DELETE" }) }).start();
  await again.drained();
  assert.deepEqual(await again.committed(), [id]);
  assert.equal(backend.log(project).length, 1, "exactly one commit");
  await again.close();
  second.close();
});
