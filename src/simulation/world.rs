//! A model of what JetStream does: the log, the work queue with its consumers, and the ownership bucket.
//!
//! Every operation here is instantaneous and atomic; what is lost, late or doubled on the way is `net`'s.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::rng::Rng;
use crate::event::{Answer, Decided, EventId, EventRecord, Slot, Token};

/// How long an ownership key lives unless renewed.
pub(crate) const TTL: Duration = Duration::from_secs(6);

/// A way of breaking what the product rests on: the judge must find each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Commits are not checked against the partition's last event.
    UncheckedCommit,
    /// Who has lost a slot is told that its key was written.
    AnyoneWrites,
    /// The same, but only where the key would say nothing new: a validator that has read a state believes that the
    /// slot is still its own.
    NoOwnerCheck,
    /// The next owner of a slot does not heed which of its drafts are decided.
    NoFloor,
    /// No mark is committed before a rejection is told.
    NoFence,
    /// A state is loaded without its index of drafts.
    ForgottenIndex,
    /// A draft that was committed long ago is not looked for in the log.
    UnsoughtDraft,
    /// Drafts are published again without a word on what earlier copies may have committed.
    NoSince,
    /// A copy may be stored at any time, and a frontend believes the rejection of a later one.
    NoLastMoment,
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
    /// One read in so many is answered by a server that lacks the last events.
    pub stale_one_in: usize,
    /// One write in so many is refused by one server and carried out by another, now or later.
    pub refused_twice_one_in: usize,
    /// One draft in so many that is acknowledged stays in the queue for some seconds.
    pub unremoved_one_in: usize,
}

pub(crate) struct StoredEvent {
    pub token: Token,
    pub body: Bytes,
}

pub(crate) struct Queued {
    pub slot: Slot,
    pub token: Token,
    pub body: Bytes,
    /// How far the clock of the server that stores it is off, in milliseconds.
    pub clock_off: u64,
}

/// A draft in the queue.
struct Waiting {
    queued: Queued,
    stored_at_ms: u64,
    /// When it is removed, if it was acknowledged.
    gone_at: Option<Instant>,
}

/// A draft as a consumer is given it.
pub(crate) struct Pulled {
    pub sequence: u64,
    pub token: Token,
    pub body: Bytes,
    pub stored_at_ms: u64,
}

struct Consumer {
    name: u64,
    next: u64,
}

struct Key {
    revision: u64,
    value: Option<String>,
    decided: Decided,
    /// `None` for one that stays.
    expires: Option<Instant>,
}

/// A key as it is read.
pub(crate) struct ReadKey {
    pub name: String,
    pub revision: u64,
    pub value: Option<String>,
    pub decided: Decided,
}

/// What the servers hold.
pub(crate) struct Servers {
    /// COMMITTED: event id `n` is at `n - 1`.
    pub log: Vec<StoredEvent>,
    drafts: BTreeMap<u64, Waiting>,
    next_draft: u64,
    /// Which queue it is.
    queue: u64,
    consumers: BTreeMap<Slot, Consumer>,
    bucket: BTreeMap<String, Key>,
    revision: u64,
    /// What each hold has written last.
    written: BTreeMap<(Slot, u64), Decided>,
    start: Instant,
    /// How often a key was removed, or a validator came.
    pub comings_and_goings: u64,
    pub answers: BTreeMap<String, mpsc::UnboundedSender<Answer>>,
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
            if self.is_broken(Mutation::NoFence) && bodies.iter().all(is_mark) {
                continue;
            }
            let events = bodies.iter().map(|body| StoredEvent { token: token.clone(), body: body.clone() });
            self.log.extend(events);
        }
        Some(firsts)
    }

    pub(crate) fn publish_draft(&mut self, queued: Queued) {
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let waiting = Waiting { stored_at_ms: now_ms + queued.clock_off, queued, gone_at: None };
        self.drafts.insert(self.next_draft, waiting);
        self.next_draft += 1;
    }

    /// Makes a slot's consumer anew, under a new name; which queue it takes drafts from.
    pub(crate) fn make_consumer(&mut self, slot: Slot, name: u64) -> String {
        self.consumers.insert(slot, Consumer { name, next: 1 });
        self.queue.to_string()
    }

    fn has_consumer(&self, slot: Slot, name: u64) -> bool {
        self.consumers.get(&slot).is_some_and(|consumer| consumer.name == name)
    }

    /// The next draft for a consumer: an error when it is no longer there.
    pub(crate) fn pull(&mut self, slot: Slot, name: u64) -> Result<Option<Pulled>, ()> {
        let now = Instant::now();
        self.drafts.retain(|_, waiting| waiting.gone_at.is_none_or(|at| at > now));
        let consumer = self.consumers.get_mut(&slot).filter(|consumer| consumer.name == name).ok_or(())?;
        let found = self.drafts.range(consumer.next..).find(|(_, waiting)| waiting.queued.slot == slot);
        let Some((&sequence, Waiting { queued, stored_at_ms, .. })) = found else { return Ok(None) };
        consumer.next = sequence + 1;
        let (token, body) = (queued.token.clone(), queued.body.clone());
        Ok(Some(Pulled { sequence, token, body, stored_at_ms: *stored_at_ms }))
    }

    /// Acknowledges a draft, which only its consumer may. With replicas it is removed some time later.
    pub(crate) fn acknowledge(&mut self, slot: Slot, name: u64, sequence: u64, later: Duration) -> bool {
        let may = self.has_consumer(slot, name);
        if let Some(waiting) = self.drafts.get_mut(&sequence).filter(|_| may) {
            waiting.gone_at.get_or_insert(Instant::now() + later);
        }
        may
    }

    /// How many drafts nobody has acknowledged.
    pub(crate) fn queued(&self) -> usize {
        self.drafts.values().filter(|waiting| waiting.gone_at.is_none()).count()
    }

    /// The one server is killed, and what was in memory is gone: the queue with all consumers, and the bucket. The next
    /// queue begins at 1 again, and the next bucket where none has been.
    pub(crate) fn crash(&mut self) {
        self.drafts.clear();
        self.consumers.clear();
        self.next_draft = 1;
        self.queue += 1;
        self.bucket.clear();
        self.comings_and_goings += 1;
    }

    /// Writes the key of a slot that is held since `since`.
    pub(crate) fn write_slot(
        &mut self,
        slot: Slot,
        (since, revision): (u64, u64),
        validator: &str,
        decided: Decided,
    ) -> Option<u64> {
        let written =
            self.set_key(&format!("slot.{slot}"), Some(revision), Some(validator), Some(decided.clone()));
        let nothing_new = self.written.get(&(slot, since)).is_none_or(|before| *before == decided);
        if written.is_some() {
            self.written.insert((slot, since), decided);
            return written;
        }
        let believed =
            self.is_broken(Mutation::AnyoneWrites) || self.is_broken(Mutation::NoOwnerCheck) && nothing_new;
        believed.then_some(revision)
    }

    /// Sets a key that is at `expected` (0: not there); its new revision, unless somebody was quicker. One that says
    /// what is decided stays, others expire.
    pub(crate) fn set_key(
        &mut self,
        key: &str,
        expected: Option<u64>,
        value: Option<&str>,
        decided: Option<Decided>,
    ) -> Option<u64> {
        let now = Instant::now();
        self.bucket.retain(|_, key| key.expires.is_none_or(|at| at > now));
        let found = self.bucket.get(key).map_or(0, |key| key.revision);
        if expected.is_some_and(|expected| expected != found) {
            return None;
        }
        self.revision += 1;
        if value.is_none() || found == 0 && key.starts_with("validator") {
            self.comings_and_goings += 1;
        }
        let value = value.map(str::to_owned);
        let expires = decided.is_none().then_some(now + TTL);
        let key_now = Key { revision: self.revision, value, decided: decided.unwrap_or_default(), expires };
        self.bucket.insert(key.to_owned(), key_now);
        Some(self.revision)
    }

    /// All keys; those without a value were removed.
    pub(crate) fn keys(&mut self) -> Vec<ReadKey> {
        let now = Instant::now();
        self.bucket.retain(|_, key| key.expires.is_none_or(|at| at > now));
        let read = |(name, key): (&String, &Key)| ReadKey {
            name: name.clone(),
            revision: key.revision,
            value: key.value.clone(),
            decided: key.decided.clone(),
        };
        self.bucket.iter().map(read).collect()
    }
}

fn is_mark(body: &Bytes) -> bool {
    EventRecord::parse(body).is_ok_and(|record| record.is_mark)
}

/// The servers, and what everybody else shares.
#[derive(Clone)]
pub(crate) struct World(Arc<Shared>, Arc<Mutex<Rng>>);

struct Shared {
    servers: Mutex<Servers>,
    seed: u64,
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
            queue: 1,
            written: BTreeMap::new(),
            start: Instant::now(),
            consumers: BTreeMap::new(),
            bucket: BTreeMap::new(),
            revision: 0,
            comings_and_goings: 0,
            answers: BTreeMap::new(),
            mutation,
        };
        let shared = Arc::new(Shared {
            servers: Mutex::new(servers),
            seed,
            changed: Notify::new(),
            weather: Mutex::new(weather),
            story: Mutex::new(Vec::new()),
            start: Instant::now(),
        });
        Self(shared, Arc::new(Mutex::new(Rng::new(seed))))
    }

    /// The same world with a chance of its own, which follows from the time and from what it is for: of those who do
    /// something at the same moment, it does not matter who is first.
    pub(crate) fn by_itself(&self, what: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        (self.0.seed, self.0.start.elapsed(), what).hash(&mut hasher);
        Self(self.0.clone(), Arc::new(Mutex::new(Rng::new(hasher.finish()))))
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
        roll(&mut lock(&self.1))
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
            stale_one_in: 0,
            refused_twice_one_in: 0,
            unremoved_one_in: 0,
        };
    }

    /// How many of the log's last events a server lacks that answers a read now.
    pub(crate) fn lacks(&self) -> usize {
        let weather = self.weather();
        if self.happens(weather.stale_one_in) { self.roll(|rng| 1 + rng.below(8)) } else { 0 }
    }

    /// How long an acknowledged draft stays in the queue.
    pub(crate) fn removed_after(&self) -> Duration {
        let late = self.happens(self.weather().unremoved_one_in);
        Duration::from_millis(if late { self.roll(|rng| rng.below(8_000)) as u64 } else { 0 })
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
