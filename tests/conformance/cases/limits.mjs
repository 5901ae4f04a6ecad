// Inbound limits.

import assert from "node:assert/strict";

export default [
  {
    id: "size-within",
    title: "a message of 250 KiB is served",
    spec: "Inbound limits: 256 KiB a message.",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      const event = t.event(writer, { payload: { text: "x".repeat(250 * 1024) } });
      await t.commit(writer, event);
      assert.equal((await reader.broadcast(event.id)).payload.payload.text.length, 250 * 1024);
      assert.equal((await t.sync(writer))[0].payload.text.length, 250 * 1024);
    },
  },
  {
    id: "size-beyond",
    title: "a message of more than 256 KiB is refused, the connection closes, and nothing is committed",
    spec: "Inbound limits: 256 KiB a message.",
    async run(t) {
      const other = await t.client("other");
      const peer = await t.client("peer");
      const before = peer.heard.length;
      peer.send("submit_events", { events: [t.event(peer, { payload: { text: "x".repeat(257 * 1024) } })] });
      await peer.gone();
      for (const message of peer.heard.slice(before)) {
        assert.equal(message.type, "error");
        assert.ok(["bad_request", "message_too_large"].includes(message.payload.code), message.payload.code);
      }
      assert.ok(peer.heard.length > before || peer.closed.code === 1009, "it says why, by an error or by the close code 1009");
      assert.deepEqual(await t.sync(other), []);
    },
  },
  {
    id: "rate-within",
    title: "150 messages at once are all served",
    spec: "Inbound limits: 200 messages a second.",
    async run(t) {
      const peer = await t.client();
      const sent = Array.from({ length: 150 }, () => peer.send("sync", { projectId: t.project, sinceCommittedId: 0 }));
      await peer.answer(sent.at(-1));
      assert.deepEqual(peer.heard.slice(1).map(({ type, msgId }) => [type, msgId]), sent.map((msgId) => ["sync_response", msgId]));
    },
  },
  {
    id: "rate-beyond",
    title: "far more than 200 messages a second: rate_limited, and the connection closes; others are served on",
    spec: "rate_limited closes the connection.",
    async run(t) {
      const other = await t.client("other");
      const peer = await t.client("peer");
      for (let sent = 0; sent < 1500; sent += 1) peer.send("sync", { projectId: t.project, sinceCommittedId: 0 });
      await peer.gone();
      const last = peer.heard.at(-1);
      t.isError(last, "rate_limited");
      assert.ok(peer.heard.filter(({ type }) => type === "sync_response").length >= 150, "what was within the limit was served");
      await t.stays(other);
    },
  },
  {
    id: "bad-requests-within",
    title: "many bad requests do not close the connection",
    spec: "bad_request, forbidden and validation_failed keep the connection open.",
    async run(t) {
      const peer = await t.client();
      for (let round = 0; round < 20; round += 1) {
        t.isError(await peer.request("submit_events", { events: [] }), "bad_request");
        t.isError(await peer.request("sync", { projectId: t.name("project"), sinceCommittedId: 0 }), "forbidden");
      }
      await t.commit(peer, t.event(peer));
    },
  },
  {
    id: "many-batches",
    title: "a client that drains a long queue of drafts, 50 events a batch, 120 batches, is let do so",
    spec: "This backend serves the published client unchanged, and that drains its drafts one batch after the other.",
    async run(t) {
      const peer = await t.client();
      for (let round = 0; round < 120; round += 1) {
        await t.commit(peer, ...Array.from({ length: 50 }, () => t.event(peer)));
      }
      assert.equal((await t.sync(peer, 0, 1000)).length, 6000);
    },
  },
];
