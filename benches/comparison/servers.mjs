// The servers that are compared: how each is started anew for one measurement, and what it promises.

import { execFile, execFileSync, spawn } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { promisify } from "node:util";

const START_MS = 60_000;
const STOP_MS = 10_000;

/** A process that has said a line which begins with `ready`; `word` is what follows. */
const start = (name, command, args, ready, { stderr = false, env = {} } = {}) =>
  new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
    let said = "";
    let word = null;
    const failed = (why) => reject(new Error(`${name} ${why}:\n${said.slice(-2000)}`));
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      failed("is not ready in time");
    }, START_MS);
    const listen = (chunk) => {
      if (word !== null) return;
      said += chunk;
      const at = said.indexOf(ready);
      const end = said.indexOf("\n", at);
      if (at < 0 || end < 0) return;
      word = said.slice(at + ready.length, end).trim();
      clearTimeout(timer);
      resolve({ name, child, word, pid: child.pid });
    };
    child.stdout.on("data", listen);
    // Read in any case: a full pipe would stall the server.
    child.stderr.on("data", stderr ? listen : (chunk) => (said = (said + chunk).slice(-10_000)));
    child.once("error", (error) => failed(`cannot be started (${error.message})`));
    child.once("exit", (code) => word === null && failed(`ended with ${code}`));
  });

const stop = async ({ name, child }) => {
  if (child.exitCode !== null) throw new Error(`${name} had ended by itself, with ${child.exitCode}`);
  const ended = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
  await ended;
  clearTimeout(timer);
};

const freePort = () =>
  new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const startNats = async ({ natsServer }, dir, sync) => {
  const port = await freePort();
  const config = path.join(dir, "nats.conf");
  const setting = sync === "always" ? ", sync_interval: always" : "";
  writeFileSync(
    config,
    `listen: "127.0.0.1:${port}"\nserver_name: compare\njetstream { store_dir: ${JSON.stringify(dir)}${setting} }\n`,
  );
  // As compose.yaml has it: without, NATS keeps all of the log in memory that it has ever written.
  const env = { GOMEMLIMIT: "1GiB" };
  const nats = await start("nats", natsServer, ["-c", config], "Server is ready", { stderr: true, env });
  return { ...nats, url: `nats://127.0.0.1:${port}` };
};

/** Our limits are on a client's speed; the peers have none, or none here. */
const OPEN = [
  "frontend.submissions_per_minute_max=0",
  "frontend.frames_per_second_max=0",
  "frontend.bytes_per_second_max=0",
  "frontend.upgrades_per_second_max=0",
  "frontend.connections_max=100000",
];

/** Has NATS stage the log's batches in memory, as compose.yaml does; gives what undoes that. Takes root. */
const stageInMemory = (dir) => {
  const batches = path.join(dir, "jetstream/$G/streams/COMMITTED/batches");
  mkdirSync(batches, { recursive: true });
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=256m", "tmpfs", batches]);
  return () => execFileSync("umount", [batches]);
};

const ours = (sync, build = "backend") => ({
  promise: sync === "always" ? "on disk before the answer" : "in the log; on disk within NATS's sync interval (2 min)",
  start: async (tools, dir) => {
    const undo = tools.batchesInMemory ? stageInMemory(dir) : undefined;
    const running = [];
    try {
      const nats = await startNats(tools, dir, sync);
      running.push(nats);
      const settings = [...OPEN, ...(tools.settings ?? [])].flatMap((setting) => ["--set", setting]);
      const run = (role, ...rest) => [role, "--nats", nats.url, ...settings, "--log", "warn", ...rest];
      await promisify(execFile)(tools[build], run("bootstrap"));
      running.push(await start("validator", tools[build], run("validator"), "validator ready:"));
      const listen = ["--allow-anyone", "--listen", `127.0.0.1:${await freePort()}`];
      running.push(await start("frontend", tools[build], run("frontend", ...listen), "frontend ready:"));
    } catch (error) {
      await Promise.allSettled(running.map(stop));
      undo?.();
      throw error;
    }
    return { url: running[2].word, running, undo };
  },
});

const node = (script, ...args) => async (tools, dir) => {
  const files = args.map((arg) => (arg === "FILE" ? path.join(dir, "store.sqlite") : arg));
  const server = await start("server", process.execPath, [path.join(tools.peers, script), ...files], "peer ready:");
  return { url: server.word, running: [server] };
};

const jetstream = (sync) => ({
  promise: sync === "always" ? "on disk before the live message" : "in the log; on disk within NATS's sync interval",
  engine: true,
  start: async (tools, dir) => {
    const nats = await startNats(tools, dir, sync);
    return { running: [nats], nats: nats.url };
  },
});

export const SERVERS = {
  "ours, always": ours("always"),
  "ours, default": ours("default"),
  // Another build of the backend, where `--beside` gives one.
  "beside, always": ours("always", "beside"),
  "beside, default": ours("default", "beside"),
  "reference, FULL": { promise: "on disk before the answer", start: node("reference.mjs", "FULL", "FILE") },
  "reference, NORMAL": { promise: "in the WAL; on disk at a checkpoint", start: node("reference.mjs", "NORMAL", "FILE") },
  "reference, memory": { promise: "nothing survives the process", start: node("reference.mjs", "memory") },
  "Socket.IO": { promise: "nothing is stored", dialect: "socketio", start: node("socketio.mjs") },
  "bare fan-out": {
    promise: "nothing is stored or checked",
    // It has no history to be read back.
    options: ["--no-audit"],
    start: async (tools) => {
      const server = await start("server", tools.load, ["serve-bare"], "bare ready:");
      return { url: server.word, running: [server] };
    },
  },
  "JetStream, always": jetstream("always"),
  "JetStream, default": jetstream("default"),
};

/** Starts a server with an empty store, gives it to `use`, and stops it whatever happens. */
export const withServer = async (name, tools, use) => {
  const dir = path.join(tools.scratch, `${Date.now()}`);
  mkdirSync(dir, { recursive: true });
  try {
    const server = await SERVERS[name].start(tools, dir);
    try {
      return await use(server);
    } finally {
      try {
        for (const process of [...server.running].reverse()) await stop(process);
      } finally {
        server.undo?.();
      }
    }
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
};
