// Runs the scenarios on the servers in alternation, and writes what came of it. Started by benches/compare.

import { execFile, execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { plots } from "./plots.mjs";
import { builds, other, results, summary } from "./results.mjs";
import { SCENARIOS } from "./scenarios.mjs";
import { SERVERS, withServer } from "./servers.mjs";

const RUN_MS_MAX = 30 * 60_000;
const here = path.dirname(fileURLToPath(import.meta.url));
const root = path.join(here, "../..");

const { values: options } = parseArgs({
  options: {
    help: { type: "boolean" },
    quick: { type: "boolean", default: false },
    long: { type: "boolean", default: false },
    only: { type: "string", multiple: true },
    rounds: { type: "string" },
    seconds: { type: "string" },
    "batches-on-disk": { type: "boolean", default: false },
    out: { type: "string", default: path.join(root, "benches") },
    backend: { type: "string", default: path.join(root, "target/dist/insieme-backend") },
    beside: { type: "string" },
    load: { type: "string", default: path.join(root, "benches/load/target/release/load") },
    "nats-server": { type: "string", default: process.env.INSIEME_TEST_NATS_SERVER },
  },
});

if (options.help) {
  console.log(`benches/compare [--quick] [--long] [--only SCENARIO]… [--rounds N] [--seconds N] [--out DIR]

  --quick       one round, short ones
  --long        the scenarios too that take minutes each
  --only NAME   only this scenario; may be given several times
  --rounds N    how often all servers are measured in turn (2)
  --seconds N   how long a throughput is measured (8)
  --batches-on-disk   NATS stages our batches on disk, not in memory as compose.yaml has it, which takes root
  --out DIR     where RESULTS.md, results.json and plots/ go (benches)
  --backend, --load, --nats-server FILE   other binaries
  --beside FILE       compares the backend with this other build of it and with nothing else; prints the ratios, writes nothing

scenarios:
${Object.entries(SCENARIOS).map(([name, { title, long }]) => `  ${name.padEnd(14)} ${title}${long ? " (long)" : ""}`).join("\n")}`);
  process.exit(0);
}

if (!options["batches-on-disk"] && process.getuid() !== 0) {
  throw new Error("mounting a folder in memory for NATS's batches takes root; --batches-on-disk goes without");
}
const { quick } = options;
const rounds = Number(options.rounds ?? (quick ? 1 : 2));
const seconds = Number(options.seconds ?? (quick ? 3 : 8));
for (const name of options.only ?? []) {
  if (!SCENARIOS[name]) throw new Error(`there is no scenario "${name}"; --help lists them`);
}
const ours = (server) => server.startsWith("ours");
const chosen = Object.entries(SCENARIOS)
  .filter(([name, { long }]) => (options.only ? options.only.includes(name) : options.long || !long))
  .map(([name, plan]) => [name, options.beside ? { ...plan, servers: plan.servers.filter(ours).flatMap((server) => [server, other(server)]) } : plan]);

const tools = {
  backend: options.backend,
  beside: options.beside,
  load: options.load,
  natsServer:
    options["nats-server"] ?? execFileSync(options.backend, ["dev", "--print-nats-server"]).toString().trim(),
  peers: path.join(root, "benches/peers"),
  batchesInMemory: !options["batches-on-disk"],
  // Not below a temporary folder, which may be in memory: a disk is part of what is measured.
  scratch: path.join(root, "target/compare"),
};
for (const binary of [tools.backend, tools.load, ...(tools.beside ? [tools.beside] : [])]) {
  if (!existsSync(binary)) throw new Error(`${binary} is missing: benches/compare builds it`);
}
mkdirSync(tools.scratch, { recursive: true });

/** Runs the load generator; gives its report. A finding is part of the report, anything else an error. */
const measure = (server, name, scenario) =>
  new Promise((resolve, reject) => {
    const json = path.join(tools.scratch, "report.json");
    rmSync(json, { force: true });
    const pids = server.running.flatMap((process) => ["--pid", `${process.name}=${process.pid}`]);
    const { dialect, engine, options: more = [] } = SERVERS[name];
    const args = engine
      ? ["jetstream", "--nats", server.nats, ...scenario.engine({ seconds, quick })]
      : [...scenario.load({ seconds, quick }), "--url", server.url, ...(dialect ? ["--dialect", dialect] : []), ...more];
    const all = [...args, ...pids, "--json", json].map(String);
    execFile(tools.load, all, { timeout: RUN_MS_MAX, killSignal: "SIGKILL" }, (error, stdout, stderr) => {
      if (error && error.code !== 1) return reject(new Error(`load ${all.join(" ")}: ${error.message}\n${stderr}`));
      process.stdout.write(stdout);
      resolve(JSON.parse(readFileSync(json, "utf8")));
    });
  });

const measured = {};
const began = Date.now();
for (let round = 0; round < rounds; round += 1) {
  for (const [scenario, plan] of chosen) {
    // The other way round every second time, so that a drift of the machine does not favour the same.
    const order = round % 2 === 0 ? plan.servers : [...plan.servers].reverse();
    for (const name of order) {
      console.log(`\n== ${scenario}, ${name}, round ${round + 1} of ${rounds} (${Math.round((Date.now() - began) / 1000)} s)`);
      ((measured[scenario] ??= {})[name] ??= []).push(await withServer(name, tools, (server) => measure(server, name, plan)));
    }
  }
}
rmSync(tools.scratch, { recursive: true, force: true });

if (options.beside) {
  console.log(`\n${builds(measured)}`);
  process.exit(0);
}

const version = (command, ...args) => execFileSync(command, args).toString().trim().split("\n")[0];
const peers = JSON.parse(readFileSync(path.join(tools.peers, "package.json"), "utf8")).dependencies;
const machine = {
  date: new Date().toISOString().slice(0, 16),
  cpu: `${os.cpus().length} × ${os.cpus()[0].model}`,
  memory_gib: Math.round(os.totalmem() / 2 ** 30),
  kernel: os.release(),
  load_average: os.loadavg().map((load) => load.toFixed(1)).join(" "),
  minutes: ((Date.now() - began) / 60_000).toFixed(1),
  commit: version("git", "-C", root, "rev-parse", "--short=12", "HEAD"),
  versions: { nats: version(tools.natsServer, "--version"), node: process.version, ...peers },
  seconds,
  rounds,
  batches: tools.batchesInMemory ? "in memory, as compose.yaml has it" : "on disk (--batches-on-disk)",
};
mkdirSync(path.join(options.out, "plots"), { recursive: true });
writeFileSync(path.join(options.out, "results.json"), `${JSON.stringify({ machine, summary: summary(measured) }, null, 1)}\n`);
for (const [file, svg] of plots(measured)) writeFileSync(path.join(options.out, "plots", file), svg);
writeFileSync(path.join(options.out, "RESULTS.md"), results(measured, machine));
console.log(`\nwritten: ${path.join(options.out, "RESULTS.md")}`);
