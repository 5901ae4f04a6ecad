// The client of the design document: section 14 for a client that is online, section 7 for one that was offline, method
// by method, with the names, messages and fields that are printed there. It sends no `id` and no `timestamp`, connects to
// the address as it is, asks `sync` once, and knows no `hasMore`.
//
// What the document leaves open is filled in after the word "open" in a comment, and nowhere else.

import WebSocket from "ws";

const BACKOFF_MS = 20;
const BACKOFF_MS_MAX = 1_000;
/** A browser hands in each message in a turn of its own. */
const AS_IN_A_BROWSER = { allowSynchronousEvents: false };

export class InsiemeClient {
  /** Open: who the client is, and which partition it shows (section 1). */
  constructor(repository, { clientId, partition, pages = false }) {
    this.repository = repository;
    this.websocket = null;
    this.drafts = new Map();

    this.clientId = clientId;
    this.partition = partition;
    /** Open: whether it heeds `hasMore`, which the document does not have. */
    this.pages = pages;
    this.mode = "offline";
    this.queue = [];
    /** Open: the last event that it was shown by a broadcast or a sync; an answer to its own draft does not move it. */
    this.lastEventId = undefined;
    /** Open: what it shows its user, and what it shows a test. */
    this.shown = [];
    this.rejected = [];
    this.errors = [];
    this.syncs = 0;
  }

  // ---- Section 14 ----

  async connect(serverUrl) {
    this.serverUrl = serverUrl;
    this.websocket = new WebSocket(serverUrl, AS_IN_A_BROWSER);

    this.websocket.onmessage = (message) => {
      this.handleServerMessage(JSON.parse(message.data));
    };

    // Open: section 1's first message, and what happens at the end.
    this.websocket.onerror = () => {};
    this.websocket.onclose = () => this.handleDisconnect();
    this.websocket.onopen = () => {
      this.send("connect", { clientId: this.clientId, version: "0.0.8", partition: this.partition });
    };
  }

  async addEvent(event) {
    const draftId = `draft-${Date.now()}-${Math.random()}`;

    // Open: the document keeps the state with the draft in it, and would go back to that.
    const state = this.repository.getState();
    await this.repository.addEvent(event);
    this.drafts.set(draftId, { event, state });

    // Open: what offline means here (section 7).
    if (this.mode === "offline") this.queue.push(draftId);
    else this.send("submit_event", { draftId, event });
    return draftId;
  }

  handleServerMessage(message) {
    switch (message.type) {
      case "event_accepted":
        this.handleEventAccepted(message.payload);
        break;
      case "event_rejected":
        this.handleEventRejected(message.payload);
        break;
      case "broadcast":
        this.handleBroadcast(message.payload);
        break;
      // Open: the other messages of section 1.
      case "connected":
        this.handleConnected(message.payload);
        break;
      case "sync_response":
        this.sync?.resolve(message.payload);
        break;
      case "error":
        this.errors.push(message.payload);
        this.sync?.reject(Object.assign(new Error(message.payload.message), message.payload));
        break;
    }
  }

  handleEventAccepted(payload) {
    this.drafts.delete(payload.draftId);
  }

  handleEventRejected(payload) {
    const draft = this.drafts.get(payload.draftId);
    if (draft) {
      this.repository.restoreState(draft.state);
      this.drafts.delete(payload.draftId);
      this.rejected.push(payload);
    }
  }

  handleBroadcast(payload) {
    // Open: what comes before the answer to a sync comes in it, or again after it.
    if (this.sync) return;
    this.apply(payload.event);
  }

  // ---- Section 7 ----

  async handleDisconnect() {
    this.mode = "offline";
    this.sync?.reject(new Error("disconnected"));
    this.queuePendingEvents();
    this.reconnect();
  }

  async handleReconnect() {
    const syncResponse = await this.requestSync();
    this.applyEvents(syncResponse.events);
    await this.submitQueuedEvents();
    this.mode = "online";
  }

  // ---- Open: what the methods above call ----

  send(type, payload) {
    this.websocket.send(JSON.stringify({ type, payload }));
  }

  /** The first time it takes the state that it is given, and later it asks for what it missed. */
  handleConnected({ currentEventIndex, initialState }) {
    this.attempt = 0;
    if (this.lastEventId === undefined) {
      this.repository.restoreState(initialState);
      this.lastEventId = currentEventIndex;
      this.mode = "online";
      return;
    }
    this.handleReconnect().catch((error) => {
      if (error.code !== "cursor_beyond_log") return;
      // What it has is of another log: it begins anew, with its drafts.
      this.repository.restoreState(initialState);
      this.lastEventId = currentEventIndex;
      for (const { event } of this.drafts.values()) this.repository.addEvent(event);
      this.submitQueuedEvents();
      this.mode = "online";
    });
  }

  requestSync() {
    this.syncs += 1;
    const answer = new Promise((resolve, reject) => {
      this.sync = { resolve, reject };
    }).finally(() => {
      this.sync = undefined;
    });
    this.send("sync", { sinceEventId: this.lastEventId, partition: this.partition });
    if (!this.pages) return answer;
    return answer.then(async (page) => {
      if (!page.hasMore) return page;
      this.applyEvents(page.events);
      return this.requestSync();
    });
  }

  applyEvents(events) {
    for (const event of events) this.apply(event);
  }

  /** Its own events are in its state already, since it was their drafts' first. */
  apply(event) {
    this.lastEventId = event.eventId;
    this.shown.push(event.eventId);
    if (event.clientId !== this.clientId) this.repository.addEvent(event);
  }

  /** Whatever has no answer is among the drafts, in the order in which it was made. */
  queuePendingEvents() {
    this.queue = [...this.drafts.keys()];
  }

  async submitQueuedEvents() {
    for (const draftId of this.queue.splice(0)) {
      this.send("submit_event", { draftId, event: this.drafts.get(draftId).event });
    }
  }

  reconnect() {
    if (this.closed) return;
    this.attempt = (this.attempt ?? 0) + 1;
    const wait = Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** this.attempt);
    this.timer = setTimeout(() => this.connect(this.serverUrl), wait);
  }

  /** For tests: the client is over. */
  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.websocket?.close();
  }
}
