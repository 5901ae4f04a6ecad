//! How much a client may do: connections and submissions by client id, frames by connection.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::state::InMemoryState;
use governor::state::direct::NotKeyed;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::lock;
use super::settings::FrontendSettings;
use crate::event::ClientId;

type ByClient = RateLimiter<ClientId, HashMapStateStore<ClientId>, DefaultClock>;

/// The limits that hold over all connections of a frontend.
pub(super) struct Limits {
    connections_max: usize,
    per_client_max: usize,
    open: Mutex<Open>,
    submissions: Option<ByClient>,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_client: HashMap<ClientId, usize>,
}

impl Limits {
    pub(super) fn new(settings: &FrontendSettings) -> Arc<Self> {
        let submissions = NonZeroU32::new(settings.submissions_per_minute_max).map(|max| {
            RateLimiter::new(Quota::per_minute(max), HashMapStateStore::default(), DefaultClock::default())
        });
        Arc::new(Self {
            connections_max: settings.connections_max,
            per_client_max: settings.connections_per_client_max,
            open: Mutex::default(),
            submissions,
        })
    }

    /// A place for one more connection, kept until it is dropped; `None` when there is none left.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Admission> {
        let mut open = lock(&self.open);
        if open.all >= self.connections_max {
            return None;
        }
        open.all += 1;
        Some(Admission { limits: self.clone(), client: None })
    }

    /// Takes one submission of the client's allowance, or says how long to wait for it.
    pub(super) fn submission(&self, client: &ClientId) -> Result<(), Duration> {
        let Some(limiter) = &self.submissions else { return Ok(()) };
        limiter.check_key(client).map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))
    }

    /// Forgets clients whose allowance is whole again.
    pub(super) fn forget_idle(&self) {
        if let Some(limiter) = &self.submissions {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// A connection's place.
pub(super) struct Admission {
    limits: Arc<Limits>,
    client: Option<ClientId>,
}

impl Admission {
    /// Counts the connection to a client; false when the client has as many as it may have.
    pub(super) fn claim(&mut self, client: &ClientId) -> bool {
        let mut open = lock(&self.limits.open);
        let count = open.by_client.entry(client.clone()).or_default();
        if *count >= self.limits.per_client_max {
            return false;
        }
        *count += 1;
        self.client = Some(client.clone());
        true
    }

    /// Takes back [`Admission::claim`].
    pub(super) fn unclaim(&mut self) {
        let Some(client) = self.client.take() else { return };
        let mut open = lock(&self.limits.open);
        if let Some(count) = open.by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                open.by_client.remove(&client);
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.unclaim();
        lock(&self.limits.open).all -= 1;
    }
}

/// One connection's allowance of frames.
pub(super) struct FrameLimit(Option<RateLimiter<NotKeyed, InMemoryState, DefaultClock>>);

impl FrameLimit {
    pub(super) fn new(per_second_max: u32) -> Self {
        Self(NonZeroU32::new(per_second_max).map(|max| RateLimiter::direct(Quota::per_second(max))))
    }

    /// Takes one frame of the allowance, or says how long to wait for it.
    pub(super) fn frame(&self) -> Result<(), Duration> {
        let Some(limiter) = &self.0 else { return Ok(()) };
        limiter.check().map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str) -> ClientId {
        ClientId::new(id).unwrap()
    }

    #[test]
    fn connections_are_counted_in_all_and_by_client_and_given_back() {
        let settings =
            FrontendSettings { connections_max: 3, connections_per_client_max: 2, ..Default::default() };
        let limits = Limits::new(&settings);
        let mut open: Vec<Admission> = (0..3).map(|_| limits.admit().unwrap()).collect();
        assert!(limits.admit().is_none());
        assert!(open[0].claim(&client("a")) && open[1].claim(&client("a")));
        assert!(!open[2].claim(&client("a")) && open[2].claim(&client("b")));
        open.remove(0);
        assert!(limits.admit().unwrap().claim(&client("a")));
        drop(open);
        assert!(lock(&limits.open).by_client.is_empty());
        assert_eq!(lock(&limits.open).all, 0);
    }

    #[test]
    fn submissions_are_counted_by_client() {
        let settings = FrontendSettings { submissions_per_minute_max: 2, ..Default::default() };
        let limits = Limits::new(&settings);
        assert!(limits.submission(&client("a")).is_ok() && limits.submission(&client("a")).is_ok());
        let wait = limits.submission(&client("a")).unwrap_err();
        assert!(wait > Duration::from_secs(20) && wait <= Duration::from_secs(30), "{wait:?}");
        assert!(limits.submission(&client("b")).is_ok());
        limits.forget_idle();
        assert!(limits.submission(&client("a")).is_err());
    }

    #[test]
    fn nought_is_no_limit() {
        let settings = FrontendSettings { submissions_per_minute_max: 0, ..Default::default() };
        let limits = Limits::new(&settings);
        assert!((0..1000).all(|_| limits.submission(&client("a")).is_ok()));
        let frames = FrameLimit::new(0);
        assert!((0..1000).all(|_| frames.frame().is_ok()));
        let frames = FrameLimit::new(5);
        assert_eq!((0..100).filter(|_| frames.frame().is_ok()).count(), 5);
    }
}
