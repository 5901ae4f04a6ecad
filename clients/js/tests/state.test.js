// What is shown: identity, notifications, the application's own rules.

import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryStore } from "../src/index.js";
import { Folder } from "../src/fold.js";
import { share } from "../src/json.js";
import { FakeEnv, FakeServer } from "./lib/fake.js";
import { action, canonical, model, random } from "./lib/model.js";
import { setup } from "./lib/setup.js";

test("untouched parts keep their identity, and a change elsewhere does not disturb a draft", async () => {
  const { env, server, client, run } = await setup();
  server.commit("other", "set", { target: "a", value: { b: { c: 1 }, d: { e: 2 } } });
  await run();
  client.submit("set", { target: "a.b.c", value: 9 });
  const before = client.getSnapshot();
  assert.equal(client.getSnapshot(), before);
  await env.advance(100_000);
  assert.equal(client.getSnapshot(), before, "time alone changes nothing");
  await run();
  server.commit("other", "set", { target: "f", value: 1 });
  await run();
  const after = client.getSnapshot();
  assert.notEqual(after, before);
  assert.equal(after.a, before.a);
  assert.equal(after.t, before.t);
  await client.close();
});

test("many changes ask for one frame", async () => {
  const { env, client } = await setup();
  env.frameNow();
  for (let value = 0; value < 10; value += 1) client.submit("set", { target: "x", value });
  assert.equal(env.frames.length, 1);
  await client.close();
});

test("an event that changes nothing notifies nobody", async () => {
  const { env, server, client, run } = await setup();
  server.commit("other", "set", { target: "a", value: { b: 1 } });
  await run();
  env.frameNow();
  let told = 0;
  client.subscribe(() => (told += 1));
  server.commit("other", "set", { target: "a", value: { b: 1 } });
  await run();
  env.frameNow();
  assert.equal(told, 0);
  await client.close();
});

test("status is one frozen object, new only when something in it changed", async () => {
  const { env, client, run } = await setup();
  const { status } = client;
  assert.ok(Object.isFrozen(status));
  assert.equal(client.status, status);
  const told = [];
  const remove = client.on("status", ({ pending }) => told.push(pending));
  client.submit("set", { target: "x", value: 1 });
  env.frameNow();
  await run();
  env.frameNow();
  assert.deepEqual(told, [1, 0]);
  remove();
  client.submit("set", { target: "x", value: 2 });
  env.frameNow();
  assert.equal(told.length, 2);
  assert.throws(() => client.on("sattus", () => {}), /no event sattus/);
  await client.close();
});

test("a listener that throws disturbs nobody, and is reported", async () => {
  const { env, client } = await setup();
  let told = 0;
  client.subscribe(() => {
    throw new Error("mine");
  });
  client.subscribe(() => (told += 1));
  client.submit("set", { target: "x", value: 1 });
  env.frameNow();
  assert.equal(told, 1);
  assert.equal(env.errors[0].message, "mine");
  await client.close();
});

test("the fold agrees with a plain one on random histories, byte for byte, and changes no state given out", () => {
  const given = [];
  for (let seed = 1; seed <= 300; seed += 1) {
    const dice = random(seed);
    const folder = new Folder();
    let state = { t: { items: {}, tree: [] } };
    let plain = state;
    for (let step = 0; step < 40; step += 1) {
      const [type, payload] = action(dice);
      let expected;
      try {
        expected = model(plain, { type, payload });
      } catch ({ code }) {
        assert.throws(() => folder.fold(state, { type, payload }, true), { code });
        continue;
      }
      state = folder.fold(state, { type, payload });
      plain = expected;
      assert.equal(canonical(state), canonical(plain), `seed ${seed}`);
      if (dice.chance(0.3)) {
        folder.release();
        given.push([state, canonical(state)]);
      }
    }
  }
  for (const [state, text] of given) assert.equal(canonical(state), text);
});

test("share keeps what is equal, at any place of a list", () => {
  const node = (id, children = []) => ({ id, children });
  const before = { list: [node("a"), node("b", [node("c")])], k: { x: 1 } };
  const after = { list: [node("z"), node("a"), node("b", [node("c"), node("d")])], k: { x: 1 } };
  const shared = share(before, after);
  assert.deepEqual(shared, after);
  assert.equal(shared.k, before.k);
  assert.equal(shared.list[1], before.list[0]);
  assert.equal(shared.list[2].children[0], before.list[1].children[0]);
  assert.equal(share(before, structuredClone(before)), before);
});

// The application's own module.

const rules = (version = 1) => ({
  version,
  initialState: () => ({ cards: {} }),
  events: {
    "card.added": {
      check: ({ state, payload, reject }) => {
        if (Object.keys(state.cards).length >= 2) return reject("WIP_LIMIT", "payload.id", "two at most");
      },
      reduce: ({ state, payload }) => {
        state.cards[payload.id] = payload.title;
        if (payload.title === "breaks") throw new Error("half way");
      },
    },
  },
});

const withCards = () => {
  const server = new FakeServer();
  server.state = server.start = { cards: {} };
  return server;
};

test("a module's reducer may change the state; what fails half way leaves nothing", async () => {
  const server = withCards();
  const { client } = await setup({ server, rules: rules() });
  const one = client.getSnapshot();
  client.submit("card.added", { id: "a", title: "x" });
  const two = client.getSnapshot();
  client.submit("card.added", { id: "b", title: "breaks" });
  assert.equal(client.getSnapshot(), two);
  client.submit("card.added", { id: "c", title: "x" });
  client.submit("card.added", { id: "d", title: "over the limit" });
  assert.deepEqual(client.getSnapshot(), { cards: { a: "x", c: "x" } });
  assert.deepEqual(one, { cards: {} });
  assert.deepEqual(client.getServerSnapshot(), { cards: {} });
  await client.close();
});

test("a committed event that does not fold is answered by taking the server's state", async () => {
  const server = withCards();
  const { env, client, run } = await setup({ server, rules: rules() });
  const resets = [];
  client.on("reset", ({ reason }) => resets.push(reason));
  server.commit("other", "card.added", { id: "b", title: "breaks" });
  server.state = { cards: { b: "breaks" } };
  await run();
  await env.advance(2000);
  await run();
  assert.deepEqual(client.getSnapshot(), { cards: { b: "breaks" } });
  assert.deepEqual(resets, ["fold"]);
  assert.equal(client.status.synced, true);
  await client.close();
});

test("state of another rules version is replaced, drafts stay, those of unknown type are set aside", async () => {
  const store = memoryStore();
  const server = withCards();
  const first = await setup({ server, store, rules: { ...rules(), events: { ...rules().events, "card.gone": {} } } });
  server.commit("other", "card.added", { id: "z", title: "x" });
  await first.run();
  await first.env.advance(3000);
  server.refuse = () => ({ reason: "unavailable", retryAfterMs: 1e6 });
  const stays = first.client.submit("card.added", { id: "a", title: "x" });
  const goes = first.client.submit("card.gone", { id: "a" });
  await first.run();
  await first.client.close();
  server.refuse = () => undefined;
  // As the new rules make it.
  server.state = { ...server.state, version: 2 };
  const second = await setup({ server, store, env: new FakeEnv({ server, name: "b" }), rules: rules(2) });
  assert.equal(server.all.at(-1).live, true);
  assert.deepEqual(second.client.rejected.map(({ id, reason }) => [id, reason]), [[goes.id, "set-aside"]]);
  assert.equal(server.log[1].draftId, stays.id);
  assert.equal(second.client.getSnapshot().version, 2);
  await second.client.close();
});

test("newer rules on the server are told", async () => {
  const server = withCards();
  server.connectedExtra = { rules: { version: 2, hash: "h" } };
  const told = [];
  const { client, env, run } = await setup({ server, rules: rules(), connect: false });
  client.on("update-needed", ({ version }) => told.push(version));
  await run();
  assert.equal(client.status.connection, "update-needed");
  server.peer.drop();
  await env.advance(1000);
  await run();
  assert.deepEqual(told, [2]);
  await client.close();
});
