// The server goes away in good order, or loses its log for a while. Here the package's transport is used as it is,
// so it is the server's word alone, `server_error`, that makes the client reconnect.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, test } from "node:test";
import { createBrowserWebSocketTransport } from "insieme/node";
import WebSocket from "ws";
import { App, closeAll, serverLog } from "./lib/app.mjs";
import { onReference, startBackend } from "./lib/backend.mjs";

const skip = onReference && "the package's server has no such outages";

let backend;
before(async () => {
  if (!skip) backend = await startBackend();
});
afterEach(closeAll);
after(() => backend?.stop());

const plain = (options = {}) => ({
  transport: createBrowserWebSocketTransport({ url: backend.url, WebSocketImpl: WebSocket }),
  ...options,
});

test("a frontend that is stopped in good order tells its clients so that they reconnect", { skip }, async () => {
  const project = randomUUID();
  const ann = await new App(backend, project, plain()).start();
  const bob = await new App(backend, project, plain()).start();
  await backend.stopFrontend();
  await backend.startFrontend();
  for (const app of [ann, bob]) {
    await app.until("a second `synced`", () => app.toldOf("synced").length >= 2);
    assert.ok(app.toldOf("error").some(({ code }) => code === "server_error"));
  }
  await ann.submit({ n: 1 });
  await bob.has(1);
});

test("a frontend stopped in good order in the middle of submits: each is committed exactly once", { skip }, async () => {
  const project = randomUUID();
  const ann = await new App(backend, project, plain()).start();
  const sent = [];
  let writing = true;
  const writer = (async () => {
    while (writing) {
      sent.push(await ann.submit({ n: sent.length }));
      await ann.until("room", async () => (await ann.store.loadDraftsOrdered()).length < 20);
    }
  })();
  for (let round = 0; round < 2; round += 1) {
    const before = ann.toldOf("committed").length;
    await ann.until("some commits", () => ann.toldOf("committed").length >= before + 10);
    await backend.stopFrontend();
    await backend.startFrontend();
  }
  writing = false;
  await writer;
  await ann.drained();
  assert.deepEqual(ann.toldOf("rejected"), []);
  assert.deepEqual((await serverLog(backend, project)).map(({ id }) => id), sent);
});

/** How the log is away for a while. */
const OUTAGES = {
  "stands still": async (meanwhile) => {
    backend.nats.signal("SIGSTOP");
    await meanwhile();
    backend.nats.signal("SIGCONT");
  },
  // Killed while the stream of drafts is empty, NATS comes back with that stream's count at 0 and its consumers'
  // where they were; validators make new ones.
  "is killed": async (meanwhile) => {
    await backend.killNats();
    await meanwhile();
    await backend.startNats();
  },
};
for (const [what, outage] of Object.entries(OUTAGES)) {
  test(`the log ${what} in the middle of a submit: no draft is lost or rejected, and each is committed once`, { skip }, async () => {
    const project = randomUUID();
    const ann = await new App(backend, project, plain()).start();
    const sent = [await ann.submit({ n: 0 })];
    await ann.drained();
    await outage(async () => {
      for (let n = 1; n <= 3; n += 1) sent.push(await ann.submit({ n }));
    });
    await ann.drained();
    assert.deepEqual(ann.toldOf("rejected"), []);
    assert.deepEqual((await serverLog(backend, project)).map(({ id }) => id), sent);
  });
}
