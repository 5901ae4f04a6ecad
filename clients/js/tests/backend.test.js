// The client and the built backend: processes of their own, killed and cut off.
//
//     INSIEME_TEST_BACKEND, INSIEME_TEST_NATS_SERVER    see tests/interop

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHmac } from "node:crypto";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";
import { startBackend } from "../../../tests/interop/lib/backend.mjs";
import { createClient, memoryStore } from "../src/index.js";
import { action, canonical, random } from "./lib/model.js";
import { Proxy } from "./lib/proxy.mjs";
import { until } from "./lib/setup.js";
import { write } from "./lib/writer.mjs";

const SECRET = "a secret that is long enough for HS256";
const BINARY =
  process.env.INSIEME_TEST_BACKEND ?? fileURLToPath(new URL("../../../target/debug/insieme-backend", import.meta.url));

let backend;
let proxy;
before(async () => {
  backend = await startBackend();
  proxy = await Proxy.start(backend.port);
});
after(async () => {
  await Promise.all(opened.map((client) => client.close()));
  proxy?.stop();
  await backend?.stop();
});

/** All clients, so that none keeps a failed test from ending. */
const opened = [];

function open(partition, options = {}) {
  const client = createClient({ url: proxy.url, partition, WebSocket, ...options });
  opened.push(client);
  return client;
}

const idle = ({ status }) => status.synced && status.pending === 0;

/** The partition's state as the log gives it, in canonical form. */
function serverState(partition) {
  const { stdout, stderr, status } = spawnSync(BINARY, ["state", partition, "--nats", backend.natsUrl], { encoding: "utf8", maxBuffer: 1 << 28 });
  assert.equal(status, 0, stderr);
  return stdout.trim();
}

async function agree(partition, clients) {
  const last = () => backend.log(partition).at(-1)?.eventId ?? 0;
  await until("all to have everything", () => {
    const end = last();
    return clients.every((client) => idle(client) && client.status.cursor === end);
  });
  const expected = serverState(partition);
  for (const client of clients) assert.equal(canonical(client.getSnapshot()), expected);
}

test("two clients edit, and end with the server's state", async () => {
  const a = open("two");
  const b = open("two");
  a.submit("set", { target: "t", value: { items: {}, tree: [] } });
  await agree("two", [a, b]);
  const dice = random(7);
  for (let count = 0; count < 60; count += 1) {
    (dice.chance(0.5) ? a : b).submit(...action(dice));
    if (dice.chance(0.2)) await until("an empty queue", () => idle(a) && idle(b));
  }
  await agree("two", [a, b]);
  const decided = backend.log("two").length + a.rejected.length + b.rejected.length;
  assert.equal(decided, 61);
  assert.ok(a.rejected.length > 0 && a.rejected.every(({ errors }) => errors.length > 0));
  await a.close();
  await b.close();
});

test("connections that are cut and stalled, and a frontend that is killed: nothing is lost, doubled or reordered", async () => {
  const clients = [0, 1, 2].map((index) => open("cut", { clientId: `c${index}` }));
  clients[0].submit("set", { target: "t", value: { items: {}, tree: [] } });
  await agree("cut", clients);
  const dice = random(11);
  const submitted = clients.map(() => []);
  let cuts = 0;
  for (let count = 0; count < 240; count += 1) {
    const index = dice.below(3);
    submitted[index].push(clients[index].submit("set", { target: `k${index}.n`, value: count, options: { replace: true } }));
    if (dice.chance(0.06)) {
      cuts += 1;
      if (dice.chance(0.5)) proxy.reset();
      else proxy.stall();
    }
    if (count === 120) {
      await backend.killFrontend();
      await backend.startFrontend();
    }
    await new Promise((done) => setTimeout(done, 5));
    // What a page does when it is looked at again; here it stands for waiting for two heartbeats.
    if (dice.chance(0.2)) proxy.reset();
  }
  proxy.reset();
  await agree("cut", clients);
  assert.ok(cuts > 3);
  const log = backend.log("cut");
  for (const [index, drafts] of submitted.entries()) {
    for (const { settled } of drafts) assert.equal((await settled).status, "accepted");
    const values = log.filter(({ clientId, payload }) => clientId === `c${index}` && payload.target !== "t").map(({ payload }) => payload.value);
    const wanted = drafts.map(({ payload }) => payload.value);
    assert.deepEqual(values, wanted);
  }
  await Promise.all(clients.map((client) => client.close()));
});

test("a client that went away with drafts pending comes back: each is committed once", async () => {
  const store = memoryStore();
  const first = open("back", { store });
  first.submit("set", { target: "x", value: 0 });
  await until("the first commit", () => idle(first));
  for (let value = 1; value <= 20; value += 1) first.submit("set", { target: "x", value });
  await new Promise((done) => setTimeout(done, 20));
  proxy.reset();
  await first.close();
  const second = open("back", { store });
  await until("the drafts that it found", () => second.pending.length > 0 || second.status.synced);
  await agree("back", [second]);
  assert.deepEqual(backend.log("back").map(({ payload }) => payload.value), Array.from({ length: 21 }, (_, value) => value));
  await second.close();
});

test("NATS dies and comes back: drafts wait, and nothing is lost", async () => {
  const client = open("outage");
  client.submit("set", { target: "x", value: 0 });
  await until("the first commit", () => idle(client));
  await backend.killNats();
  const drafts = [1, 2, 3].map((value) => client.submit("set", { target: "x", value }));
  assert.equal(client.getSnapshot().x, 3);
  await backend.startNats();
  await agree("outage", [client]);
  for (const { settled } of drafts) assert.equal((await settled).status, "accepted");
  assert.deepEqual(backend.log("outage").map(({ payload }) => payload.value), [0, 1, 2, 3]);
  await client.close();
});

test("another log in the place of the one it knew: told, drafts kept, state taken", async (t) => {
  const other = await startBackend();
  t.after(() => other.stop());
  const store = memoryStore();
  const first = open("wiped", { store });
  for (let value = 0; value < 3; value += 1) first.submit("set", { target: "x", value });
  await until("the commits", () => idle(first));
  await first.close();
  const second = open("wiped", { url: other.url, store });
  const resets = [];
  second.on("reset", ({ reason }) => resets.push(reason));
  const draft = second.submit("set", { target: "y", value: 1 });
  assert.equal((await draft.settled).status, "accepted");
  await until("the state", () => second.status.synced);
  assert.equal(resets.length, 1);
  assert.ok(["went-back", "replaced"].includes(resets[0]));
  assert.deepEqual(second.getSnapshot(), { y: 1 });
  await second.close();
});

test("a state of more than a megabyte", async () => {
  const client = open("large");
  for (let count = 0; count < 6; count += 1) client.submit("set", { target: `k${count}`, value: "é".repeat(100_000) });
  await until("the commits", () => idle(client));
  let parts = 0;
  class Counted extends WebSocket {
    set onmessage(listener) {
      super.onmessage = (event) => {
        if (JSON.parse(event.data).type === "state_part") parts += 1;
        listener?.(event);
      };
    }
  }
  const other = open("large", { WebSocket: Counted });
  await agree("large", [client, other]);
  assert.ok(parts > 1, "it came in parts");
  await Promise.all([client.close(), other.close()]);
});

test("10,000 missed events are caught up with as events, told in frames", async (t) => {
  const store = memoryStore();
  const first = open("many", { store });
  first.submit("set", { target: "x", value: 1 });
  await until("the first commit", () => idle(first));
  await first.close();
  await write(backend.url, "many", 10_000);
  const client = open("many", { store });
  let events = 0;
  let notified = 0;
  client.on("event", () => (events += 1));
  client.subscribe(() => (notified += 1));
  const started = performance.now();
  await until("all events", () => client.status.synced && events === 10_000);
  const ms = performance.now() - started;
  t.diagnostic(`${Math.round(ms)} ms, ${notified} notifications`);
  assert.ok(notified <= ms / 16 + 2, `${notified} notifications in ${ms} ms`);
  await agree("many", [client]);
  await client.close();
});

const sign = (claims) => {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${text}.${createHmac("sha256", SECRET).update(text).digest("base64url")}`;
};

test("tokens: renewed in band before they end; a bad one is told, and a good one goes on", async (t) => {
  const guarded = await startBackend({ secret: SECRET });
  t.after(() => guarded.stop());
  let made = 0;
  const token = () => {
    made += 1;
    const iat = Math.floor(Date.now() / 1000);
    return sign({ clientId: "me", iat, exp: iat + 4, permissions: ["*"] });
  };
  let sockets = 0;
  class Counted extends WebSocket {
    constructor(...args) {
      super(...args);
      sockets += 1;
    }
  }
  const client = open("default", { url: guarded.url, clientId: "me", token, WebSocket: Counted });
  await until("two renewals", () => made >= 3);
  assert.equal((await client.submit("set", { target: "x", value: 1 }).settled).status, "accepted");
  assert.equal(sockets, 1, "the connection held");
  await client.close();

  const other = open("default", { url: guarded.url, clientId: "me", token: "bad" });
  await until("needs-auth", () => other.status.connection === "needs-auth");
  other.setToken(token());
  await until("connected", () => other.status.synced);
  assert.deepEqual(other.getSnapshot(), { x: 1 });
  await other.close();
});

test("the server's limit of submissions: the client waits as it is told", async (t) => {
  const limited = await startBackend({ limits: true });
  t.after(() => limited.stop());
  const client = open("default", { url: limited.url, clientId: "me" });
  const started = Date.now();
  for (let value = 0; value < 105; value += 1) client.submit("set", { target: "x", value });
  await until("the first hundred", () => client.status.pending <= 5, 60_000);
  await new Promise((done) => setTimeout(done, 300));
  const { pending } = client.status;
  assert.ok(pending > 0 || Date.now() - started > 55_000, "it waits");
  assert.deepEqual(limited.log("default").map(({ payload }) => payload.value), Array.from({ length: 105 - pending }, (_, value) => value));
  assert.deepEqual(client.rejected, []);
  await client.close();
});
