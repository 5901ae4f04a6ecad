// What an event costs: processor time of each process per event, for one build of ours or several in alternation.
// Unlike throughput this hardly depends on what else the machine does. Started by benches/cost.

import { execFile, spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";

import { withServer } from "./servers.mjs";

const RUN_MS_MAX = 10 * 60_000;
const root = path.join(path.dirname(fileURLToPath(import.meta.url)), "../..");
const HELP = `benches/cost [OPTION]… [-- SCENARIO [LOAD OPTION]…]

  --backend FILE   a build to measure; several are measured in turn (target/dist/insieme-backend)
  --set KEY=VALUE  a setting of ours; may be given several times
  --beside KEY=VALUE   measures each build a second time with this setting, in alternation
  --sync SETTING   NATS's sync_interval: default or always (default)
  --rounds N       how often each is measured (2)
  --batches-in-memory   NATS stages batches in memory: a tmpfs, which takes root
  --perf FILE      records the processes with perf into FILE-0, FILE-1, …
  --load, --nats-server FILE   other binaries

The scenario and its options go to the load generator as they are (commit --seconds 5 --warmup 1).`;

const split = process.argv.indexOf("--", 2);
const own = process.argv.slice(2, split < 0 ? undefined : split);
const scenario = split < 0 ? ["commit", "--seconds", "5", "--warmup", "1"] : process.argv.slice(split + 1);
const { values: options } = parseArgs({
  args: own,
  options: {
    help: { type: "boolean" },
    backend: { type: "string", multiple: true, default: [path.join(root, "target/dist/insieme-backend")] },
    set: { type: "string", multiple: true, default: [] },
    beside: { type: "string" },
    sync: { type: "string", default: "default" },
    "batches-in-memory": { type: "boolean" },
    rounds: { type: "string", default: "2" },
    perf: { type: "string" },
    load: { type: "string", default: path.join(root, "benches/load/target/release/load") },
    "nats-server": { type: "string", default: process.env.INSIEME_TEST_NATS_SERVER },
  },
});
if (options.help) {
  console.log(HELP);
  process.exit(0);
}
if (!["default", "always"].includes(options.sync)) throw new Error(`--sync is default or always, not ${options.sync}`);

const run = promisify(execFile);
const scratch = path.join(root, "target/cost");
mkdirSync(scratch, { recursive: true });
const natsServer =
  options["nats-server"] ?? (await run(options.backend[0], ["dev", "--print-nats-server"])).stdout.trim();
let recorded = 0;

const measure = async (backend, settings) => {
  const tools = { backend, load: options.load, natsServer, scratch, settings, batchesInMemory: options["batches-in-memory"] };
  return withServer(`ours, ${options.sync}`, tools, async ({ url, running }) => {
    const json = path.join(scratch, "report.json");
    rmSync(json, { force: true });
    const pids = running.flatMap(({ name, pid }) => ["--pid", `${name}=${pid}`]);
    let perf;
    if (options.perf) {
      const processes = running.map(({ pid }) => pid).join(",");
      perf = spawn("perf", ["record", "-q", "-F", "499", "-g", "-o", `${options.perf}-${recorded++}`, "-p", processes]);
    }
    // A finding (exit code 1) is in the report.
    await run(options.load, [...scenario, "--url", url, ...pids, "--json", json], { timeout: RUN_MS_MAX }).catch((error) => {
      if (error.code !== 1) throw error;
    });
    perf?.kill("SIGINT");
    return JSON.parse(readFileSync(json, "utf8"));
  });
};

const plain = { settings: options.set, variant: "" };
const variants = options.beside ? [plain, { settings: [...options.set, options.beside], variant: ` (${options.beside})` }] : [plain];
const measured = options.backend.flatMap((backend) => variants.map((how) => ({ backend, ...how })));
for (let round = 0; round < Number(options.rounds); round += 1) {
  for (const { backend, settings, variant } of measured) {
    const report = await measure(backend, settings);
    // A replay reads what its plan has written before.
    const events = report.figures.find(({ name }) => name === "events")?.value ?? report.plan.events;
    const each = report.processes.map(({ name, cpu_s }) => [name, (1e6 * cpu_s) / events]);
    const sum = each.reduce((sum, [, us]) => sum + us, 0);
    const shown = each.map(([name, us]) => `${name} ${us.toFixed(1)}`).join("  ");
    const wrong = Object.entries(report.findings).filter(([, count]) => count > 0);
    const findings = wrong.length ? `  WRONG: ${JSON.stringify(Object.fromEntries(wrong))}` : "";
    const answer = report.times.find((time) => time.name === "answer");
    const answered = answer ? `, answered in ${answer.p50.toFixed(2)} ms (p50) and ${answer.p99.toFixed(2)} (p99)` : "";
    console.log(`${path.basename(backend)}${variant}: ${sum.toFixed(1)} µs an event (${shown}), ${Math.round(events / report.seconds)} events/s${answered}${findings}`);
  }
}
rmSync(scratch, { recursive: true, force: true });
