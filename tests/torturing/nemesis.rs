//! The nemesis: for every process a tormentor of its own, which by seed kills it, puts it to sleep, cuts it
//! off, makes its link slow or deaf, and lets it recover, all at the same time as the others do.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::engine::{Engine, Kind};
use super::world::{Counters, Managed, Role, count};
use crate::harness::proxy::{Link, Proxy, Reset};
use crate::harness::rng::Rng;

/// How hard it is.
#[derive(Debug, Clone, Copy)]
pub struct Rage {
    /// The mean pause between two faults of one process.
    pub pause: Duration,
    /// The same for NATS, which everybody feels.
    pub nats_pause: Duration,
    /// The mean pause between two resets of a process's connections to NATS.
    pub reset_pause: Duration,
    pub schemas_differ: bool,
    pub clocks_off: bool,
}

/// Orders to all processes to go in good order and start again: how many there were, and to which processes the last
/// one was.
pub type Orders = watch::Sender<(u64, Option<Role>)>;

/// How far a clock may be off, in milliseconds: hardly, by more than an event's time may be, and by an hour.
const CLOCKS_OFF_MS: [i64; 6] = [-3_600_000, -90_000, -1_500, 1_500, 90_000, 3_600_000];

/// Torments one process until told to stop; gives it back as it is then, with what it did by itself.
pub async fn torment(
    mut victim: Managed,
    seed: u64,
    rage: Rage,
    counters: Arc<Counters>,
    mut orders: watch::Receiver<(u64, Option<Role>)>,
    stop: CancellationToken,
) -> (Managed, Vec<String>) {
    let mut rng = Rng::new(seed);
    let mut findings = Vec::new();
    loop {
        let ordered = tokio::select! {
            more = pause(&mut rng, rage.pause, &stop) => {
                if !more {
                    break;
                }
                false
            }
            Ok(()) = orders.changed() => orders.borrow_and_update().1.is_none_or(|role| role == victim.role),
        };
        if let Some(said) = victim.ended_by_itself() {
            findings.push(said);
            victim.start();
            continue;
        }
        if victim.role == Role::Validator && rage.schemas_differ && rng.one_in(4) {
            victim.replace_schemas(rng.one_in(2));
            count(&counters.reloads);
        }
        if rage.clocks_off {
            let off = rng.one_in(3);
            victim.set_clock(if off { *rng.pick(&CLOCKS_OFF_MS) } else { 0 });
            if off {
                count(&counters.clocks_off);
            }
        }
        match rng.below(100) {
            _ if ordered => {
                wait(rng.below(2_000), &stop).await;
                victim.read_counters(&counters).await;
                victim.stop().await;
                count(&counters.rolling);
                victim.start();
            }
            0..45 => {
                victim.read_counters(&counters).await;
                victim.kill();
                count(&counters.kills);
                // Sometimes others have time to take over, sometimes not.
                let away = if rng.one_in(3) { rng.below(5_000) } else { rng.below(300) };
                wait(away, &stop).await;
                victim.start();
            }
            45..65 => {
                victim.pause();
                count(&counters.pauses);
                // Long enough now and then for its ownership to end and its clients to leave.
                let asleep =
                    if rng.one_in(12) { 10_000 + rng.below(20_000) } else { 1_000 + rng.below(5_000) };
                wait(asleep, &stop).await;
                victim.resume();
            }
            65..80 => {
                victim.link(Link::Cut);
                count(&counters.cuts);
                wait(100 + rng.below(4_000), &stop).await;
            }
            80..90 => {
                victim.link(*rng.pick(&[Link::Silent, Link::Deaf, Link::Mute]));
                count(&counters.half_open);
                wait(200 + rng.below(6_000), &stop).await;
                if rng.one_in(2) {
                    // What was under way is lost, or arrives late.
                    victim.link(Link::Cut);
                    wait(50, &stop).await;
                }
            }
            90..96 => {
                victim.link(Link::Slow(Duration::from_millis(1 + rng.below(80) as u64)));
                count(&counters.slow);
                wait(500 + rng.below(4_000), &stop).await;
            }
            _ => {
                victim.read_counters(&counters).await;
                victim.stop().await;
                count(&counters.rolling);
                victim.start();
            }
        }
        victim.link(Link::Whole);
    }
    if let Some(said) = victim.ended_by_itself() {
        findings.push(said);
    }
    (victim, findings)
}

/// Resets a process's connections to NATS, most of them in the middle of an answer to a batched read, until told to
/// stop. New connections are taken at once.
pub async fn reset(
    proxies: Arc<Vec<Proxy>>,
    seed: u64,
    mean: Duration,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let mut rng = Rng::new(seed);
    let happened = || proxies.iter().map(Proxy::resets).sum::<u64>();
    // Where answers are small, a reset after a megabyte never happens: then the next one comes sooner.
    let mut largest = READ_BYTES_STEPS;
    while pause(&mut rng, mean, &stop).await {
        let bytes = (READ_BYTES_MIN << rng.below(largest)) as u64 + rng.below(READ_BYTES_MIN) as u64;
        let reset = match rng.below(8) {
            0 => Reset::AfterSaid(rng.below(20_000) as u64),
            1 => Reset::AfterTold(bytes),
            _ => Reset::InRead(bytes),
        };
        let before = happened();
        proxies.iter().for_each(|proxy| proxy.reset(reset));
        for _ in 0..RESET_LOOKS {
            if happened() > before || stop.is_cancelled() {
                break;
            }
            sleep(RESET_LOOK_PAUSE).await;
        }
        proxies.iter().for_each(Proxy::disarm);
        if happened() > before {
            count(&counters.resets);
            if matches!(reset, Reset::InRead(_)) {
                count(&counters.read_resets);
            }
            largest = READ_BYTES_STEPS;
        } else {
            largest = (largest / 2).max(1);
        }
    }
}

/// Resets come after 2 kB to 1.5 MB of what is read.
const READ_BYTES_MIN: usize = 2_000;
const READ_BYTES_STEPS: usize = 10;
/// How long a reset waits for so many bytes.
const RESET_LOOKS: u32 = 60;
const RESET_LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Torments NATS. An `Err` says what the machine could not do.
pub async fn torment_nats(
    nats: &mut Engine,
    seed: u64,
    rage: Rage,
    counters: Arc<Counters>,
    orders: Orders,
    stop: CancellationToken,
) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    // All processes, or the validators alone: slots change hands while NATS is not itself.
    let order = |rng: &mut Rng| {
        let whom = rng.one_in(2).then_some(Role::Validator);
        orders.send_modify(|order| *order = (order.0 + 1, whom));
        count(&counters.restarts_of_all);
    };
    while pause(&mut rng, rage.nats_pause, &stop).await {
        let one = rng.below(nats.servers.len());
        match (nats.kind(), rng.below(100)) {
            (Kind::SmallDisk, 0..40) => {
                nats.fill_disk()?;
                count(&counters.disks_full);
                wait(300 + rng.below(3_000), &stop).await;
                nats.empty_disk()?;
                // A server that could not write has given up JetStream.
                kill_nats(nats, one, &mut rng, &counters, &stop).await;
            }
            (Kind::Cluster, 0..30) => {
                // One is alone; or two do not hear each other, and the third hears both.
                let other = rng.one_in(2).then_some((one + 1) % nats.servers.len());
                let link = *rng.pick(&[Link::Cut, Link::Silent, Link::Slow(Duration::from_millis(100))]);
                nats.link(one, other, link);
                count(&counters.splits);
                // Half of the time for longer than an election takes, while slots change hands.
                if rng.one_in(2) {
                    wait(rng.below(3_000), &stop).await;
                    order(&mut rng);
                    wait(6_000 + rng.below(6_000), &stop).await;
                } else {
                    wait(500 + rng.below(5_000), &stop).await;
                }
                nats.link(one, other, Link::Whole);
            }
            (Kind::Cluster, 30..36) => {
                // All at once.
                for server in &mut nats.servers {
                    server.kill9();
                    count(&counters.nats_kills);
                }
                wait(rng.below(1_000), &stop).await;
                for server in &mut nats.servers {
                    server.restart().await;
                }
            }
            (Kind::Cluster, 36..46) => {
                // A rolling restart.
                for server in &mut nats.servers {
                    server.process().signal(libc::SIGTERM);
                    wait(1_500, &stop).await;
                    server.restart().await;
                    wait(2_000, &stop).await;
                }
                count(&counters.rolling);
            }
            (kind, _) if rng.one_in(if kind == Kind::Cluster { 4 } else { 10 }) => {
                let server = &mut nats.servers[one];
                server.process().pause();
                count(&counters.pauses);
                count(&counters.long_pauses);
                wait(rng.below(1_000), &stop).await;
                if !rng.one_in(3) {
                    order(&mut rng);
                }
                // Below the time of an election and above it.
                wait(2_000 + if rng.one_in(3) { rng.below(12_000) } else { rng.below(2_500) }, &stop).await;
                nats.servers[one].process().resume();
            }
            (_, 46..65) => {
                let server = &mut nats.servers[one];
                server.process().pause();
                count(&counters.pauses);
                wait(200 + rng.below(2_500), &stop).await;
                server.process().resume();
            }
            _ => kill_nats(nats, one, &mut rng, &counters, &stop).await,
        }
    }
    Ok(())
}

async fn kill_nats(
    nats: &mut Engine,
    one: usize,
    rng: &mut Rng,
    counters: &Counters,
    stop: &CancellationToken,
) {
    nats.servers[one].kill9();
    count(&counters.nats_kills);
    wait(if rng.one_in(4) { rng.below(4_000) } else { rng.below(300) }, stop).await;
    nats.servers[one].restart().await;
}

/// Waits about so long; false when it is time to stop.
async fn pause(rng: &mut Rng, mean: Duration, stop: &CancellationToken) -> bool {
    let pause = Duration::from_millis(rng.below(2 * mean.as_millis() as usize + 1) as u64);
    tokio::select! {
        biased;
        () = stop.cancelled() => false,
        () = sleep(pause) => true,
    }
}

async fn wait(ms: usize, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(Duration::from_millis(ms as u64)) => {}
    }
}
