// What a case is given: fresh names, connections that end with it, and the few steps that every story needs.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { Peer } from "./peer.mjs";

export class Case {
  #peers = [];

  constructor({ url, recipe, timeoutMs }) {
    this.url = url;
    this.recipe = recipe;
    this.timeoutMs = timeoutMs;
    this.project = this.name("project");
  }

  /** A name nobody has used before. */
  name(kind) {
    return `conformance-${kind}-${randomUUID()}`;
  }

  /** A token for a client, with the claims that the case gives. */
  token({ clientId, userId, projects = [this.project], ...rest }) {
    return this.recipe.make({ clientId, userId, projects, ...rest });
  }

  /** A connection on which nothing was said. */
  async socket(label = "client") {
    const peer = await Peer.open({ url: this.url, label, timeoutMs: this.timeoutMs });
    this.#peers.push(peer);
    return peer;
  }

  /** A payload for `connect`. */
  hello({ clientId = this.name("client"), project = this.project, userId, ...claims } = {}) {
    return { clientId, projectId: project, token: this.token({ clientId, userId, projects: [project], ...claims }) };
  }

  /** A client that has done its handshake; `peer.connected` is the payload of `connected`. */
  async client(label = "client", options = {}) {
    const hello = this.hello(options);
    const peer = await this.socket(label);
    const answer = await peer.request("connect", hello);
    assert.equal(answer.type, "connected", `${label} is let in, not answered ${JSON.stringify(answer)}`);
    return Object.assign(peer, { clientId: hello.clientId, project: hello.projectId, connected: answer.payload });
  }

  /** A right event of this client. */
  event(peer, fields = {}) {
    return {
      id: this.name("event"),
      partition: "main",
      projectId: peer.project,
      type: "conformance.noted",
      schemaVersion: 1,
      payload: { text: "a note" },
      meta: { clientId: peer.clientId, clientTs: Date.now() },
      ...fields,
    };
  }

  /** Submits events as one batch; gives the results. */
  async submit(peer, ...events) {
    const answer = await peer.request("submit_events", { events });
    assert.equal(answer.type, "submit_events_result", `not ${JSON.stringify(answer)}`);
    assert.equal(answer.payload.results.length, events.length, "one result an event");
    return answer.payload.results;
  }

  /** Submits events that must be taken; gives the results. */
  async commit(peer, ...events) {
    const results = await this.submit(peer, ...events);
    for (const [index, result] of results.entries()) {
      assert.equal(result.status, "committed", `${JSON.stringify(result)} to ${JSON.stringify(events[index]).slice(0, 300)}`);
    }
    return results;
  }

  /** Commits `count` events of this client, in batches; gives the events with their committedId. */
  async fill(peer, count, fields = () => ({})) {
    const events = [];
    while (events.length < count) {
      const batch = Array.from({ length: Math.min(100, count - events.length) }, (_, index) =>
        this.event(peer, { payload: { n: events.length + index }, ...fields(events.length + index) }),
      );
      const results = await this.commit(peer, ...batch);
      events.push(...batch.map((event, index) => ({ ...event, committedId: results[index].committedId })));
    }
    return events;
  }

  /** Asks for one page. */
  async page(peer, sinceCommittedId, limit) {
    const answer = await peer.request("sync", {
      projectId: peer.project,
      sinceCommittedId,
      ...(limit === undefined ? {} : { limit }),
    });
    assert.equal(answer.type, "sync_response", `not ${JSON.stringify(answer)}`);
    return answer.payload;
  }

  /** Asks for the rest of a cycle, from `page` on; gives all its pages, `page` first. */
  async rest(peer, page, limit) {
    const pages = [page];
    while (pages.at(-1).hasMore) {
      pages.push(await this.page(peer, pages.at(-1).nextSinceCommittedId, limit));
      assert.ok(pages.length < 1000, "a cycle ends");
    }
    return pages;
  }

  /** A whole cycle from `since`; gives its events. */
  async sync(peer, since = 0, limit) {
    const pages = await this.rest(peer, await this.page(peer, since, limit), limit);
    return pages.flatMap(({ events }) => events);
  }

  /**
   * Nothing unexpected is on its way: another client commits one more event, and `peer` has heard that one.
   * Broadcasts come in order, so what `peer` has not heard before it does not come any more.
   */
  async flushed(peer, other) {
    const marker = this.event(other, { type: "conformance.marker" });
    await this.commit(other, marker);
    await peer.broadcast(marker.id);
    return peer.broadcasts.map(({ id }) => id).filter((id) => id !== marker.id);
  }

  /** An `error` with this code was answered. */
  isError(message, code) {
    assert.equal(message.type, "error", `not ${JSON.stringify(message)}`);
    assert.equal(message.payload.code, code, `not ${JSON.stringify(message.payload)}`);
    assert.equal(typeof message.payload.message, "string");
    assert.ok(message.payload.message.length > 0, "an error says what is wrong");
  }

  /** The connection still serves: a sync is answered. */
  async stays(peer) {
    assert.equal(peer.closed, null, "the connection stays open");
    await this.sync(peer);
  }

  end() {
    for (const peer of this.#peers) peer.drop();
  }
}
