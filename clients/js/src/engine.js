// The one that leads: brings drafts to the server and the log to the replica. Of several tabs, one has it.

import { Connection } from "./connection.js";
import { stampOf } from "./replica.js";

/** With more than this missing, the state is taken in place of the events. */
const BEHIND_MAX = 20_000;
const ANSWER_MS = 60_000;
/** What is sent when the page is hidden for good. */
const FLUSH_BYTES = 60 * 1024;
const STRIKES_MAX = 3;
/** Closes for which a draft may be to blame. */
const BLAMED = new Set([1002, 1003, 1007, 1009, 1011]);
const RETAKE_MS = 1000;
const RETAKE_MAX_MS = 60_000;
const PAUSE_MS = 1000;
const PAUSE_MAX_MS = 30_000;
/** A frontend that lags may not know an event yet that another has shown; the second time it is gone. */
const AHEAD_MAX = 2;

/** @typedef {import("./replica.js").Entry} Entry */

export class Engine {
  /** The log's last event, as far as is known. */
  head = 0;
  connection;
  #given;
  #env;
  #replica;
  #stopped = false;
  /** @type {{ id: string, messageId: string } | undefined} */
  #inFlight;
  /** @type {any} */
  #answerTimer;
  /** @type {any} */
  #pauseTimer;
  #pausedUntil = 0;
  #pauses = 0;
  /** The state that the server gave, until what the suspects became is known. @type {any} */
  #held;
  /** The event at the cursor, which the server sends once more first. @type {number | undefined} */
  #verify;
  /** Why the next connection asks for the state. @type {string | undefined} */
  #retake;
  #retakes = 0;
  #ahead = 0;
  /** @type {any} */
  #retakeTimer;

  /**
   * @param {object} given
   * @param {any} given.env
   * @param {import("./replica.js").Replica} given.replica
   * @param {import("./types.js").ClientOptions} given.options
   * @param {string} given.partition
   * @param {(op: any) => any} given.apply changes the replica, here and in the other tabs
   * @param {(state: any) => void} given.onState
   * @param {(rules: any) => void} given.onRules what rules the server runs
   */
  constructor(given) {
    this.#given = given;
    this.#env = given.env;
    this.#replica = given.replica;
    this.connection = new Connection({
      env: given.env,
      url: given.options.url,
      token: given.options.token,
      hello: () => this.#hello(),
      onConnected: (payload) => this.#connected(payload),
      onMessage: (message) => this.#receive(message),
      onRefused: (error) => this.#connectRefused(error),
      onDown: (why) => this.#down(why),
      onState: given.onState,
    });
  }

  /** Whether everything up to the log's end is folded. */
  get synced() {
    return this.connection.up && !this.#held && !this.#retake && this.#verify === undefined && this.#replica.cursor >= this.head;
  }

  /** @param {boolean} takeState */
  start(takeState) {
    if (takeState) this.#retake = "rules";
    this.connection.start();
  }

  stop() {
    this.#stopped = true;
    this.connection.stop();
    this.#forgetConnection();
    this.#env.clearTimeout(this.#pauseTimer);
    this.#env.clearTimeout(this.#retakeTimer);
  }

  /** Something may be sent now. */
  pump() {
    if (this.#stopped || !this.connection.up || this.#inFlight) return;
    const wait = this.#pausedUntil - this.#env.now();
    if (wait > 0) {
      this.#env.clearTimeout(this.#pauseTimer);
      this.#pauseTimer = this.#env.setTimeout(() => this.pump(), wait);
      return;
    }
    const entry = this.#next();
    if (!entry?.durable) return;
    this.#inFlight = { id: entry.row.id, messageId: this.#submit(entry) };
    this.#answerTimer = this.#env.setTimeout(() => this.connection.restart("no-answer"), ANSWER_MS);
  }

  /** Sends what it can, without waiting for answers: the page may not come back. */
  flush() {
    if (!this.connection.up || this.#pausedUntil > this.#env.now()) return;
    let room = FLUSH_BYTES;
    for (const entry of this.#replica.entries.values()) {
      if (entry.committedAs !== undefined || entry.row.id === this.#inFlight?.id) continue;
      room -= JSON.stringify(entry.row).length;
      if (!entry.durable || room < 0) return;
      this.#submit(entry);
    }
  }

  #next() {
    for (const entry of this.#replica.entries.values()) if (entry.committedAs === undefined) return entry;
    return undefined;
  }

  /** @param {Entry} entry */
  #submit(entry) {
    const { id, type, payload, baseEventId } = entry.row;
    entry.sent = true;
    const { partition } = this.#given;
    const base = baseEventId === undefined ? {} : { baseEventId };
    return this.connection.send("submit_event", { draftId: id, event: { type, payload, partition }, ...base });
  }

  #hello() {
    const { clientId, cursor } = this.#replica;
    // From one event before the cursor: the server sends the event at the cursor once more, and shows by it that it
    // has the log that this client knows.
    const from = this.#retake !== undefined || cursor === 0 ? {} : { lastEventId: cursor - 1 };
    return { clientId, partition: this.#given.partition, ...from };
  }

  /** @param {any} payload */
  #connected(payload) {
    const { currentEventIndex: head, initialState, rules, logId } = payload;
    const replica = this.#replica;
    const reason = this.#retake;
    const other = logId !== undefined && replica.logId !== undefined && logId !== replica.logId;
    this.head = head;
    if (rules) this.#given.onRules(rules);
    if (initialState === undefined) {
      if (other) return this.#take("replaced");
      if (head - replica.cursor > BEHIND_MAX) return this.#take("behind");
      this.#verify = replica.cursor;
      if (head < replica.cursor) return this.#wentBack();
    } else {
      if (other || reason === "went-back" || reason === "replaced") this.#doubtAll();
      this.#held = { state: initialState, head, logId, reason: other ? "replaced" : reason, events: [] };
      this.#resolveHeld();
    }
    if (logId !== undefined && this.#verify !== undefined) this.#given.apply({ o: "log", logId });
    this.pump();
  }

  /** @param {{ code: string }} error */
  #connectRefused({ code }) {
    const passing = ["rate_limited", "unavailable", "server_error", "message_too_large"];
    // The cursor lies after the log's end.
    if (this.#retake === undefined && this.#replica.cursor > 0 && !passing.includes(code)) this.#countAhead();
  }

  #countAhead() {
    this.#ahead += 1;
    if (this.#ahead >= AHEAD_MAX) this.#retake = "went-back";
  }

  #wentBack() {
    this.#countAhead();
    if (this.#retake !== undefined) return this.#take(this.#retake);
    this.#retakeTimer = this.#env.setTimeout(() => this.connection.restart("behind-cursor"), RETAKE_MS);
  }

  /** What was committed to another log may not be in this one: all of it is sent again. */
  #doubtAll() {
    for (const entry of this.#replica.entries.values()) {
      if (entry.committedAs === undefined && entry.foldedAs === undefined) continue;
      entry.committedAs = entry.foldedAs = undefined;
      entry.suspect = true;
    }
  }

  /** Takes the server's state in place of what is here. @param {string} reason */
  #take(reason) {
    this.#retake = reason;
    // A log that does not fold asks for the state again and again: ever more slowly.
    const wait = reason === "fold" ? Math.min(RETAKE_MAX_MS, RETAKE_MS * 2 ** this.#retakes) : 0;
    if (reason === "fold") this.#retakes += 1;
    this.#env.clearTimeout(this.#retakeTimer);
    if (wait === 0) return this.connection.restart(reason);
    this.#retakeTimer = this.#env.setTimeout(() => this.connection.restart(reason), wait);
  }

  /** @param {{ code?: number, error?: string }} why */
  #down({ code, error }) {
    const inFlight = this.#inFlight;
    this.#forgetConnection();
    for (const entry of this.#replica.entries.values()) if (entry.sent) entry.suspect = true;
    const entry = inFlight && this.#replica.entries.get(inFlight.id);
    if (!entry || !(BLAMED.has(code ?? 0) || error === "message_too_large")) return;
    entry.strikes += 1;
    if (entry.strikes < STRIKES_MAX) return;
    const message = `the server closed the connection over it ${STRIKES_MAX} times (${error ?? code})`;
    this.#settle(entry.row.id, {
      status: "rejected", reason: "refused", errors: [{ field: "", message, code: "CONNECTION_CLOSED" }],
    });
  }

  #forgetConnection() {
    this.#inFlight = undefined;
    this.#held = undefined;
    this.#verify = undefined;
    this.#env.clearTimeout(this.#answerTimer);
    this.#env.clearTimeout(this.#retakeTimer);
  }

  /** A message; the browser gives each a task of its own, so that many of them hold up nothing.
   * @param {any} message */
  #receive({ type, payload, replyTo }) {
    if (type === "broadcast") {
      this.#event(payload.event, payload.draftId ?? payload.event.draftId);
    } else if (type === "event_accepted") {
      this.#accepted(payload.draftId, payload.eventId);
    } else if (type === "event_rejected") {
      this.#rejected(payload.draftId, payload.reason, payload.errors ?? [], payload.retryAfterMs);
    } else if (type === "error") {
      this.#failed(payload, replyTo);
    }
    this.#given.onState({});
  }

  /** @param {import("./types.js").CommittedEvent} event @param {string} [draftId] */
  #event(event, draftId) {
    const { eventId } = event;
    const replica = this.#replica;
    this.head = Math.max(this.head, eventId);
    if (this.#held) return void this.#held.events.push([event, draftId]);
    if (this.#retake !== undefined) return;
    if (this.#verify !== undefined) {
      if (eventId < this.#verify) return;
      const same = eventId === this.#verify && [undefined, stampOf(event)].includes(replica.stamp);
      if (!same) return this.#take("replaced");
      replica.stamp = stampOf(event);
      this.#verify = undefined;
      this.#ahead = 0;
      this.#env.clearTimeout(this.#retakeTimer);
      return;
    }
    if (eventId <= replica.cursor) return;
    let known;
    for (const [id, entry] of replica.entries) if (entry.committedAs === eventId) known = id;
    const mine = event.clientId === replica.clientId ? draftId : undefined;
    const open = (/** @type {Entry} */ entry) => entry.suspect || entry.row.id === this.#inFlight?.id;
    const id = known ?? (mine !== undefined && replica.entries.has(mine) ? mine : replica.match(event, open));
    try {
      this.#given.apply({ o: "event", event, id });
    } catch (error) {
      return this.#take("fold");
    }
    this.#retakes = 0;
    if (known !== undefined) this.#settle(known, { status: "accepted", eventId });
  }

  /** @param {string} id @param {number} eventId */
  #accepted(id, eventId) {
    this.#answered(id);
    this.#pauses = 0;
    const entry = this.#replica.entries.get(id);
    if (entry) {
      entry.suspect = false;
      if (this.#held) entry.committedAs = eventId;
      else if (entry.foldedAs !== undefined || eventId <= this.#replica.cursor) this.#settle(id, { status: "accepted", eventId });
      else entry.committedAs = eventId;
    }
    this.#resolveHeld();
    this.pump();
  }

  /** @param {string} id @param {string} reason @param {any[]} errors @param {number} [retryAfterMs] */
  #rejected(id, reason, errors, retryAfterMs) {
    this.#answered(id);
    if (reason === "rate_limited" || reason === "unavailable") {
      this.#undecided(id);
      this.#pause(retryAfterMs);
    } else {
      this.#pauses = 0;
      this.#settle(id, { status: "rejected", reason, errors });
    }
    this.#resolveHeld();
    this.pump();
  }

  /** An error that closes nothing. @param {any} payload @param {string} [replyTo] */
  #failed({ code, message, details }, replyTo) {
    const { id, messageId } = this.#inFlight ?? {};
    const asked = id !== undefined && (replyTo === messageId || details?.draftId === id) ? id : undefined;
    if (code === "rate_limited" || code === "unavailable") {
      if (asked) this.#undecided(asked);
      this.#pause(details?.retryAfterMs);
      this.pump();
    } else if (asked && (code === "bad_request" || code === "forbidden")) {
      this.#rejected(asked, code, [{ field: "", message, code }]);
    }
  }

  /** It is sent again, and may have been committed all the same. @param {string} id */
  #undecided(id) {
    this.#answered(id);
    const entry = this.#replica.entries.get(id);
    if (entry) entry.suspect = true;
  }

  /** @param {string} id */
  #answered(id) {
    if (this.#inFlight?.id !== id) return;
    this.#inFlight = undefined;
    this.#env.clearTimeout(this.#answerTimer);
  }

  /** @param {number} [ms] */
  #pause(ms) {
    const own = Math.min(PAUSE_MAX_MS, PAUSE_MS * 2 ** this.#pauses) * (0.5 + this.#env.random() / 2);
    this.#pauses += 1;
    this.#pausedUntil = this.#env.now() + (ms ?? own);
  }

  /** @param {string} id @param {import("./types.js").Outcome} outcome */
  #settle(id, outcome) {
    this.#given.apply({ o: "settle", id, outcome });
  }

  /** Takes the state that is held, once no draft is open that it may hold already. Drafts are sent in order: the
   * first that is committed after the state shows that those after it were not sent before. */
  #resolveHeld() {
    const held = this.#held;
    if (!held) return;
    for (const entry of this.#replica.entries.values()) {
      if (entry.committedAs !== undefined && entry.committedAs > held.head) break;
      if (entry.committedAs === undefined && entry.suspect) return;
    }
    this.#held = undefined;
    this.#retake = undefined;
    this.#ahead = 0;
    const { state, head, logId, reason, events } = held;
    const done = [];
    for (const [id, { committedAs }] of this.#replica.entries) {
      if (committedAs !== undefined && committedAs <= head) done.push([id, { status: "accepted", eventId: committedAs }]);
    }
    this.#given.apply({ o: "state", state, cursor: head, logId, reason, done });
    for (const [event, draftId] of events) this.#event(event, draftId);
  }
}
