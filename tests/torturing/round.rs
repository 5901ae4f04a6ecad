//! One round: clients work on partitions of their own while the nemesis rages, then all is healed, has to
//! quiesce, and is judged.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::alarm::{self, Alarm};
use super::client::{self, Phase, Spec};
use super::history::{Accounts, Dialect, History, Manner};
use super::judge::{self, Case, Rule, Verdict, Violation};
use super::link::Trunk;
use super::log::{self, Truth};
use super::long;
use super::nemesis::{self, Orders, Rage};
use super::rolling::{self, Noticed};
use super::world::{Counters, Role, World};
use crate::harness::rng::Rng;
use crate::harness::socket::now_ms;

/// How long everything may take to be answered once all is healed; and then to be quiet, everybody to catch up,
/// and resources to return.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How many files, and how many threads, a process may have more than it had when it was new.
const FILES_SLACK: usize = 8;
const THREADS_SLACK: usize = 8;

/// What is asked of a round.
#[derive(Debug, Clone)]
pub struct Plan {
    pub number: u64,
    pub seed: u64,
    pub length: Duration,
    pub partitions: usize,
    pub clients: usize,
    pub pace: Duration,
    pub rage: Rage,
    /// Instead of raging, only restarts one process after the other.
    pub rolling: bool,
    /// See [`PATIENCE`].
    pub patience: Duration,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    pub verdict: Verdict,
    pub operations: u64,
    /// Connections after a client's first.
    pub reconnects: u64,
    /// Answers to the one `sync` of clients that do not page.
    pub literal_syncs: u64,
    /// Partitions subscribed to on connections that clients share.
    pub subscriptions: u64,
    /// For each violation, its shortest history.
    pub accounts: Vec<String>,
    /// Of a rolling restart.
    pub noticed: Option<Noticed>,
}

/// The clients of the long partition: how each speaks and asks, and whether it sends drafts of long ago again. The two
/// that do have one client id.
const OF_THE_LONG: [(Dialect, Manner, bool); 9] = [
    (Dialect::V1, Manner::Pages, true),
    (Dialect::V1, Manner::Pages, true),
    (Dialect::Classic, Manner::Pages, false),
    (Dialect::Classic, Manner::Pages, false),
    (Dialect::V1, Manner::Reads, false),
    (Dialect::Classic, Manner::Reads, false),
    (Dialect::Classic, Manner::Reads, false),
    (Dialect::Classic, Manner::Literal, false),
    (Dialect::Classic, Manner::Literal, false),
];

/// Connections that clients of all partitions share, each client for a partition of its own.
const TRUNKS: usize = 2;

/// Files and threads of a process that has nothing to do, by role.
pub type Baseline = HashMap<Role, (usize, usize)>;

/// Measures the baseline of a fresh world.
pub fn baseline(world: &World) -> Baseline {
    let mut baseline = Baseline::new();
    for process in &world.processes {
        let (files, threads) = process.resources();
        let most = baseline.entry(process.role).or_insert((0, 0));
        *most = (most.0.max(files), most.1.max(threads));
    }
    baseline
}

/// Plays a round. `after` is the last event of the rounds before, and is moved on.
pub async fn play(
    world: &mut World,
    plan: &Plan,
    counters: &Arc<Counters>,
    baseline: &Baseline,
    after: &mut u64,
) -> Result<Outcome, String> {
    let mut findings: Vec<Violation> = Vec::new();
    let mut quiet = |what: String| findings.push(Violation::new(Rule::Quiet, what));
    let mut names: Vec<String> = (0..plan.partitions).map(|n| format!("r{}-p{n}", plan.number)).collect();
    names.push(long::NAME.to_owned());
    let accounts: Vec<Arc<Accounts>> = names.iter().map(|_| Arc::default()).collect();
    let (phase, phases) = watch::channel(Phase::Work);
    let settled = Arc::new(AtomicUsize::new(0));
    let mut rng = Rng::new(plan.seed);
    let mut players = JoinSet::new();
    let trunk = |n| {
        let client_id = format!("r{}t{n}", plan.number);
        (client_id.clone(), Arc::new(Trunk::new(client_id)))
    };
    let trunks: Vec<(String, Arc<Trunk>)> = (0..TRUNKS).map(trunk).collect();
    let own = plan.clients - (TRUNKS * plan.partitions).min(plan.clients / 3);
    for n in 0..own {
        let at = n % plan.partitions;
        let dialect = if rng.one_in(2) { Dialect::V1 } else { Dialect::Classic };
        let literal = dialect == Dialect::Classic && rng.one_in(4);
        let client = format!("r{}c{n}", plan.number);
        let spec = Spec {
            client_id: client.clone(),
            client,
            dialect,
            manner: if literal { Manner::Literal } else { Manner::Pages },
            partition: names[at].clone(),
            trunk: None,
            seed: rng.next(),
            position: 0,
            old: Arc::default(),
            page_max: 60,
            frontends: world.frontends(),
            pace: plan.pace,
            window: 1 + rng.below(12),
            accounts: accounts[at].clone(),
            settled: settled.clone(),
        };
        players.spawn(client::play(spec, phases.clone()));
    }
    for n in own..plan.clients {
        let (trunk, at) = (n % TRUNKS, (n - own) / TRUNKS % plan.partitions);
        let spec = Spec {
            client_id: trunks[trunk].0.clone(),
            client: format!("r{}c{n}", plan.number),
            dialect: Dialect::Classic,
            manner: Manner::Pages,
            partition: names[at].clone(),
            trunk: Some(trunks[trunk].1.clone()),
            seed: rng.next(),
            position: 0,
            old: Arc::default(),
            page_max: 60,
            frontends: world.frontends(),
            pace: plan.pace,
            window: 1 + rng.below(12),
            accounts: accounts[at].clone(),
            settled: settled.clone(),
        };
        players.spawn(client::play(spec, phases.clone()));
    }
    // The last client of a trunk ends its connection.
    drop(trunks);
    let clients = plan.clients + if world.long.judged > 0 { OF_THE_LONG.len() } else { 0 };
    for (n, (dialect, manner, sends_old)) in OF_THE_LONG.iter().enumerate().take(clients - plan.clients) {
        let client = format!("r{}h{n}", plan.number);
        let spec = Spec {
            client_id: if *sends_old { long::CLIENT.to_owned() } else { client.clone() },
            client,
            dialect: *dialect,
            manner: *manner,
            partition: long::NAME.to_owned(),
            trunk: None,
            seed: rng.next(),
            position: world.long.judged.saturating_sub(rng.below(3_000) as u64).max(1),
            old: if *sends_old { world.long.old.clone() } else { Arc::default() },
            page_max: 1_000,
            frontends: world.frontends(),
            pace: plan.pace,
            window: 1 + rng.below(12),
            accounts: accounts[plan.partitions].clone(),
            settled: settled.clone(),
        };
        players.spawn(client::play(spec, phases.clone()));
    }

    if plan.rolling {
        roll(world, plan, counters).await.into_iter().for_each(&mut quiet);
    } else {
        rage(world, plan, counters, &mut rng, &mut quiet).await?;
    }
    if alarm::is_raised() {
        return end_early(players, &phase).await;
    }
    let written_until = now_ms();
    if let Err(why) = world.heal().await {
        quiet(why);
    }
    let truth = Truth::connect(&world.nats.as_ref().expect("NATS is back").url()).await?;

    phase.send_replace(Phase::Settle);
    let began = Instant::now();
    while settled.load(Ordering::Acquire) < clients && began.elapsed() < plan.patience && !alarm::is_raised()
    {
        sleep(Duration::from_millis(50)).await;
    }
    if alarm::is_raised() {
        return end_early(players, &phase).await;
    }
    let missing = clients - settled.load(Ordering::Acquire);
    if missing > 0 {
        quiet(format!(
            "{missing} clients have no answer to something {:?} after everything was healed",
            plan.patience
        ));
    } else if let Some(unrest) = unrest(&truth, plan.patience).await? {
        quiet(format!("{:?} after everything was answered {unrest}", plan.patience));
    }

    let (logs, _) = truth.events(*after).await?;
    let mut heads: HashMap<String, u64> =
        logs.iter().map(|(name, log)| (name.clone(), log::head(log))).collect();
    if world.long.judged > 0 {
        heads.entry(long::NAME.to_owned()).or_insert(world.long.judged);
    }
    phase.send_replace(Phase::CatchUp(Arc::new(heads.clone())));
    let mut histories: Vec<History> = Vec::new();
    let joining = async {
        while let Some(history) = players.join_next().await {
            histories.push(history.map_err(|error| format!("a client panicked: {error}"))?);
        }
        Ok::<(), String>(())
    };
    let joined = tokio::select! {
        joined = timeout(plan.patience, joining) => joined,
        () = alarm::raised() => return end_early(players, &phase).await,
    };
    if let Ok(joined) = joined {
        joined?;
    }
    phase.send_replace(Phase::GiveUp);
    while let Some(history) = players.join_next().await {
        histories.push(history.map_err(|error| format!("a client panicked: {error}"))?);
    }

    let noticed = plan.rolling.then(|| rolling::judge(&histories, written_until));
    let newcomers = newcomers(world, &names, plan.patience, &mut quiet).await;
    resources_returned(world, baseline, plan.patience, &mut quiet).await;
    world.alarms(counters).await?.into_iter().for_each(&mut quiet);
    let (mut logs, last) = truth.events(*after).await?;
    *after = last;
    let mut outcome = Outcome::default();
    for (name, accounts) in names.iter().zip(&accounts) {
        let (of_this, rest): (Vec<_>, Vec<_>) =
            histories.into_iter().partition(|history| history.partition == *name);
        histories = rest;
        let mut log = logs.remove(name).unwrap_or_default();
        let is_long = name == long::NAME;
        let before = if is_long { world.long.judged } else { 0 };
        if is_long {
            world.long.log.append(&mut log);
            log = std::mem::take(&mut world.long.log);
        }
        let case = Case {
            log: &log,
            before,
            histories: &of_this,
            accounts,
            newcomers: newcomers.get(name).map_or(&[], |newcomers| newcomers),
            head: heads.get(name).copied().unwrap_or(0),
        };
        judge_one(name, &case, &mut outcome);
        if is_long {
            world.long.judged = log.last_key_value().map_or(0, |(id, _)| *id);
            world.long.log = log;
        }
    }
    for (name, log) in logs {
        let what = format!("{} events are in the log of {name:?}, which nobody wrote to", log.len());
        findings.push(Violation::new(Rule::Rejected, what));
    }
    if let Some((noticed, violations)) = noticed {
        findings.extend(violations);
        outcome.noticed = Some(noticed);
    }
    outcome.accounts.extend(findings.iter().map(|_| String::new()));
    outcome.verdict.violations.append(&mut findings);
    Ok(outcome)
}

/// Ends a round in which an alarm was raised: that is the finding. There is no judging of what was going on.
async fn end_early(mut players: JoinSet<History>, phase: &watch::Sender<Phase>) -> Result<Outcome, String> {
    let mut outcome = Outcome::default();
    let Some(Alarm { rule, what, client, id }) = alarm::take() else { return Ok(outcome) };
    phase.send_replace(Phase::GiveUp);
    let mut account = String::new();
    let joining = async {
        while let Some(history) = players.join_next().await {
            let history = history.map_err(|error| format!("a client panicked: {error}"))?;
            outcome.operations += history.operations();
            if client.as_ref() == Some(&history.client) {
                history.cut_to(&[], id.as_slice(), true, &mut account);
            }
        }
        Ok::<(), String>(())
    };
    // Whoever does not end by then ends with the set.
    if let Ok(joined) = timeout(PATIENCE, joining).await {
        joined?;
    }
    outcome.accounts.push(account);
    outcome.verdict.violations.push(Violation::new(rule, what));
    Ok(outcome)
}

/// Restarts everything, one after the other, for as long as the round is to be.
async fn roll(world: &mut World, plan: &Plan, counters: &Counters) -> Vec<String> {
    let stop = CancellationToken::new();
    let time = async {
        length_of(plan).await;
        stop.cancel();
    };
    tokio::join!(rolling::restart_all(&mut world.processes, counters, &stop), time).0
}

/// Waits for as long as a round is to be, or until an alarm ends it.
async fn length_of(plan: &Plan) {
    tokio::select! {
        () = sleep(plan.length) => {}
        () = alarm::raised() => {}
    }
}

async fn rage(
    world: &mut World,
    plan: &Plan,
    counters: &Arc<Counters>,
    rng: &mut Rng,
    quiet: &mut impl FnMut(String),
) -> Result<(), String> {
    let stop = CancellationToken::new();
    let orders = Orders::new((0, None));
    let (mut tormentors, mut resetting) = (JoinSet::new(), JoinSet::new());
    for process in std::mem::take(&mut world.processes) {
        let (proxies, counters, mean) = (process.proxies(), counters.clone(), plan.rage.reset_pause);
        resetting.spawn(nemesis::reset(proxies, rng.next(), mean, counters.clone(), stop.clone()));
        let (seed, orders) = (rng.next(), orders.subscribe());
        tormentors.spawn(nemesis::torment(process, seed, plan.rage, counters, orders, stop.clone()));
    }
    let mut engine = world.nats.take().expect("NATS is back after every round");
    let nats =
        nemesis::torment_nats(&mut engine, rng.next(), plan.rage, counters.clone(), orders, stop.clone());
    let raging = async {
        length_of(plan).await;
        stop.cancel();
        let mut back = Vec::new();
        while let Some(tormented) = tormentors.join_next().await {
            back.push(tormented.expect("a tormentor does not panic"));
        }
        while resetting.join_next().await.is_some() {}
        back
    };
    let (tormented, back) = tokio::join!(nats, raging);
    for (process, said) in back {
        said.into_iter().for_each(&mut *quiet);
        world.processes.push(process);
    }
    world.processes.sort_by(|a, b| a.name.cmp(&b.name));
    world.nats = Some(engine);
    tormented
}

/// Waits until nothing is left in the queue; gives what still is.
async fn unrest(truth: &Truth, patience: Duration) -> Result<Option<String>, String> {
    let began = Instant::now();
    loop {
        let unrest = truth.unrest(super::world::SLOTS).await?;
        if unrest.is_none() || began.elapsed() > patience {
            return Ok(unrest);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until nobody reads the log through a consumer any more; those that killed processes left behind end
/// by themselves.
pub async fn readers_left(world: &World) -> Result<Option<String>, String> {
    let truth = Truth::connect(&world.nats.as_ref().expect("NATS is back").url()).await?;
    let began = Instant::now();
    loop {
        let readers = truth.readers().await?;
        if readers == 0 {
            return Ok(None);
        }
        if began.elapsed() > PATIENCE {
            return Ok(Some(format!(
                "{readers} consumers are left on the log {PATIENCE:?} after everybody left"
            )));
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// The state of every partition as every frontend gives it to somebody new.
async fn newcomers(
    world: &World,
    names: &[String],
    patience: Duration,
    quiet: &mut impl FnMut(String),
) -> HashMap<String, Vec<(u64, String)>> {
    let began = Instant::now();
    let mut newcomers: HashMap<String, Vec<(u64, String)>> = HashMap::new();
    for name in names {
        for port in world.frontends() {
            let mut said = client::newcomer(port, name).await;
            while said.is_err() && began.elapsed() < patience {
                sleep(Duration::from_millis(250)).await;
                said = client::newcomer(port, name).await;
            }
            match said {
                Ok(state) => newcomers.entry(name.clone()).or_default().push(state),
                Err(why) => quiet(format!("a newcomer to {name:?} is not let in: {why}")),
            }
        }
    }
    newcomers
}

/// Everybody has left: connections, feeds, files and threads go back to what they were.
async fn resources_returned(
    world: &World,
    baseline: &Baseline,
    patience: Duration,
    quiet: &mut impl FnMut(String),
) {
    let began = Instant::now();
    for process in &world.processes {
        loop {
            let mut much = Vec::new();
            if process.role == Role::Frontend {
                for gauge in ["insieme_connections", "insieme_feeds"] {
                    match process.metric(gauge).await {
                        Some(0.0) => {}
                        Some(left) => much.push(format!("{gauge} is {left}")),
                        None => much.push(format!("{gauge} is not told")),
                    }
                }
            }
            let (files, threads) = process.resources();
            let (files_before, threads_before) = baseline.get(&process.role).copied().unwrap_or_default();
            if files > files_before + FILES_SLACK {
                much.push(format!("{files} files are open, {files_before} were when it was new"));
            }
            if threads > threads_before + THREADS_SLACK {
                much.push(format!("it has {threads} threads, and had {threads_before} when it was new"));
            }
            if much.is_empty() {
                break;
            }
            if began.elapsed() > patience {
                quiet(format!("{}, with no client left: {}", process.name, much.join("; ")));
                break;
            }
            sleep(Duration::from_millis(250)).await;
        }
    }
}

fn judge_one(name: &str, case: &Case<'_>, outcome: &mut Outcome) {
    let histories = case.histories;
    let verdict = judge::judge(case);
    for violation in &verdict.violations {
        outcome.accounts.push(shortest(name, case, violation));
    }
    outcome.operations += histories.iter().map(History::operations).sum::<u64>();
    outcome.reconnects += histories.iter().map(History::reconnects).sum::<u64>();
    let literal = histories.iter().filter(|history| history.manner == Manner::Literal);
    outcome.literal_syncs += literal.map(History::pages).sum::<u64>();
    let shared = histories.iter().filter(|history| history.is_shared);
    outcome.subscriptions += shared.map(History::connected).sum::<u64>();
    let all = &mut outcome.verdict;
    all.events += verdict.events;
    all.accepted += verdict.accepted;
    all.rejected += verdict.rejected;
    all.late_copies += verdict.late_copies;
    all.broadcasts += verdict.broadcasts;
    all.pages += verdict.pages;
    all.not_stored += verdict.not_stored;
    all.violations.extend(verdict.violations);
}

/// What happened to the drafts and events of a violation, and no more.
fn shortest(name: &str, case: &Case<'_>, violation: &Violation) -> String {
    let mut out = format!("partition {name}: {:?}: {}\n", violation.rule, violation.what);
    // Connections and draft numbers are a client's own; what others saw of the events is of interest too.
    for (client, history) in case.histories.iter().enumerate() {
        let drafts = if violation.client == Some(client) { &violation.drafts[..] } else { &[] };
        history.cut_to(drafts, &violation.ids, violation.client == Some(client), &mut out);
    }
    for id in &violation.ids {
        let (before, after) = (case.log.range(..*id).rev().take(5), case.log.range(*id..).take(3));
        let mut around: Vec<_> = before.chain(after).collect();
        around.sort_by_key(|(id, _)| **id);
        out.push_str(&format!("the log around {id}:\n"));
        for (id, record) in around {
            out.push_str(&format!("  {id} {record}\n"));
        }
    }
    out
}
