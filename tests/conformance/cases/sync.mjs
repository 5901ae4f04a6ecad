// sync: pages, cycles with a fixed end, and what is committed while one runs.

import assert from "node:assert/strict";

const ids = (events) => events.map(({ id }) => id);

const badSync = (id, title, code, change) => ({
  id,
  title,
  spec: "bad_request and forbidden keep the connection open.",
  async run(t) {
    const peer = await t.client();
    const payload = { projectId: t.project, sinceCommittedId: 0 };
    t.isError(await peer.request("sync", change(payload, t)), code);
    await t.stays(peer);
  },
});

export default [
  {
    id: "sync-of-nothing",
    title: "a sync of a project without events: no events, hasMore false, the cursor as asked",
    spec: "sync -> sync_response.",
    async run(t) {
      const peer = await t.client();
      const page = await t.page(peer, 0);
      assert.deepEqual(page, { projectId: t.project, events: [], nextSinceCommittedId: 0, hasMore: false, syncToCommittedId: 0 });
    },
  },
  {
    id: "sync-in-one-page",
    title: "a sync gives what is behind the cursor, in order, and the next cursor",
    spec: "nextSinceCommittedId on the last page is the durable cursor.",
    async run(t) {
      const peer = await t.client();
      const events = await t.fill(peer, 5);
      const all = await t.page(peer, 0);
      assert.equal(all.projectId, t.project);
      assert.deepEqual(ids(all.events), ids(events));
      assert.equal(all.hasMore, false);
      assert.equal(all.syncToCommittedId, events[4].committedId);
      assert.equal(all.nextSinceCommittedId, events[4].committedId);
      const some = await t.page(peer, events[2].committedId);
      assert.deepEqual(ids(some.events), ids(events.slice(3)));
      const none = await t.page(peer, events[4].committedId);
      assert.deepEqual(none.events, []);
      assert.equal(none.nextSinceCommittedId, events[4].committedId);
    },
  },
  {
    id: "sync-in-pages",
    title: "pages are full but for the last, follow each other without gap or repeat, and share syncToCommittedId",
    spec: "syncToCommittedId is fixed for a cycle; nextSinceCommittedId.",
    async run(t) {
      const peer = await t.client();
      const events = await t.fill(peer, 10);
      const pages = await t.rest(peer, await t.page(peer, 0, 4), 4);
      assert.deepEqual(pages.map((page) => ids(page.events)), [ids(events.slice(0, 4)), ids(events.slice(4, 8)), ids(events.slice(8))]);
      assert.deepEqual(pages.map(({ hasMore }) => hasMore), [true, true, false]);
      for (const page of pages) {
        assert.equal(page.syncToCommittedId, events[9].committedId);
        assert.equal(page.nextSinceCommittedId, page.events.at(-1).committedId);
      }
    },
  },
  {
    id: "sync-exact-page",
    title: "a page that holds all there is says hasMore false",
    spec: "hasMore: true only where there is more.",
    async run(t) {
      const peer = await t.client();
      const events = await t.fill(peer, 4);
      const page = await t.page(peer, 0, 4);
      assert.deepEqual(ids(page.events), ids(events));
      assert.equal(page.hasMore, false);
    },
  },
  {
    id: "sync-limit-default",
    title: "without limit a page holds 500 events",
    spec: "sync.limit defaults to 500.",
    async run(t) {
      const peer = await t.client();
      const events = await t.fill(peer, 505);
      const page = await t.page(peer, 0);
      assert.equal(page.events.length, 500);
      assert.equal(page.hasMore, true);
      assert.deepEqual(ids((await t.rest(peer, page)).flatMap(({ events }) => events)), ids(events));
    },
  },
  {
    id: "sync-limit-clamped",
    title: "limit is clamped to 1..1000",
    spec: "sync.limit is clamped to 1..1000.",
    async run(t) {
      const peer = await t.client();
      await t.fill(peer, 1003);
      for (const [limit, expected] of [[0, 1], [-5, 1], [1, 1], [1000, 1000], [1001, 1000], [1e9, 1000]]) {
        const reader = await t.client("reader");
        const page = await t.page(reader, 0, limit);
        assert.equal(page.events.length, expected, `limit ${limit}`);
        assert.equal(page.hasMore, true);
      }
    },
  },
  {
    id: "sync-limit-of-another-kind",
    title: "a limit that is no number counts as left out",
    spec: "sync.limit defaults to 500.",
    async run(t) {
      const peer = await t.client();
      const events = await t.fill(peer, 3);
      for (const limit of ["2", null, {}]) assert.equal((await t.page(peer, 0, limit)).events.length, events.length);
    },
  },
  {
    id: "sync-cursor-never-goes-back",
    title: "nextSinceCommittedId is never below what was asked, not even at the project's end",
    spec: "nextSinceCommittedId is never below what was asked.",
    async run(t) {
      const peer = await t.client();
      const events = await t.fill(peer, 2);
      for (const since of [events[0].committedId, events[1].committedId]) {
        const page = await t.page(peer, since);
        assert.equal(page.hasMore, false);
        assert.ok(page.nextSinceCommittedId >= since, `asked from ${since}, got ${page.nextSinceCommittedId}`);
      }
    },
  },
  {
    id: "sync-from-beyond-the-end",
    title: "a sync from beyond the project's last event stops the client for good",
    spec: "The client is stopped by an error that the published client understands as final.",
    beyondReference: "the package's server answers with an empty page",
    async run(t) {
      const writer = await t.client();
      const events = await t.fill(writer, 2);
      for (const ahead of [1, 1_000_000]) {
        const peer = await t.client("ahead");
        const payload = { projectId: t.project, sinceCommittedId: events[1].committedId + ahead };
        t.isError(await peer.request("sync", payload), "auth_failed");
        await peer.gone();
      }
    },
  },
  badSync("sync-without-project", "a sync without projectId is a bad_request", "bad_request", (payload) => ({ ...payload, projectId: undefined })),
  badSync("sync-with-empty-project", "a sync with an empty projectId is a bad_request", "bad_request", (payload) => ({ ...payload, projectId: "" })),
  badSync("sync-of-another-project", "a sync of another project than the connection's is forbidden", "forbidden", (payload, t) => ({ ...payload, projectId: t.name("project") })),
  ...[undefined, null, "0", -1].map((since) =>
    badSync(
      `sync-since-${since === -1 ? "negative" : since === "0" ? "text" : since === null ? "null" : "missing"}`,
      `a sync with sinceCommittedId ${since === undefined ? "missing" : JSON.stringify(since)} is a bad_request`,
      "bad_request",
      (payload) => ({ ...payload, sinceCommittedId: since }),
    ),
  ),
  {
    id: "cycle-end-is-fixed",
    title: "what is committed while a cycle runs is not in its pages, and its end does not move",
    spec: "syncToCommittedId is fixed for a cycle.",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      const before = await t.fill(writer, 5);
      const pages = [await t.page(reader, 0, 2)];
      while (pages.at(-1).hasMore) {
        await t.fill(writer, 3);
        pages.push(await t.page(reader, pages.at(-1).nextSinceCommittedId, 2));
        assert.ok(pages.length < 20, "the cycle ends under writing");
      }
      assert.deepEqual(ids(pages.flatMap(({ events }) => events)), ids(before));
      for (const page of pages) assert.equal(page.syncToCommittedId, before[4].committedId);
      assert.equal(pages.at(-1).nextSinceCommittedId, before[4].committedId);
    },
  },
  {
    id: "next-cycle-goes-further",
    title: "a new cycle behind a finished one has a new end",
    spec: "syncToCommittedId is fixed for a cycle, and for no longer.",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      await t.fill(writer, 3);
      const cycle = await t.rest(reader, await t.page(reader, 0, 2), 2);
      const second = await t.fill(writer, 3);
      const page = await t.page(reader, cycle.at(-1).nextSinceCommittedId, 2);
      assert.equal(page.syncToCommittedId, second[2].committedId);
      assert.deepEqual(ids((await t.rest(reader, page, 2)).flatMap(({ events }) => events)), ids(second));
    },
  },
  {
    id: "no-broadcast-inside-a-cycle",
    title: "nothing is broadcast to a connection between two pages of its cycle",
    spec: "None while that connection is inside a sync cycle.",
    async run(t) {
      const [writer, witness] = [await t.client("writer"), await t.client("witness")];
      await t.fill(writer, 6);
      const reader = await t.client("reader");
      let page = await t.page(reader, 0, 2);
      while (page.hasMore) {
        const [event] = await t.fill(writer, 1);
        await witness.broadcast(event.id);
        // One's own submits go on inside a cycle, and their results are no sign of broadcasts let through.
        await t.commit(reader, t.event(reader));
        page = await t.page(reader, page.nextSinceCommittedId, 2);
        const types = reader.heard.slice(0, reader.heard.indexOf(reader.heard.findLast(({ type }) => type === "sync_response")));
        assert.ok(!types.some(({ type }) => type === "event_broadcast"), "no broadcast before the last page");
      }
    },
  },
  {
    id: "committed-inside-a-cycle",
    title: "what is committed between two pages of a cycle is broadcast after the last page, in order, before anything newer",
    spec: "None while that connection is inside a sync cycle, and all of them after it.",
    fault: "sync-hole",
    async run(t) {
      const writer = await t.client("writer");
      const before = await t.fill(writer, 6);
      const reader = await t.client("reader");
      const first = await t.page(reader, 0, 2);
      const during = await t.fill(writer, 3);
      const second = await t.page(reader, first.nextSinceCommittedId, 2);
      assert.equal(second.hasMore, true);
      during.push(...(await t.fill(writer, 2)));
      const third = await t.page(reader, second.nextSinceCommittedId, 2);
      assert.equal(third.hasMore, false);
      assert.deepEqual(ids([first, second, third].flatMap(({ events }) => events)), ids(before));
      assert.deepEqual(await t.flushed(reader, writer), ids(during), "all of them, in order, then the newer one");
      const end = reader.heard.findLastIndex(({ type }) => type === "sync_response");
      assert.ok(reader.heard.findIndex(({ type }) => type === "event_broadcast") > end, "none before the last page");
    },
  },
  {
    id: "committed-inside-a-cycle-needs-no-push",
    title: "what was committed inside a cycle is broadcast after it although nobody writes any more",
    spec: "All of them after it.",
    fault: "sync-hole",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      await t.fill(writer, 3);
      const first = await t.page(reader, 0, 2);
      const [event] = await t.fill(writer, 1);
      await t.rest(reader, first, 2);
      reader.timeoutMs = Math.min(reader.timeoutMs, 3000);
      await reader.broadcast(event.id);
    },
  },
  {
    id: "cycle-begun-anew",
    title: "a client that leaves a cycle and syncs from the beginning has everything, by sync or behind it",
    spec: "None while that connection is inside a sync cycle, and all of them after it.",
    fault: "sync-hole",
    async run(t) {
      const writer = await t.client("writer");
      const before = await t.fill(writer, 3);
      const reader = await t.client("reader");
      await t.page(reader, 0, 2);
      const during = await t.fill(writer, 2);
      const pages = await t.rest(reader, await t.page(reader, 0, 1000), 1000);
      const next = pages.at(-1).nextSinceCommittedId;
      await t.flushed(reader, writer);
      const live = reader.broadcasts.filter(({ committedId }) => committedId > next).slice(0, -1);
      assert.deepEqual(ids([...pages.flatMap(({ events }) => events), ...live]), ids([...before, ...during]));
    },
  },
  {
    id: "own-commits-inside-a-cycle",
    title: "one's own events, submitted inside one's cycle, are answered and not broadcast after it",
    spec: "The submitter's connection gets no event_broadcast of its own events.",
    async run(t) {
      const writer = await t.client("writer");
      await t.fill(writer, 3);
      const reader = await t.client("reader");
      const first = await t.page(reader, 0, 2);
      const own = t.event(reader);
      await t.commit(reader, own);
      await t.rest(reader, first, 2);
      assert.deepEqual(await t.flushed(reader, writer), []);
      assert.equal((await t.sync(reader)).filter(({ id }) => id === own.id).length, 1);
    },
  },
  {
    id: "broadcast-before-the-first-sync",
    title: "a connection that has not synced yet gets what is committed from its handshake on",
    spec: "Every other connection of the project gets each exactly once.",
    async run(t) {
      const writer = await t.client("writer");
      await t.fill(writer, 2);
      const reader = await t.client("reader");
      const events = await t.fill(writer, 2);
      assert.deepEqual(await t.flushed(reader, writer), ids(events));
    },
  },
  {
    id: "committed-just-before-a-sync",
    title: "what is committed just before a sync comes by its page, by broadcast, or by both; by broadcast at most once",
    spec: "Every other connection of the project gets each exactly once, in order. (Once a page has told it, a broadcast need not.)",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      for (let round = 0; round < 20; round += 1) {
        const event = t.event(writer);
        await t.commit(writer, event);
        const page = await t.page(reader, 0, 1000);
        if (!ids(page.events).includes(event.id)) await reader.broadcast(event.id);
      }
      await t.flushed(reader, writer);
      const heard = reader.broadcasts.map(({ committedId }) => committedId);
      assert.deepEqual(heard, [...new Set(heard)].sort((a, b) => a - b), "each once, in order");
    },
  },
  {
    id: "cycle-left-by-disconnect",
    title: "a cycle left in the middle ends with its connection; the next connection goes on from its cursor",
    spec: "nextSinceCommittedId.",
    async run(t) {
      const writer = await t.client("writer");
      const before = await t.fill(writer, 5);
      const reader = await t.client("reader");
      const page = await t.page(reader, 0, 2);
      reader.drop();
      const during = await t.fill(writer, 2);
      const again = await t.client("reader again", { clientId: reader.clientId });
      const rest = await t.sync(again, page.nextSinceCommittedId, 2);
      assert.deepEqual(ids([...page.events, ...rest]), ids([...before, ...during]));
    },
  },
  {
    id: "nothing-missing-under-writing",
    title: "clients that connect and sync in small pages under unbroken writing miss nothing",
    spec: "Every other connection of the project gets each exactly once, in order; all of them after the cycle.",
    beyondReference: "the same hole, at random",
    async run(t) {
      const writer = await t.client("writer");
      await t.fill(writer, 40);
      let writing = true;
      const written = (async () => {
        for (let round = 0; writing && round < 90; round += 1) await t.commit(writer, t.event(writer), t.event(writer));
      })();
      const readers = await Promise.all(
        Array.from({ length: 5 }, async (_, index) => {
          const reader = await t.client(`reader ${index}`);
          const pages = await t.rest(reader, await t.page(reader, 0, 3 + index), 3 + index);
          return { reader, synced: pages.flatMap(({ events }) => events), next: pages.at(-1).nextSinceCommittedId };
        }),
      );
      writing = false;
      await written;
      const log = await t.sync(await t.client("later"));
      for (const { reader, synced, next } of readers) {
        await t.flushed(reader, writer);
        const live = reader.broadcasts.filter(({ committedId }) => committedId > next && committedId <= log.at(-1).committedId);
        assert.deepEqual(ids([...synced, ...live]), ids(log), `${reader.label} has the whole log`);
      }
    },
  },
];
