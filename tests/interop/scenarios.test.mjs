// The four scenarios of the package's examples/real-client-usage, written anew against a real socket, each on
// both of the package's stores.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { createInMemoryClientStore, createSqliteClientStore } from "insieme/node";
import { App, closeAll, createTransport, serverLog } from "./lib/app.mjs";
import { startBackend } from "./lib/backend.mjs";
import { openSqlite } from "./lib/sqlite.mjs";

let backend;
let dir;
const databases = [];
before(async () => {
  dir = mkdtempSync(join(tmpdir(), "insieme-scenarios-"));
  backend = await startBackend();
});
afterEach(async () => {
  await closeAll();
  for (const database of databases.splice(0)) database.close();
});
after(async () => {
  await backend?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const openStore = (file) => {
  const database = openSqlite(file);
  databases.push(database);
  return createSqliteClientStore(database, { journalMode: "DELETE" });
};

/** Each gives a store that is empty, and what the next run of an application that died finds of it. */
const STORES = {
  "in-memory store": () => {
    const store = createInMemoryClientStore();
    return { store, reopen: () => ({ ...store, close: async () => {} }) };
  },
  "SQLite store": () => {
    const file = join(dir, `${randomUUID()}.db`);
    const store = openStore(file);
    const database = databases.at(-1);
    return {
      store,
      reopen: () => {
        database.close();
        return openStore(file);
      },
    };
  },
};

for (const [name, makeStore] of Object.entries(STORES)) {
  describe(name, () => {
    test("scenario 1: online edit and live sync", async () => {
      const project = `workspace-${randomUUID()}`;
      const device = new App(backend, project, { clientId: `device-${randomUUID()}`, store: makeStore().store });
      const peer = await new App(backend, project, { store: makeStore().store }).start();
      await device.start();
      assert.equal(device.toldOf("connected")[0].projectId, project);
      const id = await device.submit({ id: "folder-A", name: "Folder A" }, { partition: project, type: "explorer.folderCreated" });
      await device.drained();
      await peer.has(1);
      const [commit] = device.toldOf("committed");
      assert.equal(commit.id, id);
      const [broadcast] = peer.toldOf("broadcast");
      assert.equal(broadcast.committedId, commit.committedId);
      assert.deepEqual(broadcast.payload, { id: "folder-A", name: "Folder A" });
      assert.deepEqual(device.toldOf("broadcast"), []);
      const [own] = await device.store.listCommitted();
      const [theirs] = await peer.store.listCommitted();
      for (const field of ["id", "committedId", "partition", "type", "schemaVersion", "payload", "clientTs", "serverTs"]) {
        assert.deepEqual(own[field], theirs[field], field);
      }
    });

    test("scenario 2: offline first, drained at connect", async () => {
      const project = `workspace-${randomUUID()}`;
      const other = await new App(backend, project).start();
      await other.submit({ id: "t0", title: "There before" }, { type: "todo.created" });
      await other.drained();
      const device = new App(backend, project, { store: makeStore().store });
      await device.store.init();
      const drafts = [
        await device.submit({ id: "t1", title: "Buy milk" }, { type: "todo.created" }),
        await device.submit({ id: "t2", title: "Book flights" }, { type: "todo.created" }),
      ];
      assert.equal((await device.store.loadDraftsOrdered()).length, 2);
      await device.client.start();
      await device.client.flushDrafts();
      await device.drained();
      const order = device.told.map(({ type }) => type).filter((type) => ["synced", "committed"].includes(type));
      assert.deepEqual(order, ["synced", "committed", "committed"]);
      assert.deepEqual(device.toldOf("committed").map(({ id }) => id), drafts);
      await other.has(3);
      assert.deepEqual(await device.committed(), await other.committed());
    });

    test("scenario 3: a commit whose result was lost is found by the sync that comes first", async () => {
      const project = `workspace-${randomUUID()}`;
      const clientId = `device-${randomUUID()}`;
      const { store, reopen } = makeStore();
      // The application dies when the server has committed and before the result is in its store.
      const transport = createTransport(backend.url);
      const lossy = {
        ...transport,
        onMessage: (handler) => transport.onMessage((message) => {
          if (message.type !== "submit_events_result") handler(message);
        }),
      };
      const dying = await new App(backend, project, { clientId, store, transport: lossy }).start();
      const witness = await new App(backend, project).start();
      const id = await dying.submit({ id: "t1", title: "Uncertain" }, { type: "todo.created" });
      await witness.has(1);
      assert.equal((await store.loadDraftsOrdered()).length, 1);
      await dying.client.stop();

      const recovered = await new App(backend, project, { clientId, store: reopen() }).start();
      await recovered.client.flushDrafts();
      await recovered.drained();
      assert.deepEqual(await recovered.committed(), [id]);
      assert.deepEqual(recovered.toldOf("sync_page").flatMap(({ events }) => events.map((event) => event.id)), [id]);
      assert.equal((await serverLog(backend, project)).length, 1, "one commit");
    });

    test("scenario 4: a rejection gives the form its errors", async () => {
      const project = `workspace-${randomUUID()}`;
      const device = await new App(backend, project, { store: makeStore().store }).start();
      const id = await device.submit({ id: "", title: "" }, { type: "todo.created" });
      await device.drained();
      const [rejected] = device.toldOf("rejected");
      assert.equal(rejected.id, id);
      assert.equal(rejected.reason, "validation_failed");
      assert.ok(rejected.errors.length > 0);
      for (const { message } of rejected.errors) assert.ok(message.length > 0);
      assert.deepEqual(await serverLog(backend, project), []);
      // The form is corrected, and goes through.
      await device.submit({ id: "t1", title: "Corrected" }, { type: "todo.created" });
      await device.drained();
      assert.equal((await serverLog(backend, project)).length, 1);
    });
  });
}
