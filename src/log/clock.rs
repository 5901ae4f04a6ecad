//! What time it is by NATS's clock.
//!
//! Events carry the time at which they were committed, and a process's own clock may be off by a year. So a process
//! asks NATS for the time, at its start and whenever it looks at the log, and goes on from there by a clock that only
//! counts. The time that it takes is never after NATS's, and before it by at most the time that one answer took.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::metrics;
use crate::util::time;

/// How far a process's own clock may be off before it says so.
const OFF_MAX_MS: i64 = 2_000;
/// An answer that took longer says too little about the time, and counts only while there is no other.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);

/// NATS's time, as last asked for.
#[derive(Debug)]
pub(crate) struct NatsClock {
    origin: Instant,
    /// NATS's Unix time at the origin, in milliseconds, or a little less; 0 until it was asked for.
    at_origin_ms: AtomicI64,
    /// Whether this process's own clock was found to be off.
    is_off: AtomicBool,
}

impl Default for NatsClock {
    fn default() -> Self {
        Self { origin: Instant::now(), at_origin_ms: AtomicI64::new(0), is_off: AtomicBool::new(false) }
    }
}

impl NatsClock {
    pub(crate) fn now_ms(&self) -> u64 {
        match self.at_origin_ms.load(Ordering::Relaxed) {
            0 => time::now_ms(),
            at_origin_ms => u64::try_from(at_origin_ms + self.elapsed_ms()).unwrap_or_default(),
        }
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Takes an answer that came now: NATS's time was `nats_ms` when it was sent, at most `round_trip` ago.
    pub(crate) fn answered(&self, nats_ms: i64, round_trip: Duration) {
        let before = self.at_origin_ms.load(Ordering::Relaxed);
        if before != 0 && round_trip > ROUND_TRIP_MAX {
            return;
        }
        let round_trip_ms = i64::try_from(round_trip.as_millis()).unwrap_or(i64::MAX);
        let at_origin_ms = nats_ms - self.elapsed_ms();
        // An earlier answer may have come quicker, and said more.
        if !(at_origin_ms..=at_origin_ms.saturating_add(round_trip_ms)).contains(&before) {
            self.at_origin_ms.store(at_origin_ms, Ordering::Relaxed);
        }
        self.compare(i64::try_from(time::now_ms()).unwrap_or(i64::MAX), nats_ms, round_trip_ms);
    }

    /// Says when this process's own clock is off, and when it no longer is.
    fn compare(&self, own_ms: i64, nats_ms: i64, round_trip_ms: i64) {
        let ahead_ms = own_ms.saturating_sub(nats_ms);
        metrics::clock_offset((ahead_ms - round_trip_ms / 2) as f64 / 1_000.0);
        let is_off = ahead_ms < -OFF_MAX_MS || ahead_ms - round_trip_ms > OFF_MAX_MS;
        let was_off = self.is_off.swap(is_off, Ordering::Relaxed);
        let seconds = ahead_ms.unsigned_abs() as f64 / 1_000.0;
        let side = if ahead_ms < 0 { "slow" } else { "fast" };
        match (was_off, is_off) {
            (false, true) => warn!(
                "this process's clock is {seconds} s {side} by the clock of NATS: set it right, or that of NATS. Events \
                 are given NATS's time; tokens expire by this clock"
            ),
            (true, false) => info!("this process's clock is right again"),
            (true, true) | (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(2);

    fn read(clock: &NatsClock) -> i64 {
        clock.at_origin_ms.load(Ordering::Relaxed) + clock.elapsed_ms()
    }

    #[test]
    fn the_time_is_what_nats_said_and_no_later() {
        let clock = NatsClock::default();
        clock.answered(1_000_000, QUICK);
        assert!((1_000_000..1_060_000).contains(&clock.now_ms()));
    }

    #[test]
    fn a_slow_answer_counts_only_while_there_is_no_other() {
        let clock = NatsClock::default();
        clock.answered(5_000_000, Duration::from_secs(3));
        assert!(read(&clock) >= 5_000_000);
        clock.answered(9_000_000, QUICK);
        clock.answered(5_000_000, Duration::from_secs(3));
        assert!(read(&clock) >= 9_000_000);
    }

    #[test]
    fn an_answer_that_came_quicker_is_kept_and_a_clock_that_was_set_back_is_followed() {
        let clock = NatsClock::default();
        clock.answered(9_000_000, QUICK);
        let quick = clock.at_origin_ms.load(Ordering::Relaxed);
        // It says that NATS's time is between so much and 400 ms more.
        clock.answered(8_999_700, Duration::from_millis(400));
        assert_eq!(clock.at_origin_ms.load(Ordering::Relaxed), quick);
        clock.answered(1_000_000, QUICK);
        assert!(read(&clock) < 2_000_000);
    }

    #[test]
    fn a_clock_is_off_only_beyond_what_the_round_trip_explains() {
        let clock = NatsClock::default();
        let is_off = |own_ms, nats_ms, round_trip_ms| {
            clock.compare(own_ms, nats_ms, round_trip_ms);
            clock.is_off.load(Ordering::Relaxed)
        };
        assert!(!is_off(10_000, 10_000, 0));
        assert!(!is_off(12_000, 10_000, 0) && is_off(12_001, 10_000, 0));
        assert!(!is_off(12_400, 10_000, 400), "it may be the answer that was slow");
        assert!(!is_off(8_000, 10_000, 400) && is_off(7_999, 10_000, 400));
    }
}
