//! How often a v1 client id may connect. The published client that fails on what it is sent comes back at once, hundreds
//! of times a second, since each of its connections succeeds. Of the classic dialect there is no such client.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::ClientId;
use crate::util::sync::lock;

/// How many connects a client id may make at once, before its pace counts.
const BURST: f64 = 200.0;
/// How many it may make in a second.
const PER_SECOND: f64 = 5.0;
/// As how many connects one counts that had to be stopped.
const STOPPED: f64 = 40.0;
/// The most client ids that are counted at a time. A newcomer that finds no room is not counted.
const CLIENTS_MAX: usize = 50_000;

/// The connects of each client id.
#[derive(Default)]
pub(crate) struct Reconnects(Mutex<HashMap<ClientId, Count>>);

struct Count {
    connects: f64,
    at: Instant,
}

impl Count {
    fn now(&self, now: Instant) -> f64 {
        (self.connects - now.duration_since(self.at).as_secs_f64() * PER_SECOND).max(0.0)
    }
}

impl Reconnects {
    /// Counts a connect, or says how long to wait before the next.
    pub(crate) fn connect(&self, client: &ClientId) -> Result<(), Duration> {
        self.count(client, 1.0, Instant::now())
    }

    /// Counts a connection that had to be stopped.
    pub(crate) fn stopped(&self, client: &ClientId) {
        // It had its connect already; whether there is room for more is the next one's matter.
        if self.count(client, STOPPED, Instant::now()).is_err() {
            tracing::debug!(%client, "a client that was stopped has used up its connects");
        }
    }

    fn count(&self, client: &ClientId, connects: f64, now: Instant) -> Result<(), Duration> {
        let mut counts = lock(&self.0);
        if counts.len() >= CLIENTS_MAX && !counts.contains_key(client) {
            counts.retain(|_, count| count.now(now) > 0.0);
            if counts.len() >= CLIENTS_MAX {
                return Ok(());
            }
        }
        let count = counts.entry(client.clone()).or_insert(Count { connects: 0.0, at: now });
        let before = count.now(now);
        if before + 1.0 > BURST {
            return Err(Duration::from_secs_f64((before + 1.0 - BURST) / PER_SECOND));
        }
        *count = Count { connects: before + connects, at: now };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_comes_back_at_once_is_slowed_down_and_no_other() {
        let (reconnects, now) = (Reconnects::default(), Instant::now());
        let client = |id: &str| ClientId::new(id).unwrap();
        let connects =
            |id: &str, at| (0..360).filter(|_| reconnects.count(&client(id), 1.0, at).is_ok()).count();
        assert_eq!(connects("a", now), 200);
        assert_eq!(connects("b", now), 200);
        assert_eq!(connects("a", now + Duration::from_secs(5)), 25);
        let stops = (0..360).filter(|_| reconnects.count(&client("c"), STOPPED, now).is_ok()).count();
        assert_eq!(stops, 5);
        let wait = reconnects.count(&client("c"), 1.0, now).unwrap_err();
        assert!(wait > Duration::ZERO && wait < Duration::from_secs(30), "{wait:?}");
    }

    #[test]
    fn as_many_clients_are_counted_as_there_is_room_for() {
        let (reconnects, now) = (Reconnects::default(), Instant::now());
        for id in 0..CLIENTS_MAX + 10 {
            assert!(reconnects.count(&ClientId::new(id.to_string()).unwrap(), 1.0, now).is_ok());
        }
        assert_eq!(lock(&reconnects.0).len(), CLIENTS_MAX);
        assert!(reconnects.count(&ClientId::new("late").unwrap(), 1.0, now + Duration::from_secs(1)).is_ok());
        assert_eq!(lock(&reconnects.0).len(), 1);
    }
}
