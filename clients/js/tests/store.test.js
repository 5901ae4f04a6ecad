// Stores: what each keeps, and how the client goes on without.

import assert from "node:assert/strict";
import { test } from "node:test";
import { IDBDatabase, IDBFactory } from "fake-indexeddb";
import { memoryStore } from "../src/index.js";
import { indexedDbStore } from "../src/indexeddb.js";
import { FakeEnv, FakeServer } from "./lib/fake.js";
import { setup, until } from "./lib/setup.js";

const stores = {
  memory: () => {
    const store = memoryStore();
    return () => store;
  },
  indexeddb: () => {
    globalThis.indexedDB = new IDBFactory();
    return () => indexedDbStore({ name: "test" });
  },
};

const row = (id) => ({ id, type: "set", payload: { target: id, value: 1 } });

for (const [name, make] of Object.entries(stores)) {
  test(`${name}: what is written is loaded, in order, once`, async () => {
    const open = make();
    const store = open();
    const first = await store.load({ clientId: "c1" });
    assert.deepEqual(first, { generation: 1, clientId: "c1", base: undefined, drafts: [], rejected: [] });
    for (const id of ["b", "a", "c", "a"]) await store.write({ put: [row(id)] }, first.generation);
    const base = { state: { x: 1 }, cursor: 7, stamp: "s", logId: undefined, rules: undefined };
    const rejected = { ...row("r"), reason: "conflict", errors: [] };
    await store.write({ base, remove: ["a", "unknown"], reject: [rejected] }, first.generation);
    await store.close();
    const again = await open().load({ clientId: "c2" });
    assert.deepEqual(again.drafts.map(({ id }) => id), ["b", "c"]);
    assert.deepEqual(again.rejected, [rejected]);
    assert.deepEqual([again.base.cursor, again.generation, again.clientId], [7, 2, "c1"]);
  });

  test(`${name}: an older generation writes nothing, but may add drafts`, async () => {
    const open = make();
    const old = open();
    const { generation } = await old.load({ clientId: "c" });
    const next = open();
    await next.load({ clientId: "c" });
    await assert.rejects(old.write({ put: [row("a")], base: { state: {}, cursor: 1 } }, generation), { code: "fenced" });
    await assert.rejects(old.write({ remove: ["a"] }), { code: "fenced" });
    await old.write({ put: [row("b")] });
    assert.deepEqual((await next.load({ clientId: "c" })).drafts.map(({ id }) => id), ["b"]);
  });

  test(`${name}: clear forgets all but the generation`, async () => {
    const open = make();
    const store = open();
    await store.load({ clientId: "c1" });
    await store.write({ put: [row("a")] }, 1);
    await store.clear();
    const after = await store.load({ clientId: "c2" });
    assert.equal(after.clientId, "c2");
    assert.deepEqual(after.drafts, []);
    if (name === "indexeddb") assert.equal(after.generation, 2);
  });
}

test("indexeddb: closed by the browser, it opens once more", async () => {
  globalThis.indexedDB = new IDBFactory();
  const opens = [];
  const open = indexedDB.open.bind(indexedDB);
  indexedDB.open = (...args) => {
    const request = open(...args);
    opens.push(request);
    return request;
  };
  const store = indexedDbStore({ name: "test" });
  const { generation } = await store.load({ clientId: "c" });
  opens[0].result.close();
  await store.write({ put: [row("a")] }, generation);
  assert.equal(opens.length, 2);
  assert.equal((await store.load({ clientId: "c" })).drafts.length, 1);
});

test("indexeddb: missing, forbidden and evicted are told apart", async () => {
  delete globalThis.indexedDB;
  await assert.rejects(indexedDbStore().load({ clientId: "c" }), { code: "missing" });
  globalThis.indexedDB = { open: () => { throw Object.assign(new Error(), { name: "SecurityError" }); } };
  await assert.rejects(indexedDbStore().load({ clientId: "c" }), { code: "forbidden" });
  globalThis.indexedDB = new IDBFactory();
  const store = indexedDbStore({ name: "e" });
  const { generation } = await store.load({ clientId: "c" });
  await store.clear();
  await new Promise((done) => {
    const request = indexedDB.open("e", 1);
    request.onsuccess = () => {
      const tx = request.result.transaction("meta", "readwrite");
      tx.objectStore("meta").clear();
      tx.oncomplete = done;
    };
  });
  await assert.rejects(store.write({ remove: ["a"] }, generation), { code: "evicted" });
});

/** A store that fails as it is told. */
function failing() {
  const store = memoryStore();
  const { load, write } = store;
  const fails = { code: undefined };
  const guard = (work) => (fails.code === "hangs" ? new Promise(() => {}) : fails.code ? Promise.reject(fails) : work());
  return Object.assign(store, {
    fails,
    durable: true,
    load: (fresh) => guard(() => load(fresh)),
    write: (changes, generation) => guard(() => write(changes, generation)),
  });
}

for (const code of ["full", "forbidden", "missing", "broken", "evicted", "hangs"]) {
  test(`a store that is ${code} stops nothing; it is tried again after a minute, with everything`, async () => {
    const store = failing();
    const { env, server, client, run } = await setup({ store });
    assert.deepEqual(client.status.storage, { kind: "durable" });
    store.fails.code = code;
    const draft = client.submit("set", { target: "x", value: 1 });
    await run();
    await env.advance(5001);
    await run();
    assert.deepEqual(client.status.storage, { kind: "memory", reason: code === "hangs" ? "blocked" : code });
    assert.equal((await draft.settled).status, "accepted");
    server.refuse = () => ({ reason: "unavailable", retryAfterMs: 1e6 });
    const waiting = client.submit("set", { target: "x", value: 2 });
    await run();
    store.fails.code = undefined;
    await env.advance(30_000);
    await run();
    assert.equal(client.status.storage.kind, "memory");
    await env.advance(35_000);
    assert.deepEqual(client.status.storage, { kind: "durable" });
    const stored = await store.load({ clientId: "" });
    assert.deepEqual(stored.drafts.map(({ id }) => id), [waiting.id]);
    assert.equal(stored.base.state.x, 1);
    await client.close();
  });
}

test("a store that fails from the start stops nothing", async () => {
  const store = failing();
  store.fails.code = "missing";
  const { client, run } = await setup({ store });
  const draft = client.submit("set", { target: "x", value: 1 });
  await run();
  assert.equal((await draft.settled).status, "accepted");
  assert.equal(client.status.storage.reason, "missing");
  await client.close();
});

test("a second client on one store takes it over; the first goes on in memory", async () => {
  const store = memoryStore();
  const server = new FakeServer();
  const first = await setup({ store, server });
  const second = await setup({ store, server, env: new FakeEnv({ server, name: "b" }) });
  const draft = first.client.submit("set", { target: "x", value: 1 });
  await first.run();
  await second.run();
  await first.env.advance(3000);
  assert.deepEqual(first.client.status.storage, { kind: "memory", reason: "taken-over" });
  assert.equal((await draft.settled).status, "accepted");
  await second.env.advance(3000);
  assert.equal((await store.load({ clientId: "" })).base.state.x, 1);
  await first.client.close();
  await second.client.close();
});

test("state is written lazily, and drafts go from the store together with it", async () => {
  const store = memoryStore();
  const writes = [];
  const { write } = store;
  store.write = (changes, generation) => (writes.push(Object.keys(changes)), write(changes, generation));
  const { env, server, client, run } = await setup({ store });
  await env.advance(2001);
  writes.length = 0;
  for (let value = 0; value < 100; value += 1) server.commit("other", "set", { target: "x", value });
  client.submit("set", { target: "y", value: 1 });
  await run();
  assert.deepEqual(writes, [["put"]]);
  await env.advance(2001);
  assert.deepEqual(writes, [["put"], ["base", "remove"]]);
  await client.close();
});

test("a page that is hidden writes its state, and the next one has it", async () => {
  const store = memoryStore();
  const { env, client, run } = await setup({ store });
  const draft = client.submit("set", { target: "x", value: 1 });
  await run();
  await draft.settled;
  env.document.hidden = true;
  env.document.dispatchEvent(new Event("visibilitychange"));
  await env.settle();
  const stored = await store.load({ clientId: "" });
  assert.equal(stored.base.state.x, 1);
  assert.deepEqual(stored.drafts, []);
  await client.close();
});

test("clear forgets everything and begins again", async () => {
  const store = memoryStore();
  const { server, client, run } = await setup({ store, clientId: undefined });
  const { clientId } = client;
  server.refuse = () => ({ reason: "conflict" });
  client.submit("set", { target: "x", value: 1 });
  await run();
  server.refuse = () => ({ reason: "unavailable", retryAfterMs: 1e6 });
  const draft = client.submit("set", { target: "x", value: 1 });
  await run();
  assert.equal(client.rejected.length, 1);
  await client.clear();
  assert.deepEqual(await draft.settled, { status: "undecided" });
  await run();
  assert.deepEqual([client.rejected, client.pending], [[], []]);
  assert.notEqual(client.clientId, clientId);
  assert.deepEqual(client.getSnapshot(), server.state);
  assert.equal(client.status.connection, "connected");
  await client.close();
});

test("indexeddb: what is submitted in the turn of close is there for the next one", async () => {
  globalThis.indexedDB = new IDBFactory();
  for (const connect of [false, true]) {
    const server = new FakeServer();
    const name = `close-${connect}`;
    const { client } = await setup({ server, connect, store: indexedDbStore({ name }) });
    if (connect) await until("the store", () => client.status.storage.kind === "durable");
    const draft = client.submit("set", { target: "x", value: 1 });
    await client.close();
    const stored = await indexedDbStore({ name }).load({ clientId: "" });
    assert.deepEqual(stored.drafts.map(({ id }) => id), [draft.id]);
  }
});

for (const when of ["while it loads", "while it writes"]) {
  test(`a store that hangs ${when} keeps no timer after close`, async () => {
    const store = failing();
    if (when === "while it loads") store.fails.code = "hangs";
    const { env, client, run } = await setup({ store });
    store.fails.code = "hangs";
    client.submit("set", { target: "x", value: 1 });
    await run();
    const closing = client.close();
    await env.advance(2100);
    await closing;
    assert.equal(env.timers, 0);
    await env.advance(200_000);
    assert.equal(env.timers, 0);
  });
}

test("what was settled while the store failed does not stay in it", async () => {
  const store = failing();
  const { env, server, client, run } = await setup({ store });
  const drafts = [1, 2].map((value) => client.submit("set", { target: "x", value }));
  await env.settle();
  server.refuse = (id) => (id === drafts[1].id ? { reason: "conflict" } : undefined);
  store.fails.code = "broken";
  await run();
  await env.advance(3000);
  assert.equal(client.status.pending, 0);
  client.dismiss(drafts[1].id);
  store.fails.code = undefined;
  await env.advance(60_000);
  assert.deepEqual(client.status.storage, { kind: "durable" });
  const stored = await store.load({ clientId: "" });
  assert.deepEqual([stored.drafts, stored.rejected], [[], []]);
  await client.close();
});

test("indexeddb: a draft counts as stored once its transaction is complete, in strict mode", async () => {
  globalThis.indexedDB = new IDBFactory();
  const store = indexedDbStore({ name: "strict" });
  const { generation } = await store.load({ clientId: "c" });
  const { transaction } = IDBDatabase.prototype;
  const asked = [];
  let complete = false;
  let abort = false;
  IDBDatabase.prototype.transaction = function (stores, mode, options) {
    const tx = transaction.call(this, stores, mode, options);
    asked.push([mode, options?.durability]);
    tx.addEventListener("complete", () => (complete = true));
    // As on a full disk: what was put has succeeded, and then the transaction ends.
    if (abort) {
      const { objectStore } = tx;
      tx.objectStore = (name) => {
        const rows = objectStore.call(tx, name);
        const { add } = rows;
        rows.add = (row) => {
          const request = add.call(rows, row);
          request.addEventListener("success", () => tx.abort());
          return request;
        };
        return rows;
      };
    }
    return tx;
  };
  try {
    await store.write({ put: [row("a")] }, generation);
    assert.ok(complete, "before it was complete");
    assert.deepEqual(asked, [["readwrite", "strict"]]);
    asked.length = 0;
    await store.write({ base: { state: {}, cursor: 1, folded: [] }, remove: ["a"] }, generation);
    assert.equal(asked.length, 1, "state and settled drafts move together");
    abort = true;
    await assert.rejects(store.write({ put: [row("b")] }, generation), { code: "broken" });
    assert.equal(asked.length, 3, "it is tried once more");
  } finally {
    IDBDatabase.prototype.transaction = transaction;
  }
});

test("a store that lost everything is given all that is here, with the client's id", async () => {
  const store = failing();
  const { env, server, client, run } = await setup({ store, clientId: undefined });
  const { clientId } = client;
  server.refuse = () => ({ reason: "unavailable", retryAfterMs: 1e6 });
  await store.clear();
  store.fails.code = "evicted";
  const draft = client.submit("set", { target: "x", value: 1 });
  await run();
  store.fails.code = undefined;
  await env.advance(60_001);
  const stored = await store.load({ clientId: "another" });
  assert.equal(stored.clientId, clientId);
  assert.deepEqual(stored.drafts.map(({ id }) => id), [draft.id]);
  await client.close();
});
