// An operator ends a client's connections. The package's transport is used as it is: what the client makes of it is
// what the server's word says.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, afterEach, before, test } from "node:test";
import { createBrowserWebSocketTransport } from "insieme/node";
import WebSocket from "ws";
import { App, closeAll } from "./lib/app.mjs";
import { onReference, startBackend } from "./lib/backend.mjs";

const skip = onReference && "the package's server has no administration";

let backend;
before(async () => {
  if (skip) return;
  backend = await startBackend();
  await backend.startAdmin();
});
afterEach(closeAll);
after(() => backend?.stop());

const plain = () => ({ transport: createBrowserWebSocketTransport({ url: backend.url, WebSocketImpl: WebSocket }) });

test("a client that is closed to come again reconnects, and what it writes meanwhile arrives once", { skip }, async () => {
  const project = randomUUID();
  const ann = await new App(backend, project, plain()).start();
  const bob = await new App(backend, project, plain()).start();
  const closed = await backend.closeClient(ann.clientId, { reconnect: true });
  assert.equal(closed.closed, 1);
  const id = await ann.submit({ n: 1 });
  await ann.until("a second `synced`", () => ann.toldOf("synced").length >= 2);
  assert.ok(ann.toldOf("error").some(({ code }) => code === "server_error"));
  await bob.has(1);
  assert.deepEqual(await bob.committed(), [id]);
  await ann.drained();
});

test("a client that is closed to stay away is told so and does not come back by itself", { skip }, async () => {
  const project = randomUUID();
  const ann = await new App(backend, project, plain()).start();
  const bob = await new App(backend, project, plain()).start();
  assert.equal((await backend.closeClient(ann.clientId, {})).closed, 1);
  await ann.until("the word", () => ann.toldOf("error").some(({ code }) => code === "auth_failed"));
  assert.equal(ann.client.getStatus().connected, false);
  // Longer than its longest pause between two tries.
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  assert.equal(ann.client.getStatus().connected, false);
  assert.equal(ann.toldOf("synced").length, 1);
  await bob.submit({ n: 1 });
  await bob.drained();
});
