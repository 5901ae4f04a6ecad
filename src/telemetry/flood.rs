//! How many lines of a kind are written in a second: what happens without end is told without filling the disk,
//! and how often it happened is told too.
//!
//! A kind is the place in the code that a line comes from, so there are only so many.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

/// The most lines of a kind in a second.
pub(crate) const LINES_PER_SECOND_MAX: u32 = 100;
/// The same of a level that an operator has asked for, for a while.
const ASKED_LINES_PER_SECOND_MAX: u32 = 1_000;
const SECOND: Duration = Duration::from_secs(1);

/// Counts lines by kind.
#[derive(Default)]
pub(crate) struct Flood(Mutex<HashMap<Identifier, Kind>>);

struct Kind {
    metadata: &'static Metadata<'static>,
    since: Instant,
    written: u32,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is written; so many of its kind before it were not.
    Write(u64),
    /// It is not; whether it is the first of its kind that is not.
    LeaveOut { is_first: bool },
}

impl Flood {
    /// Takes a line into account.
    pub(crate) fn judge(&self, metadata: &'static Metadata<'static>, now: Instant) -> Verdict {
        let max = match *metadata.level() {
            Level::DEBUG | Level::TRACE => ASKED_LINES_PER_SECOND_MAX,
            _ => LINES_PER_SECOND_MAX,
        };
        let mut kinds = self.lock();
        let kind = kinds.entry(metadata.callsite()).or_insert(Kind {
            metadata,
            since: now,
            written: 0,
            left_out: 0,
        });
        if now.duration_since(kind.since) >= SECOND {
            (kind.since, kind.written) = (now, 0);
        }
        if kind.written >= max {
            kind.left_out += 1;
            return Verdict::LeaveOut { is_first: kind.left_out == 1 };
        }
        kind.written += 1;
        Verdict::Write(std::mem::take(&mut kind.left_out))
    }

    /// How many were left out of every kind of which a second went by without another line that tells it.
    pub(crate) fn untold(&self, now: Instant) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut kinds = self.lock();
        let over =
            kinds.values_mut().filter(|kind| now.duration_since(kind.since) >= SECOND && kind.left_out > 0);
        over.map(|kind| (kind.metadata, std::mem::take(&mut kind.left_out))).collect()
    }

    /// Whether there is something to be told later.
    pub(crate) fn owes(&self) -> bool {
        self.lock().values().any(|kind| kind.left_out > 0)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tracing::callsite::Callsite;

    use super::*;

    #[test]
    fn so_many_lines_of_a_kind_are_written_in_a_second_and_the_others_are_counted() {
        let kind = tracing::callsite! { name: "k", kind: tracing::metadata::Kind::EVENT, fields: message };
        let other = tracing::callsite! { name: "o", kind: tracing::metadata::Kind::EVENT, fields: message };
        let (flood, now) = (Flood::default(), Instant::now());
        for _ in 0..ASKED_LINES_PER_SECOND_MAX {
            assert_eq!(flood.judge(kind.metadata(), now), Verdict::Write(0));
        }
        for n in 0..7 {
            assert_eq!(flood.judge(kind.metadata(), now), Verdict::LeaveOut { is_first: n == 0 });
        }
        assert_eq!(flood.judge(other.metadata(), now), Verdict::Write(0));
        assert!(flood.owes() && flood.untold(now).is_empty());
        assert_eq!(flood.judge(kind.metadata(), now + SECOND), Verdict::Write(7));
        assert!(!flood.owes());
        for _ in 0..ASKED_LINES_PER_SECOND_MAX {
            flood.judge(kind.metadata(), now + SECOND);
        }
        let untold = flood.untold(now + 2 * SECOND);
        assert_eq!((untold.len(), untold[0].1, untold[0].0.name()), (1, 1, "k"));
        assert!(flood.untold(now + 2 * SECOND).is_empty());
    }
}
