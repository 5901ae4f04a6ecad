// One partition as a client sees it: committed state, drafts on top, and what became of drafts. No I/O, no clock.

import { Folder } from "./fold.js";
import { equal, share } from "./json.js";

/** Rejected drafts that are kept until they are dismissed; the oldest go first. */
export const REJECTED_MAX = 1000;
/** Outcomes that are remembered for those who ask late. */
const OUTCOMES_MAX = 1000;

/** @typedef {import("./types.js").Outcome} Outcome */

/**
 * A draft that is not settled.
 * @typedef {object} Entry
 * @property {import("./types.js").DraftRow} row
 * @property {import("./types.js").Draft} draft
 * @property {number} at when it was submitted
 * @property {(outcome: Outcome) => void} resolve
 * @property {boolean} durable it may be sent
 * @property {boolean} own it was submitted here
 * @property {boolean} [sent] it was sent on this connection or one before
 * @property {boolean} suspect it may have been committed before this connection
 * @property {number} [committedAs] the event that the server accepted it as; not folded yet
 * @property {number} [foldedAs] the event that was folded and is taken for it; not answered yet
 * @property {boolean} [folds] whether it folded in the last snapshot
 * @property {string} [restedOn]
 * @property {number} strikes connections that closed over it
 */

export class Replica {
  cursor = 0;
  /** Marks the event at the cursor, to know it again. @type {string | undefined} */
  stamp;
  /** @type {string | undefined} */
  logId;
  /** In the order in which they are sent. @type {Map<string, Entry>} */
  entries = new Map();
  /** @type {import("./types.js").RejectedDraft[]} */
  rejected = [];
  /** @type {Map<string, Outcome>} */
  outcomes = new Map();
  #committed;
  #visible;
  #stale = false;
  #partition;
  #folder;
  #overlay;
  #now;

  /** @param {{ rules?: import("./types.js").Rules, partition: string, now: () => number }} given */
  constructor({ rules, partition, now }) {
    this.#folder = new Folder(rules);
    this.#overlay = new Folder(rules);
    this.#partition = partition;
    this.#now = now;
    this.#committed = rules?.initialState?.() ?? {};
    this.#visible = this.#committed;
  }

  /** Who the drafts are of. */
  clientId = "";

  /** The committed state. */
  get state() {
    this.#folder.release();
    return this.#committed;
  }

  /** Committed state and drafts. The same object until something in it changes. */
  snapshot() {
    if (!this.#stale) return this.#visible;
    this.#stale = false;
    this.#folder.release();
    this.#overlay.release();
    let state = this.#committed;
    let bare = true;
    for (const entry of this.entries.values()) {
      if (entry.foldedAs !== undefined) continue;
      bare = false;
      const { type, payload } = entry.row;
      const event = { type, payload, partition: this.#partition, clientId: this.clientId, timestamp: entry.at };
      try {
        state = this.#overlay.fold(state, event, true);
        entry.folds = true;
      } catch {
        entry.folds = false;
      }
    }
    this.#visible = share(this.#visible, state);
    if (bare) this.#committed = this.#visible;
    return this.#visible;
  }

  /** Adds a draft at the end. Gives the entry, or undefined if the draft is known already.
   * @param {import("./types.js").DraftRow} row @param {{ own?: boolean, durable?: boolean, suspect?: boolean }} given */
  add(row, { own = false, durable = false, suspect = false } = {}) {
    if (this.entries.has(row.id) || this.outcomes.has(row.id)) return undefined;
    /** @type {(outcome: Outcome) => void} */
    let resolve = () => {};
    const settled = /** @type {Promise<Outcome>} */ (new Promise((done) => (resolve = done)));
    const draft = Object.freeze({ id: row.id, type: row.type, payload: row.payload, settled });
    /** @type {Entry} */
    const entry = { row, draft, at: this.#now(), resolve, own, durable, suspect, strikes: 0 };
    this.entries.set(row.id, entry);
    this.#stale = true;
    return entry;
  }

  /** Folds a committed event; the draft named, if any, is it, and is not shown any more. Throws if it does not fold.
   * @param {import("./types.js").CommittedEvent} event @param {string} [draftId] */
  commit(event, draftId) {
    this.#committed = this.#folder.fold(this.#committed, event);
    this.cursor = event.eventId;
    this.stamp = stampOf(event);
    const entry = draftId === undefined ? undefined : this.entries.get(draftId);
    if (entry) entry.foldedAs = event.eventId;
    this.#stale = true;
  }

  /** The first of the drafts whose fate is open that says what this event says: it is its commit.
   * @param {import("./types.js").CommittedEvent} event @param {(entry: Entry) => boolean} open */
  match(event, open) {
    if (event.clientId !== this.clientId) return undefined;
    for (const entry of this.entries.values()) {
      if (entry.foldedAs !== undefined || entry.committedAs !== undefined || !open(entry)) continue;
      if (entry.row.type === event.type && equal(entry.row.payload, event.payload)) return entry.row.id;
    }
    return undefined;
  }

  /** Takes the server's state. @param {any} state @param {number} cursor @param {string} [stamp] */
  replace(state, cursor, stamp) {
    this.#folder.release();
    this.#committed = state;
    this.cursor = cursor;
    this.stamp = stamp;
    this.#stale = true;
  }

  /** Ends a draft. Gives the rejected draft if it is one. @param {string} id @param {Outcome} outcome */
  settle(id, outcome) {
    const entry = this.entries.get(id);
    if (!entry) return undefined;
    const before = outcome.status === "rejected" ? this.#folding() : undefined;
    this.entries.delete(id);
    if (outcome.status !== "undecided") {
      this.outcomes.set(id, outcome);
      if (this.outcomes.size > OUTCOMES_MAX) this.outcomes.delete(/** @type {string} */ (this.outcomes.keys().next().value));
    }
    this.#stale = true;
    let rejected;
    if (outcome.status === "rejected") {
      const { row, restedOn } = entry;
      const { reason, errors } = outcome;
      rejected = { id, type: row.type, payload: row.payload, reason, errors, ...(restedOn ? { restedOn } : {}) };
      this.keepRejected(rejected);
      // Those that folded with it and do not without it rested on it.
      this.snapshot();
      for (const other of before ?? []) if (!other.folds && other !== entry) other.restedOn = id;
    }
    entry.resolve(outcome);
    return rejected;
  }

  #folding() {
    this.snapshot();
    return [...this.entries.values()].filter((entry) => entry.folds && entry.foldedAs === undefined);
  }

  /** Gives whether it is new. @param {import("./types.js").RejectedDraft} rejected */
  keepRejected(rejected) {
    if (this.rejected.some(({ id }) => id === rejected.id)) return false;
    this.rejected = [...this.rejected, Object.freeze(rejected)].slice(-REJECTED_MAX);
    return true;
  }

  /** @param {string} id */
  dismiss(id) {
    this.rejected = this.rejected.filter((rejected) => rejected.id !== id);
  }

  /** Forgets everything; open drafts end undecided. @param {any} state */
  wipe(state) {
    for (const id of [...this.entries.keys()]) this.settle(id, { status: "undecided" });
    this.rejected = [];
    this.outcomes.clear();
    this.logId = undefined;
    this.replace(state, 0);
  }
}

/** Marks an event, to know it again in the log. @param {import("./types.js").CommittedEvent} event */
export const stampOf = (event) => `${event.timestamp} ${event.type} ${event.clientId}`;
