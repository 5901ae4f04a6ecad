// Rules in Node, as a client runs them: decide a draft on a state, fold what is accepted.

import { createHash } from "node:crypto";

/** A partition under `rules`, to be written to by `submit`. */
export class Partition {
  constructor(rules) {
    this.rules = rules;
    this.state = rules.initialState();
    this.log = [];
  }

  /** Decides a draft of `client` and folds it; the codes of what is found, none if it is accepted. */
  submit(type, payload, client = "alice") {
    const rule = this.rules.events[type];
    const event = { id: `d${this.log.length}`, type, payload, partition: "default", clientId: client, userId: null, serverTs: 1000 + this.log.length };
    const found = [];
    rule.check?.({
      state: this.state, payload, event, type, partition: "default",
      client: { clientId: client, userId: null },
      reject: (code, field = "payload") => void found.push(`${code} ${field}`),
    });
    if (found.length > 0) return found;
    this.fold(structuredClone(event));
    this.log.push(event);
    return found;
  }

  fold(event) {
    const { type, payload, partition } = event;
    const next = this.rules.events[type].reduce?.({ state: this.state, payload, event, partition, type });
    if (next !== undefined) this.state = next;
  }

  /** The log as lines for `insieme-backend rules check --events`. */
  lines() {
    return this.log
      .map((event, index) => {
        const { id, type, payload, clientId, serverTs } = event;
        return `${JSON.stringify({ eventId: index + 1, type, payload, clientId, draftId: id, timestamp: serverTs })}\n`;
      })
      .join("");
  }
}

/** The canonical form of JSON (RFC 8785). */
export const canonical = (value) => {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const fields = Object.keys(value).sort().map((key) => `${JSON.stringify(key)}:${canonical(value[key])}`);
  return `{${fields.join(",")}}`;
};

export const hash = (state) => createHash("sha256").update(canonical(state)).digest("hex");

/** Numbers from a seed (mulberry32): `below(n)` is one of 0 to n - 1. */
export const random = (seed) => {
  let at = seed >>> 0;
  return (n) => {
    at = (at + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(at ^ (at >>> 15), at | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % n;
  };
};
