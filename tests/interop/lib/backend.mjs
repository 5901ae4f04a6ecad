// What the tests talk to: a whole backend of the built binary, or, for trying the tests, the package's own server.
//
//     INSIEME_TEST_BACKEND       the binary           [default: target/debug/insieme-backend]
//     INSIEME_TEST_NATS_SERVER   a nats-server        [default: the one the binary finds or installs]
//     INSIEME_TEST_TARGET        backend | reference  [default: backend]

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { freePort, Process, run } from "./processes.mjs";

const BINARY =
  process.env.INSIEME_TEST_BACKEND ?? fileURLToPath(new URL("../../../target/debug/insieme-backend", import.meta.url));

/** Set where the tests are tried on the package's own server, which keeps nothing over a restart. */
export const onReference = process.env.INSIEME_TEST_TARGET === "reference";

/** What scenario 4 wants of a todo, as a schema by type and version. */
const TODO_CREATED = {
  type: "object",
  required: ["id", "title"],
  properties: { id: { type: "string", minLength: 1 }, title: { type: "string", minLength: 1 } },
};

/** A client that writes as fast as it is answered is faster than the limits; tests of limits keep them. */
const UNLIMITED = [
  "frontend.frames_per_second_max=0",
  "frontend.bytes_per_second_max=0",
  "frontend.submissions_per_minute_max=0",
];

class Backend {
  static async start({ limits = false, secret, importFile } = {}) {
    const backend = new Backend();
    backend.dir = mkdtempSync(join(tmpdir(), "insieme-interop-"));
    process.on("exit", () => rmSync(backend.dir, { recursive: true, force: true }));
    const nats = process.env.INSIEME_TEST_NATS_SERVER ?? run(BINARY, ["dev", "--print-nats-server"]).trim();
    const natsPort = await freePort();
    backend.natsMonitor = await freePort();
    backend.natsUrl = `nats://127.0.0.1:${natsPort}`;
    const config = join(backend.dir, "nats.conf");
    writeFileSync(
      config,
      `listen: "127.0.0.1:${natsPort}"\nhttp: "127.0.0.1:${backend.natsMonitor}"\nserver_name: interop\njetstream { store_dir: ${JSON.stringify(join(backend.dir, "store"))}, sync_interval: always }\n`,
    );
    backend.natsCommand = [nats, ["-c", config]];
    await backend.startNats();

    const schemas = join(backend.dir, "schemas");
    run("mkdir", ["-p", schemas]);
    writeFileSync(join(schemas, "todo.created@1.json"), JSON.stringify(TODO_CREATED));
    const settings = [`rules.schema_dir=${schemas}`, ...(limits ? [] : UNLIMITED)];
    backend.settings = ["--nats", backend.natsUrl, ...settings.flatMap((setting) => ["--set", setting])];
    run(BINARY, ["bootstrap", ...backend.settings]);
    if (importFile !== undefined) backend.imported = run(BINARY, ["import", importFile, ...backend.settings], 600_000);
    backend.validator = new Process("validator", BINARY, ["validator", ...backend.settings]);
    await backend.validator.says("validator ready:");
    backend.auth = ["--allow-anyone"];
    if (secret !== undefined) {
      const file = join(backend.dir, "secret");
      writeFileSync(file, `${secret}\n`);
      backend.auth = ["--set", `auth.secret_file=${file}`, "--set", "auth.leeway_s=0"];
    }
    backend.port = await freePort();
    await backend.startFrontend();
    return backend;
  }

  get url() {
    return `ws://127.0.0.1:${this.port}/ws`;
  }

  async startFrontend() {
    this.frontend = new Process("frontend", BINARY, [
      "frontend", ...this.settings, ...this.auth, "--listen", `127.0.0.1:${this.port}`,
    ]);
    await this.frontend.says("frontend ready:");
  }

  /** Runs a command of the binary; gives what it prints. */
  run(args) {
    return run(BINARY, [...args, ...this.settings]);
  }

  /** `kill -9` of the frontend. */
  async killFrontend() {
    await this.frontend.kill();
  }

  /** Ends the frontend in good order. */
  async stopFrontend() {
    this.frontend.signal("SIGTERM");
    await this.frontend.exited;
  }

  async startNats() {
    this.nats = new Process("nats", ...this.natsCommand);
    await this.nats.says("Server is ready");
  }

  /** `kill -9` of NATS; its store stays. */
  async killNats() {
    await this.nats.kill();
  }

  /** Starts the administration; asks for no token, whatever frontends do. */
  async startAdmin() {
    const settings = ["admin", "serve", "--nats", this.natsUrl, "--listen", "127.0.0.1:0", "--allow-anyone"];
    this.admin = new Process("admin", BINARY, settings);
    this.adminUrl = await this.admin.says("admin ready:");
  }

  /** Has an operator close a client's connections; gives the answer. */
  async closeClient(clientId, order) {
    const path = `${this.adminUrl}/clients/${encodeURIComponent(clientId)}/close`;
    const response = await fetch(path, { method: "POST", body: JSON.stringify(order) });
    return response.json();
  }

  /** Stops the frontend where it stands: it reads nothing more. */
  pauseFrontend() {
    this.frontend.signal("SIGSTOP");
  }

  /** How many drafts NATS was ever given. */
  async draftsStored() {
    const response = await fetch(`http://127.0.0.1:${this.natsMonitor}/jsz?streams=true`);
    const { account_details: accounts } = await response.json();
    const streams = accounts.flatMap(({ stream_detail: details }) => details ?? []).filter(({ name }) => /draft/i.test(name));
    if (streams.length === 0) throw new Error("NATS has no stream of drafts");
    return streams.reduce((sum, { state }) => sum + state.last_seq, 0);
  }

  /** Stops the validator where it stands: drafts are taken in and not decided. */
  pauseValidator() {
    this.validator.signal("SIGSTOP");
  }

  resumeValidator() {
    this.validator.signal("SIGCONT");
  }

  /** A project's committed events, from the log itself; without marks, which no client is told of. */
  log(project) {
    let lines = "";
    try {
      lines = run(BINARY, ["log", project, "--nats", this.natsUrl]);
    } catch (error) {
      // A project without events has no log to be printed.
      if (!/the log has no events/.test(error.message)) throw error;
    }
    return lines
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line))
      .filter(({ isMark }) => !isMark);
  }

  token() {
    return "anyone";
  }

  async stop() {
    await Promise.all([this.admin, this.frontend, this.validator, this.nats].map((process) => process?.kill()));
    rmSync(this.dir, { recursive: true, force: true });
  }
}

const startReference = async () => {
  const { startReference } = await import("../../conformance/reference.mjs");
  const { signHs256 } = await import("../../conformance/lib/tokens.mjs");
  const validate = ({ type, payload }) => {
    if (type !== "todo.created") return;
    for (const field of ["id", "title"]) {
      if (!payload[field]) throw Object.assign(new Error(`${field} is missing`), { code: "validation_failed" });
    }
  };
  const server = await startReference({ validate });
  return {
    ...server,
    token: (clientId, projectId) =>
      signHs256({ clientId, projectIds: [projectId], exp: Math.floor(Date.now() / 1000) + 3600 }, "conformance-secret"),
  };
};

export const startBackend = (options) => (onReference ? startReference() : Backend.start(options));
