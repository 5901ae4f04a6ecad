//! The nemesis: for every process a tormentor of its own, which by seed kills it, puts it to sleep, cuts it
//! off, makes its link slow or deaf, and lets it recover, all at the same time as the others do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::engine::{Engine, Kind};
use super::world::{Counters, Managed, count};
use crate::harness::proxy::Link;
use crate::harness::rng::Rng;

/// How hard it is.
#[derive(Debug, Clone, Copy)]
pub struct Rage {
    /// The mean pause between two faults of one process.
    pub pause: Duration,
    /// The same for NATS, which everybody feels.
    pub nats_pause: Duration,
}

/// Torments one process until told to stop; gives it back as it is then, with what it did by itself.
pub async fn torment(
    mut victim: Managed,
    seed: u64,
    rage: Rage,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> (Managed, Vec<String>) {
    let mut rng = Rng::new(seed);
    let mut findings = Vec::new();
    while pause(&mut rng, rage.pause, &stop).await {
        if let Some(said) = victim.ended_by_itself() {
            findings.push(said);
            victim.start();
            continue;
        }
        match rng.below(100) {
            0..45 => {
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

/// Torments NATS. An `Err` says what the machine could not do.
pub async fn torment_nats(
    nats: &mut Engine,
    seed: u64,
    rage: Rage,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> Result<(), String> {
    let mut rng = Rng::new(seed);
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
                wait(500 + rng.below(8_000), &stop).await;
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
