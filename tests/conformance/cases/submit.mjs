// submit_events: a batch as one unit, its results, and what makes an event unacceptable.

import assert from "node:assert/strict";

/** One wrong item alone in a batch: rejected with this reason, and nothing committed. */
const rejected = (id, title, spec, reasons, change, extra = {}) => ({
  id,
  title,
  spec,
  ...extra,
  async run(t) {
    const peer = await t.client("client", extra.client);
    const event = t.event(peer);
    const changed = change(event, t) ?? event;
    const [result] = await t.submit(peer, changed);
    assert.equal(result.status, "rejected", JSON.stringify(result));
    assert.equal(result.id, changed.id);
    assert.ok(reasons.includes(result.reason), `the reason is ${result.reason}, not ${reasons.join(" or ")}`);
    assert.deepEqual(await t.sync(peer), [], "nothing was committed");
  },
});

/** One wrong request: answered as a whole, and nothing committed. */
const badRequest = (id, title, payload) => ({
  id,
  title,
  spec: "bad_request keeps the connection open.",
  async run(t) {
    const peer = await t.client();
    t.isError(await peer.request("submit_events", payload(t, peer)), "bad_request");
    assert.deepEqual(await t.sync(peer), [], "nothing was committed");
    await t.stays(peer);
  },
});

const isTime = (value) => typeof value === "number" && Number.isFinite(value) && value > 1_500_000_000_000;

export default [
  {
    id: "submit-commits",
    title: "a right event is committed: id, status, committedId, serverTs",
    spec: "submit_events -> submit_events_result.",
    async run(t) {
      const peer = await t.client();
      const event = t.event(peer);
      const [result] = await t.submit(peer, event);
      assert.equal(result.id, event.id);
      assert.equal(result.status, "committed");
      assert.ok(Number.isSafeInteger(result.committedId) && result.committedId > 0);
      assert.ok(isTime(result.serverTs), "serverTs is Unix milliseconds");
      assert.equal((await t.client("later")).connected.projectLastCommittedId, result.committedId);
    },
  },
  {
    id: "committed-event-is-whole",
    title: "a committed event comes back as it was sent, with committedId and serverTs",
    spec: "id, projectId, partition, userId, type, schemaVersion, payload, meta; meta.clientId, meta.clientTs: kept with all other JSON-safe meta fields.",
    async run(t) {
      const writer = await t.client("writer");
      const reader = await t.client("reader");
      const event = t.event(writer, {
        id: `an id: ${t.name("ü/*.> ")}`,
        partition: "a label: any/text.*> ü",
        type: "explorer.folderCreated",
        schemaVersion: 3,
        payload: {
          empty: {}, list: [[], {}, null, true], deep: { a: { b: { c: { d: [1.5, -0.25, 1e21, 1e-7, 9007199254740991] } } } },
          text: "é \u{1f980} \u2028 \u0000 \" \\ </script>", "": "an empty key", "a.b": 1, "10": 2, "9": 3, toString: 4,
        },
        meta: { clientId: writer.clientId, clientTs: 1700000000123.5, trace: { id: "x", hops: [1, 2] }, note: null },
      });
      const [result] = await t.commit(writer, event);
      const expected = { ...event, committedId: result.committedId, serverTs: result.serverTs };
      const broadcast = (await reader.broadcast(event.id)).payload;
      const [synced] = await t.sync(reader);
      for (const [where, found] of [["broadcast", broadcast], ["sync", synced]]) {
        for (const [field, value] of Object.entries(expected)) {
          assert.deepEqual(found[field], value, `${field} in the ${where}`);
        }
        assert.equal(found.userId, undefined, "no userId was given");
      }
      assert.deepEqual(synced, broadcast, "one event, one shape");
    },
  },
  {
    id: "user-id-is-kept",
    title: "an event's userId comes back with it",
    spec: "userId.",
    async run(t) {
      const userId = t.name("user");
      const peer = await t.client("client", { userId });
      await t.commit(peer, t.event(peer, { userId }));
      assert.equal((await t.sync(peer))[0].userId, userId);
    },
  },
  {
    id: "batch-commits-in-order",
    title: "a batch's events are committed in the order of the request",
    spec: "A batch is decided in request order; an entry per item, in order.",
    async run(t) {
      const peer = await t.client();
      const events = Array.from({ length: 50 }, () => t.event(peer));
      const results = await t.commit(peer, ...events);
      assert.deepEqual(results.map(({ id }) => id), events.map(({ id }) => id));
      const ids = results.map(({ committedId }) => committedId);
      assert.deepEqual(ids, [...new Set(ids)].sort((a, b) => a - b), "committedId rises");
      const synced = await t.sync(peer);
      assert.deepEqual(synced.map(({ id, committedId }) => [id, committedId]), results.map(({ id, committedId }) => [id, committedId]));
    },
  },
  {
    id: "not-processed-after-rejected",
    title: "what stands behind the first rejected item is not_processed: prior_item_failed, blockedById",
    spec: "Items after the first rejected one are not_processed.",
    async run(t) {
      const peer = await t.client();
      const reader = await t.client("reader");
      const events = [
        t.event(peer),
        t.event(peer),
        t.event(peer, { payload: "no object" }),
        t.event(peer),
        t.event(peer, { schemaVersion: "also wrong" }),
      ];
      const results = await t.submit(peer, ...events);
      assert.deepEqual(results.map(({ id }) => id), events.map(({ id }) => id));
      assert.deepEqual(
        results.map(({ status }) => status),
        ["committed", "committed", "rejected", "not_processed", "not_processed"],
      );
      assert.equal(results[2].reason, "validation_failed");
      for (const result of results.slice(3)) {
        assert.equal(result.reason, "prior_item_failed");
        assert.equal(result.blockedById, events[2].id);
        assert.ok(isTime(result.created), "created is Unix milliseconds");
        assert.equal(result.committedId, undefined);
      }
      assert.deepEqual((await t.sync(peer)).map(({ id }) => id), [events[0].id, events[1].id]);
      assert.deepEqual(await t.flushed(reader, peer), [events[0].id, events[1].id]);
    },
  },
  {
    id: "not-processed-can-be-sent-again",
    title: "items that were not processed, and corrected ones, commit when sent again",
    spec: "Items after the first rejected one are not_processed: nothing was decided on them.",
    async run(t) {
      const peer = await t.client();
      const wrong = t.event(peer, { payload: null });
      const behind = t.event(peer);
      await t.submit(peer, wrong, behind);
      const results = await t.commit(peer, behind, { ...wrong, payload: {} });
      assert.deepEqual((await t.sync(peer)).map(({ id }) => id), results.map(({ id }) => id));
    },
  },
  {
    id: "rejected-entry",
    title: "a rejected entry has id, status, reason, errors with a message each, created",
    spec: "Rejections carry errors.",
    async run(t) {
      const peer = await t.client();
      const event = t.event(peer, { schemaVersion: 0 });
      const [result] = await t.submit(peer, event);
      assert.equal(result.id, event.id);
      assert.equal(result.status, "rejected");
      assert.equal(result.reason, "validation_failed");
      assert.ok(Array.isArray(result.errors) && result.errors.length > 0);
      for (const error of result.errors) assert.ok(typeof error.message === "string" && error.message.length > 0);
      assert.ok(isTime(result.created), "created is Unix milliseconds");
      assert.equal(result.committedId, undefined);
    },
  },
  {
    id: "rejected-entry-names-the-field",
    title: "each error of a rejected entry has field, message and code",
    spec: "Rejections carry errors: [{ field, message, code }].",
    beyondReference: "the package's errors have a message only",
    async run(t) {
      const peer = await t.client();
      const [result] = await t.submit(peer, t.event(peer, { schemaVersion: 0 }));
      for (const error of result.errors) {
        assert.equal(typeof error.field, "string");
        assert.equal(typeof error.message, "string");
        assert.equal(typeof error.code, "string");
      }
    },
  },
  badRequest("empty-batch", "an empty batch is a bad_request", () => ({ events: [] })),
  badRequest("no-events", "submit_events without events is a bad_request", () => ({})),
  badRequest("events-no-list", "events that are no list are a bad_request", (t, peer) => ({ events: t.event(peer) })),
  badRequest("item-no-object", "an item that is no object makes the whole request a bad_request", (t, peer) => ({
    events: [t.event(peer), "text"],
  })),
  badRequest("item-null", "an item that is null makes the whole request a bad_request", (t, peer) => ({
    events: [t.event(peer), null],
  })),
  badRequest("item-without-id", "an item without id makes the whole request a bad_request", (t, peer) => ({
    events: [t.event(peer), t.event(peer, { id: undefined })],
  })),
  badRequest("item-with-empty-id", "an item with an empty id makes the whole request a bad_request", (t, peer) => ({
    events: [t.event(peer), t.event(peer, { id: "" })],
  })),
  badRequest("item-with-number-id", "an item with a number as id makes the whole request a bad_request", (t, peer) => ({
    events: [t.event(peer), t.event(peer, { id: 7 })],
  })),
  ...[
    ["type", undefined], ["type", ""], ["type", 7],
    ["schemaVersion", undefined], ["schemaVersion", 0], ["schemaVersion", -1], ["schemaVersion", 1.5], ["schemaVersion", "1"],
    ["payload", undefined], ["payload", null], ["payload", []], ["payload", "text"],
  ].map(([field, value]) =>
    rejected(
      `${field.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}-${
        value === undefined ? "missing" : (JSON.stringify(value) === "[]" ? "list" : JSON.stringify(value).replace(/^""$/, "empty").replaceAll("\"", "").replace("-", "minus-").replace(".", "-"))
      }${typeof value === "string" && value !== "" && field !== "payload" ? "-as-text" : ""}`,
      `an event with ${field} ${value === undefined ? "missing" : JSON.stringify(value)} is rejected: validation_failed`,
      "type is a non-empty string, schemaVersion a positive integer, payload an object.",
      ["validation_failed"],
      (event) => ({ ...event, [field]: value }),
      Array.isArray(value) ? { beyondReference: "the package's server takes a list for an object" } : {},
    ),
  ),
  ...[undefined, "", 7].map((value) =>
    rejected(
      `partition-${value === undefined ? "missing" : value === "" ? "empty" : value}`,
      `an event with partition ${value === undefined ? "missing" : JSON.stringify(value)} is rejected`,
      "An event's partition is a label, non-empty. (The package's server gives bad_request as the reason.)",
      ["bad_request", "validation_failed"],
      (event) => ({ ...event, partition: value }),
    ),
  ),
  rejected("project-missing", "an event without projectId is rejected: validation_failed", "projectId rules.", ["validation_failed"], (event) => ({ ...event, projectId: undefined })),
  rejected("project-empty", "an event with an empty projectId is rejected: validation_failed", "projectId rules.", ["validation_failed"], (event) => ({ ...event, projectId: "" })),
  rejected("project-of-another", "an event of another project than the connection's is rejected: forbidden", "projectId rules.", ["forbidden"], (event, t) => ({ ...event, projectId: t.name("project") })),
  rejected("user-empty", "an event with an empty userId is rejected: validation_failed", "userId rules.", ["validation_failed"], (event) => ({ ...event, userId: "" })),
  rejected("user-no-text", "an event with a number as userId is rejected: validation_failed", "userId rules.", ["validation_failed"], (event) => ({ ...event, userId: 7 })),
  rejected(
    "user-of-another",
    "an event with another userId than the token's is rejected: forbidden",
    "userId in an event must match the token's userId where both are there.",
    ["forbidden"],
    (event, t) => ({ ...event, userId: t.name("user") }),
    { needs: "claims", client: { userId: "the-user-of-the-token" } },
  ),
  {
    id: "user-may-be-left-out",
    title: "an event without userId commits, whatever user the token names",
    spec: "userId must match where both are there.",
    async run(t) {
      const peer = await t.client("client", { userId: t.name("user") });
      await t.commit(peer, t.event(peer));
    },
  },
  rejected("meta-of-another-client", "an event with another client's meta.clientId is rejected: forbidden", "meta rules.", ["forbidden"], (event, t) => ({
    ...event, meta: { ...event.meta, clientId: t.name("client") },
  })),
  rejected("meta-missing", "an event without meta is rejected, for want of clientTs: validation_failed", "meta.clientTs is a finite number.", ["validation_failed"], (event) => ({ ...event, meta: undefined })),
  rejected("client-ts-missing", "an event without meta.clientTs is rejected: validation_failed", "meta.clientTs is a finite number.", ["validation_failed"], (event) => ({
    ...event, meta: { clientId: event.meta.clientId },
  })),
  rejected("client-ts-text", "an event whose meta.clientTs is no number is rejected: validation_failed", "meta.clientTs is a finite number.", ["validation_failed"], (event) => ({
    ...event, meta: { ...event.meta, clientTs: "yesterday" },
  })),
  rejected("client-ts-object", "an event whose meta.clientTs is an object is rejected: validation_failed", "meta.clientTs is a finite number.", ["validation_failed"], (event) => ({
    ...event, meta: { ...event.meta, clientTs: {} },
  })),
  {
    id: "meta-client-id-defaults",
    title: "meta.clientId, where left out, is the connection's clientId",
    spec: "meta rules: clientId defaults to the client of the connection.",
    async run(t) {
      const peer = await t.client();
      await t.commit(peer, t.event(peer, { meta: { clientTs: 12 } }));
      const [event] = await t.sync(peer);
      assert.deepEqual(event.meta, { clientId: peer.clientId, clientTs: 12 });
    },
  },
  {
    id: "result-before-anything-later",
    title: "messages sent behind a submit are answered behind its result, and see its events",
    spec: "A later message on the connection never overtakes it.",
    async run(t) {
      const peer = await t.client();
      const sent = [];
      const from = peer.heard.length;
      const events = [];
      for (let round = 0; round < 15; round += 1) {
        events.push(t.event(peer), t.event(peer));
        sent.push(["submit_events_result", peer.send("submit_events", { events: events.slice(-2) })]);
        sent.push(["error", peer.send("conformance.unknown", {})]);
        sent.push(["sync_response", peer.send("sync", { projectId: t.project, sinceCommittedId: 0 })]);
        sent.push(["error", peer.send("submit_events", { events: [] })]);
      }
      await peer.answer(sent.at(-1)[1]);
      assert.deepEqual(peer.heard.slice(from).map(({ type, msgId }) => [type, msgId]), sent);
      const pages = peer.heard.filter(({ type }) => type === "sync_response");
      assert.deepEqual(
        pages.map(({ payload }) => payload.events.length),
        pages.map((_, round) => 2 * (round + 1)),
        "a sync behind a submit holds its events",
      );
    },
  },
  {
    id: "submits-decided-in-order-sent",
    title: "submits sent without waiting are committed in the order sent",
    spec: "One submit_events_result per request; order of a connection.",
    async run(t) {
      const peer = await t.client();
      const events = Array.from({ length: 60 }, () => t.event(peer));
      const ids = events.map((event) => peer.send("submit_events", { events: [event] }));
      await peer.answer(ids.at(-1));
      const results = peer.heard.filter(({ type }) => type === "submit_events_result");
      assert.deepEqual(results.map(({ msgId }) => msgId), ids);
      assert.deepEqual((await t.sync(peer)).map(({ id }) => id), events.map(({ id }) => id));
    },
  },
];
