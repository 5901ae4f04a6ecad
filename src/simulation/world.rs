//! A model of what JetStream does: the log, the work queue with its consumers, and the ownership bucket.
//!
//! Every operation here is instantaneous and atomic; what is lost, late or doubled on the way is `net`'s.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::rng::Rng;
use crate::event::{Answer, EventId, Slot, Token};

/// How long an ownership key lives unless renewed.
pub(crate) const TTL: Duration = Duration::from_secs(6);

/// A way of breaking what the product rests on: the judge must find each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Commits are not checked against the partition's last event.
    UncheckedCommit,
    /// Who has lost a slot gets its rejections confirmed.
    AnyoneConfirms,
    /// A slot is taken over without making its consumer anew.
    OldConsumer,
    /// A validator that has read a state does not look whether the slot is still its own.
    NoOwnerCheck,
    /// States are read from a replica that lags.
    LaggingHead,
    /// A state is loaded without its index of drafts.
    ForgottenIndex,
    /// A draft that was committed long ago is not looked for in the log.
    UnsoughtDraft,
    /// The frontend believes the rejections of any attempt.
    AnyAttempt,
    /// Drafts are published again without a word on what earlier copies may have committed.
    NoSince,
    /// Of two copies that have overtaken each other, both are decided.
    NoPublishCount,
}

/// How the network and the servers are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// The usual delay of a message, at most.
    pub delay_ms: usize,
    /// One message in so many takes up to a hundred times as long.
    pub slow_one_in: usize,
    /// One answer in so many is lost.
    pub lost_one_in: usize,
    /// One publish in so many is refused because the queue is full.
    pub full_one_in: usize,
    /// Before one request in so many the process is put to sleep, for as long as slots last or longer.
    pub naps_one_in: usize,
    /// One message in so many is overtaken by later ones of the same process; 0 for none, as on one connection.
    pub overtaken_one_in: usize,
}

pub(crate) struct StoredEvent {
    pub token: Token,
    pub body: Bytes,
}

pub(crate) struct Queued {
    pub slot: Slot,
    pub token: Token,
    pub body: Bytes,
}

struct Consumer {
    name: u64,
    next: u64,
}

struct Key {
    revision: u64,
    value: Option<String>,
    expires: Instant,
}

/// What the servers hold.
pub(crate) struct Servers {
    /// COMMITTED: event id `n` is at `n - 1`.
    pub log: Vec<StoredEvent>,
    drafts: BTreeMap<u64, Queued>,
    next_draft: u64,
    consumers: BTreeMap<Slot, Consumer>,
    bucket: BTreeMap<String, Key>,
    revision: u64,
    /// How often a key was removed, or a validator came.
    pub comings_and_goings: u64,
    pub answers: BTreeMap<(String, u64), mpsc::UnboundedSender<Answer>>,
    mutation: Option<Mutation>,
}

impl Servers {
    pub(crate) fn is_broken(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(crate) fn head(&self, token: &Token) -> EventId {
        let at = self.log.iter().rposition(|event| event.token == *token);
        EventId(at.map_or(0, |at| at as u64 + 1))
    }

    /// The events of a partition behind `after`.
    pub(crate) fn events(&self, token: &Token, after: EventId) -> impl Iterator<Item = (EventId, &Bytes)> {
        let all = self.log.iter().enumerate().skip(after.0 as usize);
        all.filter(move |(_, event)| event.token == *token)
            .map(|(at, event)| (EventId(at as u64 + 1), &event.body))
    }

    /// An atomic batch: all of it, or nothing.
    pub(crate) fn commit(&mut self, parts: &[(Token, EventId, Vec<Bytes>)]) -> Option<Vec<EventId>> {
        let as_expected = parts.iter().all(|(token, expected, _)| self.head(token) == *expected);
        if !as_expected && !self.is_broken(Mutation::UncheckedCommit) {
            return None;
        }
        let mut firsts = Vec::new();
        for (token, _, bodies) in parts {
            firsts.push(EventId(self.log.len() as u64 + 1));
            let events = bodies.iter().map(|body| StoredEvent { token: token.clone(), body: body.clone() });
            self.log.extend(events);
        }
        Some(firsts)
    }

    pub(crate) fn publish_draft(&mut self, queued: Queued) {
        self.drafts.insert(self.next_draft, queued);
        self.next_draft += 1;
    }

    /// Makes a slot's consumer anew, under a new name.
    pub(crate) fn make_consumer(&mut self, slot: Slot, name: u64) {
        let next = match self.consumers.get(&slot) {
            Some(old) if self.is_broken(Mutation::OldConsumer) => old.next,
            _ => 1,
        };
        self.consumers.insert(slot, Consumer { name, next });
    }

    pub(crate) fn has_consumer(&self, slot: Slot, name: u64) -> bool {
        self.consumers.get(&slot).is_some_and(|consumer| consumer.name == name)
    }

    /// The next draft for a consumer: an error when it is no longer there.
    pub(crate) fn pull(&mut self, slot: Slot, name: u64) -> Result<Option<(u64, Token, Bytes)>, ()> {
        let consumer = self.consumers.get_mut(&slot).filter(|consumer| consumer.name == name).ok_or(())?;
        let found = self.drafts.range(consumer.next..).find(|(_, queued)| queued.slot == slot);
        let Some((&sequence, queued)) = found else { return Ok(None) };
        consumer.next = sequence + 1;
        Ok(Some((sequence, queued.token.clone(), queued.body.clone())))
    }

    /// Takes a draft off the queue; only its consumer may.
    pub(crate) fn acknowledge(&mut self, slot: Slot, name: u64, sequence: u64) -> bool {
        let may = self.has_consumer(slot, name) || self.is_broken(Mutation::AnyoneConfirms);
        if may {
            self.drafts.remove(&sequence);
        }
        may
    }

    pub(crate) fn queued(&self) -> usize {
        self.drafts.len()
    }

    /// The server is killed: the newest drafts were not on the disk yet, and their numbers are given again.
    pub(crate) fn crash(&mut self, lost: usize) {
        for _ in 0..lost {
            if let Some((sequence, _)) = self.drafts.pop_last() {
                self.next_draft = sequence;
            }
        }
    }

    /// Sets a key that is at `expected` (0: not there); its new revision, unless somebody was quicker.
    pub(crate) fn set_key(&mut self, key: &str, expected: Option<u64>, value: Option<&str>) -> Option<u64> {
        let now = Instant::now();
        self.bucket.retain(|_, key| key.expires > now);
        let found = self.bucket.get(key).map_or(0, |key| key.revision);
        if expected.is_some_and(|expected| expected != found) {
            return None;
        }
        self.revision += 1;
        if value.is_none() || found == 0 && key.starts_with("validator") {
            self.comings_and_goings += 1;
        }
        let value = value.map(str::to_owned);
        self.bucket.insert(key.to_owned(), Key { revision: self.revision, value, expires: now + TTL });
        Some(self.revision)
    }

    /// All keys, with their revisions; those without a value were removed.
    pub(crate) fn keys(&mut self) -> Vec<(String, u64, Option<String>)> {
        let now = Instant::now();
        self.bucket.retain(|_, key| key.expires > now);
        self.bucket.iter().map(|(name, key)| (name.clone(), key.revision, key.value.clone())).collect()
    }
}

/// The servers, and what everybody else shares.
#[derive(Clone)]
pub(crate) struct World(Arc<Shared>);

struct Shared {
    servers: Mutex<Servers>,
    rng: Mutex<Rng>,
    changed: Notify,
    weather: Mutex<Weather>,
    story: Mutex<Vec<String>>,
    start: Instant,
}

impl World {
    pub(crate) fn new(seed: u64, weather: Weather, mutation: Option<Mutation>) -> Self {
        let servers = Servers {
            log: Vec::new(),
            drafts: BTreeMap::new(),
            next_draft: 1,
            consumers: BTreeMap::new(),
            bucket: BTreeMap::new(),
            revision: 0,
            comings_and_goings: 0,
            answers: BTreeMap::new(),
            mutation,
        };
        Self(Arc::new(Shared {
            servers: Mutex::new(servers),
            rng: Mutex::new(Rng::new(seed)),
            changed: Notify::new(),
            weather: Mutex::new(weather),
            story: Mutex::new(Vec::new()),
            start: Instant::now(),
        }))
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Servers) -> T) -> T {
        look(&lock(&self.0.servers))
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Servers) -> T) -> T {
        let result = change(&mut lock(&self.0.servers));
        self.0.changed.notify_waiters();
        result
    }

    /// Waits until `look` finds something.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut(&mut Servers) -> Option<T>) -> T {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&mut lock(&self.0.servers)) {
                return found;
            }
            changed.await;
        }
    }

    pub(crate) fn roll<T>(&self, roll: impl FnOnce(&mut Rng) -> T) -> T {
        roll(&mut lock(&self.0.rng))
    }

    /// Whether what happens once in `n` times happens now; never where `n` is 0.
    pub(crate) fn happens(&self, n: usize) -> bool {
        n > 0 && self.roll(|rng| rng.one_in(n))
    }

    pub(crate) fn weather(&self) -> Weather {
        *lock(&self.0.weather)
    }

    pub(crate) fn calm_down(&self) {
        *lock(&self.0.weather) = Weather {
            delay_ms: 2,
            slow_one_in: 0,
            lost_one_in: 0,
            full_one_in: 0,
            naps_one_in: 0,
            overtaken_one_in: 0,
        };
    }

    /// How long a message takes.
    pub(crate) fn delay(&self) -> Duration {
        let weather = self.weather();
        let micros = self.roll(|rng| rng.below(weather.delay_ms * 1000 + 1)) as u64;
        let slow = if self.happens(weather.slow_one_in) { self.roll(|rng| rng.below(100)) as u64 } else { 1 };
        Duration::from_micros(micros * slow.max(1) + 10)
    }

    /// The time by the servers' clock, in milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes what happens, for whoever has to read it.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        let at = self.0.start.elapsed();
        lock(&self.0.story).push(format!("{:>9.3} {}", at.as_secs_f64(), what()));
    }

    pub(crate) fn story(&self) -> Vec<String> {
        lock(&self.0.story).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
