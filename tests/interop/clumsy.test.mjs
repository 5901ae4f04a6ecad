// Applications as they are: they cut text in the middle of an emoji, and their backend may be set back. One mistake costs
// one draft, and a client that is ahead of the log stops instead of missing events.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, test } from "node:test";
import { createBrowserWebSocketTransport, createInMemoryClientStore } from "insieme/node";
import WebSocket from "ws";
import { App, closeAll } from "./lib/app.mjs";
import { onReference, startBackend } from "./lib/backend.mjs";

const skip = onReference && "the package's server takes and does what it takes and does";

let backend;
before(async () => {
  if (!skip) backend = await startBackend();
});
afterEach(closeAll);
after(() => backend?.stop());

test("a draft that cannot be taken is rejected, and the ones after it are committed", { skip }, async () => {
  const project = randomUUID();
  const ann = await new App(backend, project).start();
  let deep = 1;
  for (let level = 0; level < 70; level += 1) deep = [deep];
  const faulty = [
    [{ text: "see you \u{1F600}".slice(0, 9) }, {}],
    [{ deep }, {}],
    [{ n: 1 }, { type: "read" }],
    [JSON.parse('{"__proto__":1}'), {}],
    [{ n: 1 }, { partition: "half \ud83d" }],
    [{ n: 1 }, { id: "half \ud83d" }],
    [{ n: 1 }, { type: "t".repeat(300) }],
  ];
  const good = [];
  for (const [payload, fields] of faulty) {
    await ann.submit(payload, fields);
    good.push(await ann.submit({ n: good.length }));
  }
  await ann.drained();
  assert.equal(ann.toldOf("rejected").length, faulty.length);
  for (const { errors } of ann.toldOf("rejected")) assert.ok(errors[0].code && errors[0].message, JSON.stringify(errors));
  assert.deepEqual(backend.log(project).map(({ draftId }) => draftId), good);
});

test("a client that is ahead of the log is stopped, and does not come back by itself", { skip }, async () => {
  const project = randomUUID();
  const writer = await new App(backend, project).start();
  await writer.submit({ n: 1 });
  await writer.drained();
  // What it kept is of a backend that had more events.
  const store = createInMemoryClientStore();
  await store.init();
  await store.applyCommittedBatch({ events: [], nextCursor: 1_000_000 });
  const transport = createBrowserWebSocketTransport({ url: backend.url, WebSocketImpl: WebSocket });
  const ahead = new App(backend, project, { store, transport });
  await ahead.client.start();
  await ahead.until("to be told", () => ahead.toldOf("error").some(({ code }) => code === "auth_failed"));
  const told = ahead.toldOf("error").find(({ code }) => code === "auth_failed");
  assert.match(told.message, /^cursor_beyond_log/);
  const { connected, reconnectInFlight } = ahead.client.getStatus();
  assert.deepEqual({ connected, reconnectInFlight }, { connected: false, reconnectInFlight: false });
  assert.equal(ahead.toldOf("synced").length, 0);
});
