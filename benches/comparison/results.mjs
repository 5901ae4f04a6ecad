// From reports to figures, ratios and a page.

import { SCENARIOS } from "./scenarios.mjs";
import { SERVERS } from "./servers.mjs";

const median = (numbers) => {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/** A figure by name, or a time by `name.percentile`; undefined where a report has none. */
export const value = (report, name) => {
  const [time, percentile] = name.split(".");
  if (percentile) return report.times.find((entry) => entry.name === time)?.[percentile];
  return report.figures.find((entry) => entry.name === name)?.value;
};

/** The median over the rounds. */
export const typical = (reports, name) => {
  const values = (reports ?? []).map((report) => value(report, name)).filter((number) => number !== undefined);
  return values.length ? median(values) : undefined;
};

/** The ratio of each round, in which both were measured next to each other; of a figure alone, where it has no other. */
const ratioOf = (ours, theirs, figure) => {
  const ratios = ours
    .map((report, round) => value(report, figure) / (theirs ? value(theirs[round], figure) : 1))
    .filter((ratio) => Number.isFinite(ratio));
  if (!ratios.length) return undefined;
  return { ratio: median(ratios), low: Math.min(...ratios), high: Math.max(...ratios) };
};

/** What a target came to. */
const judged = (measured, scenario, target) => {
  const { us, them, figure, least, most } = target;
  const [ours, theirs] = [measured[scenario]?.[us], them && measured[scenario]?.[them]];
  if (!ours || (them && !theirs)) return undefined;
  const came = ratioOf(ours, theirs, figure);
  return came && { ...came, met: least ? came.ratio >= least : came.ratio <= most };
};

const sum = (reports, what) => median(reports.map((report) => report.processes.filter(({ name }) => name !== "generator").reduce((total, process) => total + what(process), 0)));
const generator = (reports) => median(reports.map((report) => (report.processes.find(({ name }) => name === "generator")?.cpu_s ?? 0) / report.seconds));

/** The figures alone, for results.json. */
export const summary = (measured) =>
  Object.fromEntries(Object.entries(measured).map(([scenario, servers]) => [scenario, {
    servers: Object.fromEntries(Object.entries(servers).map(([name, reports]) => [name, {
      rounds: reports.map(({ figures, times, processes, course, ok, findings }) => ({ figures, times, processes, course, ok, findings })),
    }])),
    targets: SCENARIOS[scenario].targets.map((target) => ({ ...target, ...judged(measured, scenario, target) })),
  }]));

const number = (it) => {
  if (it === undefined) return "";
  if (Math.abs(it) >= 100) return Math.round(it).toLocaleString("en-US");
  return it.toFixed(Math.abs(it) >= 10 ? 1 : 2);
};
const mib = (bytes) => `${Math.round(bytes / 2 ** 20)}`;
const row = (cells) => `| ${cells.join(" | ")} |`;

/** The other build's server, measured beside one of ours. */
export const other = (server) => server.replace("ours", "beside");

/** Two builds side by side: the ratio of each round, in which both were measured next to each other. */
export const builds = (measured) => {
  const rows = Object.entries(measured).flatMap(([scenario, servers]) => {
    const { figures, times } = SCENARIOS[scenario];
    const names = [...figures, ...times.flatMap((time) => [`${time}.p50`, `${time}.p99`])];
    return Object.keys(servers).filter((server) => servers[other(server)] && other(server) !== server).flatMap((server) => names.map((name) => {
      const came = ratioOf(servers[server], servers[other(server)], name);
      const figuresOf = (reports) => number(typical(reports, name));
      return row([scenario, server.replace("ours, ", ""), HEADS[name] ?? name, figuresOf(servers[server]), figuresOf(servers[other(server)]), ...(came ? [number(came.ratio), `${number(came.low)} to ${number(came.high)}`] : ["", ""])]);
    }));
  });
  const heads = ["scenario", "sync", "figure", "this build", "the other", "ratio", "over the rounds"];
  return [row(heads), row(heads.map((_, index) => (index > 2 ? "---:" : "---"))), ...rows].join("\n");
};

const HEADS = {
  events_per_s: "events/s",
  deliveries_per_s: "deliveries/s",
  memory_each_frontend: "KiB each (frontend)",
  memory_each_server: "KiB each (server)",
  replayed_per_s: "events/s",
  all_caught_up_s: "all there, s",
  connected_bytes: "bytes told",
};

const table = (scenario, servers) => {
  const { figures, times } = SCENARIOS[scenario];
  const heads = ["", ...figures.map((figure) => HEADS[figure] ?? figure), ...times.flatMap((time) => [`${time} p50, ms`, "p99, ms"]), "CPU s/s", "memory, MiB", "generator CPU s/s", "verified"];
  const lines = [row(heads), row(heads.map((_, index) => (index ? "---:" : "---")))];
  for (const name of SCENARIOS[scenario].servers.filter((server) => servers[server])) {
    const reports = servers[name];
    const wrong = reports.filter((report) => !report.ok).length;
    const verified = SERVERS[name].engine ? "" : wrong ? `**no**, see below` : "yes";
    lines.push(row([
      name,
      ...figures.map((figure) => number(typical(reports, figure))),
      ...times.flatMap((time) => [number(typical(reports, `${time}.p50`)), number(typical(reports, `${time}.p99`))]),
      number(sum(reports, ({ cpu_s }) => cpu_s) / median(reports.map((report) => report.seconds))),
      mib(sum(reports, ({ memory_peak_bytes }) => memory_peak_bytes)),
      number(generator(reports)),
      verified,
    ]));
    for (const { findings } of reports.filter((report) => !report.ok)) {
      const counts = Object.entries(findings).filter(([key, count]) => key !== "examples" && count > 0);
      lines.push(row([`↳ ${counts.map(([key, count]) => `${key} ${count}`).join(", ")}: ${(findings.examples[0] ?? "").slice(0, 160).replaceAll("|", "\\|")}`, ...heads.slice(1).map(() => "")]));
    }
  }
  return lines.join("\n");
};

const course = (servers) =>
  Object.entries(servers).map(([name, [report]]) => [
    "", `${name}, over its course:`, "", row(["events", "events/s", "answer p50, ms", "p99, ms", "memory, MiB"]), row(["---:", "---:", "---:", "---:", "---"]),
    ...report.course.map((point) => row([number(point.events), number(point.events_per_s), number(point.answer_p50_ms), number(point.answer_p99_ms),
      point.memory_bytes.map((bytes, index) => `${report.processes[index].name} ${mib(bytes)}`).join(", ")])),
  ].join("\n")).join("\n");

/** The page. */
export const results = (measured, machine) => {
  const targets = Object.keys(measured).flatMap((scenario) => SCENARIOS[scenario].targets.map((target) => {
    const came = judged(measured, scenario, target);
    const bound = target.least ? `at least ${target.least}` : `at most ${target.most}`;
    const against = target.them ? `${target.us} / ${target.them}` : target.us;
    return row([scenario, target.figure, against, bound, came ? number(came.ratio) : "not measured", came && machine.rounds > 1 ? `${number(came.low)} to ${number(came.high)}` : "", came ? (came.met ? "yes" : "no") : ""]);
  }));
  return `# Results

Written by \`benches/compare\`; do not edit. How to read this and what was learnt is in [docs/PERFORMANCE.md](../docs/PERFORMANCE.md).

- ${machine.date} UTC, commit ${machine.commit}, ${machine.minutes} minutes, ${machine.rounds} round(s) in alternation, ${machine.seconds} s a throughput; load average at the end ${machine.load_average}
- ${machine.cpu}, ${machine.memory_gib} GiB, Linux ${machine.kernel}; load generator, servers and NATS share it
- ${Object.entries(machine.versions).map(([name, version]) => (name === "nats" ? version : `${name} ${version}`)).join(", ")}; NATS stages our batches ${machine.batches}

Every figure is the median of the rounds. Each measurement has a server of its own with an empty store. *CPU s/s* and *memory* are of all the server's processes, NATS included; *generator* is the load generator's own processor: near 1 it was itself the limit. *Verified*: every event was answered once, came to everyone once, in order, under the answered id, and stands so in the log.

| server | what an answer promises |
|---|---|
${Object.entries(SERVERS).filter(([name]) => Object.values(measured).some((servers) => servers[name])).map(([name, { promise }]) => row([name, promise])).join("\n")}

## Targets

${[row(["scenario", "figure", "compared", "target", "measured", "over the rounds", "met"]), row(["---", "---", "---", "---", "---:", "---", "---"]), ...targets].join("\n")}

${Object.entries(measured).map(([scenario, servers]) => `## ${SCENARIOS[scenario].title}

${table(scenario, servers)}
${SCENARIOS[scenario].course ? course(servers) : ""}
![${scenario}](plots/${scenario.replaceAll(" ", "-")}.svg)
`).join("\n")}`;
};
