//! Pauses between tries.

use std::time::Duration;

/// The pause after so many failures before the last one: `first`, doubled each time, and at most `longest`.
pub(crate) fn doubled(first: Duration, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(longest)
}

/// Takes up to a half off a pause, at random, so that those who failed together do not try again together.
pub(crate) fn scattered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - chance() / 2.0)
}

/// A number from 0 to 1, at random; in a simulation by its seed.
pub(crate) fn chance() -> f64 {
    #[cfg(test)]
    if let Some(chance) = by_seed::next() {
        return chance;
    }
    rand::random()
}

/// What a simulation, which is one thread, has in the place of chance.
#[cfg(test)]
pub(crate) mod by_seed {
    use std::cell::RefCell;

    thread_local! {
        static NUMBERS: RefCell<Option<Box<dyn FnMut() -> f64>>> = const { RefCell::new(None) };
    }

    /// From now on, chance is what these say.
    pub(crate) fn set(numbers: Option<Box<dyn FnMut() -> f64>>) {
        NUMBERS.replace(numbers);
    }

    pub(super) fn next() -> Option<f64> {
        NUMBERS.with_borrow_mut(|numbers| numbers.as_mut().map(|next| next()))
    }
}

/// Pauses that double from one failure to the next.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Begins with `first`, and grows to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest: longest.max(first), failures: 0 }
    }

    /// Counts a failure, and returns the pause before the next try.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = doubled(self.first, self.longest, self.failures);
        self.failures = self.failures.saturating_add(1);
        pause
    }

    /// Whether nothing has failed since the last success.
    pub(crate) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// Begins again after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_to_the_longest_and_begin_again() {
        let mut backoff = Backoff::new(5 * MS, 35 * MS);
        assert!(backoff.is_fresh());
        assert_eq!([(); 5].map(|()| backoff.next() / 5), [1, 2, 4, 7, 7].map(|n| n * MS));
        assert!(!backoff.is_fresh());
        backoff.reset();
        assert_eq!(backoff.next(), 5 * MS);
        assert_eq!(Backoff::new(5 * MS, MS).next(), 5 * MS, "the longest is never below the first");
        assert_eq!(doubled(MS, Duration::MAX, u32::MAX), MS * 65_536, "many failures overflow nothing");
    }

    #[test]
    fn a_scattered_pause_is_at_least_half_as_long() {
        for _ in 0..1_000 {
            assert!((50 * MS..=100 * MS).contains(&scattered(100 * MS)));
        }
        assert_eq!(scattered(Duration::ZERO), Duration::ZERO);
    }
}
