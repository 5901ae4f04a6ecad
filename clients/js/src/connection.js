// The connection: one socket at a time, opened again for ever, with a token that is fresh. Knows no drafts and no state.

const CONNECT_MS = 10_000;
const TOKEN_MS = 30_000;
/** A connection that has held this long resets the back-off. */
const HELD_MS = 10_000;
const BACKOFF_MS = 500;
const BACKOFF_MAX_MS = 30_000;
/** After the page woke, anything must be heard within this. */
const PROBE_MS = 5000;
const HEARTBEAT_MS = 30_000;
const TIMER_MAX_MS = 2 ** 31 - 1;
/** A token is renewed after this part of its life. */
const TOKEN_LIFE_USED = 0.8;
/** Its times are whole seconds. */
const SECOND_MS = 1000;
const VERSION = "insieme-client/0.1.0";

/** The claims of a token, not verified. @param {string} token @returns {{ exp?: number, iat?: number }} */
function claimsOf(token) {
  try {
    const [, body] = token.split(".");
    return JSON.parse(atob(body.replace(/-/g, "+").replace(/_/g, "/"))) ?? {};
  } catch {
    return {};
  }
}

/** @param {string} url */
export function socketUrl(url) {
  const full = new URL(url, /** @type {any} */ (globalThis).location?.href);
  full.protocol = full.protocol.replace("http", "ws");
  if (full.pathname === "/") full.pathname = "/ws";
  return full.href;
}

export class Connection {
  /** `connected`, and what is sent is answered. */
  up = false;
  #given;
  #env;
  #url;
  /** Stale callbacks are told by it. */
  #epoch = 0;
  /** @type {any} */
  #socket;
  #running = false;
  #attempts = 0;
  #refusals = 0;
  #lastId = 0;
  #heard = false;
  #connectId = "";
  /** No attempt before this time. */
  #notBefore = 0;
  /** @type {number | undefined} */
  #retryAt;
  /** @type {Map<string, any>} */
  #timers = new Map();
  /** @type {string | undefined} */
  #token;
  #tokenUntil = 0;
  #tokenAsked;
  #blocked = false;

  /**
   * @param {object} given
   * @param {any} given.env
   * @param {string} given.url
   * @param {import("./types.js").ClientOptions["token"]} [given.token]
   * @param {() => object} given.hello what `connect` says beside token and version
   * @param {(payload: any) => void} given.onConnected
   * @param {(message: any) => void} given.onMessage
   * @param {(error: { code: string, message: string }) => void} given.onRefused `connect` was answered with an error
   * @param {(why: { code?: number, error?: string }) => void} given.onDown a connection that was up has ended
   * @param {(state: { connection: any, reason?: string, code?: number, retryAt?: number }) => void} given.onState
   */
  constructor(given) {
    this.#given = given;
    this.#env = given.env;
    this.#url = socketUrl(given.url);
    this.#tokenAsked = given.token;
    if (typeof given.token === "string") this.#token = given.token;
  }

  start() {
    this.#running = true;
    void this.#attempt();
  }

  /** Ends it. What was sent before still goes out. */
  stop() {
    this.#running = false;
    this.#drop();
  }

  /** Opens a connection in place of this one, now. @param {string} reason */
  restart(reason) {
    if (!this.#running) return;
    const wasUp = this.up;
    this.#drop();
    if (wasUp) this.#given.onDown({ error: reason });
    this.#after(0, { reason });
  }

  /** The page woke, or the network came: finds out whether the connection lives. */
  wake() {
    if (!this.#running) return;
    if (this.up) {
      // One that is asked already has no more time for being asked again.
      if (this.#timers.has("probe") && !this.#heard) return;
      this.#heard = false;
      this.send("heartbeat", {});
      this.#timer("probe", PROBE_MS, () => {
        if (!this.#heard) this.#fail({ error: "silent" });
      });
    } else if (this.#retryAt !== undefined && !this.#blocked) {
      const wait = Math.max(this.#notBefore - this.#env.now(), this.#env.random() * BACKOFF_MS);
      if (this.#env.now() + wait < this.#retryAt) this.#wait(wait);
    }
  }

  /** @param {string} token */
  setToken(token) {
    this.#keepToken(token);
    this.#refusals = 0;
    if (this.up) {
      this.send("refresh_token", { token });
    } else if (this.#blocked) {
      this.#blocked = false;
      this.#wait(0);
    }
  }

  /** Sends a message. Gives its id. @param {string} type @param {object} payload */
  send(type, payload) {
    this.#lastId += 1;
    const id = `m${this.#lastId}`;
    this.#socket.send(JSON.stringify({ id, type, timestamp: this.#env.now(), payload }));
    return id;
  }

  async #attempt() {
    if (this.#socket || !this.#running) return;
    const epoch = (this.#epoch += 1);
    this.#retryAt = undefined;
    this.#given.onState({ connection: "connecting" });
    this.#timer("attempt", TOKEN_MS, () => this.#fail({ error: "token-timeout" }));
    let token;
    try {
      token = await this.#freshToken(this.#refusals > 0 ? "refused" : "connect");
    } catch {
      if (epoch === this.#epoch) this.#fail({ error: "token" });
      return;
    }
    if (epoch !== this.#epoch || !this.#running) return;
    this.#timer("attempt", CONNECT_MS, () => this.#fail({ error: "timeout" }));
    let socket;
    try {
      socket = this.#socket = new this.#env.WebSocket(this.#url);
    } catch {
      return this.#fail({ error: "no-websocket" });
    }
    socket.onopen = () => {
      this.#connectId = this.send("connect", { ...this.#given.hello(), version: VERSION, ...(token ? { token } : {}) });
    };
    socket.onmessage = (/** @type {any} */ { data }) => {
      this.#heard = true;
      let message;
      try {
        message = JSON.parse(data);
      } catch {
        return this.#fail({ error: "not-json" });
      }
      this.#receive(message);
    };
    socket.onclose = (/** @type {any} */ { code }) => this.#fail({ code });
    socket.onerror = () => {};
  }

  /** A state that is too large for one frame comes behind `connected`, in parts.
   * @type {{ told: any, texts: string[] } | undefined} */
  #parts;

  /** @param {any} message */
  #receive(message) {
    const { type, payload } = message;
    if (type === "error") this.#noteError(payload);
    if (!this.#socket || type === "heartbeat") return;
    if (type === "token_refreshed") return;
    if (this.up) return this.#given.onMessage(message);
    if (type === "connected" && payload.stateParts) {
      this.#clear("attempt");
      this.#watch(payload.heartbeatInterval || HEARTBEAT_MS);
      this.#parts = { told: payload, texts: [] };
    } else if (type === "state_part" && this.#parts) {
      const { told, texts } = this.#parts;
      texts.push(payload.text);
      if (texts.length < told.stateParts.parts) return;
      this.#parts = undefined;
      const whole = { ...told, stateParts: undefined, initialState: JSON.parse(texts.join("")) };
      this.#receive({ type: "connected", payload: whole });
    } else if (type === "connected") {
      this.up = true;
      this.#refusals = 0;
      this.#clear("attempt");
      this.#timer("held", HELD_MS, () => (this.#attempts = 0));
      this.#watch(payload.heartbeatInterval || HEARTBEAT_MS);
      this.#renewLater();
      this.#given.onState({ connection: "connected" });
      this.#given.onConnected(payload);
    } else if (type === "error" && (message.replyTo === this.#connectId || message.replyTo === undefined)) {
      const { code } = payload;
      if (code === "auth_failed" || code === "forbidden") return this.#refused(code, payload.message);
      this.#given.onRefused(payload);
      this.#fail({ error: code });
    }
  }

  /** @type {string | undefined} */
  #lastError;

  /** @param {any} payload */
  #noteError({ code, details }) {
    this.#lastError = code;
    if (details?.retryAfterMs > 0) this.#notBefore = this.#env.now() + details.retryAfterMs;
    // A connection that is up is closed after it.
    if (this.up && code === "auth_failed") this.#refused(code);
  }

  /** The token was refused: once with a fresh one at once, then slowly, and without a way to get one not at all.
   * @param {string} reason @param {string} [message] */
  #refused(reason, message) {
    const wasUp = this.up;
    this.#drop();
    this.#refusals += 1;
    this.#tokenUntil = 0;
    if (wasUp) this.#given.onDown({ error: reason });
    const fetches = typeof this.#tokenAsked === "function";
    if (fetches && this.#refusals === 1) return this.#after(this.#env.random() * BACKOFF_MS, { reason });
    const state = { connection: "needs-auth", reason: message ?? reason };
    if (fetches) return this.#after(BACKOFF_MAX_MS * (1 + this.#env.random()), state);
    this.#blocked = true;
    this.#given.onState(state);
  }

  /** Nothing for one interval: ask. Nothing for two: it is dead, whatever it says of itself. @param {number} interval */
  #watch(interval) {
    let asked = false;
    this.#heard = false;
    const tick = () => {
      if (!this.#heard && asked) return this.#fail({ error: "silent" });
      asked = !this.#heard;
      if (asked) this.send("heartbeat", {});
      this.#heard = false;
      this.#timer("watch", interval, tick);
    };
    this.#timer("watch", interval, tick);
  }

  /** @param {{ code?: number, error?: string }} why */
  #fail(why) {
    const wasUp = this.up;
    const error = why.error ?? this.#lastError;
    this.#drop();
    if (wasUp) this.#given.onDown({ ...why, error });
    const limit = Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    const jitter = this.#env.random() * limit;
    const floor = this.#notBefore - this.#env.now();
    this.#after(floor > 0 ? floor + jitter : jitter, { reason: error, code: why.code });
  }

  /** @param {number} ms @param {{ connection?: string, reason?: string, code?: number }} state */
  #after(ms, state) {
    if (!this.#running) return;
    this.#wait(ms);
    this.#given.onState({ connection: "disconnected", ...state, retryAt: this.#retryAt });
  }

  /** @param {number} ms */
  #wait(ms) {
    this.#retryAt = this.#env.now() + ms;
    this.#timer("retry", ms, () => void this.#attempt());
  }

  /** Lets go of the socket without waiting for its close. */
  #drop() {
    this.#epoch += 1;
    for (const name of [...this.#timers.keys()]) this.#clear(name);
    const socket = this.#socket;
    this.#socket = undefined;
    this.up = false;
    this.#parts = undefined;
    this.#lastError = undefined;
    this.#retryAt = undefined;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    try {
      socket.close();
    } catch {
      // One that never opened may throw; it is gone all the same.
    }
  }

  /** @param {"connect" | "expiring" | "refused"} reason */
  async #freshToken(reason) {
    if (typeof this.#tokenAsked !== "function") return this.#token;
    if (this.#token === undefined || this.#env.now() >= this.#tokenUntil) {
      this.#keepToken(await this.#tokenAsked({ reason }));
    }
    return this.#token;
  }

  /** @param {string} token */
  #keepToken(token) {
    const { exp, iat } = claimsOf(token);
    this.#token = token;
    // By the token's own times where it has both, so that a wrong clock here does not matter.
    const life = exp === undefined ? 0 : iat === undefined ? exp * 1000 - this.#env.now() : (exp - iat) * 1000;
    this.#tokenUntil = this.#env.now() + Math.max(0, life * TOKEN_LIFE_USED - SECOND_MS);
    if (this.up) this.#renewLater();
  }

  #renewLater() {
    if (typeof this.#tokenAsked !== "function" || this.#tokenUntil === 0 || this.#token === undefined) return;
    const { exp } = claimsOf(this.#token);
    if (exp === undefined) return;
    const epoch = this.#epoch;
    this.#timer("renew", Math.max(1000, this.#tokenUntil - this.#env.now()), async () => {
      try {
        await this.#freshToken("expiring");
        if (epoch === this.#epoch && this.up) this.send("refresh_token", { token: this.#token });
      } catch {
        // The next try comes with the next renewal; if the token ends before, the server says so.
        if (epoch === this.#epoch && this.up) this.#renewLater();
      }
    });
  }

  /** @param {string} name @param {number} ms @param {() => void} run */
  #timer(name, ms, run) {
    this.#clear(name);
    const timer = this.#env.setTimeout(
      () => {
        this.#timers.delete(name);
        run();
      },
      Math.min(ms, TIMER_MAX_MS),
    );
    this.#timers.set(name, timer);
  }

  /** @param {string} name */
  #clear(name) {
    this.#env.clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}
