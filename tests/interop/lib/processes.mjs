// Child processes of a test: they end with it, whatever happens to it, and a failing test shows what they said.

import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";

const running = new Set();
const killAll = () => {
  for (const process of running) process.child.kill("SIGKILL");
};
process.on("exit", killAll);
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => process.exit(1));
}

/** How long a process may take to say that it is ready. */
const READY_MS = 30_000;
const TAIL_CHARACTERS = 4000;

export class Process {
  said = "";

  /** Starts a command. */
  constructor(name, file, args, options = {}) {
    this.name = name;
    this.child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"], ...options });
    running.add(this);
    this.exited = once(this.child, "exit").then(() => running.delete(this));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", (text) => {
        this.said = (this.said + text).slice(-1_000_000);
      });
    }
  }

  /** Waits for a line that holds `text`; gives what stands behind it. */
  async says(text) {
    const found = () => this.said.split("\n").slice(0, -1).find((line) => line.includes(text));
    const deadline = Date.now() + READY_MS;
    for (;;) {
      const line = found();
      if (line !== undefined) return line.slice(line.indexOf(text) + text.length).trim();
      if (this.child.exitCode !== null || this.child.signalCode !== null || Date.now() > deadline) {
        throw new Error(`${this.name} did not say "${text}":\n${this.said.slice(-TAIL_CHARACTERS)}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  signal(signal) {
    this.child.kill(signal);
  }

  /** `kill -9`, and waits until it is gone. */
  async kill() {
    this.child.kill("SIGKILL");
    await this.exited;
  }
}

/** Runs a command to its end; it must succeed. */
export const run = (file, args, timeout = 60_000) => {
  const { status, stdout, stderr, error } = spawnSync(file, args, { encoding: "utf8", timeout, maxBuffer: 1 << 28 });
  if (error || status !== 0) throw error ?? new Error(`${file} ${args.join(" ")} failed:\n${stdout}${stderr}`);
  return stdout;
};

export const freePort = async () => {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
};
