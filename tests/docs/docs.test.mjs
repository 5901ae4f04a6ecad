// Every snippet of the documentation does what it says, and every link leads somewhere.
//
//     INSIEME_TEST_BACKEND       the binary           [default: target/debug/insieme-backend]
//     INSIEME_TEST_NATS_SERVER   a nats-server        [default: the one the binary finds or installs]
//
// Needs `npm ci` in ../interop, for a WebSocket client.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { brokenLinks, missingFiles, pages, read, source, staleLogLines, unplainWords } from "./pages.mjs";
import { blocksOf, Page, ROOT } from "./snippets.mjs";

const WebSocket = createRequire(join(ROOT, "tests/interop/package.json"))("ws");
const BINARY = process.env.INSIEME_TEST_BACKEND ?? join(ROOT, "target/debug/insieme-backend");
const WAIT_MS = 30_000;
/** Their JavaScript is run by tests of their own. */
const RUN_ELSEWHERE = new Set(["clients/js/README.md"]);

const code = source();
const folder = mkdtempSync(join(tmpdir(), "insieme-docs-"));
const started = [];
const backend = { port: 0, nats: "" };

before(async () => {
  backend.port = await freePort();
  mkdirSync(join(folder, "bin"));
  program("insieme-backend", `exec "${BINARY}" "$@"`);
  // The README's first command: this build in the place of a release, on a free port.
  program("cargo", [
    'test "$1 $2 $3" = "run --release --" || { echo "only cargo run --release -- ... is run" >&2; exit 1; }',
    "shift 3",
    `test "$1" != dev || set -- "$@" --listen 127.0.0.1:${backend.port} \${INSIEME_TEST_NATS_SERVER:+--nats-server "$INSIEME_TEST_NATS_SERVER"}`,
    `exec "${BINARY}" "$@"`,
  ].join("\n"));
});

after(() => {
  for (const { pid } of started) {
    try {
      process.kill(-pid, "SIGKILL");
    } catch {
      // It has ended by itself.
    }
  }
  rmSync(folder, { recursive: true, force: true });
});

function program(name, script) {
  const file = join(folder, "bin", name);
  writeFileSync(file, `#!/usr/bin/env bash\n${script}\n`);
  chmodSync(file, 0o755);
}

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

function rewrite(text) {
  return text
    .replaceAll("127.0.0.1:3001", `127.0.0.1:${backend.port}`)
    .replaceAll("nats://127.0.0.1:PORT", backend.nats)
    .replaceAll("target/release/insieme-backend", "insieme-backend");
}

/** Starts a script and gives what it printed when it says that it is ready. */
function start(script, { environment, folder: cwd }) {
  // No input: where that is a socket, bash takes itself for a remote login and reads its start files, which set PATH.
  const stdio = ["ignore", "pipe", "pipe"];
  const child = spawn("bash", ["-c", script], { cwd, env: { ...process.env, ...environment }, detached: true, stdio });
  started.push(child);
  let printed = "";
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`not ready in time\n${printed}`)), WAIT_MS);
    const look = (data) => {
      printed += data;
      if (!/ ready: /.test(printed)) return;
      clearTimeout(timer);
      backend.nats = /nats:\/\/127\.0\.0\.1:\d+/.exec(printed)?.[0] ?? backend.nats;
      resolve(printed);
    };
    child.stdout.on("data", look);
    child.stderr.on("data", (data) => (printed += data));
    child.on("exit", (code) => reject(new Error(`ended with ${code}\n${printed}`)));
  });
}

/** Sends messages, each when something came back for the one before, and gives the types that came. */
async function exchange(messages, expected) {
  const socket = new WebSocket(`ws://127.0.0.1:${backend.port}/ws`);
  const came = [];
  await new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, WAIT_MS);
    const left = [...messages];
    const next = () => left.length > 0 && socket.send(JSON.stringify(left.shift()));
    socket.on("open", next);
    socket.on("error", reject);
    socket.on("message", (data) => {
      came.push(JSON.parse(data).type);
      next();
      if (came.length < expected.length && came.at(-1) !== "error") return;
      clearTimeout(timer);
      resolve();
    });
  });
  socket.close();
  return came;
}

for (const [index, page] of ["README.md", ...pages().filter((page) => page !== "README.md")].entries()) {
  describe(page, () => {
    const markdown = read(page);
    const blocks = blocksOf(markdown, page);
    const own = join(folder, String(index));
    const environment = { PATH: `${join(folder, "bin")}:${process.env.PATH}`, XDG_DATA_HOME: own, npm_config_prefer_offline: "true" };
    const snippets = new Page({ folder: own, binary: BINARY, environment, rewrite, start, exchange });
    before(() => mkdirSync(own));
    test("links", () => assert.deepEqual(brokenLinks(page, markdown), []));
    test("files", () => assert.deepEqual(missingFiles(page, markdown), []));
    test("words", () => assert.deepEqual(unplainWords(page, markdown), []));
    if (page === "docs/RUNBOOKS.md" || page.startsWith("docs/operations/")) {
      test("log lines", () => assert.deepEqual(staleLogLines(page, markdown, code), []));
    }
    for (const block of blocks) {
      if (block.language === "js" && RUN_ELSEWHERE.has(page)) continue;
      test(`line ${block.line}: ${block.language}${block.mark === null ? "" : `, ${block.mark.name}`}`, async () => {
        environment.INSIEME_NATS_URLS = backend.nats;
        await snippets.check(block);
      });
    }
  });
}
