// Drafts: shown, settled, rolled back, kept.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient, memoryStore } from "../src/index.js";
import { tabs } from "../src/tabs.js";
import { FakeEnv, FakeServer } from "./lib/fake.js";
import { noteRules } from "./lib/model.js";
import { setup } from "./lib/setup.js";

const set = (target, value) => ["set", { target, value }];
const push = (id, parent) => ["treePush", { target: "t", value: { id }, options: { parent } }];

for (const broadcastFirst of [false, true]) {
  test(`a draft is shown once from submit on, with the ${broadcastFirst ? "broadcast" : "answer"} first`, async () => {
    const { env, server, client } = await setup();
    server.broadcastFirst = () => broadcastFirst;
    const seen = [];
    client.subscribe(() => seen.push(client.getSnapshot().t.tree.length));
    const draft = client.submit(...push("n1"));
    assert.equal(client.getSnapshot().t.tree.length, 1);
    await env.settle();
    server.step(server.peer);
    env.frameNow();
    const shown = client.getSnapshot();
    while (server.peer.deliver()) {
      assert.equal(client.getSnapshot(), shown, "its commit changes nothing that can be seen");
      env.frameNow();
    }
    assert.deepEqual(await draft.settled, { status: "accepted", eventId: server.head });
    assert.deepEqual(seen, [1]);
    await client.close();
  });
}

test("what would show when it is folded twice is folded once, whichever comes first", async () => {
  for (const broadcastFirst of [false, true]) {
    const { env, server, client } = await setup({ rules: noteRules });
    server.broadcastFirst = () => broadcastFirst;
    client.submit("note", { text: "a" });
    await env.settle();
    server.step(server.peer);
    do assert.deepEqual(client.getSnapshot().notes, ["a"]);
    while (server.peer.deliver());
    assert.equal(client.status.pending, 0);
    await client.close();
  }
});

test("the server's draftId on an event settles a draft whose answer was lost", async () => {
  const { env, server, client, run } = await setup();
  server.namesDrafts = () => true;
  client.submit(...set("x", 1));
  await env.settle();
  server.step(server.peer);
  server.peer.drop();
  await env.advance(1000);
  await run();
  assert.equal(client.status.pending, 0);
  assert.equal(server.log.length, 1);
  await client.close();
});

test("a rejection rolls back that draft and those that rested on it, and says so", async () => {
  const { env, server, client, run } = await setup();
  const told = [];
  client.on("rejected", (draft) => told.push(draft));
  const first = client.submit(...push("n1"));
  const child = client.submit(...push("n2", "n1"));
  const other = client.submit(...set("x", 1));
  server.refuse = (id) => (id === first.id ? { reason: "conflict", errors: [{ field: "a", message: "b", code: "C" }] } : undefined);
  assert.deepEqual(Object.keys(client.getSnapshot().t.items), ["n1", "n2"]);
  await env.settle();
  server.step(server.peer);
  server.peer.deliver();
  assert.deepEqual(client.getSnapshot().t.items, {}, "the child is shown as nothing");
  assert.equal(client.getSnapshot().x, 1);
  await run();
  assert.equal((await first.settled).reason, "conflict");
  assert.equal((await child.settled).reason, "validation_failed");
  assert.equal((await other.settled).status, "accepted");
  assert.deepEqual(told.map(({ id, reason, restedOn }) => [id, reason, restedOn]), [
    [first.id, "conflict", undefined],
    [child.id, "validation_failed", first.id],
  ]);
  assert.deepEqual(told[0].errors, [{ field: "a", message: "b", code: "C" }]);
  assert.equal(client.rejected.length, 2);
  client.dismiss(first.id);
  assert.deepEqual(client.rejected.map(({ id }) => id), [child.id]);
  await client.close();
});

test("what is refused before the store has answered stays over a reload too", async () => {
  const store = memoryStore();
  const server = new FakeServer();
  const env = new FakeEnv({ server });
  const client = createClient({ url: "ws://test", env, store });
  const { id } = client.submit(...set("x", "y".repeat(300_000)));
  await env.settle();
  await client.close();
  const again = await setup({ store, server });
  assert.deepEqual(again.client.rejected.map((draft) => draft.id), [id]);
  await again.client.close();
});

test("rejected drafts stay over a reload until they are dismissed, and settled never rejects", async () => {
  const store = memoryStore();
  const { client, server, run } = await setup({ store });
  server.refuse = () => ({ reason: "conflict" });
  const draft = client.submit(...set("x", 1));
  await run();
  assert.equal((await draft.settled).status, "rejected");
  await client.close();
  const again = await setup({ store, server });
  assert.deepEqual(again.client.rejected.map(({ id }) => id), [draft.id]);
  again.client.dismiss(draft.id);
  await again.client.close();
  const third = await setup({ store, server });
  assert.deepEqual(third.client.rejected, []);
  await third.client.close();
});

test("drafts made offline are found again, settled there, and committed once in order", async () => {
  const store = memoryStore();
  const server = new FakeServer();
  const first = await setup({ store, server, connect: false });
  const drafts = [1, 2, 3].map((value) => first.client.submit(...set("x", value)));
  await first.env.settle();
  await first.client.close();
  assert.deepEqual(await drafts[0].settled, { status: "undecided" });
  const again = await setup({ store, server, env: new FakeEnv({ server, name: "b" }), connect: false });
  const found = again.client.pending;
  assert.deepEqual(found.map(({ id }) => id), drafts.map(({ id }) => id));
  assert.equal(again.client.pending, found, "the same list until it changes");
  assert.equal(again.client.getSnapshot().x, 3);
  await again.run();
  assert.deepEqual(server.log.map(({ payload }) => payload.value), [1, 2, 3]);
  for (const { settled } of found) assert.equal((await settled).status, "accepted");
  await again.client.close();
});

test("a draft is stored before it is sent", async () => {
  const store = memoryStore();
  let store_ = () => {};
  const write = store.write;
  store.write = (changes, generation) =>
    new Promise((done) => (store_ = done)).then(() => write(changes, generation));
  const { env, server, client, run } = await setup({ store });
  client.submit(...set("x", 1));
  await env.settle();
  assert.deepEqual(server.peer.inbox, []);
  store_();
  await env.settle();
  assert.equal(server.peer.inbox[0].type, "submit_event");
  store.write = write;
  await run();
  await client.close();
});

test("a draft waits for the store, though the one before it is decided", async () => {
  const store = memoryStore();
  const { write } = store;
  const { env, server, client, run } = await setup({ store });
  const first = client.submit(...set("x", 1));
  await env.settle();
  let stored = () => {};
  store.write = (changes, generation) => new Promise((done) => (stored = done)).then(() => write(changes, generation));
  client.submit(...set("x", 2));
  await run();
  assert.equal((await first.settled).status, "accepted");
  assert.equal(server.log.length, 1, "the second is not sent yet");
  stored();
  store.write = write;
  await run();
  assert.equal(server.log.length, 2);
  await client.close();
});

test("an offline queue meets the limit: it waits as told, keeps the order, and shows how far it is", async () => {
  const { env, server, client, run } = await setup();
  let left = 3;
  server.refuse = () => ((left -= 1) < 0 ? { reason: "rate_limited", retryAfterMs: 600 } : undefined);
  for (let value = 0; value < 10; value += 1) client.submit(...set("x", value));
  await run();
  assert.equal(client.status.pending, 7);
  const asked = () => server.log.length;
  await env.advance(500);
  await run();
  assert.equal(asked(), 3, "nothing is sent before the time");
  for (let round = 0; round < 20 && client.status.pending > 0; round += 1) {
    left = 1;
    await env.advance(601);
    await run();
  }
  assert.deepEqual(server.log.map(({ payload }) => payload.value), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  await client.close();
});

test("what the server can never take is refused before it is queued", async () => {
  const { server, client, run } = await setup();
  const deep = JSON.parse(`${"[".repeat(70)}${"]".repeat(70)}`);
  const cases = [
    [{ target: "x", value: "y".repeat(300_000) }, "TOO_LARGE"],
    [{ target: "x", value: deep }, "TOO_DEEP"],
    [{ target: "x", value: "\ud800" }, "SCHEMA_ERROR"],
    [{ target: "x", value: Number.NaN }, "SCHEMA_ERROR"],
    [{ target: "x", value: JSON.parse('{"__proto__":1}') }, "FORBIDDEN_KEY"],
  ];
  for (const [payload, code] of cases) {
    const outcome = await client.submit("set", payload).settled;
    assert.equal(outcome.reason, "invalid");
    assert.equal(outcome.errors[0].code, code);
  }
  assert.throws(() => client.submit("set", () => {}), TypeError);
  assert.throws(() => client.submit("set", 1n), TypeError);
  const good = client.submit(...set("x", 1));
  await run();
  assert.equal((await good.settled).status, "accepted");
  assert.equal(server.log.length, 1);
  await client.close();
});

test("a draft over which the connection closed three times is set aside, and the next goes on", async () => {
  const { env, server, client, run } = await setup();
  const bad = client.submit(...set("bad", 1));
  const good = client.submit(...set("good", 1));
  const reconnect = () => env.advance(client.status.retryAt - env.time);
  await env.settle();
  for (let round = 0; round < 3; round += 1) {
    if (round > 0) {
      await reconnect();
      server.peer.opened = true;
      server.peer.open();
      server.step(server.peer);
      server.peer.deliverAll();
    }
    assert.equal(server.peer.inbox[0].payload.draftId, bad.id);
    server.peer.drop(1009);
  }
  assert.equal((await bad.settled).reason, "refused");
  await reconnect();
  await run();
  assert.equal((await good.settled).status, "accepted");
  await client.close();
});

test("a draft that does not fold is shown as nothing, and still sent", async () => {
  const { server, client, run } = await setup();
  const draft = client.submit("treeDelete", { target: "t", options: { id: "nobody" } });
  const odd = client.submit("treeMove", {});
  assert.deepEqual(client.getSnapshot(), server.state);
  await run();
  assert.equal((await draft.settled).reason, "validation_failed");
  assert.equal((await odd.settled).status, "rejected");
  await client.close();
});

test("a payload that the application changes later is sent as it was", async () => {
  const { server, client, run } = await setup();
  const payload = { target: "x", value: { a: 1 } };
  client.submit("set", payload);
  payload.value.a = 2;
  await run();
  assert.deepEqual(server.state.x, { a: 1 });
  await client.close();
});

test("a draft may name the event that it is based on", async () => {
  const { env, server, client } = await setup();
  client.submit("set", { target: "x", value: 1 }, { baseEventId: 7 });
  await env.settle();
  assert.equal(server.peer.inbox[0].payload.baseEventId, 7);
  await client.close();
});

test("a page that goes away sends what waits, 60 KiB at most, under the same ids; shown again, it is live", async () => {
  const { env, server, client, run } = await setup();
  const drafts = [10, 20_000, 20_000, 20_000, 20_000].map((length) => client.submit(...set("x", "y".repeat(length))));
  await env.settle();
  const sent = () => server.all[0].inbox.filter(({ type }) => type === "submit_event").map(({ payload }) => payload.draftId);
  assert.equal(sent().length, 1, "one is under way");
  env.window.dispatchEvent(new Event("pagehide"));
  assert.deepEqual(sent(), drafts.slice(0, 4).map(({ id }) => id));
  assert.equal(env.sockets[0].closed, true);
  assert.equal(env.timers, 0);
  env.window.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
  await run();
  assert.equal(client.status.connection, "connected");
  for (const { settled } of drafts) assert.equal((await settled).status, "accepted");
  assert.deepEqual(server.log.map(({ draftId }) => draftId), drafts.map(({ id }) => id));
  await client.close();
});

test("where there are no locks, a tab is a client of its own", async () => {
  const { client } = await setup({ tabs: tabs() });
  assert.equal(client.status.connection, "connected");
  assert.equal(client.status.leader, true);
  await client.close();
});

test("close at any moment, twice; create, close, create opens one connection", async () => {
  const server = new FakeServer();
  const env = new FakeEnv({ server });
  const store = memoryStore();
  const { load } = store;
  let loads = 0;
  store.load = (fresh) => ((loads += 1), load(fresh));
  const given = { url: "ws://test", clientId: "me", env, store };
  const first = createClient(given);
  const draft = first.submit(...set("x", 1));
  const closing = first.close();
  assert.equal(first.close(), closing);
  const second = createClient(given);
  await server.run(env);
  await closing;
  assert.deepEqual(await draft.settled, { status: "undecided" });
  assert.deepEqual(await first.submit(...set("x", 1)).settled, { status: "undecided" });
  assert.equal(first.status.connection, "closed");
  assert.equal(env.sockets.length, 1);
  assert.equal(loads, 1, "the first opened nothing");
  assert.equal(second.status.connection, "connected");
  await second.close();
});

test("1,000 rounds leave no timer, no listener and no socket", async () => {
  const server = new FakeServer();
  const env = new FakeEnv({ server });
  let listeners = 0;
  for (const target of [env.window, env.document]) {
    const { addEventListener } = EventTarget.prototype;
    target.addEventListener = (...args) => {
      listeners += 1;
      args[2].signal.addEventListener("abort", () => (listeners -= 1));
      addEventListener.apply(target, args);
    };
  }
  for (let round = 0; round < 1000; round += 1) {
    const { client } = await setup({ server, env });
    client.subscribe(() => {});
    if (round % 3 === 0) client.submit(...set("x", round));
    await client.close();
    await env.settle();
    server.all = [];
  }
  assert.equal(env.timers, 0);
  assert.equal(listeners, 0);
  assert.ok(env.sockets.every(({ closed }) => closed));
});
