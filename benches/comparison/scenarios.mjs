// What is measured, on which servers, and what it must reach.
//
// A target compares two servers by one figure of a scenario: `ours / theirs` must be at least (or at most)
// so much. `figure` names a figure of the load generator's report, or `time.percentile`.

const closed = (seconds) => ["--seconds", seconds, "--warmup", 1];

// With so many events under way that it is deliveries that are measured, and not how long one commit takes.
const fanOut = (readers, inFlight, title) => ({
  title: `${title}: one writer, ${inFlight} events under way, each until all have it`,
  load: ({ seconds }) => ["fan-out", "--readers", readers, "--in-flight", inFlight, ...closed(seconds)],
  servers: ["ours, default", "reference, memory", "bare fan-out", "Socket.IO"],
  figures: ["deliveries_per_s"],
  times: ["delivery"],
  targets: [
    { us: "ours, default", them: "reference, memory", figure: "deliveries_per_s", least: 2 },
    { us: "ours, default", them: "bare fan-out", figure: "deliveries_per_s", least: 0.7 },
  ],
});

const storm = (clients, title) => ({
  title,
  load: () => ["storm", "--clients", clients],
  servers: ["ours, default", "reference, NORMAL", "reference, memory"],
  figures: ["all_caught_up_s"],
  times: ["caught_up"],
  targets: ["reference, NORMAL", "reference, memory"].map((them) => (
    { us: "ours, default", them, figure: "all_caught_up_s", most: 0.5 }
  )),
});

export const SCENARIOS = {
  commit: {
    title: "Commits: 64 partitions, 8 requests in flight each, single events of 200 bytes",
    load: ({ seconds }) => ["commit", ...closed(seconds)],
    engine: ({ seconds }) => ["--partitions", 64, "--in-flight", 8, ...closed(seconds)],
    servers: ["ours, always", "reference, FULL", "JetStream, always", "ours, default", "reference, NORMAL", "JetStream, default", "reference, memory", "Socket.IO"],
    figures: ["events_per_s"],
    times: ["answer"],
    targets: [
      { us: "ours, always", them: "reference, FULL", figure: "events_per_s", least: 4 },
      { us: "ours, default", them: "reference, NORMAL", figure: "events_per_s", least: 2 },
      { us: "ours, default", them: "reference, memory", figure: "events_per_s", least: 0.75 },
    ],
  },
  batches: {
    title: "Batches: 64 projects, 8 requests of ten events in flight each",
    load: ({ seconds }) => ["commit", "--batch", 10, ...closed(seconds)],
    servers: ["ours, always", "reference, FULL", "ours, default", "reference, NORMAL", "reference, memory"],
    figures: ["events_per_s"],
    times: ["answer"],
    targets: [
      { us: "ours, always", them: "reference, FULL", figure: "events_per_s", least: 8 },
      { us: "ours, default", them: "reference, NORMAL", figure: "events_per_s", least: 3 },
    ],
  },
  refused: {
    title: "Half refused: 64 partitions, 8 requests in flight each, every other with an event that the rules refuse",
    load: ({ seconds }) => ["commit", "--refuse-half", ...closed(seconds)],
    servers: ["ours, always", "ours, default"],
    figures: ["events_per_s", "refused_per_s"],
    times: ["answer", "refusal"],
    targets: [],
  },
  hot: {
    title: "One hot partition: 16 writers, 4 requests in flight each",
    load: ({ seconds }) => ["hot", ...closed(seconds)],
    servers: ["ours, always", "reference, FULL", "ours, default", "reference, NORMAL", "reference, memory", "Socket.IO"],
    figures: ["events_per_s"],
    times: ["answer"],
    targets: [{ us: "ours, always", them: "reference, FULL", figure: "events_per_s", least: 3 }],
  },
  single: {
    title: "One at a time: submit to answer",
    load: ({ seconds }) => ["commit", "--partitions", 1, "--in-flight", 1, ...closed(seconds)],
    engine: ({ seconds }) => ["--partitions", 1, "--in-flight", 1, ...closed(seconds)],
    servers: ["ours, always", "JetStream, always", "reference, FULL", "ours, default", "JetStream, default", "reference, NORMAL", "reference, memory"],
    figures: ["events_per_s"],
    times: ["answer"],
    targets: [
      { us: "ours, always", them: "JetStream, always", figure: "answer.p50", most: 1.5 },
      { us: "ours, always", them: "JetStream, always", figure: "answer.p99", most: 1.5 },
      { us: "ours, default", them: "JetStream, default", figure: "answer.p50", most: 1.5 },
      { us: "ours, default", them: "JetStream, default", figure: "answer.p99", most: 1.5 },
    ],
  },
  paced: {
    title: "Open loop: 1,000 events/s over 64 partitions, time from when each was to be sent",
    load: ({ seconds }) => ["commit", "--rate", 1000, ...closed(seconds)],
    servers: ["ours, always", "reference, FULL", "ours, default", "reference, NORMAL", "reference, memory"],
    figures: ["events_per_s"],
    times: ["answer"],
    targets: [],
  },
  mixed: {
    title: "Mixed: 64 partitions with 2 writers and 4 readers each, 1,000 events/s, 5 newcomers/s who read all",
    load: ({ seconds }) => ["mixed", ...closed(seconds)],
    servers: ["ours, default", "reference, NORMAL", "reference, memory"],
    figures: ["events_per_s", "deliveries_per_s"],
    times: ["answer", "delivery", "newcomer"],
    targets: [],
  },
  "fan-out 200": fanOut(200, 256, "Fan-out to 200"),
  "fan-out 2000": fanOut(2000, 64, "Fan-out to 2,000"),
  idle: {
    title: "Idle connections: what one takes",
    load: ({ quick }) => ["idle", "--connections", quick ? 2000 : 10_000, "--partitions", 100, "--seconds", quick ? 3 : 6],
    servers: ["ours, default", "reference, memory", "Socket.IO"],
    figures: ["memory_each_frontend", "memory_each_server"],
    times: ["connect"],
    targets: [{ us: "ours, default", figure: "memory_each_frontend", most: 8 }],
  },
  replay: {
    title: "Replay: four readers read a project of 100,000 events from its beginning",
    load: ({ quick }) => ["replay", "--events", quick ? 20_000 : 100_000, "--connects", 0],
    servers: ["ours, default", "reference, NORMAL", "reference, memory"],
    figures: ["replayed_per_s"],
    times: [],
    targets: [{ us: "ours, default", them: "reference, NORMAL", figure: "replayed_per_s", least: 2 }],
  },
  "storm 2000": storm(2000, "Storm: 2,000 clients come back at once, each 100 events behind"),
  "storm 5000": storm(5000, "Storm: 5,000 clients"),
  // Not in a run without a name: each takes minutes.
  state: {
    long: true,
    title: "State at the head of a partition of 1,000,000 events, told to who connects",
    load: ({ quick }) => ["replay", "--dialect", "classic", "--events", quick ? 20_000 : 1_000_000, "--readers", 0, "--connects", 50],
    servers: ["ours, default"],
    figures: ["connected_bytes"],
    times: ["connect"],
    targets: [{ us: "ours, default", figure: "connect.p99", most: 50 }],
  },
  growing: {
    long: true,
    title: "A growing log: up to 5,000,000 events",
    load: ({ quick }) => ["growing", "--events", quick ? 100_000 : 5_000_000, "--no-audit"],
    servers: ["ours, default"],
    figures: ["events_per_s"],
    times: [],
    course: true,
    targets: [],
  },
  "100 of 100": {
    long: true,
    title: "100 partitions, all active, 1,000 events/s",
    load: ({ seconds }) => ["many", "--partitions", 100, "--active", 100, "--rate", 1000, ...closed(seconds)],
    servers: ["ours, default"],
    figures: ["events_per_s"],
    times: ["answer"],
    targets: [],
  },
  "100 of 10000": {
    long: true,
    title: "10,000 partitions, of which 100 are active, 1,000 events/s",
    load: ({ seconds, quick }) => ["many", "--partitions", quick ? 1000 : 10_000, "--active", 100, "--rate", 1000, ...closed(seconds)],
    servers: ["ours, default"],
    figures: ["events_per_s"],
    times: ["answer"],
    targets: [],
  },
};
