// The published v1 client, unchanged, on the built backend, with the transport that tells it of a dead socket.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createBrowserWebSocketTransport, createInMemoryClientStore, createSyncClient } from "insieme/browser";
import WebSocket from "ws";
import { startBackend } from "../../../tests/interop/lib/backend.mjs";
import { createV1Transport } from "../src/v1-transport.js";
import { Proxy } from "./lib/proxy.mjs";
import { until } from "./lib/setup.js";

let backend;
let proxy;
before(async () => {
  backend = await startBackend();
  proxy = await Proxy.start(backend.port);
});
after(async () => {
  await Promise.all(clients.map((client) => client.stop()));
  proxy?.stop();
  await backend?.stop();
});

const clients = [];

function start(projectId, clientId, transport) {
  const told = [];
  const client = createSyncClient({
    transport,
    store: createInMemoryClientStore(),
    token: "anyone",
    clientId,
    projectId,
    reconnect: { enabled: true, initialDelayMs: 20, maxDelayMs: 200, handshakeTimeoutMs: 10_000 },
    onEvent: (event) => told.push(event),
  });
  clients.push(client);
  return { client, told, heard: (text) => JSON.stringify(told).includes(text) };
}

const write = ({ client }, projectId, text) =>
  client.submitEvent({ partition: "main", projectId, type: "note.added", schemaVersion: 1, payload: { text } });

const ours = (silenceMs) => createV1Transport({ url: `${proxy.url}/ws`, WebSocket, silenceMs });

test("with the package's own transport a dead socket goes unnoticed: what the other one is for", async () => {
  const own = createBrowserWebSocketTransport({ url: `${proxy.url}/ws`, WebSocketImpl: WebSocket });
  const deaf = start("own", "a", own);
  const other = start("own", "b", ours(1000));
  for (const { client } of [deaf, other]) await client.start();
  await write(other, "own", "first");
  await until("the first event", () => deaf.heard("first"));
  proxy.reset();
  await write(other, "own", "second");
  await until("the second event to be committed", () => JSON.stringify(backend.log("own")).includes("second"));
  const later = start("own", "c", ours(1000));
  await later.client.start();
  await until("a third client to have both", () => later.heard("second"));
  assert.equal(deaf.client.getStatus().connected, true);
  assert.equal(deaf.heard("second"), false);
});

for (const [name, cut] of [["that is reset", () => proxy.reset()], ["that dies silently", () => proxy.stall()]]) {
  test(`a socket ${name} is noticed, and the client has what it missed`, async () => {
    const projectId = `cured ${name}`;
    const a = start(projectId, "a", ours(1000));
    const b = start(projectId, "b", ours(1000));
    for (const { client } of [a, b]) await client.start();
    await write(b, projectId, "first");
    await until("the first event", () => a.heard("first"));
    cut();
    await write(b, projectId, "second");
    await until("the second event", () => a.heard("second"));
    assert.equal(backend.log(projectId).length, 2);
  });
}

test("a batch in flight when the backend dies does not block the client", async () => {
  const a = start("batch", "a", ours(1000));
  await a.client.start();
  backend.pauseValidator();
  await write(a, "batch", "first");
  await backend.killFrontend();
  await backend.startFrontend();
  backend.resumeValidator();
  await write(a, "batch", "second");
  await until("both", () => backend.log("batch").length === 2);
});

test("a quiet connection stays, and the probes are not passed on", async () => {
  let sockets = 0;
  class Counted extends WebSocket {
    constructor(...args) {
      super(...args);
      sockets += 1;
    }
  }
  let probes = 0;
  class Probed extends Counted {
    send(text) {
      if (text.includes("probe-")) probes += 1;
      super.send(text);
    }
  }
  const a = start("quiet", "a", createV1Transport({ url: `${proxy.url}/ws`, WebSocket: Probed, silenceMs: 1000 }));
  await a.client.start();
  await until("some probes", () => probes >= 2);
  assert.equal(sockets, 1);
  assert.deepEqual(a.told.filter(({ type }) => type === "error"), []);
  assert.equal(a.client.getStatus().connected, true);
});
