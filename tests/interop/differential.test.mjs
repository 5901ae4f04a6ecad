// What the package's own server makes of a batch, and what this backend makes of the same text: batches that nobody
// thought of, made by seed from good ones. This backend may be stricter, and then says why; it may never take what the
// package's server refuses, refuse a whole batch that the other answers item by item, or answer with another shape.
//
//     FUZZ_SECONDS=600 FUZZ_SEED=7 node --test differential.test.mjs

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, before, test } from "node:test";
import { createInMemorySyncStore, createSyncServer } from "insieme/server";
import WebSocket from "ws";
import { onReference, startBackend } from "./lib/backend.mjs";

const SECONDS = Number(process.env.FUZZ_SECONDS ?? 5);
const SEED = Number(process.env.FUZZ_SEED ?? 1);

/** Why this backend may refuse what the package's server takes: what it promises beyond it. */
const STRICTER = new Set([
  "SCHEMA_ERROR", "FORBIDDEN_KEY", "DUPLICATE_KEY", "RESERVED_TYPE", "TOO_DEEP", "TARGET_NOT_FOUND",
]);
/** Fields of which this backend asks more than the package's server, which asks little. */
const STRICTER_FIELDS = new Set(["id", "payload", "schemaVersion", "meta.clientTs", "meta", "meta.clientId"]);

let backend;
before(async () => {
  if (!onReference) backend = await startBackend();
});
after(() => backend?.stop());

/** SplitMix64, cut to what a double holds. */
const numbers = (seed) => {
  let state = BigInt(seed);
  const mask = (1n << 64n) - 1n;
  const next = () => {
    state = (state + 0x9e3779b97f4a7c15n) & mask;
    let mixed = ((state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n) & mask;
    mixed = ((mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn) & mask;
    return Number((mixed ^ (mixed >> 31n)) >> 11n);
  };
  return { below: (bound) => next() % bound, pick: (list) => list[next() % list.length] };
};

const VALUES = [
  "null", "true", "false", "0", "1", "-1", "1.0", "1.5", "1e2", "1e999", "-0", "9007199254740993", '""', '"x"', '"1"',
  '" 7 "', '"\\ud83d"', '"\\ud83d\\ude00"', '"\\u0000"', "[]", "[1]", "{}", '{"a":1}', '{"a":1,"a":2}', '{"__proto__":1}',
  '{"$serde_json::private::RawValue":"[[1]]"}', '{"$serde_json::private::Number":"1"}', `"${"x".repeat(300)}"`,
  `${"[".repeat(70)}${"]".repeat(70)}`, '{"b":{"c":[1,{"d":"\\u00e9"}]},"a":2}', '"read"', '"set"', '"*"', '"set:a"',
];
const FIELDS = ["id", "partition", "projectId", "userId", "type", "schemaVersion", "payload", "meta", "clientId", "clientTs", "other"];

/** The text of an item, changed in a few ways. */
const item = (random, id, project, client) => {
  const fields = [
    ["id", JSON.stringify(id)], ["partition", '"main"'], ["projectId", JSON.stringify(project)], ["type", '"note"'],
    ["schemaVersion", "1"], ["payload", '{"n":1}'],
  ];
  let meta = [["clientId", JSON.stringify(client)], ["clientTs", "1"]];
  for (let change = random.below(3); change > 0; change -= 1) {
    const name = random.pick(FIELDS);
    const value = random.pick(VALUES);
    const list = name === "clientId" || name === "clientTs" || random.below(8) === 0 ? meta : fields;
    const at = list.findIndex(([key]) => key === name);
    const how = random.below(6);
    if (name === "meta") meta = value;
    else if (how === 0 && at >= 0) list.splice(at, 1);
    else if (how === 1 || at < 0) list.push([name, value]);
    else list[at] = [name, value];
    if (typeof meta === "string") break;
  }
  const text = (list) => `{${list.map(([key, value]) => `"${key}":${value}`).join(",")}}`;
  return text([...fields, ["meta", typeof meta === "string" ? meta : text(meta)]]);
};

/** The package's server, spoken to without a socket. */
const reference = async (client, project) => {
  const server = createSyncServer({
    auth: { verifyToken: async () => ({ clientId: client, claims: {} }) },
    authz: { authorizeProject: async () => true },
    validation: { validate: async () => {} },
    store: createInMemorySyncStore(),
    clock: { now: () => Date.now() },
    limits: { maxInboundMessagesPerWindow: Number.MAX_SAFE_INTEGER },
  });
  let answer;
  const session = server.attachConnection({
    connectionId: "c", send: async (message) => { answer = message; }, close: async () => {},
  });
  const ask = async (message) => {
    answer = undefined;
    await session.receive(message);
    return answer;
  };
  await ask({ type: "connect", protocolVersion: "1.0", payload: { token: "t", clientId: client, projectId: project } });
  return ask;
};

const connection = async (client, project) => {
  const socket = new WebSocket(backend.url);
  const answers = [];
  let wake = () => {};
  socket.on("message", (data) => {
    answers.push(data.toString());
    wake();
  });
  socket.on("close", () => {
    answers.push(null);
    wake();
  });
  await new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  const ask = async (text) => {
    socket.send(text);
    while (answers.length === 0) await new Promise((resolve) => { wake = resolve; });
    return answers.shift();
  };
  const connect = { type: "connect", protocolVersion: "1.0", payload: { token: "t", clientId: client, projectId: project } };
  assert.match(await ask(JSON.stringify(connect)), /"connected"/);
  return { ask, close: () => socket.close() };
};

/** Throws where the two part in a way that is not this backend's promise. */
const compare = (theirs, ours, text) => {
  const shown = `${text}\n theirs: ${JSON.stringify(theirs)}\n ours: ${JSON.stringify(ours)}`;
  if (theirs.type === "error") {
    // It has no server fault that is to be copied: what it cannot answer, ours answers in some way.
    if (theirs.payload.code !== "server_error") assert.equal(ours.payload.code, theirs.payload.code, shown);
    return;
  }
  assert.equal(ours.type, "submit_events_result", shown);
  const [a, b] = [theirs.payload.results, ours.payload.results];
  assert.equal(b.length, a.length, shown);
  for (let index = 0; index < a.length; index += 1) {
    assert.deepEqual(b[index].id, a[index].id, shown);
    // An id that only theirs has committed: the two parted over it in an earlier batch.
    if (a[index].errors?.some(({ message }) => message === "same id submitted with different payload")) break;
    if (a[index].status === b[index].status) {
      if (a[index].status === "rejected") {
        // An item with two faults may be told the other one: each looks at the fields in an order of its own.
        const isStricter = b[index].errors.some(({ code }) => ["DUPLICATE_KEY", "TOO_DEEP", "BAD_ITEM"].includes(code));
        if (!isStricter) assert.equal(b[index].reason, a[index].reason, shown);
        break;
      }
      continue;
    }
    // From here on they have parted, which ours must say why.
    assert.equal(a[index].status, "committed", `ours took what theirs refuses: ${shown}`);
    assert.equal(b[index].status, "rejected", shown);
    for (const { field, code, message } of b[index].errors) {
      assert.ok(message, shown);
      // Half of a surrogate pair is no text, in whatever field.
      const isHalf = text.includes('"\\ud83d"');
      const isStricterItem = code === "BAD_ITEM" && (isHalf || STRICTER_FIELDS.has(field));
      assert.ok(STRICTER.has(code) || isStricterItem, shown);
    }
    break;
  }
};

test("no batch is answered otherwise than by the package's server, unless this backend promises more", { skip: onReference }, async () => {
  const random = numbers(SEED);
  const until = Date.now() + SECONDS * 1000;
  const [client, project] = ["dana", randomUUID()];
  const theirs = await reference(client, project);
  const ours = await connection(client, project);
  let batches = 0;
  while (Date.now() < until) {
    const ids = Array.from({ length: 1 + random.below(4) }, (_, index) => `${batches}-${index}`);
    const items = ids.map((id) => item(random, id, project, client));
    if (random.below(50) === 0) items[random.below(items.length)] = random.pick(VALUES);
    const text = `{"type":"submit_events","protocolVersion":"1.0","msgId":"m${batches}","payload":{"events":[${items.join(",")}]}}`;
    const answer = await ours.ask(text);
    assert.notEqual(answer, null, `the connection was closed on ${text}`);
    compare(await theirs(JSON.parse(text)), JSON.parse(answer), text);
    batches += 1;
  }
  ours.close();
  console.log(`# ${batches} batches in ${SECONDS} s, seed ${SEED}`);
  assert.ok(batches > 0);
});

test("the comparison finds what it is to find", () => {
  const result = (...results) => ({ type: "submit_events_result", payload: { results } });
  const committed = { id: "a", status: "committed" };
  const rejected = (code, reason = "validation_failed") => ({ id: "a", status: "rejected", reason, errors: [{ field: "type", code, message: "m" }] });
  compare(result(committed), result(committed), "");
  compare(result(committed), result(rejected("RESERVED_TYPE")), "");
  for (const [a, b] of [
    [result(rejected("X")), result(committed)],
    [result(committed), result(rejected("INTERNAL_ERROR"))],
    [result(committed), { type: "error", payload: { code: "bad_request" } }],
    [result(committed, committed), result(committed)],
    [result(rejected("X", "forbidden")), result(rejected("X"))],
    [{ type: "error", payload: { code: "bad_request" } }, result(committed)],
  ]) assert.throws(() => compare(a, b, ""));
});
