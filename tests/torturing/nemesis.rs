//! The nemesis: for every process a tormentor of its own, which by seed kills it, puts it to sleep, cuts it
//! off, makes its link slow or deaf, and lets it recover, all at the same time as the others do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::proxy::Link;
use super::world::{Counters, Managed, count};
use crate::harness::nats::NatsServer;
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
                victim.proxy.set(Link::Cut);
                count(&counters.cuts);
                wait(100 + rng.below(4_000), &stop).await;
            }
            80..90 => {
                victim.proxy.set(*rng.pick(&[Link::Silent, Link::Deaf, Link::Mute]));
                count(&counters.half_open);
                wait(200 + rng.below(6_000), &stop).await;
                if rng.one_in(2) {
                    // What was under way is lost, or arrives late.
                    victim.proxy.set(Link::Cut);
                    wait(50, &stop).await;
                }
            }
            90..96 => {
                victim.proxy.set(Link::Slow(Duration::from_millis(1 + rng.below(80) as u64)));
                count(&counters.slow);
                wait(500 + rng.below(4_000), &stop).await;
            }
            _ => {
                victim.stop().await;
                count(&counters.rolling);
                victim.start();
            }
        }
        victim.proxy.set(Link::Whole);
    }
    if let Some(said) = victim.ended_by_itself() {
        findings.push(said);
    }
    (victim, findings)
}

/// Torments NATS.
pub async fn torment_nats(
    mut nats: NatsServer,
    seed: u64,
    rage: Rage,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> NatsServer {
    let mut rng = Rng::new(seed);
    while pause(&mut rng, rage.nats_pause, &stop).await {
        if rng.one_in(3) {
            nats.process().pause();
            count(&counters.pauses);
            wait(200 + rng.below(2_500), &stop).await;
            nats.process().resume();
        } else {
            nats.kill9();
            count(&counters.nats_kills);
            let away = if rng.one_in(4) { rng.below(4_000) } else { rng.below(300) };
            wait(away, &stop).await;
            nats.restart().await;
        }
    }
    nats
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
