// Chromium by its own protocol: what drives pages on top of it switches off the life cycle that is tested here.

import { once } from "node:events";
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import WebSocket from "ws";

const FLAGS = [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
  // A name that is not localhost, so that its pages are no secure context; it leads nowhere but here.
  "--host-resolver-rules=MAP insecure.test 127.0.0.1, EXCLUDE 127.0.0.1",
];
const SOURCE = fileURLToPath(new URL("../../src/", import.meta.url));
const PAGE = fileURLToPath(new URL("./page.js", import.meta.url));

/** Serves the client's source and a page, under a strict policy. */
export async function servePages() {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://x");
    const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self' ws:; require-trusted-types-for 'script'";
    const headers = { "Content-Security-Policy": policy };
    const send = (type, body) => response.writeHead(200, { ...headers, "Content-Type": type }).end(body);
    if (pathname.startsWith("/src/")) return send("text/javascript", readFileSync(join(SOURCE, basename(pathname))));
    if (pathname === "/page.js") return send("text/javascript", readFileSync(PAGE));
    if (pathname === "/page") return send("text/html", '<!doctype html><title>page</title><script type="module" src="/page.js"></script>');
    return send("text/html", "<!doctype html><title>elsewhere</title>");
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  return { port: server.address().port, stop: () => (server.closeAllConnections(), server.close()) };
}

export class Chromium {
  #next = 0;
  #waiting = new Map();
  /** By event. @type {Map<string, (params: any) => void>} */
  #listeners = new Map();
  /** What is open. */
  #targets = new Set();

  static async start() {
    const chromium = new Chromium();
    chromium.dir = mkdtempSync(join(tmpdir(), "insieme-chromium-"));
    chromium.child = spawn(process.env.INSIEME_TEST_CHROMIUM ?? "chromium", [...FLAGS, `--user-data-dir=${chromium.dir}`, "about:blank"], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    process.on("exit", () => chromium.child.kill("SIGKILL"));
    let said = "";
    const url = await new Promise((done, fail) => {
      chromium.child.on("error", fail);
      chromium.child.on("exit", () => fail(new Error(`chromium ended:\n${said}`)));
      chromium.child.stderr.on("data", (text) => {
        said += text;
        const found = /DevTools listening on (\S+)/.exec(said);
        if (found) done(found[1]);
      });
    });
    chromium.socket = new WebSocket(url);
    await once(chromium.socket, "open");
    chromium.socket.on("message", (data) => {
      const { id, result, error, method, params } = JSON.parse(data);
      if (id === undefined) return chromium.#listeners.get(method)?.(params);
      const waiting = chromium.#waiting.get(id);
      chromium.#waiting.delete(id);
      if (error) waiting?.fail(new Error(`${waiting.method}: ${error.message}`));
      else waiting?.done(result);
    });
    return chromium;
  }

  send(method, params = {}, sessionId) {
    this.#next += 1;
    const id = this.#next;
    this.socket.send(JSON.stringify({ id, method, params, sessionId }));
    return new Promise((done, fail) => this.#waiting.set(id, { done, fail, method }));
  }

  /** A user of their own, with storage of their own. */
  async context() {
    return (await this.send("Target.createBrowserContext")).browserContextId;
  }

  async open(url, browserContextId) {
    const targetId = await this.#target({ browserContextId, newWindow: true });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page(this, targetId, sessionId);
    await page.send("Page.enable");
    await page.goto(url);
    return page;
  }

  /** Lays a tab over all pages of the user without a context: they are hidden until it is closed. */
  async cover() {
    const targetId = await this.#target({ newWindow: false });
    return { close: () => this.closeTarget(targetId) };
  }

  async #target(params) {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank", ...params });
    this.#targets.add(targetId);
    return targetId;
  }

  closeTarget(targetId) {
    this.#targets.delete(targetId);
    return this.send("Target.closeTarget", { targetId });
  }

  /** Closes what a test that failed left open: its locks and its cover would fail the tests after it. */
  async closeLeft() {
    for (const targetId of [...this.#targets]) await this.closeTarget(targetId);
  }

  /** The longest task of any page while `work` runs, in milliseconds of its thread's own time: what the processor
   * spends on others in between counts for nothing. */
  async longestTask(work) {
    const events = [];
    this.#listeners.set("Tracing.dataCollected", ({ value }) => events.push(...value));
    const complete = new Promise((done) => this.#listeners.set("Tracing.tracingComplete", done));
    await this.send("Tracing.start", { traceConfig: { includedCategories: ["toplevel", "disabled-by-default-devtools.timeline"], excludedCategories: ["*"] } });
    try {
      await work();
    } finally {
      await this.send("Tracing.end");
      await complete;
    }
    const mains = new Set(events.filter(({ name, args }) => name === "thread_name" && args.name === "CrRendererMain").map(({ pid, tid }) => `${pid} ${tid}`));
    const tasks = events.filter(({ name, pid, tid, tdur }) => /RunTask$/.test(name) && tdur !== undefined && mains.has(`${pid} ${tid}`));
    return { ms: Math.max(...tasks.map(({ tdur }) => tdur)) / 1000, tasks: tasks.length };
  }

  /** Ends it in good order: its processes write into its folder as long as they live. */
  async stop() {
    this.child.removeAllListeners("exit");
    const gone = once(this.child, "exit");
    const timer = setTimeout(() => this.child.kill("SIGKILL"), 10_000);
    this.send("Browser.close").catch(() => {});
    await gone;
    clearTimeout(timer);
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
}

class Page {
  constructor(chromium, targetId, sessionId) {
    Object.assign(this, { chromium, targetId, sessionId });
  }

  send(method, params) {
    return this.chromium.send(method, params, this.sessionId);
  }

  async goto(url) {
    await this.send("Page.navigate", { url });
  }

  /** What an expression gives, once its promise is settled. */
  async run(expression) {
    const given = { expression, awaitPromise: true, returnByValue: true };
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", given);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Waits until an expression is true; a page that is being loaded has none of what it asks for. */
  async until(expression, timeoutMs = 30_000) {
    const deadline = Date.now() + timeoutMs;
    let last;
    for (;;) {
      try {
        last = await this.run(expression);
        if (last) return last;
      } catch (error) {
        last = error.message;
      }
      if (Date.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${expression}: ${last}`);
      await new Promise((done) => setTimeout(done, 50));
    }
  }

  /** Freezes the page, or thaws it. */
  freeze(frozen) {
    return this.send("Page.setWebLifecycleState", { state: frozen ? "frozen" : "active" });
  }

  front() {
    return this.send("Page.bringToFront");
  }

  close() {
    return this.chromium.closeTarget(this.targetId);
  }
}
