// event_broadcast: who hears of what, how often, and in which order.

import assert from "node:assert/strict";

export default [
  {
    id: "broadcast-to-others",
    title: "every other connection of the project gets each event once, in order, with all its fields",
    spec: "Every other connection of the project gets each exactly once, in order.",
    async run(t) {
      const [writer, one, two] = [await t.client("writer"), await t.client("one"), await t.client("two")];
      const events = await t.fill(writer, 30);
      await t.flushed(one, writer);
      const end = await t.client("end");
      await t.flushed(two, end);
      for (const peer of [one, two]) {
        assert.deepEqual(peer.broadcasts.slice(0, 30).map(({ id }) => id), events.map(({ id }) => id));
        assert.equal(new Set(peer.broadcasts.map(({ id }) => id)).size, peer.broadcasts.length, "each once");
        assert.deepEqual(
          peer.broadcasts.slice(0, 30).map(({ committedId, payload }) => [committedId, payload]),
          events.map(({ committedId, payload }) => [committedId, payload]),
        );
      }
    },
  },
  {
    id: "no-broadcast-to-the-submitter",
    title: "the submitter's connection gets no broadcast of its own events",
    spec: "The submitter's connection gets no event_broadcast of its own events.",
    async run(t) {
      const [writer, other] = [await t.client("writer"), await t.client("other")];
      await t.commit(writer, t.event(writer), t.event(writer));
      const theirs = t.event(other);
      await t.commit(other, theirs);
      await t.commit(writer, t.event(writer));
      assert.deepEqual(await t.flushed(writer, other), [theirs.id]);
    },
  },
  {
    id: "broadcast-to-the-submitters-other-connection",
    title: "another connection of the same client gets the broadcast",
    spec: "Every other connection of the project gets each: connections count, not clients.",
    async run(t) {
      const first = await t.client("first");
      const second = await t.client("second", { clientId: first.clientId });
      const event = t.event(first);
      await t.commit(first, event);
      assert.deepEqual(await t.flushed(second, first), [event.id]);
    },
  },
  {
    id: "no-broadcast-across-projects",
    title: "events of one project are not heard in another",
    spec: "projectId: the unit of order, validation and storage.",
    async run(t) {
      const here = await t.client("here");
      const there = await t.client("there", { project: t.name("project") });
      const neighbour = await t.client("neighbour", { project: there.project });
      await t.commit(here, t.event(here));
      assert.deepEqual(await t.flushed(there, neighbour), []);
      assert.equal((await t.sync(there)).length, 1);
      assert.equal((await t.sync(here)).length, 1);
    },
  },
  {
    id: "broadcast-whatever-the-label",
    title: "an event's partition is a label only: all labels of a project share its order and its broadcasts",
    spec: "An event's partition: a label inside the project, no unit of its own.",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      const events = await t.fill(writer, 10, (index) => ({ partition: `label-${index % 3}` }));
      assert.deepEqual(await t.flushed(reader, writer), events.map(({ id }) => id));
      assert.deepEqual(
        reader.broadcasts.slice(0, 10).map(({ partition }) => partition),
        events.map(({ partition }) => partition),
      );
    },
  },
  {
    id: "no-broadcast-of-what-was-not-committed",
    title: "rejected and not processed items are not broadcast",
    spec: "event_broadcast: of committed events.",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      await t.submit(writer, t.event(writer, { schemaVersion: 0 }), t.event(writer));
      assert.deepEqual(await t.flushed(reader, writer), []);
    },
  },
  {
    id: "no-broadcast-before-connect",
    title: "who has not done the handshake hears nothing",
    spec: "States.",
    async run(t) {
      const stranger = await t.socket("stranger");
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      await t.commit(writer, t.event(writer));
      await t.flushed(reader, writer);
      t.isError(await stranger.request("sync", { projectId: t.project, sinceCommittedId: 0 }), "bad_request");
      assert.equal(stranger.heard.length, 1);
    },
  },
  {
    id: "repeat-not-broadcast",
    title: "a repeated submit of a committed event is answered, and not broadcast a second time",
    spec: "Every other connection of the project gets each exactly once.",
    fault: "repeat-broadcast",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      const event = t.event(writer);
      await t.commit(writer, event);
      await t.commit(writer, event);
      await t.commit(writer, t.event(writer), event);
      const heard = await t.flushed(reader, writer);
      assert.deepEqual(heard.filter((id) => id === event.id), [event.id], "once");
    },
  },
  {
    id: "repeat-within-a-batch-not-broadcast",
    title: "an event that stands twice in a batch is broadcast once",
    spec: "Every other connection of the project gets each exactly once.",
    fault: "repeat-broadcast",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      const event = t.event(writer);
      await t.commit(writer, event, event);
      assert.deepEqual(await t.flushed(reader, writer), [event.id]);
    },
  },
  {
    id: "repeat-by-another-not-broadcast-to-the-first",
    title: "a committed event submitted again by another client is not broadcast, not even to its first submitter",
    spec: "Every other connection gets each exactly once; the submitter's gets none.",
    fault: "repeat-broadcast",
    async run(t) {
      const [first, second] = [await t.client("first"), await t.client("second")];
      const event = t.event(first);
      await t.commit(first, event);
      await second.broadcast(event.id);
      await t.commit(second, { ...event, meta: { ...event.meta, clientId: second.clientId } });
      assert.deepEqual(await t.flushed(first, second), []);
    },
  },
  {
    id: "one-order-for-all",
    title: "events of concurrent submitters have one order, the same for everyone, live and by sync",
    spec: "Each exactly once, in order.",
    async run(t) {
      const reader = await t.client("reader");
      const writers = await Promise.all(["a", "b", "c", "d"].map((label) => t.client(label)));
      const sent = writers.flatMap((peer) =>
        Array.from({ length: 20 }, () => {
          const events = [t.event(peer), t.event(peer)];
          peer.send("submit_events", { events });
          return events.map(({ id }) => id);
        }).flat(),
      );
      await Promise.all(
        writers.map((peer) =>
          peer.until("its twenty results", () =>
            peer.heard.filter(({ type }) => type === "submit_events_result").length === 20 || undefined,
          ),
        ),
      );
      const log = await t.sync(await t.client("later"));
      assert.deepEqual(new Set(log.map(({ id }) => id)), new Set(sent));
      assert.equal(log.length, sent.length, "each once");
      const end = await t.client("end");
      const last = t.event(end);
      await t.commit(end, last);
      for (const peer of [reader, ...writers]) {
        await peer.broadcast(last.id);
        const own = new Set(
          peer.heard
            .filter(({ type }) => type === "submit_events_result")
            .flatMap(({ payload }) => payload.results.map(({ id }) => id)),
        );
        assert.deepEqual(
          peer.broadcasts.map(({ id, committedId }) => [id, committedId]).slice(0, -1),
          log.filter(({ id }) => !own.has(id)).map(({ id, committedId }) => [id, committedId]),
          `${peer.label} hears the others in the log's order`,
        );
      }
    },
  },
  {
    id: "result-means-durable-for-others",
    title: "when a result is there, a new connection's sync holds the event",
    spec: "Results only after the events are durable.",
    async run(t) {
      const writer = await t.client("writer");
      for (let round = 0; round < 10; round += 1) {
        const event = t.event(writer);
        const [{ committedId }] = await t.commit(writer, event);
        const later = await t.client(`later ${round}`);
        assert.ok(later.connected.projectLastCommittedId >= committedId);
        assert.equal((await t.sync(later, committedId - 1)).at(0)?.id, event.id);
      }
    },
  },
  {
    id: "slow-socket-holds-up-nobody",
    title: "a submit by one client never waits for another's slow socket",
    spec: "A submit by one client never waits for another's slow socket.",
    async run(t) {
      const [writer, reader, slow] = [await t.client("writer"), await t.client("reader"), await t.client("slow")];
      slow.stopReading();
      const text = "x".repeat(200 * 1024);
      const events = Array.from({ length: 80 }, () => t.event(writer, { payload: { text } }));
      for (const event of events) await t.commit(writer, event);
      assert.deepEqual(await t.flushed(reader, writer), events.map(({ id }) => id));
      assert.deepEqual((await t.sync(reader)).slice(0, -1).map(({ id }) => id), events.map(({ id }) => id), "and by sync, all 16 MB");
    },
  },
  {
    id: "others-leave",
    title: "connections that break off in the middle harm nobody else",
    spec: "Every other connection of the project gets each exactly once, in order.",
    async run(t) {
      const [writer, reader] = [await t.client("writer"), await t.client("reader")];
      const gone = await t.client("gone");
      const left = t.event(gone);
      gone.send("submit_events", { events: [left] });
      gone.drop();
      const events = await t.fill(writer, 5);
      const heard = await t.flushed(reader, writer);
      assert.deepEqual(heard.filter((id) => id !== left.id), events.map(({ id }) => id));
    },
  },
];
