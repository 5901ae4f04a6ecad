// One raw connection: says what it is told to, keeps all that it hears, and waits on conditions only.

import { randomUUID } from "node:crypto";
import WebSocket from "ws";

export const VERSION = "1.0";

const short = (value) => {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
};

export class Peer {
  /** Everything the server said, parsed, in order. */
  heard = [];
  /** `{ code, reason }` once the connection is closed. */
  closed = null;
  #socket;
  #waiters = new Set();

  /** Opens a socket; nothing is said on it yet. */
  static async open({ url, label, timeoutMs }) {
    const peer = new Peer();
    peer.label = label;
    peer.timeoutMs = timeoutMs;
    const socket = new WebSocket(url, { perMessageDeflate: false });
    peer.#socket = socket;
    socket.on("message", (data) => {
      let message;
      try {
        message = JSON.parse(data.toString("utf8"));
      } catch {
        message = { type: "(not JSON)", text: short(data.toString("utf8")) };
      }
      peer.heard.push(message);
      peer.#wake();
    });
    socket.on("close", (code, reason) => {
      peer.closed = { code, reason: reason.toString("utf8") };
      peer.#wake();
    });
    socket.on("error", (error) => {
      peer.error = error;
    });
    await peer.until("the WebSocket to open", () => {
      if (peer.closed) throw new Error(`${url} does not open: ${peer.error?.message ?? peer.closed.code}`);
      return socket.readyState === WebSocket.OPEN || undefined;
    }, (wake) => socket.on("open", wake));
    return peer;
  }

  #wake() {
    for (const waiter of [...this.#waiters]) waiter();
  }

  /** Waits until `condition` gives something else than undefined, and gives that. */
  until(what, condition, subscribe = () => {}) {
    return new Promise((resolve, reject) => {
      const settle = (action, value) => {
        clearTimeout(timer);
        this.#waiters.delete(check);
        action(value);
      };
      const check = () => {
        try {
          const found = condition();
          if (found !== undefined) settle(resolve, found);
        } catch (error) {
          settle(reject, error);
        }
      };
      const timer = setTimeout(() => {
        const last = this.heard.slice(-3).map(short).join("\n    ");
        settle(
          reject,
          new Error(
            `${this.label}: waited ${this.timeoutMs} ms for ${what}` +
              `${this.closed ? `; the connection is closed with ${this.closed.code} "${this.closed.reason}"` : ""}` +
              `; heard ${this.heard.length} messages${last ? `, the last:\n    ${last}` : ""}`,
          ),
        );
      }, this.timeoutMs);
      this.#waiters.add(check);
      subscribe(check);
      check();
    });
  }

  /** Sends text as it is. */
  text(text) {
    this.#socket.send(text);
  }

  /** Sends a message without waiting; gives its msgId. */
  send(type, payload, overrides = {}) {
    const msgId = randomUUID();
    const message = { type, protocolVersion: VERSION, msgId, timestamp: Date.now(), payload, ...overrides };
    this.text(JSON.stringify(message));
    return message.msgId;
  }

  /** The first message, from index `from` on, that `matches`. */
  hears(what, matches, from = 0) {
    return this.until(what, () => {
      const index = this.heard.findIndex((message, index) => index >= from && matches(message));
      if (index >= 0) return this.heard[index];
      if (this.closed) {
        throw new Error(
          `${this.label}: the connection closed (${this.closed.code} "${this.closed.reason}") before ${what}; ` +
            `the last heard: ${short(this.heard.at(-1) ?? "nothing")}`,
        );
      }
      return undefined;
    });
  }

  /** The answer to the message with this id. */
  answer(msgId, what = "an answer") {
    return this.hears(`${what} with the msgId of the request`, (message) => message.msgId === msgId);
  }

  /** Sends, and gives the answer. */
  request(type, payload, overrides) {
    return this.answer(this.send(type, payload, overrides), `the answer to ${type}`);
  }

  /** Waits for the end of the connection. */
  gone(what = "the server to close the connection") {
    return this.until(what, () => this.closed ?? undefined);
  }

  /** All events broadcast to this connection so far. */
  get broadcasts() {
    return this.heard.filter(({ type }) => type === "event_broadcast").map(({ payload }) => payload);
  }

  /** Waits for the broadcast of the event with this id. */
  broadcast(id) {
    return this.hears(
      `the broadcast of event ${id}`,
      ({ type, payload }) => type === "event_broadcast" && payload?.id === id,
    );
  }

  /** Stops reading: what the server sends fills the buffers between the two. */
  stopReading() {
    this.#socket.pause();
  }

  close() {
    this.#socket.close();
  }

  drop() {
    this.#socket.terminate();
  }
}
