//! Torture: real processes, real clients, a nemesis, and a judge that knows nothing of how the product works.
//!
//! `tests/torture --help` says how to run it; docs/RELIABILITY.md what it has shown.

// A test stops at the first surprise, and sends signals to processes.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

#[path = "../harness/mod.rs"]
mod harness;

mod alarm;
mod client;
mod engine;
mod faults;
mod history;
mod judge;
mod link;
mod log;
mod long;
mod mutations;
mod nemesis;
mod origins;
mod rolling;
mod round;
mod rules;
mod schemas;
mod series;
mod totals;
mod wire;
mod workload;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;

use engine::Kind;
use harness::rng::Rng;
use nemesis::Rage;
use round::Outcome;
use totals::Totals;
use world::{Counters, Plan, World};

/// Kills, pauses and cuts off real processes under the load of real clients, then heals everything and judges
/// the log and all that the clients were told. Exits with 1 on a finding.
#[derive(Debug, Parser)]
#[command(name = "tests/torture")]
struct Arguments {
    /// What happens follows from this; when it happens does not. A random one is chosen and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How long to rage; healing and judging come on top.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// How long until everything is healed and judged, and a new round begins.
    #[arg(long, default_value_t = 20.0)]
    round_seconds: f64,
    /// Three NATS servers and three replicas instead of one.
    #[arg(long)]
    cluster: bool,
    /// The NATS server's store is on a small disk, which is filled now and then. Takes root.
    #[arg(long)]
    disk_full: bool,
    /// Does nothing but restart all frontends and validators in good order, one after the other; then clients
    /// must notice no more than that they are sent off.
    #[arg(long, conflicts_with_all = ["disk_full", "mutations"])]
    rolling: bool,
    /// How many clients, half of each dialect.
    #[arg(long, default_value_t = 36)]
    clients: usize,
    /// How many partitions they share.
    #[arg(long, default_value_t = 6)]
    partitions: usize,
    /// The mean time between two things that a client does, in milliseconds.
    #[arg(long, default_value_t = 25)]
    pace_ms: u64,
    /// The mean time between two faults of a process, in milliseconds; 0 for none at all.
    #[arg(long, default_value_t = 2500)]
    fault_ms: u64,
    /// The mean time between two resets of a process's connections to NATS, in milliseconds; 0 for none at all.
    #[arg(long, default_value_t = 1000)]
    reset_ms: u64,
    /// With how many events the partition begins that lives through all rounds; 0 for no such partition.
    #[arg(long, default_value_t = 50_000)]
    long_events: usize,
    /// The most memory that the run's processes may hold, in MB: with more the round ends, and that is a finding.
    #[arg(long, default_value_t = 6_144)]
    memory_mb: u64,
    /// Where the files of NATS and the logs are put; in memory a run does more in its time.
    #[arg(long)]
    store_in: Option<PathBuf>,
    /// Runs one seed after the other for as long as --minutes says, with one NATS server and, at the same time, with
    /// three; prints the table of it all.
    #[arg(long, conflicts_with_all = ["cluster", "disk_full", "rolling", "mutations"])]
    long: bool,
    /// Breaks the product on purpose, in one way after the other, and expects a finding each time.
    #[arg(long)]
    mutations: bool,
    /// Only these mutations, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How long to look for a mutation before it counts as not found.
    #[arg(long, default_value_t = 3.0)]
    minutes_per_mutation: f64,
    /// Appends the run's figures, one JSON object a line.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/torture-totals.jsonl"))]
    totals: PathBuf,
    /// Runs nothing; prints the table of all runs whose figures are in the file.
    #[arg(long)]
    table: bool,
    /// cargo's test runner asks for tests; there are none.
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    ignored: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done =
        runtime.map_err(|error| error.to_string()).and_then(|runtime| runtime.block_on(run(arguments)));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("torture could not go on: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: Arguments) -> Result<bool, String> {
    if arguments.table {
        print!("{}", totals::table(&arguments.totals)?);
        return Ok(true);
    }
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    if arguments.long {
        return series::run(&arguments, seed).await;
    }
    alarm::watch_memory(arguments.memory_mb << 20);
    if let Some(folder) = &arguments.store_in {
        harness::FOLDER.get_or_init(|| folder.clone());
    }
    if arguments.mutations {
        return mutations::run(&arguments, seed).await;
    }
    println!(
        "seed {seed}: {} minutes, {} clients on {} partitions",
        arguments.minutes, arguments.clients, arguments.partitions
    );
    let engine = match (arguments.cluster, arguments.disk_full) {
        (false, false) => Kind::Single,
        (false, true) => Kind::SmallDisk,
        (true, false) => Kind::Cluster,
        (true, true) => return Err("--disk-full is for one NATS server, without --cluster".to_owned()),
    };
    let mut plan = Plan::of(seed, engine);
    plan.slot_fight &= !arguments.rolling;
    println!(
        "{} frontends, {} validators, {}{}{}{}",
        plan.frontends,
        plan.validators,
        plan.settings.join(" "),
        if plan.slot_fight { ", slots are fought over" } else { "" },
        if plan.schemas_differ { ", schemas differ" } else { "" },
        if plan.clocks_off { ", clocks are off" } else { "" },
    );
    let (mut totals, findings) = torture(&arguments, seed, plan, arguments.minutes, true).await?;
    if arguments.cluster {
        totals.with_three();
    }
    totals.append(&arguments.totals)?;
    println!("{totals}");
    let mut shortfalls = totals.shortfalls(totals::FLOORS, arguments.minutes);
    if !arguments.rolling && (1..=2500).contains(&arguments.fault_ms) && arguments.reset_ms > 0 {
        shortfalls.extend(totals.shortfalls(totals::FLOORS_WITH_FAULTS, arguments.minutes));
    }
    shortfalls.iter().for_each(|what| println!("TOO LITTLE HAPPENED: {what}"));
    Ok(findings.is_empty() && shortfalls.is_empty())
}

const NEVER: Duration = Duration::from_secs(3600);
/// With how many events the long partition begins where the product is broken on purpose.
const LONG_WITH_MUTATIONS: usize = 4_000;
/// How long a product that is broken on purpose may take to quiesce.
const PATIENCE_WITH_MUTATIONS: Duration = Duration::from_secs(20);

/// Rages for so many minutes, or until something is found; gives what was found.
async fn torture(
    arguments: &Arguments,
    seed: u64,
    plan: Plan,
    minutes: f64,
    report: bool,
) -> Result<(Totals, Vec<String>), String> {
    let counters = Arc::new(Counters::default());
    let mut totals = Totals::new(seed);
    let (schemas_differ, clocks_off) = (plan.schemas_differ, plan.clocks_off);
    let long_events =
        if report { arguments.long_events } else { arguments.long_events.min(LONG_WITH_MUTATIONS) };
    let (mut world, mut after) = World::start(plan, long_events).await?;
    let baseline = round::baseline(&world);
    let mut rng = Rng::new(seed);
    let began = Instant::now();
    let rounds = (minutes * 60.0 / arguments.round_seconds).ceil().max(1.0) as u64;
    let mut found = Vec::new();
    for number in 0..rounds {
        let fault = Duration::from_millis(arguments.fault_ms);
        let reset = Duration::from_millis(arguments.reset_ms);
        let plan = round::Plan {
            number,
            seed: rng.next(),
            length: Duration::from_secs_f64(arguments.round_seconds.min(minutes * 60.0)),
            partitions: arguments.partitions,
            clients: arguments.clients,
            pace: Duration::from_millis(arguments.pace_ms),
            rolling: arguments.rolling,
            patience: if report { round::PATIENCE } else { PATIENCE_WITH_MUTATIONS },
            rage: Rage {
                pause: if fault.is_zero() { NEVER } else { fault },
                nats_pause: if fault.is_zero() { NEVER } else { fault * 3 },
                reset_pause: if reset.is_zero() { NEVER } else { reset },
                schemas_differ,
                clocks_off,
            },
        };
        let outcome = round::play(&mut world, &plan, &counters, &baseline, &mut after).await?;
        totals.add(&outcome);
        if report {
            let verdict = &outcome.verdict;
            println!(
                "round {number}: {} operations, {} accepted, {} rejected, {} events, {} broadcasts, {} pages, {} late copies, {} violations",
                outcome.operations,
                verdict.accepted,
                verdict.rejected,
                verdict.events,
                verdict.broadcasts,
                verdict.pages,
                verdict.late_copies,
                verdict.violations.len(),
            );
            if let Some(noticed) = &outcome.noticed {
                let restarts = counters.rolling.load(std::sync::atomic::Ordering::Relaxed);
                println!("round {number}: {restarts} processes restarted so far; {noticed}");
            }
        }
        if !outcome.verdict.violations.is_empty() {
            found = outcome
                .verdict
                .violations
                .iter()
                .map(|found| format!("{:?}: {}", found.rule, found.what))
                .collect();
            if report {
                keep(seed, number, &mut world, &outcome)
                    .map_err(|error| format!("keeping what was found: {error}"))?;
            }
            break;
        }
    }
    if found.is_empty()
        && report
        && let Some(left) = round::readers_left(&world).await?
    {
        println!("FOUND Quiet: {left}");
        found.push(left);
        totals.found(1);
    }
    totals.close(&counters, began.elapsed());
    Ok((totals, found))
}

/// The most findings of a round that are told in full.
const FINDINGS_MAX: usize = 10;

/// Prints what was found, and keeps the logs of all processes.
fn keep(seed: u64, number: u64, world: &mut World, outcome: &Outcome) -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("torture-{seed}-round-{number}"));
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder)?;
    for entry in std::fs::read_dir(world.dir.path())? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
    }
    for (index, server) in world.nats.iter_mut().flat_map(|nats| nats.servers.iter_mut().enumerate()) {
        std::fs::write(folder.join(format!("nats-{index}.log")), server.process().output())?;
    }
    std::fs::write(folder.join("findings.txt"), outcome.accounts.join("\n"))?;
    for (violation, account) in outcome.verdict.violations.iter().zip(&outcome.accounts).take(FINDINGS_MAX) {
        println!("FOUND {:?}: {}\n{account}", violation.rule, violation.what);
    }
    println!(
        "seed {seed}, round {number}: {} findings; logs and histories in {}",
        outcome.verdict.violations.len(),
        folder.display()
    );
    Ok(())
}
