// A client's surroundings without time and without a network: the clock, frames and every message move only
// when the test says so. The server is a double that speaks the classic dialect.

import { model } from "./model.js";

/** Lets every promise that waits for nothing else go on. */
const turn = async () => {
  for (let count = 0; count < 25; count += 1) await undefined;
};

export class FakeEnv {
  time = 1_000_000;
  frames = [];
  sockets = [];
  errors = [];
  #timers = new Map();
  #ids = 0;

  constructor({ server, random = () => 0.5, name = "" } = {}) {
    const env = this;
    this.random = random;
    this.window = new EventTarget();
    this.document = Object.assign(new EventTarget(), { hidden: false });
    this.now = () => this.time;
    this.frame = (run) => void this.frames.push(run);
    this.report = (error) => void this.errors.push(error);
    this.randomId = () => `${name}${(this.#ids += 1)}`;
    this.setTimeout = (run, ms) => {
      this.#ids += 1;
      this.#timers.set(this.#ids, { at: this.time + ms, run });
      return this.#ids;
    };
    this.clearTimeout = (timer) => void this.#timers.delete(timer);
    this.WebSocket = class {
      constructor(url) {
        this.url = url;
        this.env = env;
        env.sockets.push(this);
        server?.accept(this);
      }
      send(text) {
        this.peer?.receive(JSON.parse(text));
      }
      close() {
        this.closed = true;
      }
    };
  }

  get timers() {
    return this.#timers.size;
  }

  /** Lets everything run that needs no time. */
  async settle() {
    await turn();
    await turn();
  }

  frameNow() {
    for (const run of this.frames.splice(0)) run();
  }

  async advance(ms) {
    const until = this.time + ms;
    for (;;) {
      let next;
      for (const [id, timer] of this.#timers) if (timer.at <= until && !(timer.at >= next?.timer.at)) next = { id, timer };
      if (!next) break;
      this.time = Math.max(this.time, next.timer.at);
      this.#timers.delete(next.id);
      next.timer.run();
      await this.settle();
    }
    this.time = until;
    await this.settle();
  }

  /** The page is gone: nothing of it runs any more. */
  die() {
    this.#timers.clear();
    this.setTimeout = () => 0;
    this.frame = () => {};
    for (const socket of this.sockets) {
      socket.closed = true;
      socket.peer?.drop();
    }
  }
}

/** The server's side of one socket. */
class Peer {
  inbox = [];
  /** What is on its way to the client. */
  wire = [];
  live = false;
  gone = false;

  constructor(server, socket) {
    this.server = server;
    this.socket = socket;
  }

  receive(message) {
    if (!this.gone) this.inbox.push(message);
  }

  send(type, payload, replyTo) {
    this.wire.push({ id: "s", type, timestamp: 0, payload, ...(replyTo === undefined ? {} : { replyTo }) });
  }

  /** Lets the socket open. */
  open() {
    if (!this.socket.closed) this.socket.onopen?.();
  }

  /** Gives the client the next message. */
  deliver(times = 1) {
    const message = this.wire.shift();
    for (let count = 0; message && count < times; count += 1) {
      if (!this.socket.closed) this.socket.onmessage?.({ data: JSON.stringify(message) });
    }
    return message;
  }

  deliverAll() {
    while (this.deliver()) continue;
  }

  /** The connection ends; the client sees it, or not. */
  drop(code = 1006, seen = true) {
    this.gone = true;
    this.wire = [];
    this.server.peers.delete(this);
    if (seen && !this.socket.closed) this.socket.onclose?.({ code });
  }
}

export class FakeServer {
  log = [];
  state = { t: { items: {}, tree: [] } };
  start = this.state;
  /** The state after each event. */
  states = new Map();
  peers = new Set();
  all = [];
  connectedExtra = {};
  heartbeatInterval = 30_000;
  /** Gives an answer in place of a decision: `{ reason, errors?, retryAfterMs? }`. */
  refuse = () => undefined;
  broadcastFirst = () => false;
  namesDrafts = () => false;
  #next = 10;

  accept(socket) {
    const peer = new Peer(this, socket);
    socket.peer = peer;
    this.peers.add(peer);
    this.all.push(peer);
  }

  get head() {
    return this.log.at(-1)?.eventId ?? 0;
  }

  /** The newest connection. */
  get peer() {
    return this.all.at(-1);
  }

  /** Commits an event, and has all hear of it. */
  commit(clientId, type, payload, draftId, submitter) {
    this.state = model(this.state, { type, payload });
    const eventId = (this.#next += 1 + (this.#next % 3));
    this.states.set(eventId, this.state);
    const event = { type, payload, partition: "default", id: `evt-${eventId}`, eventId, timestamp: eventId * 7, clientId };
    this.log.push({ ...event, draftId });
    const answer = () => submitter?.send("event_accepted", { draftId, eventId, event });
    const later = this.broadcastFirst();
    if (!later) answer();
    for (const peer of this.peers) if (peer.live) this.broadcast(peer, { ...event, draftId });
    if (later) answer();
    return eventId;
  }

  broadcast(peer, { draftId, ...event }) {
    const names = draftId !== undefined && this.namesDrafts() && event.clientId === peer.clientId;
    peer.send("broadcast", { eventId: event.eventId, event: names ? { ...event, draftId } : event });
  }

  /** The state after the events up to `eventId`. */
  stateAt(eventId) {
    return this.states.get(eventId) ?? this.start;
  }

  /** Handles the next message of a connection. */
  step(peer) {
    const message = peer.inbox.shift();
    if (!message) return undefined;
    const { id, type, payload } = message;
    if (type === "heartbeat") peer.send("heartbeat", {}, id);
    if (type === "refresh_token") peer.send("token_refreshed", { exp: 0 }, id);
    if (type === "connect") this.#connect(peer, id, payload);
    if (type === "submit_event") this.#submit(peer, payload);
    return message;
  }

  #connect(peer, id, { clientId, lastEventId }) {
    peer.clientId = clientId;
    if (lastEventId > this.head) {
      return peer.send("error", { code: "bad_request", message: "`lastEventId` is not in this partition" }, id);
    }
    peer.live = true;
    const text = JSON.stringify(this.state);
    const texts = this.partChars ? (text.match(new RegExp(`.{1,${this.partChars}}`, "gsu")) ?? []) : [];
    const whole = texts.length > 0 ? { stateParts: { parts: texts.length, bytes: Buffer.byteLength(text) } } : { initialState: this.state };
    const state = lastEventId === undefined ? whole : {};
    const { heartbeatInterval, connectedExtra } = this;
    peer.send("connected", { serverId: "s", currentEventIndex: this.head, sinceSnapshot: 0, ...state, heartbeatInterval, ...connectedExtra }, id);
    if (lastEventId === undefined) {
      texts.forEach((part, index) => {
        peer.send("state_part", { partition: "default", eventIndex: this.head, part: index + 1, parts: texts.length, text: part }, id);
      });
      return undefined;
    }
    for (const event of this.log) if (event.eventId > lastEventId) this.broadcast(peer, event);
    return undefined;
  }

  #submit(peer, { draftId, event: { type, payload } }) {
    const known = this.log.find((event) => event.draftId === draftId && event.clientId === peer.clientId);
    if (known) {
      const { draftId: _, ...event } = known;
      return peer.send("event_accepted", { draftId, eventId: known.eventId, event });
    }
    const refused = this.refuse(draftId, type, payload);
    if (refused) return peer.send("event_rejected", { draftId, errors: [], ...refused });
    try {
      return this.commit(peer.clientId, type, payload, draftId, peer);
    } catch (error) {
      const errors = [{ field: "payload", message: error.message, code: error.code }];
      return peer.send("event_rejected", { draftId, reason: "validation_failed", errors });
    }
  }

  /** Everything that is on its way arrives, in both directions, for as long as anything is. */
  async run(env) {
    for (;;) {
      await env.settle();
      let moved = false;
      for (const peer of this.all) {
        if (!peer.opened && !peer.socket.closed) {
          peer.opened = moved = true;
          peer.open();
        }
        while (!peer.gone && this.step(peer)) moved = true;
        while (peer.deliver()) moved = true;
      }
      if (!moved) return;
    }
  }
}
