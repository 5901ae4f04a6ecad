// The same id again: the same content is answered with its commit, another is refused.

import assert from "node:assert/strict";

/** The same event in another spelling: taken for the same. */
const same = (id, title, respell) => ({
  id,
  title,
  spec: "The same id with the same canonical content (keys sorted, meta without clientId) returns the existing commit.",
  async run(t) {
    const userId = t.name("user");
    const first = await t.client("first", { userId });
    const event = t.event(first, {
      userId,
      payload: { b: [{ y: 1, x: 100 }], a: { d: "A", c: null } },
      meta: { clientTs: 1000, clientId: first.clientId, z: { q: 1, p: 2 }, k: [] },
    });
    const [commit] = await t.commit(first, event);
    const again = await t.client("again", { userId, clientId: respell.sameClient === false ? undefined : first.clientId });
    const from = again.heard.length;
    again.text(respell.text(event, again));
    const answer = await again.hears("a result", ({ type }) => type !== "event_broadcast", from);
    assert.equal(answer.type, "submit_events_result", JSON.stringify(answer));
    const [result] = answer.payload.results;
    assert.equal(result.status, "committed", JSON.stringify(result));
    assert.equal(result.committedId, commit.committedId);
    assert.equal(result.serverTs, commit.serverTs);
    const log = await t.sync(first);
    assert.equal(log.length, 1, "one commit");
    assert.equal(log[0].meta.clientId, first.clientId, "the event is the first one's");
  },
});

const envelope = (...events) => JSON.stringify({ type: "submit_events", protocolVersion: "1.0", payload: { events } });

const reversed = (value) => {
  if (Array.isArray(value)) return value.map(reversed);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).reverse().map(([key, inner]) => [key, reversed(inner)]));
};

/** The same id with other content: refused. */
const other = (id, title, change) => ({
  id,
  title,
  spec: "The same id with other content is rejected validation_failed.",
  async run(t) {
    const userId = t.name("user");
    const peer = await t.client("client", { userId });
    const event = t.event(peer, { userId, payload: { list: [1, 2], text: "a" }, meta: { clientId: peer.clientId, clientTs: 1000, note: "n" } });
    const [commit] = await t.commit(peer, event);
    const behind = t.event(peer);
    const results = await t.submit(peer, change(structuredClone(event)), behind);
    assert.equal(results[0].status, "rejected", JSON.stringify(results[0]));
    assert.equal(results[0].reason, "validation_failed");
    assert.equal(results[1].status, "not_processed");
    assert.equal(results[1].blockedById, event.id);
    const log = await t.sync(peer);
    assert.deepEqual(log.map(({ id, committedId }) => [id, committedId]), [[event.id, commit.committedId]]);
    assert.deepEqual(log[0].payload, event.payload, "the first content stays");
  },
});

export default [
  same("repeat", "the same event again is answered with the same committedId and serverTs", { text: (event) => envelope(event) }),
  same("repeat-keys-in-another-order", "the order of keys is no difference, at any depth", { text: (event) => envelope(reversed(event)) }),
  same("repeat-without-meta-client-id", "meta.clientId is no part of the content: left out", {
    text: ({ meta: { clientId, ...meta }, ...event }) => envelope({ ...event, meta }),
  }),
  same("repeat-by-another-client", "meta.clientId is no part of the content: sent by another client", {
    sameClient: false,
    text: ({ meta, ...event }, again) => envelope({ ...event, meta: { ...meta, clientId: again.clientId } }),
  }),
  same("repeat-in-another-spelling", "the spelling of numbers, of text and of white space is no difference", {
    text: (event) =>
      envelope(event)
        .replace("\"x\":100", "\"x\": 1e2")
        .replace("\"y\":1", "\"y\":1.0")
        .replace("\"d\":\"A\"", "\"\\u0064\"\n:\t\"\\u0041\""),
  }),
  same("repeat-with-unknown-fields", "fields beside the event's own are no part of the content", {
    text: (event) => envelope({ ...event, createdAt: 7, clientTs: undefined, draftClock: 3 }),
  }),
  other("other-payload", "the same id with another payload is rejected", (event) => ({ ...event, payload: { ...event.payload, text: "b" } })),
  other("other-payload-order", "the same id with a list in another order is rejected", (event) => ({ ...event, payload: { ...event.payload, list: [2, 1] } })),
  other("other-payload-more", "the same id with one more field in its payload is rejected", (event) => ({ ...event, payload: { ...event.payload, more: null } })),
  other("other-type", "the same id with another type is rejected", (event) => ({ ...event, type: "conformance.other" })),
  other("other-schema-version", "the same id with another schemaVersion is rejected", (event) => ({ ...event, schemaVersion: 2 })),
  other("other-partition", "the same id with another partition label is rejected", (event) => ({ ...event, partition: "elsewhere" })),
  other("other-user", "the same id without its userId is rejected", ({ userId, ...event }) => event),
  other("other-client-ts", "the same id with another meta.clientTs is rejected", (event) => ({ ...event, meta: { ...event.meta, clientTs: 1001 } })),
  other("other-meta", "the same id with another field in meta is rejected", (event) => ({ ...event, meta: { ...event.meta, note: "m" } })),
  {
    id: "repeat-within-a-batch",
    title: "the same event twice in one batch is one commit with two entries",
    spec: "The same id with the same content returns the existing commit; an entry per item.",
    async run(t) {
      const peer = await t.client();
      const event = t.event(peer);
      const results = await t.commit(peer, event, t.event(peer), event);
      assert.deepEqual(results[2], results[0]);
      assert.equal((await t.sync(peer)).length, 2);
    },
  },
  {
    id: "repeats-mixed-with-new",
    title: "a batch of committed and new events is answered item by item",
    spec: "The same id with the same content returns the existing commit; a batch is decided in request order.",
    async run(t) {
      const peer = await t.client();
      const [a, b, c, d] = [t.event(peer), t.event(peer), t.event(peer), t.event(peer)];
      const [first, third] = await t.commit(peer, a, c);
      const results = await t.commit(peer, a, b, c, d);
      assert.equal(results[0].committedId, first.committedId);
      assert.equal(results[2].committedId, third.committedId);
      assert.deepEqual((await t.sync(peer)).map(({ id }) => id), [a.id, c.id, b.id, d.id]);
    },
  },
  {
    id: "rejected-id-is-free",
    title: "an id that was rejected is not used up",
    spec: "Idempotency is by commits.",
    async run(t) {
      const peer = await t.client();
      const event = t.event(peer);
      const [result] = await t.submit(peer, { ...event, schemaVersion: 0 });
      assert.equal(result.status, "rejected");
      await t.commit(peer, event);
    },
  },
  {
    id: "same-id-in-another-project",
    title: "the same id in another project is another event",
    spec: "id: the idempotency key, together with the partition.",
    beyondReference: "the package's stores take an id for one over all projects, and reject the second",
    async run(t) {
      const here = await t.client("here");
      const there = await t.client("there", { project: t.name("project") });
      const event = t.event(here);
      const [first] = await t.commit(here, event);
      const [second] = await t.commit(there, t.event(there, { id: event.id, payload: { another: true } }));
      assert.notEqual(second.committedId, first.committedId);
    },
  },
  {
    id: "repeat-at-the-same-time",
    title: "one event submitted by several connections at once is one commit, and all hear of the same",
    spec: "The same id with the same canonical content returns the existing commit.",
    async run(t) {
      const clientId = t.name("client");
      const peers = await Promise.all(Array.from({ length: 5 }, (_, index) => t.client(`client ${index}`, { clientId })));
      const event = t.event(peers[0]);
      const results = await Promise.all(peers.map((peer) => t.commit(peer, event)));
      assert.equal(new Set(results.map(([{ committedId }]) => committedId)).size, 1);
      assert.equal((await t.sync(peers[0])).length, 1);
    },
  },
];
