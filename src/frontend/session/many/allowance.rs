//! How often a connection may subscribe: each subscription may start a feed, which lasts for a while, and may open a
//! partition.

use std::time::{Duration, Instant};

use crate::protocol::PARTITIONS_MAX;

/// How many subscriptions may come at once: all that a connection may have, and all of them again.
const AT_ONCE: u32 = 2 * PARTITIONS_MAX as u32;
/// How long one takes to be earned again.
const EACH: Duration = Duration::from_millis(200);

/// The allowance of one connection.
pub(super) struct Allowance {
    /// When all of it is there again.
    whole_at: Instant,
}

impl Allowance {
    /// The allowance of a connection that begins with so many subscriptions.
    pub(super) fn less(subscriptions: usize, now: Instant) -> Self {
        Self { whole_at: now + EACH * subscriptions.min(PARTITIONS_MAX) as u32 }
    }

    /// Takes one, or says how long to wait for it.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let whole_at = self.whole_at.max(now) + EACH;
        let wait = whole_at.saturating_duration_since(now + EACH * AT_ONCE);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.whole_at = whole_at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_partitions_can_be_subscribed_to_twice_at_once_and_then_one_after_the_other() {
        let now = Instant::now();
        let mut allowance = Allowance::less(0, now);
        for _ in 0..AT_ONCE {
            assert_eq!(allowance.take(now), Ok(()));
        }
        assert_eq!(allowance.take(now), Err(EACH));
        assert_eq!(allowance.take(now + EACH), Ok(()));
        assert_eq!(allowance.take(now + EACH + EACH / 2), Err(EACH / 2));
        let begun = &mut Allowance::less(PARTITIONS_MAX, now);
        assert_eq!((0..AT_ONCE).filter(|_| begun.take(now).is_ok()).count(), PARTITIONS_MAX);
        let later = now + EACH * (2 * AT_ONCE);
        assert!((0..AT_ONCE).all(|_| allowance.take(later).is_ok()) && allowance.take(later).is_err());
    }
}
