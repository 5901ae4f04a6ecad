// A TCP proxy that cuts connections: at once or silently, as a network does.

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class Proxy {
  #pairs = new Set();
  /** Takes no new connections. */
  refuses = false;

  static async start(port) {
    const proxy = new Proxy();
    proxy.server = createServer((client) => {
      if (proxy.refuses) return client.on("error", () => {}).destroy();
      const server = connect(port, "127.0.0.1");
      const pair = { client, server, stalled: false };
      proxy.#pairs.add(pair);
      const end = () => {
        proxy.#pairs.delete(pair);
        client.destroy();
        server.destroy();
      };
      for (const socket of [client, server]) socket.on("error", end).on("close", end);
      client.on("data", (bytes) => pair.stalled || server.write(bytes));
      server.on("data", (bytes) => pair.stalled || client.write(bytes));
    }).listen(0, "127.0.0.1");
    await once(proxy.server, "listening");
    proxy.port = proxy.server.address().port;
    return proxy;
  }

  get url() {
    return `ws://127.0.0.1:${this.port}`;
  }

  /** How many connections there are. */
  get open() {
    return this.#pairs.size;
  }

  /** Resets every connection. */
  reset() {
    for (const { client, server } of [...this.#pairs]) {
      client.resetAndDestroy();
      server.resetAndDestroy();
    }
  }

  /** What is open carries nothing any more, and neither side hears of it. */
  stall() {
    for (const pair of this.#pairs) pair.stalled = true;
  }

  stop() {
    this.server.close();
    this.reset();
  }
}
