//! How many submissions a client id may make in any minute: a sliding window of the times of its last ones.
//!
//! Not a bucket that refills: one that is full and refills during the minute lets nearly twice as many through in the
//! first. Only what was let in is remembered, four bytes each, and for a minute; so all of it is bounded by what the
//! frontend takes in a minute, and the clients by `counted_clients_max`.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::event::ClientId;

/// The time in which so many may be made.
const WINDOW: Duration = Duration::from_secs(60);
const WINDOW_MS: u32 = WINDOW.as_millis() as u32;
/// How often at most all clients are gone through because there are too many.
const CROWDED_PAUSE: Duration = Duration::from_secs(1);

/// The submissions of the last minute, by client id.
pub(super) struct SubmissionLimit {
    per_window_max: usize,
    clients_max: usize,
    began: Instant,
    /// When each was made, in milliseconds since `began`, which may wrap: what is compared is never older than two
    /// minutes. Oldest first; never empty.
    made: HashMap<ClientId, VecDeque<u32>>,
    /// When all clients were last gone through because there were too many.
    crowded_at: Option<Instant>,
}

/// Why a submission is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The client has made as many as it may; how long until it may make another.
    Wait(Duration),
    /// Too many clients are counted.
    Crowded,
}

impl SubmissionLimit {
    pub(super) fn new(per_minute_max: u32, clients_max: usize, now: Instant) -> Self {
        Self {
            per_window_max: per_minute_max as usize,
            clients_max,
            began: now,
            made: HashMap::new(),
            crowded_at: None,
        }
    }

    /// Lets one submission of a client in, or says why not.
    pub(super) fn take(&mut self, client: &ClientId, now: Instant) -> Result<(), Refused> {
        let now_ms = self.milliseconds(now);
        if let Some(made) = self.made.get_mut(client) {
            drop_old(made, now_ms);
            if let (true, Some(oldest)) = (made.len() >= self.per_window_max, made.front()) {
                let left_ms = WINDOW_MS - now_ms.wrapping_sub(*oldest);
                return Err(Refused::Wait(Duration::from_millis(left_ms.into())));
            }
            made.push_back(now_ms);
            return Ok(());
        }
        if self.made.len() >= self.clients_max && !self.made_room(now) {
            return Err(Refused::Crowded);
        }
        self.made.insert(client.clone(), VecDeque::from([now_ms]));
        Ok(())
    }

    /// Makes room for one more client; false where there is none. It takes going through all of them, so it is tried
    /// once in a while.
    fn made_room(&mut self, now: Instant) -> bool {
        if self.crowded_at.is_none_or(|at| now.duration_since(at) >= CROWDED_PAUSE) {
            self.crowded_at = Some(now);
            self.forget_idle(now);
        }
        self.made.len() < self.clients_max
    }

    /// Forgets what is older than a minute, and gives the room back. To be called every minute.
    pub(super) fn forget_idle(&mut self, now: Instant) {
        let now_ms = self.milliseconds(now);
        self.made.retain(|_, made| {
            drop_old(made, now_ms);
            made.shrink_to(2 * made.len());
            !made.is_empty()
        });
        self.made.shrink_to(2 * self.made.len());
    }

    fn milliseconds(&self, now: Instant) -> u32 {
        now.duration_since(self.began).as_millis() as u32
    }
}

fn drop_old(made: &mut VecDeque<u32>, now_ms: u32) {
    while made.front().is_some_and(|at| now_ms.wrapping_sub(*at) >= WINDOW_MS) {
        made.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(n: usize) -> ClientId {
        ClientId::new(n.to_string()).unwrap()
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_hundred_are_let_in_in_any_minute_and_the_next_when_the_first_is_a_minute_old() {
        let began = Instant::now();
        let mut limit = SubmissionLimit::new(100, 10, began);
        for n in 0..100 {
            assert_eq!(limit.take(&client(1), began + ms(300 * n)), Ok(()), "{n}");
        }
        let at = began + ms(45_000);
        assert_eq!(limit.take(&client(1), at), Err(Refused::Wait(ms(15_000))));
        assert_eq!(limit.take(&client(2), at), Ok(()), "somebody else");
        assert_eq!(limit.take(&client(1), began + ms(59_999)), Err(Refused::Wait(ms(1))));
        assert_eq!(limit.take(&client(1), began + ms(60_000)), Ok(()));
        assert_eq!(limit.take(&client(1), began + ms(60_000)), Err(Refused::Wait(ms(300))));
    }

    #[test]
    fn so_many_clients_are_counted_and_what_is_old_gives_its_room_back() {
        let began = Instant::now();
        let mut limit = SubmissionLimit::new(1_000, 50, began);
        for n in 0..50 {
            for _ in 0..1_000 {
                assert_eq!(limit.take(&client(n), began + ms(n as u64)), Ok(()));
            }
        }
        assert_eq!(limit.take(&client(99), began + ms(59_000)), Err(Refused::Crowded));
        let bytes =
            |limit: &SubmissionLimit| -> usize { limit.made.values().map(|made| 4 * made.capacity()).sum() };
        assert!(bytes(&limit) <= 2 * 4 * 50 * 1_000, "{}", bytes(&limit));
        // The first ones are a minute old.
        assert_eq!(limit.take(&client(99), began + ms(60_010)), Ok(()));
        assert_eq!(limit.made.len(), 40);
        limit.forget_idle(began + ms(120_010));
        assert_eq!((limit.made.len(), limit.made.capacity(), bytes(&limit)), (0, 0, 0));
    }

    #[test]
    fn a_process_may_run_for_months() {
        let began = Instant::now();
        let mut limit = SubmissionLimit::new(2, 10, began);
        // Some seconds before the milliseconds wrap.
        let later = began + ms(u64::from(u32::MAX) - 5_000);
        assert_eq!(limit.take(&client(1), later), Ok(()));
        assert_eq!(limit.take(&client(1), later + ms(10_000)), Ok(()));
        assert_eq!(limit.take(&client(1), later + ms(20_000)), Err(Refused::Wait(ms(40_000))));
        assert_eq!(limit.take(&client(1), later + ms(60_000)), Ok(()));
    }

    proptest! {
        /// At any times, no minute has more than it may, and a client that waits as told is let in.
        #[test]
        fn no_minute_has_more_than_it_may(max in 1_u32..8, pauses in proptest::collection::vec(0_u64..40_000, 1..200)) {
            let began = Instant::now();
            let mut limit = SubmissionLimit::new(max, 1, began);
            let (mut at, mut let_in) = (0, Vec::new());
            for pause in pauses {
                at += pause;
                match limit.take(&client(1), began + ms(at)) {
                    Ok(()) => let_in.push(at),
                    Err(Refused::Wait(wait)) => {
                        at += wait.as_millis() as u64;
                        prop_assert_eq!(limit.take(&client(1), began + ms(at)), Ok(()));
                        let_in.push(at);
                    }
                    Err(Refused::Crowded) => prop_assert!(false, "there is one client"),
                }
                if at % 7 == 0 {
                    limit.forget_idle(began + ms(at));
                }
            }
            for (n, at) in let_in.iter().enumerate() {
                let in_the_minute = let_in[n..].iter().take_while(|later| **later < at + 60_000).count();
                prop_assert!(in_the_minute <= max as usize, "{} after {}", in_the_minute, at);
            }
        }
    }
}
