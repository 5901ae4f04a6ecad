//! What runs have done, in figures: appended to a file, and made into a table.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::round::Outcome;
use super::world::Counters;

/// The figures, in the order of the table, with what they are.
const FIGURES: &[(&str, &str)] = &[
    ("runs", "runs"),
    ("rounds", "rounds, each healed and judged"),
    ("seconds", "seconds, healing and judging included"),
    ("operations", "operations: drafts and events submitted, pages asked for, connections made"),
    ("runs_with_three", "runs with three NATS servers"),
    ("operations_with_three", "operations with three NATS servers"),
    ("events", "events in the log"),
    ("accepted", "answers `accepted`"),
    ("rejected", "answers `rejected`"),
    ("broadcasts", "broadcasts"),
    ("not_stored", "answers `unavailable` that say: not stored"),
    ("pages", "pages of history"),
    ("literal_syncs", "of these, answers to clients that do not page"),
    ("reconnects", "connections made again"),
    ("subscriptions", "partitions subscribed to over connections for many"),
    ("takeovers", "slots taken over"),
    ("kills", "frontends and validators killed (`kill -9`)"),
    ("nats_kills", "NATS servers killed (`kill -9`)"),
    ("pauses", "processes stopped for a while (SIGSTOP)"),
    ("long_pauses", "of these, NATS servers stopped for 2 to 15 seconds"),
    ("resets", "connections to NATS that were reset"),
    ("read_resets", "of these, in the middle of an answer to a batched read"),
    ("cuts", "processes cut off from NATS"),
    ("half_open", "links silent in one direction or both"),
    ("slow", "links slowed down"),
    ("rolling", "processes restarted in good order"),
    ("restarts_of_all", "times that all, or all validators, restarted while NATS was stopped or split"),
    ("reloads", "schemas replaced while a validator worked"),
    ("clocks_off", "processes started with a clock that is off"),
    ("splits", "NATS servers cut off from each other"),
    ("disks_full", "times that the disk of NATS was full"),
    (
        "late_copies",
        "late copies (a draft submitted on two connections, rejected on the second, committed for the first)",
    ),
];

/// What a run has at least in a minute; one with less proves nothing. They lie far below what a busy machine does.
pub const FLOORS: &[(&str, u64)] =
    &[("accepted", 300), ("rejected", 200), ("pages", 100), ("reconnects", 30), ("subscriptions", 15)];
/// And one with faults at their usual pace.
pub const FLOORS_WITH_FAULTS: &[(&str, u64)] =
    &[("kills", 4), ("pauses", 2), ("takeovers", 8), ("read_resets", 4)];

/// The figures of one run.
pub struct Totals {
    seed: u64,
    figures: BTreeMap<&'static str, u64>,
    violations: u64,
}

impl Totals {
    pub fn new(seed: u64) -> Self {
        let mut figures: BTreeMap<_, _> = FIGURES.iter().map(|(name, _)| (*name, 0)).collect();
        figures.insert("runs", 1);
        Self { seed, figures, violations: 0 }
    }

    fn count(&mut self, name: &'static str, more: u64) {
        *self.figures.entry(name).or_default() += more;
    }

    pub fn add(&mut self, outcome: &Outcome) {
        let verdict = &outcome.verdict;
        self.count("rounds", 1);
        self.count("operations", outcome.operations);
        self.count("events", verdict.events);
        self.count("accepted", verdict.accepted);
        self.count("rejected", verdict.rejected);
        self.count("broadcasts", verdict.broadcasts);
        self.count("pages", verdict.pages);
        self.count("not_stored", verdict.not_stored);
        self.count("literal_syncs", outcome.literal_syncs);
        self.count("reconnects", outcome.reconnects);
        self.count("subscriptions", outcome.subscriptions);
        self.count("late_copies", verdict.late_copies);
        self.violations += verdict.violations.len() as u64;
    }

    pub fn found(&mut self, violations: u64) {
        self.violations += violations;
    }

    pub fn close(&mut self, counters: &Counters, took: Duration) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.count("kills", of(&counters.kills));
        self.count("nats_kills", of(&counters.nats_kills));
        self.count("pauses", of(&counters.pauses));
        self.count("cuts", of(&counters.cuts));
        self.count("half_open", of(&counters.half_open));
        self.count("slow", of(&counters.slow));
        self.count("rolling", of(&counters.rolling));
        self.count("splits", of(&counters.splits));
        self.count("disks_full", of(&counters.disks_full));
        self.count("long_pauses", of(&counters.long_pauses));
        self.count("restarts_of_all", of(&counters.restarts_of_all));
        self.count("resets", of(&counters.resets));
        self.count("read_resets", of(&counters.read_resets));
        self.count("reloads", of(&counters.reloads));
        self.count("clocks_off", of(&counters.clocks_off));
        self.count("takeovers", of(&counters.takeovers));
        self.count("seconds", took.as_secs());
    }

    /// Takes note that the run was one with three NATS servers.
    pub fn with_three(&mut self) {
        self.count("runs_with_three", 1);
        self.count("operations_with_three", self.figures["operations"]);
    }

    /// What there was too little of in so many minutes for the run to mean anything.
    pub fn shortfalls(&self, floors: &[(&str, u64)], minutes: f64) -> Vec<String> {
        let wanted = |(name, each_minute): &(&str, u64)| {
            let (had, wanted) = (self.figures[name], (*each_minute as f64 * minutes) as u64);
            (had < wanted).then(|| format!("{name} is {had}, and a run of {minutes} minutes needs {wanted}"))
        };
        floors.iter().filter_map(wanted).collect()
    }

    pub fn append(&self, file: &Path) -> Result<(), String> {
        let mut line = json!({ "seed": self.seed, "violations": self.violations });
        for (name, figure) in &self.figures {
            line[*name] = (*figure).into();
        }
        let open = File::options().create(true).append(true).open(file);
        open.and_then(|mut file| writeln!(file, "{line}"))
            .map_err(|error| format!("{}: {error}", file.display()))
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, what) in FIGURES {
            writeln!(f, "{:>12} {what}", self.figures.get(*name).copied().unwrap_or(0))?;
        }
        write!(f, "{:>12} violations", self.violations)
    }
}

/// The table of all runs in a file.
pub fn table(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let figures: Value = serde_json::from_str(line)
            .map_err(|error| format!("{}:{}: {error}", file.display(), number + 1))?;
        for (name, figure) in figures.as_object().into_iter().flatten() {
            *sums.entry(name.clone()).or_default() += figure.as_u64().unwrap_or(0);
        }
    }
    let mut out = "| | |\n|---|---:|\n".to_owned();
    let row = |name: &str, what: &str| format!("| {what} | {} |\n", sums.get(name).copied().unwrap_or(0));
    for (name, what) in FIGURES {
        out.push_str(&row(name, what));
    }
    out.push_str(&row("violations", "**violations**"));
    Ok(out)
}
