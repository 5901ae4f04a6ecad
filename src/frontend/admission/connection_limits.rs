//! How much a client may do: connections by address and client id, upgrades in all, submissions by client id,
//! frames by connection.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::state::InMemoryState;
use governor::state::direct::NotKeyed;
use governor::{Quota, RateLimiter};

use super::submission_limit::{Refused, SubmissionLimit};
use crate::event::ClientId;
use crate::frontend::listener::Refusal;
use crate::frontend::net::AddressKey;
use crate::frontend::settings::FrontendSettings;
use crate::serving::seats::per_address_max;
use crate::serving::{Seat, Seats};
use crate::util::backoff::chance;
use crate::util::sync::lock;

type Direct = RateLimiter<NotKeyed, InMemoryState, DefaultClock>;

/// The limits that hold over all connections of a frontend.
pub(crate) struct Limits {
    connections_max: usize,
    per_address_max: usize,
    per_client_max: usize,
    retry_after: Duration,
    /// Seats for connections that nobody knows yet.
    unauthenticated: Arc<Seats<AddressKey>>,
    open: Mutex<Open>,
    upgrades: Option<Direct>,
    submissions: Option<Mutex<SubmissionLimit>>,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_address: HashMap<AddressKey, usize>,
    by_client: HashMap<ClientId, usize>,
}

impl Limits {
    pub(crate) fn new(settings: &FrontendSettings) -> Arc<Self> {
        let submissions = NonZeroU32::new(settings.submissions_per_minute_max).map(|max| {
            Mutex::new(SubmissionLimit::new(max.get(), settings.counted_clients_max, Instant::now()))
        });
        Arc::new(Self {
            connections_max: settings.connections_max,
            per_address_max: settings.connections_per_address_max,
            per_client_max: settings.connections_per_client_max,
            retry_after: Duration::from_millis(settings.retry_after_ms),
            unauthenticated: Seats::new(
                settings.unauthenticated_max,
                per_address_max(settings.unauthenticated_max),
            ),
            open: Mutex::default(),
            upgrades: NonZeroU32::new(settings.upgrades_per_second_max)
                .map(|max| RateLimiter::direct(Quota::per_second(max))),
            submissions,
        })
    }

    /// A seat for one more connection that nobody knows yet, kept until it is dropped; or why there is none, and
    /// when to ask again. Those who are known have places of their own: where there are none left, nobody is let
    /// in who would have to be sent away later.
    pub(crate) fn enter(
        self: &Arc<Self>,
        address: AddressKey,
    ) -> Result<Entrance, (Refusal, Option<Duration>)> {
        if let Some(refusal) = self.no_place(&lock(&self.open), &address) {
            return Err((refusal, Some(self.retry_after())));
        }
        if let Some(limiter) = &self.upgrades
            && let Err(not_until) = limiter.check()
        {
            let wait = not_until.wait_time_from(limiter.clock().now());
            return Err((Refusal::Rate, Some(wait + self.retry_after())));
        }
        match self.unauthenticated.take(address, true) {
            Ok(seat) => Ok(Entrance { limits: self.clone(), address, seat }),
            Err(wait) => Err((Refusal::Full, Some(wait + self.retry_after()))),
        }
    }

    fn no_place(&self, open: &Open, address: &AddressKey) -> Option<Refusal> {
        if open.all >= self.connections_max {
            return Some(Refusal::Full);
        }
        let of_address = open.by_address.get(address).copied().unwrap_or(0);
        (self.per_address_max > 0 && of_address >= self.per_address_max).then_some(Refusal::Address)
    }

    /// How many connections there are that are known.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.open).all
    }

    /// How long whoever finds no room is told to wait: by chance, so that not all come back at once.
    pub(crate) fn retry_after(&self) -> Duration {
        self.retry_after.mul_f64(1.0 + chance())
    }

    /// Takes one submission of the client's allowance, or says how long to wait for it.
    pub(crate) fn submission(&self, client: &ClientId) -> Result<(), Duration> {
        let Some(limit) = &self.submissions else { return Ok(()) };
        lock(limit).take(client, Instant::now()).map_err(|refused| match refused {
            Refused::Wait(wait) => wait,
            Refused::Crowded => self.retry_after(),
        })
    }

    /// Forgets clients whose allowance is whole again.
    pub(crate) fn forget_idle(&self) {
        if let Some(limit) = &self.submissions {
            lock(limit).forget_idle(Instant::now());
        }
    }
}

/// How many bytes a message may have before it is known who sends it: a token, and as much again for the names and
/// whatever else a `connect` says. Thousands of connections that nobody knows may hold as much each.
pub(crate) fn before_connect_bytes_max(settings: &FrontendSettings, token_bytes_max: usize) -> usize {
    const BESIDE_THE_TOKEN: usize = 8 * 1024;
    settings.frame_bytes_max.min(token_bytes_max.saturating_add(BESIDE_THE_TOKEN))
}

/// The seat of a connection that nobody knows yet.
pub(crate) struct Entrance {
    limits: Arc<Limits>,
    address: AddressKey,
    seat: Seat<AddressKey>,
}

impl Entrance {
    /// Waits until the connection is to give way to another. Cancel safe.
    pub(crate) async fn given_way(&self) {
        self.seat.given_way().await;
    }

    /// A place among those who are known; or why there is none.
    pub(crate) fn admit(&self) -> Result<Admission, Refusal> {
        let limits = &self.limits;
        let mut open = lock(&limits.open);
        if let Some(refusal) = limits.no_place(&open, &self.address) {
            return Err(refusal);
        }
        open.all += 1;
        *open.by_address.entry(self.address).or_default() += 1;
        Ok(Admission { limits: limits.clone(), address: self.address, client: None })
    }
}

/// The place of a connection that is known.
pub(crate) struct Admission {
    limits: Arc<Limits>,
    address: AddressKey,
    client: Option<ClientId>,
}

impl Admission {
    /// Counts the connection to a client; false when the client has as many as it may have.
    pub(crate) fn claim(&mut self, client: &ClientId) -> bool {
        let mut open = lock(&self.limits.open);
        let count = open.by_client.entry(client.clone()).or_default();
        if *count >= self.limits.per_client_max {
            return false;
        }
        *count += 1;
        self.client = Some(client.clone());
        true
    }

    /// Where the connection comes from.
    pub(crate) fn address(&self) -> AddressKey {
        self.address
    }

    /// Takes back [`Admission::claim`].
    fn unclaim(&mut self) {
        let Some(client) = self.client.take() else { return };
        let mut open = lock(&self.limits.open);
        one_less(&mut open.by_client, &client);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.unclaim();
        let mut open = lock(&self.limits.open);
        open.all -= 1;
        one_less(&mut open.by_address, &self.address);
    }
}

/// Counts one less under a key; what is at nought is forgotten, and the map gives back its room when most of
/// it is empty.
fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    let Some(count) = counts.get_mut(key) else { return };
    *count -= 1;
    if *count == 0 {
        counts.remove(key);
        if counts.capacity() > 1024 && counts.len() < counts.capacity() / 8 {
            counts.shrink_to(2 * counts.len());
        }
    }
}

/// One connection's allowance of frames and of their bytes.
pub(crate) struct FrameLimit {
    frames: Option<Direct>,
    bytes: Option<Direct>,
}

impl FrameLimit {
    pub(crate) fn new(settings: &FrontendSettings) -> Self {
        let at_once = u32::try_from(settings.frame_bytes_max).unwrap_or(u32::MAX);
        Self {
            frames: NonZeroU32::new(settings.frames_per_second_max)
                .map(|max| RateLimiter::direct(Quota::per_second(max))),
            bytes: NonZeroU32::new(settings.bytes_per_second_max).map(|max| {
                let burst = max.max(NonZeroU32::new(at_once).unwrap_or(max));
                RateLimiter::direct(Quota::per_second(max).allow_burst(burst))
            }),
        }
    }

    /// Takes one frame of so many bytes of the allowance, or says how long to wait for it.
    pub(crate) fn frame(&self, bytes: usize) -> Result<(), Duration> {
        if let Some(limiter) = &self.frames {
            limiter.check().map_err(|not_until| not_until.wait_time_from(limiter.clock().now()))?;
        }
        let bytes = u32::try_from(bytes).ok().and_then(NonZeroU32::new);
        let (Some(limiter), Some(bytes)) = (&self.bytes, bytes) else { return Ok(()) };
        match limiter.check_n(bytes) {
            Ok(checked) => checked.map_err(|not_until| not_until.wait_time_from(limiter.clock().now())),
            // More than may ever come at once: such a frame is refused for its size.
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> AddressKey {
        AddressKey::of([10, 0, 0, n].into())
    }

    fn client(id: &str) -> ClientId {
        ClientId::new(id).unwrap()
    }

    /// A place for somebody who is known at once.
    fn admit(limits: &Arc<Limits>, address: AddressKey) -> Result<Admission, Refusal> {
        limits.enter(address).map_err(|(refusal, _)| refusal)?.admit()
    }

    #[test]
    fn connections_are_counted_in_all_and_by_client_and_given_back() {
        let settings =
            FrontendSettings { connections_max: 3, connections_per_client_max: 2, ..Default::default() };
        let limits = Limits::new(&settings);
        let late = limits.enter(address(8)).unwrap_or_else(|_| panic!());
        let mut open: Vec<Admission> = (0..3).map(|n| admit(&limits, address(n)).unwrap()).collect();
        let (refusal, wait) = limits.enter(address(9)).err().unwrap();
        assert_eq!(refusal, Refusal::Full);
        assert!(wait.unwrap() >= limits.retry_after && wait.unwrap() <= 2 * limits.retry_after);
        assert_eq!(late.admit().err().unwrap(), Refusal::Full, "who says late who it is");
        assert!(open[0].claim(&client("a")) && open[1].claim(&client("a")));
        assert!(!open[2].claim(&client("a")) && open[2].claim(&client("b")));
        open.remove(0);
        assert!(late.admit().unwrap().claim(&client("a")));
        drop(open);
        let open = lock(&limits.open);
        assert!(open.by_client.is_empty() && open.by_address.is_empty());
        assert_eq!(open.all, 0);
    }

    #[test]
    fn connections_are_counted_by_address_and_upgrades_by_time() {
        let settings = FrontendSettings { connections_per_address_max: 2, ..Default::default() };
        let limits = Limits::new(&settings);
        let open: Vec<Admission> = (0..2).map(|_| admit(&limits, address(1)).unwrap()).collect();
        assert_eq!(admit(&limits, address(1)).err().unwrap(), Refusal::Address);
        assert!(admit(&limits, address(2)).is_ok());
        drop(open);
        assert!(admit(&limits, address(1)).is_ok());

        let settings = FrontendSettings { upgrades_per_second_max: 3, ..Default::default() };
        let limits = Limits::new(&settings);
        let taken: Vec<_> = (0..20).map(|_| limits.enter(address(1))).collect();
        assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 3);
        assert_eq!(taken.last().unwrap().as_ref().err().unwrap().0, Refusal::Rate);
    }

    #[test]
    fn those_whom_nobody_knows_take_no_place_of_those_who_are_known() {
        let settings = FrontendSettings { connections_max: 2, unauthenticated_max: 8, ..Default::default() };
        let limits = Limits::new(&settings);
        let unknown: Vec<_> = (0..8).map(|n| limits.enter(address(n)).unwrap_or_else(|_| panic!())).collect();
        assert_eq!(limits.connections(), 0);
        let (refusal, wait) = limits.enter(address(9)).err().unwrap();
        assert!(refusal == Refusal::Full && wait.is_some(), "all are safe yet");
        drop(unknown);
        assert!(limits.enter(address(9)).is_ok());
    }

    #[test]
    fn submissions_are_counted_by_client() {
        let settings = FrontendSettings { submissions_per_minute_max: 2, ..Default::default() };
        let limits = Limits::new(&settings);
        assert!(limits.submission(&client("a")).is_ok() && limits.submission(&client("a")).is_ok());
        let wait = limits.submission(&client("a")).unwrap_err();
        assert!(wait > Duration::from_secs(30) && wait <= Duration::from_secs(60), "{wait:?}");
        assert!(limits.submission(&client("b")).is_ok());
        limits.forget_idle();
        assert!(limits.submission(&client("a")).is_err());
    }

    #[test]
    fn nought_is_no_limit() {
        let settings = FrontendSettings { submissions_per_minute_max: 0, ..Default::default() };
        let limits = Limits::new(&settings);
        assert!((0..1000).all(|_| limits.submission(&client("a")).is_ok()));
        let limit = |frames_per_second_max, bytes_per_second_max| {
            let settings = FrontendSettings {
                frames_per_second_max,
                bytes_per_second_max,
                frame_bytes_max: 1_000,
                ..Default::default()
            };
            FrameLimit::new(&settings)
        };
        let none = limit(0, 0);
        assert!((0..1000).all(|_| none.frame(1_000).is_ok()));
        let frames = limit(5, 0);
        assert_eq!((0..100).filter(|_| frames.frame(1_000).is_ok()).count(), 5);
        // As much as one frame at once, whatever the limit is.
        let bytes = limit(0, 10);
        assert!(bytes.frame(1_000).is_ok());
        let wait = bytes.frame(20).unwrap_err();
        assert!(wait > Duration::from_secs(1) && wait <= Duration::from_secs(2), "{wait:?}");
    }

    #[test]
    fn only_so_many_clients_are_counted_and_more_wait() {
        let settings = FrontendSettings { counted_clients_max: 3, ..Default::default() };
        let limits = Limits::new(&settings);
        let taken = (0..10).filter(|n| limits.submission(&client(&n.to_string())).is_ok()).count();
        assert_eq!(taken, 3);
    }
}
