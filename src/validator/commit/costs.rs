//! What commits have cost lately, and how large NATS takes them: what the committer chooses by.

use std::time::Duration;

/// What publishes have cost lately: moving averages, in seconds.
///
/// Only the way that is taken is measured. So that a bad moment of one does not rule it out for good, a measurement
/// counts for little however bad it is, and what is not measured gets cheaper little by little, until it is tried.
pub(crate) struct CommitCosts {
    /// What a single publish adds to the time of those beside it.
    single: f64,
    /// What an atomic batch takes.
    batch: f64,
}

impl Default for CommitCosts {
    /// Measured on two cores with an ordinary disk; a few commits make it right for others.
    fn default() -> Self {
        Self { single: 0.000_25, batch: 0.002 }
    }
}

impl CommitCosts {
    /// How much a new measurement counts.
    const WEIGHT: f64 = 0.05;
    /// The most, in times of the average, that a measurement counts for.
    const WORST: f64 = 4.0;
    /// What a single publish gets cheaper by with each batch that is measured instead: by half in seventy.
    const SINGLE_FORGOTTEN: f64 = 0.01;
    /// What a batch gets cheaper by with each single publish, of which there are many more in a second.
    const BATCH_FORGOTTEN: f64 = 0.000_1;
    /// A batch of one is never the quicker way.
    const BATCH_LEAST: f64 = 2.0;

    pub(crate) fn single_took(&mut self, took: Duration, beside: usize) {
        let took = took.as_secs_f64() / beside.max(1) as f64;
        self.single += (took.min(self.single * Self::WORST) - self.single) * Self::WEIGHT;
        self.batch -= self.batch * Self::BATCH_FORGOTTEN;
    }

    pub(crate) fn batch_took(&mut self, took: Duration) {
        self.batch += (took.as_secs_f64().min(self.batch * Self::WORST) - self.batch) * Self::WEIGHT;
        self.single -= self.single * Self::SINGLE_FORGOTTEN;
    }

    /// Up to how many single publishes take no longer than one batch.
    pub(crate) fn break_even(&self) -> usize {
        (self.batch / self.single.max(1e-9)).max(Self::BATCH_LEAST) as usize
    }

    /// Whether `waiting` single publishes, behind those under way, would be through before one batch.
    pub(crate) fn favour_singles(&self, waiting: usize, under_way: usize) -> bool {
        waiting + under_way <= self.break_even()
    }
}

/// How large batches may be. NATS stages a batch before it stores it, and where that takes more room than there
/// is the batch is refused, and would be for ever: then the next ones are smaller, down to single events,
/// which NATS does not stage, and grow again with each one that is stored.
pub(crate) struct BatchLimit {
    now: usize,
    max: usize,
}

impl BatchLimit {
    pub(crate) fn new(max: usize) -> Self {
        Self { now: max, max }
    }

    /// How many bytes a batch may hold just now.
    pub(crate) fn now(&self) -> usize {
        self.now
    }

    /// Whether so many bytes are too many for a batch of one event.
    pub(crate) fn is_too_small_for(&self, bytes: usize) -> bool {
        self.now < self.max && bytes > self.now
    }

    /// A batch of so many bytes was not stored.
    pub(crate) fn refused(&mut self, bytes: usize) {
        // Less in any case: the last event of a batch may reach beyond its room.
        self.now = (self.now - self.now.div_ceil(4)).min(bytes / 2);
    }

    /// Something was stored.
    pub(crate) fn stored(&mut self) {
        self.now = (self.now + self.now / 64 + 64).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: Duration = Duration::from_micros(250);
    const BATCH: Duration = Duration::from_millis(2);

    #[test]
    fn one_bad_moment_does_not_rule_singles_out() {
        let mut costs = CommitCosts::default();
        costs.single_took(Duration::from_secs(1), 1);
        assert!(costs.favour_singles(5, 0));
    }

    #[test]
    fn what_was_slow_for_long_is_tried_again() {
        let mut costs = CommitCosts::default();
        (0..1_000).for_each(|_| costs.single_took(Duration::from_millis(50), 1));
        assert!(!costs.favour_singles(8, 0) && costs.favour_singles(1, 0), "one alone never goes as a batch");
        let tried = (0..1_000).find(|_| {
            costs.batch_took(BATCH);
            costs.favour_singles(8, 0)
        });
        assert!(tried.is_some(), "singles are never measured again");

        (0..1_000).for_each(|_| costs.batch_took(Duration::from_millis(500)));
        (0..1_000).for_each(|_| costs.single_took(SINGLE, 1));
        assert!(costs.favour_singles(500, 0));
        (0..100_000).for_each(|_| costs.single_took(SINGLE, 1));
        assert!(!costs.favour_singles(500, 0), "batches are never measured again");
    }

    #[test]
    fn a_batch_that_has_no_room_is_halved_until_it_has() {
        let mut room = BatchLimit::new(8 << 20);
        room.refused(300_000);
        assert_eq!(room.now(), 150_000);
        room.refused(2 * 150_000);
        assert!(room.now() < 150_000);
        room.refused(1_000);
        assert!(room.is_too_small_for(600) && !room.is_too_small_for(400));
        (0..1_000).for_each(|_| room.stored());
        assert_eq!(room.now(), 8 << 20);
        assert!(!room.is_too_small_for(9 << 20), "it has all the room that it is given");
    }
}
