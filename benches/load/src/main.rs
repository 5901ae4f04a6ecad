//! A load generator that verifies while it measures.
//!
//!     load commit --url ws://127.0.0.1:3001/ws --pid frontend=4711
//!     load --help
//!
//! One thread, because what is measured runs on the same machine. Exit code: 0 if all was as it must be, 1 if
//! something was lost, doubled, reordered, refused or left without an answer, 2 if it could not be run.

mod bare;
mod dialect;
mod jetstream;
mod link;
mod measure;
mod pacer;
mod report;
mod scenario;
mod stage;
mod verify;
mod ws;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};

use dialect::Dialect;
use link::Target;
use measure::Named;
use report::Report;
use scenario::{history, idle, steady};
use stage::Stage;
use ws::Address;

/// Puts load on a server and checks what comes of it.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Many partitions with one writer each, as fast as answers come (or at --rate).
    Commit(Steady),
    /// One partition with many writers.
    Hot(Steady),
    /// One partition with many readers; an event is under way until all have it.
    FanOut(Steady),
    /// Writers, readers and newcomers at a given rate.
    Mixed(Steady),
    /// Many partitions of which few are written to.
    Many(Steady),
    /// Commits up to a number of events, and how times and memory go on the way.
    Growing(Steady),
    /// A long partition read from its beginning by a few, and connected to anew.
    Replay(Replay),
    /// Connections that do nothing.
    Idle(Idle),
    /// Everybody comes back at once and has missed some events.
    Storm(Storm),
    /// The engine alone: the same two hops on bare JetStream.
    Jetstream(Jetstream),
    /// Serves a bare fan-out, to be measured for comparison.
    ServeBare {
        /// Where.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: String,
    },
}

/// Whom to measure.
#[derive(Args)]
struct To {
    /// The server, as ws://HOST:PORT/PATH.
    #[arg(long)]
    url: String,
    /// What to speak.
    #[arg(long, value_enum, default_value = "v1")]
    dialect: Dialect,
    #[command(flatten)]
    out: Out,
}

/// Whom to watch, and where to report.
#[derive(Args)]
struct Out {
    /// A process under test, as NAME=PID; its CPU time and memory are reported. Repeatable.
    #[arg(long)]
    pid: Vec<Named>,
    /// Writes the report there, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Begins the names of partitions and events; random unless given.
    #[arg(long)]
    run: Option<String>,
}

/// The numbers of a load; each scenario has its own defaults.
#[derive(Args)]
struct Steady {
    #[command(flatten)]
    to: To,
    #[arg(long)]
    partitions: Option<usize>,
    /// How many of the partitions are written to; all unless given.
    #[arg(long)]
    active: Option<usize>,
    /// Writers a partition.
    #[arg(long)]
    writers: Option<u32>,
    /// Readers a partition.
    #[arg(long)]
    readers: Option<u32>,
    /// Requests of each writer under way at once.
    #[arg(long)]
    in_flight: Option<usize>,
    /// Events a request.
    #[arg(long)]
    batch: Option<u32>,
    /// After every request send one with an event that the server must refuse.
    #[arg(long)]
    refuse_half: bool,
    /// Bytes an event.
    #[arg(long, default_value_t = 200)]
    bytes: usize,
    /// Events a second, sent whether answers come or not; times then count from when each was to be sent.
    #[arg(long)]
    rate: Option<f64>,
    /// Newcomers a second.
    #[arg(long)]
    newcomers: Option<f64>,
    /// Seconds before measuring.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Seconds of measuring.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Ends when so many events are answered.
    #[arg(long)]
    events: Option<u64>,
    /// Points of the course that `growing` tells.
    #[arg(long, default_value_t = 10)]
    points: u64,
    /// Seconds to wait at the end for what is under way.
    #[arg(long, default_value_t = 30.0)]
    drain: f64,
    /// Does not read and compare the log at the end.
    #[arg(long)]
    no_audit: bool,
}

#[derive(Args)]
struct Replay {
    #[command(flatten)]
    to: To,
    /// Events in the partition.
    #[arg(long, default_value_t = 100_000)]
    events: u32,
    #[arg(long, default_value_t = 4)]
    readers: usize,
    #[arg(long, default_value_t = 200)]
    bytes: usize,
    /// Events a request while the log is filled.
    #[arg(long, default_value_t = 100)]
    batch: u32,
    /// How often to connect anew afterwards.
    #[arg(long, default_value_t = 20)]
    connects: usize,
}

#[derive(Args)]
struct Idle {
    #[command(flatten)]
    to: To,
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    #[arg(long, default_value_t = 100)]
    partitions: usize,
    /// Seconds; half before memory is looked at, half to count CPU time.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
}

#[derive(Args)]
struct Storm {
    #[command(flatten)]
    to: To,
    #[arg(long, default_value_t = 2000)]
    clients: usize,
    #[arg(long, default_value_t = 20)]
    partitions: usize,
    /// Events that each has missed.
    #[arg(long, default_value_t = 100)]
    behind: u32,
    #[arg(long, default_value_t = 200)]
    bytes: usize,
    /// Events a request while the logs are filled.
    #[arg(long, default_value_t = 10)]
    batch: u32,
}

#[derive(Args)]
struct Jetstream {
    /// The NATS server.
    #[arg(long)]
    nats: String,
    #[arg(long, default_value_t = 64)]
    partitions: usize,
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    #[arg(long, default_value_t = 300)]
    bytes: usize,
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[command(flatten)]
    out: Out,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.context("the runtime").and_then(|runtime| {
        files_max()?;
        tokio::task::LocalSet::new().block_on(&runtime, run(cli.scenario))
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Every connection is an open file.
fn files_max() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit on open files")
}

async fn run(scenario: Scenario) -> Result<bool> {
    let (name, out, report) = match scenario {
        Scenario::Commit(args) => steady("commit", args, Defaults::default()).await?,
        Scenario::Hot(args) => {
            let defaults = Defaults { partitions: 1, writers: 16, in_flight: 4, ..Defaults::default() };
            steady("hot", args, defaults).await?
        }
        Scenario::FanOut(args) => {
            let defaults = Defaults {
                partitions: 1,
                readers: 200,
                in_flight: 16,
                until_seen: true,
                ..Defaults::default()
            };
            steady("fan-out", args, defaults).await?
        }
        Scenario::Mixed(args) => {
            let defaults = Defaults {
                writers: 2,
                readers: 4,
                rate: Some(1000.0),
                newcomers: 5.0,
                ..Defaults::default()
            };
            steady("mixed", args, defaults).await?
        }
        Scenario::Many(args) => {
            let defaults = Defaults { partitions: 10_000, active: Some(100), ..Defaults::default() };
            steady("many", args, defaults).await?
        }
        Scenario::Growing(args) => {
            let defaults = Defaults { events: Some(1_000_000), seconds: Some(3600.0), ..Defaults::default() };
            steady("growing", args, defaults).await?
        }
        Scenario::Replay(args) => {
            let Replay { to, events, readers, bytes, batch, connects } = args;
            let plan = history::ReplayPlan { events, readers, bytes, batch, connects };
            let report = history::replay(to.target()?, to.out.run(), plan, &to.out.pid).await?;
            ("replay", to.out, report)
        }
        Scenario::Idle(args) => {
            let plan = idle::Plan {
                connections: args.connections,
                partitions: args.partitions,
                seconds: args.seconds,
            };
            let report = idle::run(args.to.target()?, args.to.out.run(), plan, &args.to.out.pid).await?;
            ("idle", args.to.out, report)
        }
        Scenario::Storm(args) => {
            let Storm { to, clients, partitions, behind, bytes, batch } = args;
            let plan = history::StormPlan { clients, partitions, behind, bytes, batch };
            let report = history::storm(to.target()?, to.out.run(), plan, &to.out.pid).await?;
            ("storm", to.out, report)
        }
        Scenario::Jetstream(args) => {
            let Jetstream { nats, partitions, in_flight, bytes, warmup, seconds, out } = args;
            let plan = jetstream::Plan { partitions, in_flight, bytes, warmup_s: warmup, seconds };
            let target = Target { address: Address::parse("ws://none:0/")?, dialect: Dialect::V1 };
            let report = jetstream::run(&nats, Stage::new(target, out.run()), plan, &out.pid).await?;
            ("jetstream", out, report)
        }
        Scenario::ServeBare { listen } => return bare::serve(&listen).await.map(|()| true),
    };
    let mut report = report;
    name.clone_into(&mut report.scenario);
    report.ok = report.findings.none();
    print!("{}", report.table());
    if let Some(path) = &out.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(report.ok)
}

/// What a scenario is, where the command line does not say otherwise.
struct Defaults {
    partitions: usize,
    active: Option<usize>,
    writers: u32,
    readers: u32,
    in_flight: usize,
    until_seen: bool,
    rate: Option<f64>,
    newcomers: f64,
    events: Option<u64>,
    seconds: Option<f64>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            partitions: 64,
            active: None,
            writers: 1,
            readers: 0,
            in_flight: 8,
            until_seen: false,
            rate: None,
            newcomers: 0.0,
            events: None,
            seconds: None,
        }
    }
}

async fn steady(name: &'static str, args: Steady, defaults: Defaults) -> Result<(&'static str, Out, Report)> {
    let partitions = args.partitions.unwrap_or(defaults.partitions);
    let plan = steady::Plan {
        partitions,
        active: args.active.or(defaults.active).unwrap_or(partitions).min(partitions),
        writers: args.writers.unwrap_or(defaults.writers),
        readers: args.readers.unwrap_or(defaults.readers),
        in_flight: args.in_flight.unwrap_or(defaults.in_flight),
        until_seen: defaults.until_seen,
        batch: args.batch.unwrap_or(1),
        refuse_half: args.refuse_half,
        bytes: args.bytes,
        rate: args.rate.or(defaults.rate),
        newcomers_per_s: args.newcomers.unwrap_or(defaults.newcomers),
        warmup_s: args.warmup,
        seconds: defaults.seconds.unwrap_or(args.seconds),
        until_events: args.events.or(defaults.events),
        points: args.points,
        drain_s: args.drain,
        audit: !args.no_audit,
    };
    let report = steady::run(args.to.target()?, args.to.out.run(), plan, &args.to.out.pid).await?;
    Ok((name, args.to.out, report))
}

impl To {
    fn target(&self) -> Result<Target> {
        Ok(Target { address: Address::parse(&self.url)?, dialect: self.dialect })
    }
}

impl Out {
    fn run(&self) -> String {
        self.run.clone().unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            let nanos = now.map_or(0, |now| now.as_nanos() as u64);
            format!("r{:x}", nanos ^ u64::from(std::process::id()) << 40)
        })
    }
}
