// An application over the package's client: its own transport and store, and everything it is told.

import { randomUUID } from "node:crypto";
import { createBrowserWebSocketTransport, createInMemoryClientStore, createSyncClient } from "insieme/node";
import WebSocket from "ws";

const WAIT_MS = 30_000;

/**
 * The package's transport. It tells nobody when the server's end goes away, and its client looks only when it
 * sends; an application that wants the client's reconnect logic at once passes the news on, as here.
 */
export const createTransport = (url) => {
  let handler;
  const transport = createBrowserWebSocketTransport({
    url,
    WebSocketImpl: WebSocket,
    logger: ({ event }) => {
      if (event === "socket_closed") {
        handler?.({ type: "error", payload: { code: "server_error", message: "the socket was closed", details: {} } });
      }
    },
  });
  return {
    ...transport,
    onMessage: (next) => {
      handler = next;
      return transport.onMessage(next);
    },
  };
};

const open = new Set();

export class App {
  /** Everything the client told the application, in order. */
  told = [];
  #waiters = new Set();

  constructor(backend, project, { clientId = `app-${randomUUID()}`, store = createInMemoryClientStore(), transport, onTold = () => {}, ...options } = {}) {
    open.add(this);
    this.project = project;
    this.clientId = clientId;
    this.store = store;
    this.client = createSyncClient({
      transport: transport ?? createTransport(backend.url),
      store,
      token: backend.token(clientId, project),
      clientId,
      projectId: project,
      reconnect: { enabled: true, initialDelayMs: 20, maxDelayMs: 200, handshakeTimeoutMs: 10_000 },
      onEvent: (event) => {
        this.told.push(event);
        onTold(event, this);
        for (const waiter of [...this.#waiters]) waiter();
      },
      logger: () => {
        for (const waiter of [...this.#waiters]) waiter();
      },
      ...options,
    });
  }

  /** Starts it and waits until it has synced. */
  async start() {
    const before = this.told.length;
    await this.client.start();
    await this.until("synced", () => this.told.slice(before).some(({ type }) => type === "synced"));
    return this;
  }

  /** Submits an event; gives its id. */
  submit(payload = {}, fields = {}) {
    return this.client.submitEvent({
      partition: "main", projectId: this.project, type: "note.added", schemaVersion: 1, payload, ...fields,
    });
  }

  /** Waits for a condition, looked at whenever the client does something. */
  async until(what, condition) {
    let wake;
    const look = () => wake?.();
    this.#waiters.add(look);
    const deadline = Date.now() + WAIT_MS;
    try {
      for (;;) {
        const woken = new Promise((resolve) => {
          wake = resolve;
        });
        if (await condition()) return;
        const left = deadline - Date.now();
        if (left <= 0) {
          throw new Error(
            `${this.clientId}: waited ${WAIT_MS} ms for: ${what}\n` +
              `status: ${JSON.stringify(this.client.getStatus())}\n` +
              `told last: ${JSON.stringify(this.told.slice(-5)).slice(0, 2000)}`,
          );
        }
        let timer;
        await Promise.race([woken, new Promise((resolve) => { timer = setTimeout(resolve, left); })]);
        clearTimeout(timer);
      }
    } finally {
      this.#waiters.delete(look);
    }
  }

  /** Waits until no draft is left. */
  drained() {
    return this.until("all drafts to be decided", async () => (await this.store.loadDraftsOrdered()).length === 0);
  }

  /** What it was told of one kind. */
  toldOf(type) {
    return this.told.filter((event) => event.type === type).map(({ payload }) => payload);
  }

  /** The ids of the committed events it has, in the log's order. */
  async committed() {
    return (await this.store.listCommitted()).map(({ id }) => id);
  }

  /** Waits until it has as many committed events. */
  has(count) {
    return this.until(`${count} committed events`, async () => (await this.store.listCommitted()).length >= count);
  }

  /** The application is closed properly. */
  async close() {
    open.delete(this);
    await this.client.close();
  }
}

export const closeAll = async () => {
  for (const app of [...open]) await app.close();
};

/** What a client that comes anew gets: the server's word on a project. */
export const serverLog = async (backend, project) => {
  const app = await new App(backend, project, { clientId: `reader-${randomUUID()}` }).start();
  const events = await app.store.listCommitted();
  await app.close();
  return events;
};
