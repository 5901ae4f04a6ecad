// Several tabs of one client, on locks and channels that move when the test says so.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient, memoryStore } from "../src/index.js";
import { tabs } from "../src/tabs.js";
import { FakeEnv, FakeServer } from "./lib/fake.js";
import { noteRules } from "./lib/model.js";
import { FakeOrigin } from "./lib/origin.js";

function browser() {
  const server = new FakeServer();
  const origin = new FakeOrigin();
  const store = memoryStore();
  const open = [];
  /** Everything that needs no time arrives. */
  async function run() {
    for (let moved = true; moved; ) {
      for (const { env } of open) if (!env.frozen) await env.settle();
      moved = origin.grant();
      await server.run({ settle: async () => {} });
      for (const { env } of open) while (!env.frozen && origin.deliver(env)) moved = true;
      for (const { env } of open) if (!env.frozen) await env.settle();
    }
    for (const { env } of open) if (!env.frozen) env.frameNow();
  }
  /** Time for all tabs that are not frozen. */
  async function advance(ms) {
    for (let left = ms; left > 0; left -= 500) {
      for (const { env } of open) if (!env.frozen) await env.advance(Math.min(500, left));
      await run();
    }
  }
  async function tab() {
    const env = new FakeEnv({ server, name: `${open.length}-` });
    origin.join(env);
    const client = createClient({ url: "ws://test", env, store, rules: noteRules, tabs: tabs() });
    open.push({ env, client });
    await env.settle();
    await run();
    return { env, client };
  }
  return { server, origin, store, open, run, advance, tab };
}

test("what the server can never take is kept as rejected in all tabs, whichever it was submitted in", async () => {
  const { open, run, tab } = browser();
  const first = await tab();
  const second = await tab();
  assert.equal(second.client.status.leader, false);
  const { id } = second.client.submit("set", { target: "x", value: "y".repeat(300_000) });
  await run();
  const third = await tab();
  for (const { client } of [first, second, third]) assert.deepEqual(client.rejected.map((draft) => draft.id), [id]);
  for (const { client } of open.splice(0)) await client.close();
  const later = await tab();
  assert.deepEqual(later.client.rejected.map((draft) => draft.id), [id]);
  await later.client.close();
});

test("clear in a tab clears what is stored, though the tab that leads has stopped", async () => {
  const { store, open, run, advance, tab } = browser();
  const first = await tab();
  const second = await tab();
  first.client.submit("note", { text: "a" });
  await run();
  await advance(3000);
  const { clientId } = await store.load({ clientId: "" });
  first.env.frozen = true;
  const draft = second.client.submit("note", { text: "b" });
  let done = false;
  const clearing = second.client.clear().then(() => (done = true));
  while (!done) await advance(1000);
  await clearing;
  assert.deepEqual(await draft.settled, { status: "undecided" });
  const stored = await store.load({ clientId: "" });
  assert.deepEqual(stored.drafts, []);
  assert.notEqual(stored.clientId, clientId);
  first.env.frozen = false;
  for (const told of first.env.late) told();
  await advance(5000);
  for (const { client } of open.splice(0)) {
    assert.notEqual(client.clientId, clientId);
    await client.close();
  }
});

test("all tabs say of the store what the one that leads says", async () => {
  const { store, open, run, advance, tab } = browser();
  const first = await tab();
  const second = await tab();
  store.write = () => Promise.reject(Object.assign(new Error("full"), { code: "full" }));
  first.client.submit("note", { text: "a" });
  await run();
  await advance(3000);
  for (const { client } of [first, second]) assert.deepEqual(client.status.storage, { kind: "memory", reason: "full" });
  for (const { client } of open) await client.close();
});

test("closed, a tab holds no lock, asks for none, and hears nothing", async () => {
  const { origin, open, tab } = browser();
  await tab();
  await tab();
  for (const { client } of open) await client.close();
  assert.equal(origin.open, 0);
});
