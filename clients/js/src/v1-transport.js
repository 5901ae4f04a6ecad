// A transport for the published v1 client (npm package `insieme`). Its own tells nobody when the connection ends, and
// a socket that dies silently stays open for it until it writes.

import { defaultEnv, watchPage } from "./env.js";

const CONNECT_MS = 10_000;
/** After the page woke, anything must be heard within this. */
const PROBE_MS = 5000;
/** What the client takes for a lost connection. */
const NOT_CONNECTED = "websocket is not connected";
const OPEN = 1;

/**
 * Give it to `createSyncClient` as `transport`, with `reconnect: { enabled: true }`.
 * @param {{ url: string, WebSocket?: any, silenceMs?: number, env?: any }} options after `silenceMs` without a message
 *   it asks the server for one, and after as long again the connection counts as lost
 */
export function createV1Transport({ url, WebSocket, silenceMs = 30_000, env: given }) {
  const env = { ...defaultEnv(), ...(WebSocket ? { WebSocket } : {}), ...given };
  /** @type {any} */
  let socket;
  /** @type {((message: any) => void) | undefined} */
  let handler;
  /** @type {any} */
  let timer;
  let heard = false;
  let probes = 0;
  let unwatch = () => {};
  // What a probe asks with: known once the client is connected.
  let projectId = "";
  /** @type {number | undefined} */
  let cursor;

  function drop() {
    const was = socket;
    socket = undefined;
    cursor = undefined;
    env.clearTimeout(timer);
    unwatch();
    if (!was) return;
    was.onopen = was.onmessage = was.onclose = null;
    was.close();
  }

  /** @param {string} message */
  function lost(message) {
    if (!socket) return;
    drop();
    handler?.({ type: "error", protocolVersion: "1.0", payload: { code: "server_error", message, details: {} } });
  }

  /** v1 has no heartbeat: a sync from the last event known has an empty answer.
   * @param {number} ms how long it may take */
  function probe(ms) {
    heard = false;
    if (cursor !== undefined) {
      probes += 1;
      const payload = { projectId, sinceCommittedId: cursor, limit: 1 };
      socket.send(JSON.stringify({ type: "sync", protocolVersion: "1.0", msgId: `probe-${probes}`, payload }));
    }
    env.clearTimeout(timer);
    timer = env.setTimeout(() => (heard ? watch() : lost("the connection was silent")), ms);
  }

  function watch() {
    heard = false;
    env.clearTimeout(timer);
    timer = env.setTimeout(() => (heard ? watch() : probe(silenceMs)), silenceMs);
  }

  /** @param {any} message */
  function receive(message) {
    const { type, msgId, payload } = message;
    if (typeof msgId === "string" && msgId.startsWith("probe-")) {
      if (payload?.events?.length > 0) lost("events were missed");
      return;
    }
    const results = (payload?.results ?? []).map((/** @type {any} */ { committedId }) => committedId);
    const known = [payload?.projectLastCommittedId, payload?.nextSinceCommittedId, payload?.committedId, ...results];
    if (type === "connected") cursor = 0;
    if (cursor !== undefined) cursor = Math.max(cursor, ...known.filter(Number.isInteger));
    handler?.(message);
  }

  async function connect() {
    if (socket?.readyState === OPEN) return;
    drop();
    const next = (socket = new env.WebSocket(url));
    await new Promise((resolve, reject) => {
      const fail = () => {
        if (socket === next) drop();
        reject(new Error("websocket connect failed"));
      };
      timer = env.setTimeout(fail, CONNECT_MS);
      next.onopen = resolve;
      next.onclose = fail;
      next.onerror = () => {};
    });
    next.onclose = () => lost("the socket was closed");
    next.onmessage = (/** @type {any} */ { data }) => {
      heard = true;
      receive(JSON.parse(data));
    };
    unwatch = watchPage(env, (name, event) => {
      if (name === "pageshow" && event.persisted) lost("the page was suspended");
      else if (name !== "pagehide") probe(PROBE_MS);
    });
    watch();
  }

  return {
    connect,
    async disconnect() {
      drop();
    },
    /** @param {any} message */
    async send(message) {
      if (socket?.readyState !== OPEN) throw new Error(NOT_CONNECTED);
      if (message.type === "connect") projectId = message.payload.projectId;
      socket.send(JSON.stringify(message));
    },
    /** @param {(message: any) => void} next */
    onMessage(next) {
      handler = next;
      return () => {
        if (handler === next) handler = undefined;
      };
    },
  };
}
