// The connection: lost, silent, refused, resumed.

import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryStore } from "../src/index.js";
import { socketUrl } from "../src/connection.js";
import { FakeEnv, FakeServer } from "./lib/fake.js";
import { noteRules } from "./lib/model.js";
import { setup, token } from "./lib/setup.js";

test("a socket on which nothing comes for two heartbeats is abandoned, without its close", async () => {
  const { env, server, client, run } = await setup();
  server.peer.drop(1006, false);
  await env.advance(59_000);
  assert.equal(client.status.connection, "connected");
  await env.advance(1001);
  assert.equal(client.status.connection, "disconnected");
  assert.equal(client.status.reason, "silent");
  await env.advance(1000);
  await run();
  assert.equal(client.status.connection, "connected");
  await client.close();
});

test("a quiet connection that answers heartbeats stays", async () => {
  const { env, client, run } = await setup();
  for (let minute = 0; minute < 20; minute += 1) {
    await env.advance(30_000);
    await run();
  }
  assert.equal(env.sockets.length, 1);
  await client.close();
});

test("a state that is too large for one frame comes in parts", async () => {
  const server = new FakeServer();
  server.partChars = 5;
  server.commit("other", "set", { target: "long", value: "é😀\"\\\n".repeat(9) });
  const { client, run } = await setup({ server });
  assert.equal(client.getSnapshot().long, "é😀\"\\\n".repeat(9));
  assert.equal(client.status.connection, "connected");
  server.commit("other", "set", { target: "more", value: 1 });
  await run();
  assert.equal(client.getSnapshot().more, 1);
  await client.close();
});

for (const [target, name] of [["document", "visibilitychange"], ["document", "resume"], ["window", "focus"], ["window", "online"]]) {
  test(`${name} tests the connection at once`, async () => {
    const { env, server, client, run } = await setup();
    server.peer.drop(1006, false);
    env[target].dispatchEvent(new Event(name));
    await env.advance(5001);
    await env.advance(1000);
    await run();
    assert.equal(client.status.connection, "connected");
    assert.equal(env.sockets.length, 2);
    // One that lives stays.
    env[target].dispatchEvent(new Event(name));
    await run();
    await env.advance(6000);
    assert.equal(env.sockets.length, 2);
    await client.close();
  });
}

test("a page that is looked at again and again finds a dead connection all the same", async () => {
  const { env, server, client } = await setup();
  server.peer.drop(1006, false);
  for (let count = 0; count < 6; count += 1) {
    env.window.dispatchEvent(new Event("focus"));
    await env.advance(1000);
  }
  assert.notEqual(client.status.connection, "connected");
  await client.close();
});

test("one attempt at a time, doubling up to a limit, for ever, reset after ten seconds", async () => {
  const server = new FakeServer();
  const env = new FakeEnv({ server, random: () => 0.999 });
  const { client } = await setup({ server, env, connect: false });
  const waits = [];
  for (let attempt = 0; attempt < 12; attempt += 1) {
    assert.equal(env.sockets.filter(({ closed }) => !closed).length, 1);
    for (let count = 0; count < 5; count += 1) env.window.dispatchEvent(new Event("online"));
    server.peer.drop(1006);
    waits.push(Math.round(client.status.retryAt - env.time));
    await env.advance(client.status.retryAt - env.time);
  }
  assert.deepEqual(waits.slice(0, 8).map((ms) => Math.round(ms / 500)), [1, 2, 4, 8, 16, 32, 60, 60]);
  await server.run(env);
  server.peer.drop();
  assert.ok(client.status.retryAt - env.time > 20_000, "it did not hold");
  await env.advance(30_000);
  await server.run(env);
  await env.advance(10_001);
  server.peer.drop();
  assert.ok(client.status.retryAt - env.time <= 500);
  await client.close();
});

test("the pause is any part of its limit", async () => {
  for (const part of [0, 0.25]) {
    const server = new FakeServer();
    const { env, client } = await setup({ server, env: new FakeEnv({ server, random: () => part }), connect: false });
    server.peer.drop();
    assert.equal(client.status.retryAt - env.time, 500 * part);
    await client.close();
  }
});

test("an attempt that hangs is given up after ten seconds", async () => {
  const { env, client } = await setup({ connect: false });
  await env.advance(10_001);
  assert.equal(client.status.reason, "timeout");
  await env.advance(1000);
  assert.equal(env.sockets.length, 2);
  await client.close();
});

test("retryAfterMs and the close code are honoured", async () => {
  const { env, server, client } = await setup();
  server.peer.send("error", { code: "unavailable", message: "going away", details: { retryAfterMs: 7000 } });
  server.peer.deliver();
  server.peer.drop(1001);
  assert.equal(client.status.code, 1001);
  assert.equal(client.status.reason, "unavailable");
  env.window.dispatchEvent(new Event("online"));
  await env.advance(6900);
  assert.equal(env.sockets.length, 1, "not even when the page wakes");
  await env.advance(1000);
  assert.equal(env.sockets.length, 2);
  await client.close();
});

test("it resumes after its cursor, and does not render for it", async () => {
  const { env, server, client, run } = await setup();
  server.commit("other", "set", { target: "x", value: 1 });
  await run();
  env.frameNow();
  const snapshot = client.getSnapshot();
  let renders = 0;
  client.subscribe(() => (renders += 1));
  server.peer.drop();
  await env.advance(1000);
  await run();
  env.frameNow();
  assert.equal(client.status.connection, "connected");
  assert.equal(client.getSnapshot(), snapshot);
  assert.equal(renders, 0);
  await client.close();
});

test("far behind, it takes the state in place of the events", async () => {
  const { env, server, client, run } = await setup();
  server.commit("other", "set", { target: "x", value: 1 });
  await run();
  server.peer.drop();
  server.log.push({ ...server.log[0], eventId: 50_000, payload: { target: "x", value: 2 } });
  server.state = { ...server.state, x: 2 };
  let resets = 0;
  client.on("reset", () => (resets += 1));
  await env.advance(1000);
  await run();
  await env.advance(1000);
  await run();
  assert.equal(client.status.cursor, 50_000);
  assert.equal(client.getSnapshot().x, 2);
  assert.equal(resets, 0);
  await client.close();
});


for (const [name, change, reason] of [
  ["went back", (server) => Object.assign(server, { log: [], state: server.start }), "went-back"],
  [
    "was replaced and has grown past the cursor",
    (server) => {
      server.log = [];
      server.state = server.start;
      for (let value = 0; value < 5; value += 1) server.commit("else", "set", { target: "y", value });
    },
    "replaced",
  ],
  ["has another logId", (server) => (server.connectedExtra = { logId: "b" }), "replaced"],
]) {
  test(`a log that ${name} is told, its state taken, drafts are kept`, async () => {
    const store = memoryStore();
    const server = new FakeServer();
    server.connectedExtra = { logId: "a" };
    const { env, client, run } = await setup({ server, store });
    const first = client.submit("set", { target: "x", value: 1 });
    await run();
    await first.settled;
    const resets = [];
    client.on("reset", (reset) => resets.push(reset));
    server.refuse = () => ({ reason: "unavailable", retryAfterMs: 1 });
    const draft = client.submit("set", { target: "z", value: 1 });
    await run();
    server.peer.drop();
    change(server);
    if (name !== "has another logId") server.connectedExtra = {};
    server.refuse = () => undefined;
    for (let round = 0; round < 5; round += 1) {
      await env.advance(5000);
      await run();
    }
    assert.equal(resets.length, 1);
    assert.equal(resets[0].reason, reason);
    assert.equal((await draft.settled).status, "accepted");
    assert.deepEqual(client.getSnapshot(), server.state);
    await client.close();
  });
}

for (const broadcastFirst of [false, true]) {
  test(`a draft of which only the ${broadcastFirst ? "broadcast" : "answer"} came goes into the log that takes its log's place`, async () => {
    const { env, server, client, run } = await setup();
    server.connectedExtra = { logId: "a" };
    server.peer.drop();
    await env.advance(1000);
    await run();
    server.broadcastFirst = () => broadcastFirst;
    const draft = client.submit("set", { target: "x", value: 1 });
    await env.settle();
    server.step(server.peer);
    server.peer.deliver();
    server.peer.drop();
    Object.assign(server, { log: [], state: server.start, connectedExtra: { logId: "b" } });
    for (let round = 0; round < 5; round += 1) {
      assert.equal(client.getSnapshot().x, 1);
      await env.advance(1000);
      await run();
    }
    assert.equal((await draft.settled).status, "accepted");
    assert.deepEqual(server.log.map(({ draftId }) => draftId), [draft.id]);
    assert.deepEqual(client.getSnapshot(), server.state);
    await client.close();
  });
}

test("a frontend that lags a moment is no log that went back", async () => {
  const { env, server, client, run } = await setup();
  server.commit("other", "set", { target: "x", value: 1 });
  server.commit("other", "set", { target: "x", value: 2 });
  await run();
  let resets = 0;
  client.on("reset", () => (resets += 1));
  const last = server.log.pop();
  server.peer.drop();
  await env.advance(500);
  await run();
  server.log.push(last);
  await env.advance(2000);
  await run();
  assert.equal(resets, 0);
  assert.equal(client.status.synced, true);
  await client.close();
});

test("a token is renewed in band before it ends", async () => {
  const { env, server, client } = await setup({ connect: false });
  await client.close();
  const asked = [];
  let count = 0;
  const fresh = ({ reason }) => {
    asked.push(reason);
    count += 1;
    return token({ iat: 1000, exp: 1100, count });
  };
  server.heartbeatInterval = 1_000_000;
  const again = await setup({ server, env: new FakeEnv({ server }), token: fresh });
  await again.env.advance(78_000);
  assert.deepEqual(asked, ["connect"]);
  await again.env.advance(2000);
  assert.deepEqual(asked, ["connect", "expiring"]);
  const sent = server.peer.inbox.find(({ type }) => type === "refresh_token");
  assert.equal(sent.payload.token, token({ iat: 1000, exp: 1100, count: 2 }));
  assert.ok(!server.peer.socket.url.includes("h."), "no token in a URL");
  assert.equal(env.sockets.length, 1);
  await again.client.close();
});

test("a refused token: once a fresh one at once, then needs-auth; setToken goes on", async () => {
  const server = new FakeServer();
  const asked = [];
  const refuse = (peer) => {
    peer.open();
    peer.send("error", { code: "auth_failed", message: "expired" }, peer.inbox[0].id);
    peer.deliver();
    peer.drop(1008);
  };
  const { env, client, run } = await setup({
    server,
    connect: false,
    token: ({ reason }) => (asked.push(reason), "t"),
  });
  refuse(server.peer);
  await env.advance(500);
  refuse(server.peer);
  assert.deepEqual(asked, ["connect", "refused"]);
  assert.equal(client.status.connection, "needs-auth");
  assert.equal(client.status.reason, "expired");
  await client.close();

  const fixed = await setup({ server, connect: false, env: new FakeEnv({ server }), token: "old" });
  refuse(server.peer);
  assert.equal(fixed.client.status.connection, "needs-auth");
  await fixed.env.advance(600_000);
  assert.equal(fixed.env.sockets.length, 1);
  fixed.client.setToken("new");
  await fixed.env.advance(0);
  server.peer.opened = true;
  server.peer.open();
  assert.equal(server.peer.inbox[0].payload.token, "new");
  await fixed.run();
  assert.equal(fixed.client.status.connection, "connected");
  await fixed.client.close();
  await run();
});

test("a token that cannot be had is tried again", async () => {
  let fails = 2;
  const { env, client, run } = await setup({
    connect: false,
    token: async () => {
      if ((fails -= 1) >= 0) throw new Error("no network");
      return "t";
    },
  });
  assert.equal(client.status.reason, "token");
  await env.advance(2000);
  await run();
  assert.equal(client.status.connection, "connected");
  await client.close();
});

test("10,000 missed events: at most one notification a frame, progress in status", async () => {
  const server = new FakeServer();
  const { env, client, run } = await setup({ server });
  server.commit("other", "set", { target: "x", value: -1 });
  await run();
  server.peer.drop();
  for (let value = 0; value < 10_000; value += 1) {
    const payload = { target: `m.k${value % 500}`, value };
    server.log.push({ type: "set", payload, partition: "default", id: "", eventId: 100 + value, timestamp: 1, clientId: "o" });
  }
  env.frameNow();
  let notified = 0;
  client.subscribe(() => (notified += 1));
  await env.advance(500);
  const peer = server.peer;
  peer.opened = true;
  peer.open();
  server.step(peer);
  for (let count = 0; count < 5000; count += 1) peer.deliver();
  const { cursor, head } = client.status;
  assert.ok(cursor > 5000 && cursor < head, "progress shows");
  assert.equal(client.status.synced, false);
  assert.equal(notified, 0);
  peer.deliverAll();
  env.frameNow();
  assert.equal(notified, 1);
  assert.equal(client.status.synced, true);
  assert.equal(client.getSnapshot().m.k499, 9999);
  await client.close();
});

test("a draft of unknown outcome is sent again, and shown once though it was committed", async () => {
  const { env, server, client, run } = await setup({ rules: noteRules });
  const draft = client.submit("note", { text: "a" });
  await env.settle();
  const { peer } = server;
  const { payload } = peer.inbox.shift();
  peer.send("error", { code: "unavailable", message: "outcome unknown", details: { draftId: draft.id, retryAfterMs: 500 } });
  server.commit("me", "note", payload.event.payload, draft.id);
  peer.deliverAll();
  assert.deepEqual(client.getSnapshot().notes, ["a"]);
  await env.advance(600);
  await run();
  assert.equal((await draft.settled).status, "accepted");
  assert.equal(server.log.length, 1);
  await client.close();
});

test("addresses", () => {
  assert.equal(socketUrl("https://a.example"), "wss://a.example/ws");
  assert.equal(socketUrl("ws://a.example:1/x"), "ws://a.example:1/x");
});

test("a client that knows nothing holds its state back until its sent drafts are decided", async () => {
  const store = memoryStore();
  const { env, server, client, run } = await setup({ store });
  client.submit("treePush", { target: "t", value: { id: "n1" } });
  await env.settle();
  server.step(server.peer);
  // Committed, and the page is gone before it hears of it, and the state is of other rules after it.
  env.die();
  const later = new FakeEnv({ server, name: "b" });
  const again = await setup({ server, env: later, store, rules: { version: 2 }, connect: false });
  let most = 0;
  again.client.subscribe(() => (most = Math.max(most, again.client.getSnapshot().t?.tree.length ?? 0)));
  await again.run();
  later.frameNow();
  assert.equal(again.client.getSnapshot().t.tree.length, 1);
  assert.equal(most, 1);
  assert.equal(server.log.length, 1);
  await again.client.close();
  await client.close();
  await run();
});
