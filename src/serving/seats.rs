//! Seats for connections of which nothing is known yet. Where there are none left, the oldest gives way.
//!
//! Only a seat that somebody has had for a while gives way: one that needs no more than a moment, as every
//! good client does, is never disturbed. The one that holds most seats gives way first, so that nobody takes
//! the seat of somebody else by taking many.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// For how long a seat is safe. So short that 1,024 seats serve 4,000 connections a second that all say nothing,
/// and longer than a good client's request takes that is here already.
const SAFE: Duration = Duration::from_millis(250);

/// Seats, counted under keys of those who take them.
pub struct Seats<K> {
    max: usize,
    /// The most seats of one key that are not safe any more; 0 for any number.
    per_key_max: usize,
    held: Mutex<Held<K>>,
    freed: Notify,
}

struct Held<K> {
    last: u64,
    /// Those that can be told to give way, the oldest first.
    seats: BTreeMap<u64, Taken<K>>,
    by_key: HashMap<K, BTreeSet<u64>>,
    /// How many there are that nobody can tell to give way.
    kept: usize,
}

struct Taken<K> {
    key: K,
    since: Instant,
    give_way: CancellationToken,
}

/// A seat, until it is dropped.
pub struct Seat<K: Copy + Eq + Hash> {
    seats: Arc<Seats<K>>,
    number: u64,
    key: K,
    give_way: CancellationToken,
    is_kept: Mutex<bool>,
}

impl<K: Copy + Eq + Hash> Seats<K> {
    /// So many seats, and so many of one key; 0 for any number of those.
    pub fn new(max: usize, per_key_max: usize) -> Arc<Self> {
        let held = Held { last: 0, seats: BTreeMap::new(), by_key: HashMap::new(), kept: 0 };
        Arc::new(Self { max, per_key_max, held: Mutex::new(held), freed: Notify::new() })
    }

    /// Takes a seat, and has others give way for it where that is needed: those of the same key when it `is_bounded`
    /// and has its number, then those of the key that has most. Where all are safe, says how long to wait.
    pub fn take(self: &Arc<Self>, key: K, is_bounded: bool) -> Result<Seat<K>, Duration> {
        let now = Instant::now();
        let mut held = self.lock();
        if is_bounded && self.per_key_max > 0 {
            while held.by_key.get(&key).is_some_and(|own| own.len() >= self.per_key_max) {
                let oldest = held.by_key.get(&key).and_then(|own| own.first()).copied();
                if !oldest.is_some_and(|oldest| held.dismiss(oldest, now)) {
                    break;
                }
            }
        }
        if held.seats.len() + held.kept >= self.max {
            // Of those that have as many, the one that has the oldest.
            let most = held.by_key.values().max_by_key(|own| (own.len(), Reverse(own.first())));
            let most = most.and_then(|own| own.first()).copied();
            let oldest = held.seats.keys().next().copied();
            let gave_way = [most, oldest].into_iter().flatten().any(|seat| held.dismiss(seat, now));
            if !gave_way {
                let age = held.seats.values().next().map_or(Duration::ZERO, |oldest| now - oldest.since);
                return Err(SAFE.saturating_sub(age).max(Duration::from_millis(1)));
            }
        }
        held.last += 1;
        let (number, give_way) = (held.last, CancellationToken::new());
        held.put(number, Taken { key, since: now, give_way: give_way.clone() });
        drop(held);
        Ok(Seat { seats: self.clone(), number, key, give_way, is_kept: Mutex::new(false) })
    }

    /// Takes a seat as soon as there is one. Cancel safe.
    pub async fn wait(self: &Arc<Self>, key: K, is_bounded: bool) -> Seat<K> {
        loop {
            let freed = self.freed.notified();
            match self.take(key, is_bounded) {
                Ok(seat) => return seat,
                Err(wait) => {
                    // However it ends, there is another look.
                    let _ = tokio::time::timeout(wait, freed).await;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held<K>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> Held<K> {
    fn put(&mut self, number: u64, taken: Taken<K>) {
        self.by_key.entry(taken.key).or_default().insert(number);
        self.seats.insert(number, taken);
    }

    fn remove(&mut self, number: u64) -> Option<Taken<K>> {
        let taken = self.seats.remove(&number)?;
        if let Some(own) = self.by_key.get_mut(&taken.key) {
            own.remove(&number);
            if own.is_empty() {
                self.by_key.remove(&taken.key);
            }
        }
        Some(taken)
    }

    /// Has a seat's holder give way, unless it is safe yet.
    fn dismiss(&mut self, number: u64, now: Instant) -> bool {
        if self.seats.get(&number).is_none_or(|taken| now - taken.since < SAFE) {
            return false;
        }
        if let Some(taken) = self.remove(number) {
            taken.give_way.cancel();
        }
        true
    }
}

impl<K: Copy + Eq + Hash> Seat<K> {
    /// Waits until its holder is to give way. Cancel safe.
    pub async fn given_way(&self) {
        self.give_way.cancelled().await;
    }

    /// From now on nobody can take it: it is known whose it is.
    pub fn keep(&self) {
        let mut is_kept = self.is_kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.seats.lock();
        if !*is_kept && held.remove(self.number).is_some() {
            held.kept += 1;
            *is_kept = true;
        }
    }

    /// Takes [`Seat::keep`] back.
    pub fn release(&self) {
        let mut is_kept = self.is_kept.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *is_kept) {
            let mut held = self.seats.lock();
            held.kept -= 1;
            let taken = Taken { key: self.key, since: Instant::now(), give_way: self.give_way.clone() };
            // Under its own number, which says how old the connection is.
            held.put(self.number, taken);
        }
    }
}

impl<K: Copy + Eq + Hash> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut held = self.seats.lock();
        if *self.is_kept.lock().unwrap_or_else(PoisonError::into_inner) {
            held.kept -= 1;
        } else {
            held.remove(self.number);
        }
        drop(held);
        self.seats.freed.notify_waiters();
    }
}

/// How many of the seats for connections of which nothing is known one address may have: so few that it takes more
/// than a handful of addresses to fill them.
pub(crate) fn per_address_max(seats: usize) -> usize {
    (seats / 4).max(1)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_gone(seat: &Seat<u8>) -> bool {
        seat.given_way().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way_once_it_is_not_safe_any_more() {
        let seats = Seats::new(2, 0);
        let first = seats.take(1, true).unwrap_or_else(|_| panic!());
        let second = seats.take(2, true).unwrap_or_else(|_| panic!());
        assert!(seats.take(3, true).is_err_and(|wait| wait == SAFE));
        tokio::time::advance(SAFE).await;
        let third = seats.take(3, true).unwrap_or_else(|_| panic!());
        assert!(is_gone(&first) && !is_gone(&second) && !is_gone(&third));
        // Who left makes room at once, and who gave way counts no more.
        drop((first, second));
        let fourth = seats.take(4, true).unwrap_or_else(|_| panic!());
        assert!(!is_gone(&third) && !is_gone(&fourth));
        assert!(seats.take(5, true).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_its_number_takes_of_its_own_and_one_that_has_most_gives_way_first() {
        let seats = Seats::new(6, 3);
        let old = seats.take(9, true).unwrap_or_else(|_| panic!());
        let many: Vec<_> = (0..3).map(|_| seats.take(1, true).unwrap_or_else(|_| panic!())).collect();
        tokio::time::advance(SAFE).await;
        let more = seats.take(1, true).unwrap_or_else(|_| panic!());
        assert!(is_gone(&many[0]) && !is_gone(&many[1]));
        // A proxy speaks for many, and is not bounded so.
        let proxied =
            [seats.take(1, false), seats.take(1, false)].map(|seat| seat.unwrap_or_else(|_| panic!()));
        tokio::time::advance(SAFE).await;
        let other = seats.take(2, true).unwrap_or_else(|_| panic!());
        assert!(!is_gone(&old), "the oldest of all, and the only one of its key");
        assert!(is_gone(&many[1]) && !is_gone(&more));
        drop((proxied, other));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_counts_and_does_not_give_way() {
        let seats = Seats::new(1, 0);
        let seat = seats.take(1, true).unwrap_or_else(|_| panic!());
        seat.keep();
        tokio::time::advance(SAFE * 2).await;
        assert!(seats.take(2, true).is_err() && !is_gone(&seat));
        seat.release();
        tokio::time::advance(SAFE).await;
        let next = seats.take(2, true).unwrap_or_else(|_| panic!());
        assert!(is_gone(&seat));
        seat.keep();
        drop((seat, next));
        let held = seats.lock();
        assert!(held.seats.is_empty() && held.by_key.is_empty() && held.kept == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_seat_of_one_who_leaves() {
        let seats = Seats::new(1, 0);
        let first = seats.take(1, true).unwrap_or_else(|_| panic!());
        let waiting = tokio::spawn({
            let seats = seats.clone();
            async move { seats.wait(2, true).await.number }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(waiting.await.unwrap(), 2);
    }
}
