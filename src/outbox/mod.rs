//! A connection's drafts, from the frame that brought them to the answer that ends them.
//!
//! Pure: the session tells it what happened and when, and it says what to publish and what to answer. It
//! keeps three promises. What is published goes one submission after the other, so drafts stay in the order
//! sent even when publishes fail; and as long as one waits for its answer the next one waits too, so they do
//! even when NATS loses what it had taken. A draft is published again until it is answered. And no draft is
//! called rejected of which some copy may still be committed.
//!
//! A publish whose fate is not known may still be stored, after a copy that was published later. Each copy
//! therefore says until when it may be stored, and validators drop what NATS stored later. As long as an earlier
//! copy may be stored, a rejection is not believed. When its time is over the draft is published again: that copy
//! is stored after all others, so its rejection is final.
//!
//! What goes again goes with the drafts behind it that are in the log already. From these a validator sees that
//! an earlier copy was decided, and does not decide a second time what that one had rejected: accepted now, it
//! would stand behind the drafts that were sent after it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::{Answer, AtomicGroups, ClientId, Draft, DraftKey, EventId, FieldError, Outcome, Reason};
use crate::faults;
use crate::frontend::settings::FrontendSettings;
use crate::util::backoff::doubled;

/// The drafts of one connection that are not answered yet.
pub(crate) struct Pending {
    limits: Limits,
    client: ClientId,
    /// Not published yet, in the order sent.
    queue: VecDeque<Held>,
    /// Published at least once, in the order sent.
    sent: VecDeque<Sent>,
    /// How many drafts are held under a key.
    keys: HashMap<DraftKey, u32>,
    drafts: usize,
    /// The bytes of those, and of who waits for them.
    bytes: usize,
    next_number: u64,
    /// The number of the last unit of work.
    units: u64,
    publishes: u64,
    /// The submission whose publish is under way.
    publishing: Option<u64>,
    not_before: Option<Instant>,
    failures: u32,
}

struct Limits {
    drafts_max: usize,
    unanswered_max: usize,
    submission_drafts_max: usize,
    submission_bytes_max: usize,
    message_bytes_max: usize,
    answer_wait: Duration,
    deadline: Duration,
    retry: Duration,
    retry_max: Duration,
}

struct Held {
    draft: Arc<Draft>,
    key: DraftKey,
    /// The unit of work that it belongs to.
    unit: u64,
    since: Instant,
    asked: Vec<Asked>,
}

impl Held {
    fn bytes(&self) -> usize {
        self.draft.json_bytes() + self.asked.iter().map(Asked::bytes).sum::<usize>()
    }
}

struct Sent {
    number: u64,
    attempt: u32,
    /// The partition's head before the first attempt.
    since: EventId,
    /// Until when the last attempt may be stored, by NATS's clock.
    storable_until: u64,
    /// Whether the fate of the last attempt is not known.
    unknown: bool,
    /// Until when some attempt before the last may still be stored, by NATS's clock.
    unsure_until: Option<u64>,
    /// When that time is surely over, by our clock.
    sure_at: Option<Instant>,
    /// Whether a rejection came that cannot be believed, so that it goes again when that time is over.
    asks_again: bool,
    /// Outcomes go by place.
    places: Vec<Place>,
    /// Whether a copy may be in the queue, or may have been.
    maybe_stored: bool,
    /// Whether to publish it again.
    due: bool,
    /// When its last copy was stored.
    stored_at: Option<Instant>,
}

/// One draft of a submission.
struct Place {
    draft: Arc<Draft>,
    unit: u64,
    /// `None` once it was answered.
    held: Option<Held>,
    /// Whether it was answered as being in the log.
    committed: bool,
}

impl Sent {
    fn held(&self) -> impl Iterator<Item = &Held> {
        self.places.iter().filter_map(|place| place.held.as_ref())
    }

    fn place_of(&self, wanted: impl Fn(&Held) -> bool) -> Option<usize> {
        self.places.iter().position(|place| place.held.as_ref().is_some_and(&wanted))
    }

    /// Whether a place says nothing to a validator any more: it was told as rejected, or it is committed and
    /// nothing of an earlier unit is open.
    fn is_spent(&self, place: &Place) -> bool {
        let first_open = self.places.iter().find(|place| place.held.is_some());
        place.held.is_none() && (!place.committed || first_open.is_none_or(|first| place.unit <= first.unit))
    }

    fn units(&self) -> AtomicGroups {
        AtomicGroups::of(self.places.iter().map(|place| place.unit))
    }

    /// Begins the next attempt: which of those before it may still be stored.
    fn begin_attempt(&mut self, now: Instant, nats_ms: u64) {
        if std::mem::take(&mut self.unknown) {
            self.unsure_until = self.unsure_until.max(Some(self.storable_until));
        }
        let sure_from = |until: u64| until.saturating_add(CLOCKS_APART_MS + 1);
        self.unsure_until = self.unsure_until.filter(|until| nats_ms < sure_from(*until));
        self.sure_at = self
            .unsure_until
            .map(|until| now + Duration::from_millis(sure_from(until).saturating_sub(nats_ms)));
        self.storable_until = nats_ms.saturating_add(STORABLE_MS);
        self.attempt += 1;
        (self.due, self.asks_again, self.stored_at) = (false, false, None);
    }

    /// Whether a rejection of it came that could not be believed, and another one now can.
    fn asks_again_now(&self, now: Instant) -> bool {
        self.asks_again && self.sure_at.is_some_and(|at| at <= now)
    }
}

/// What became of a submitted draft.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It waits for its turn; its commit is to be looked out for under this key.
    Queued(DraftKey),
    /// The same draft is pending already: this request gets the same answer.
    Attached,
    /// Too many are pending.
    Full,
}

/// A submission to be published now.
#[derive(Debug)]
pub(crate) struct Publish {
    /// The submission.
    pub number: u64,
    /// The attempt.
    pub attempt: u32,
    /// The partition's head before the first attempt.
    pub since: EventId,
    /// The how-manieth publish of the connection.
    pub publish: u64,
    /// Until when it may be stored, by NATS's clock, in Unix milliseconds.
    pub storable_until: u64,
    /// When the first of its drafts came.
    pub oldest: Instant,
    /// Its units of work.
    pub units: AtomicGroups,
    /// Its drafts, with such as are committed already behind the first that is not.
    pub drafts: Vec<Arc<Draft>>,
}

/// How a publish went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// It is in the queue.
    Stored,
    /// It is not in the queue.
    NotStored,
    /// It may or may not be.
    Unknown,
}

/// A draft that is done with, and the requests that wait for it.
#[derive(Debug)]
pub(crate) struct Done {
    /// The draft.
    pub draft: Arc<Draft>,
    /// Its key; looked out for no longer unless [`Pending::holds`] it still.
    pub key: DraftKey,
    /// When it came.
    pub since: Instant,
    /// Who waits for it.
    pub asked: Vec<Asked>,
    /// How it ended.
    pub end: End,
}

/// Who waits for a draft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The request of this id.
    Request(String),
    /// An item of a batch.
    Item { batch: u64, place: usize },
}

impl Asked {
    fn bytes(&self) -> usize {
        let id = if let Asked::Request(id) = self { id.len() } else { 0 };
        id + std::mem::size_of::<Self>()
    }
}

/// How a draft ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// It is in the log.
    Accepted,
    /// It is not, and no copy of it will be.
    Rejected(Reason, Vec<FieldError>),
    /// It stood behind a rejected one in a batch.
    NotProcessed,
    /// Nobody knows.
    Forgotten,
}

impl End {
    /// For a log line.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            End::Accepted => "accepted",
            End::Rejected(reason, _) => reason.as_str(),
            End::NotProcessed => "not_processed",
            End::Forgotten => "forgotten",
        }
    }
}

/// A draft that a validator says is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The submission.
    pub number: u64,
    /// The draft's place in it.
    pub place: usize,
    /// Where it is in the log.
    pub event_id: EventId,
}

/// How long a copy may take to be stored. Who publishes it waits no longer than that for the acknowledgement, by
/// default.
const STORABLE_MS: u64 = 6_000;
/// How far the clocks of two NATS servers may be apart: with replicas the one that stamps a copy need not be the one
/// that told this process the time.
const CLOCKS_APART_MS: u64 = 2_000;

impl Pending {
    /// For a connection of `client`, to a NATS that takes messages of `message_bytes_max`.
    pub(crate) fn new(settings: &FrontendSettings, client: ClientId, message_bytes_max: usize) -> Self {
        Self {
            limits: Limits {
                drafts_max: settings.pending_drafts_max,
                unanswered_max: settings.submissions_unanswered_max,
                submission_drafts_max: settings.submission_drafts_max,
                submission_bytes_max: settings.submission_bytes_max,
                message_bytes_max,
                answer_wait: Duration::from_millis(settings.answer_wait_ms),
                deadline: Duration::from_millis(settings.submission_deadline_ms),
                retry: Duration::from_millis(settings.publish_retry_ms),
                retry_max: Duration::from_millis(settings.publish_retry_ms_max),
            },
            client,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            keys: HashMap::new(),
            drafts: 0,
            bytes: 0,
            next_number: 1,
            units: 0,
            publishes: 0,
            publishing: None,
            not_before: None,
            failures: 0,
        }
    }

    /// From now on NATS takes messages of so many bytes.
    pub(crate) fn set_message_bytes_max(&mut self, bytes: usize) {
        self.limits.message_bytes_max = bytes;
    }

    /// Whether everything is answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.drafts == 0
    }

    /// How many drafts wait for their answer.
    pub(crate) fn len(&self) -> usize {
        self.drafts
    }

    /// About how many bytes they take, with those who wait for them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a draft of this key waits for its answer.
    pub(crate) fn holds(&self, key: DraftKey) -> bool {
        self.keys.contains_key(&key)
    }

    /// The keys of all drafts that wait.
    pub(crate) fn keys(&self) -> impl Iterator<Item = DraftKey> {
        self.keys.keys().copied()
    }

    /// Begins a unit of work: the drafts that are submitted from now on until the next one stand or fall
    /// together.
    pub(crate) fn begin_unit(&mut self) {
        self.units += 1;
    }

    /// Takes a draft in.
    pub(crate) fn submit(&mut self, draft: Draft, asked: Asked, now: Instant) -> Taken {
        let key = draft.key(&self.client);
        if self.holds(key) {
            // A draft that stands and falls with others gets no answer from another unit's copy.
            let unit = matches!(asked, Asked::Item { .. }).then_some(self.units);
            let is_it = |held: &&mut Held| held.key == key && unit.is_none_or(|unit| held.unit == unit);
            let held = self.all_held().filter(is_it).find(|held| same(&held.draft, &draft));
            if let Some(held) = held {
                let bytes = asked.bytes();
                held.asked.push(asked);
                self.bytes += bytes;
                return Taken::Attached;
            }
        }
        if self.drafts >= self.limits.drafts_max {
            return Taken::Full;
        }
        self.drafts += 1;
        *self.keys.entry(key).or_default() += 1;
        let draft = Arc::new(draft);
        let held = Held { draft, key, unit: self.units, since: now, asked: vec![asked] };
        self.bytes += held.bytes();
        self.queue.push_back(held);
        Taken::Queued(key)
    }

    /// What to publish now, if anything: first what is to be published again, then what is new. `latest` is
    /// an event after all that the client can have been told of until now, `nats_ms` the time by NATS's clock.
    pub(crate) fn next(&mut self, now: Instant, latest: EventId, nats_ms: u64) -> Option<Publish> {
        if !self.has_next(now) {
            return None;
        }
        self.not_before = None;
        let index = match self.sent.iter().position(|sent| sent.due) {
            Some(index) => index,
            None => {
                let places = self.bundle();
                let number = self.number();
                self.sent.push_back(Sent {
                    number,
                    attempt: 0,
                    since: latest,
                    storable_until: 0,
                    unknown: false,
                    unsure_until: None,
                    sure_at: None,
                    asks_again: false,
                    places,
                    maybe_stored: false,
                    due: true,
                    stored_at: None,
                });
                self.sent.len() - 1
            }
        };
        let sent = &self.sent[index];
        let kept: Vec<bool> = sent.places.iter().map(|place| !sent.is_spent(place)).collect();
        // With other places it is another submission, since answers go by place; but not the first attempt.
        if kept.contains(&false) {
            let number = self.number();
            let sent = &mut self.sent[index];
            let mut kept = kept.into_iter();
            sent.places.retain(|_| kept.next().unwrap_or(true));
            sent.number = number;
        }
        let sent = &mut self.sent[index];
        sent.begin_attempt(now, nats_ms);
        self.publishing = Some(sent.number);
        self.publishes += 1;
        let drafts = sent.places.iter().map(|place| place.draft.clone()).collect();
        let (number, attempt, since) = (sent.number, sent.attempt, sent.since);
        let storable_until = sent.storable_until;
        let oldest = sent.held().map(|held| held.since).min().unwrap_or(now);
        let units = sent.units();
        let publish = self.publishes;
        Some(Publish { number, attempt, since, publish, storable_until, oldest, units, drafts })
    }

    fn may_publish(&self, now: Instant) -> bool {
        self.publishing.is_none() && self.not_before.is_none_or(|at| at <= now)
    }

    /// Whether something waits to be published, and not for an answer first.
    fn waits_to_publish(&self) -> bool {
        let new = !self.queue.is_empty() && self.sent.len() < self.limits.unanswered_max;
        new || self.sent.iter().any(|sent| sent.due)
    }

    /// Whether every draft that came is in the queue, as far as can be known now: nothing waits for its publish, and
    /// none is under way.
    pub(crate) fn is_handed_in(&self) -> bool {
        self.queue.is_empty() && self.publishing.is_none() && !self.sent.iter().any(|sent| sent.due)
    }

    /// Whether [`Pending::next`] has something to publish.
    pub(crate) fn has_next(&self, now: Instant) -> bool {
        self.may_publish(now) && self.waits_to_publish()
    }

    /// Whether what waits to be published fills a submission.
    pub(crate) fn has_full_submission(&self) -> bool {
        self.queue.len() >= self.limits.submission_drafts_max
    }

    /// Takes note of how the publish that was under way went.
    pub(crate) fn published(&mut self, result: Published, now: Instant) -> Vec<Done> {
        let Some(number) = self.publishing.take() else { return Vec::new() };
        let failed = result == Published::Unknown;
        self.failures = if failed { self.failures + 1 } else { 0 };
        if failed {
            let pause = doubled(self.limits.retry, self.limits.retry_max, self.failures - 1);
            self.not_before = Some(now + pause);
        }
        // Everything in it may have been answered meanwhile: the event can be quicker than the ack.
        let Some(index) = self.sent.iter().position(|sent| sent.number == number) else { return Vec::new() };
        let sent = &mut self.sent[index];
        match result {
            Published::Stored => {
                sent.maybe_stored = true;
                sent.stored_at = Some(now);
                Vec::new()
            }
            Published::NotStored if !sent.maybe_stored => {
                let places = std::mem::take(&mut sent.places);
                self.sent.remove(index);
                let end = End::Rejected(Reason::Unavailable, Vec::new());
                let held = places.into_iter().filter_map(|place| place.held);
                held.map(|held| self.done(held, end.clone())).collect()
            }
            Published::NotStored | Published::Unknown => {
                sent.maybe_stored |= failed;
                // A server that only believes to lead may refuse what the leader stores.
                sent.unknown = true;
                sent.due = true;
                if self.not_before.is_none() {
                    self.not_before = Some(now + self.limits.retry);
                }
                Vec::new()
            }
        }
    }

    /// An event of this key is in the log. The first draft of the key for which `is_it` holds is done.
    pub(crate) fn committed(&mut self, key: DraftKey, is_it: impl Fn(&Draft) -> bool) -> Option<Done> {
        if !self.holds(key) {
            return None;
        }
        let wanted = |held: &Held| held.key == key && is_it(&held.draft);
        for index in 0..self.sent.len() {
            if let Some(place) = self.sent[index].place_of(wanted) {
                return self.take(index, place, End::Accepted);
            }
        }
        let index = self.queue.iter().position(wanted)?;
        let held = self.queue.remove(index)?;
        Some(self.done(held, End::Accepted))
    }

    /// Takes note of a validator's answer: what it rejects is done, what it says is committed is to be
    /// looked up and then [`Pending::resolve`]d.
    pub(crate) fn answer(&mut self, answer: Answer) -> (Vec<Done>, Vec<Committed>) {
        let (mut done, mut committed) = (Vec::new(), Vec::new());
        let number = answer.submission;
        let Some(sent) = self.sent.iter_mut().find(|sent| sent.number == number) else {
            return (done, committed);
        };
        if sent.places.len() != answer.outcomes.len() {
            return (done, committed);
        }
        // A rejection of an earlier copy says nothing of the later one that is on its way; but no copy decides
        // again what stands before a unit of which this one has committed something.
        let is_latest = sent.attempt == answer.attempt || faults::broken("believe_any_attempt");
        // Nor does the rejection of the latest, while an earlier copy may still come after it.
        let unsure = sent.unsure_until.is_some() && !faults::broken("believe_unsure");
        sent.asks_again |= is_latest && unsure;
        let latest = is_latest && !unsure;
        let last_committed = answer.outcomes.iter().rposition(
            |outcome| matches!(outcome, Outcome::Committed { event_id } if *event_id > sent.since),
        );
        let decided_before = last_committed.map_or(0, |last| sent.units().group_of(last).start);
        for (place, outcome) in answer.outcomes.into_iter().enumerate() {
            let Some(index) = self.sent.iter().position(|sent| sent.number == number) else { break };
            if self.sent[index].places[place].held.is_none() {
                continue;
            }
            let is_final = latest || place < decided_before;
            match outcome {
                Outcome::Committed { event_id } => committed.push(Committed { number, place, event_id }),
                Outcome::Rejected { reason, errors } if is_final => {
                    done.extend(self.take(index, place, End::Rejected(reason, errors)));
                }
                Outcome::NotProcessed if is_final => done.extend(self.take(index, place, End::NotProcessed)),
                Outcome::Rejected { .. } | Outcome::NotProcessed => {}
            }
        }
        (done, committed)
    }

    /// A draft of an answer was found in the log.
    pub(crate) fn resolve(&mut self, committed: Committed) -> Option<Done> {
        let index = self.sent.iter().position(|sent| sent.number == committed.number)?;
        self.take(index, committed.place, End::Accepted)
    }

    /// The connection to NATS was lost meanwhile: what was sent may be lost, so all of it goes again.
    pub(crate) fn republish(&mut self) {
        self.not_before = None;
        for sent in &mut self.sent {
            if Some(sent.number) != self.publishing {
                sent.due = true;
                sent.stored_at = None;
            }
        }
    }

    /// Time has passed: what has waited too long for an answer goes again, with everything unanswered; what
    /// has waited far too long is given up.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Done> {
        let overdue =
            self.sent.iter().any(|sent| sent.stored_at.is_some_and(|at| at + self.limits.answer_wait <= now));
        if overdue {
            self.republish();
        }
        for sent in &mut self.sent {
            sent.due |= sent.asks_again_now(now);
        }
        let mut done = Vec::new();
        let deadline = self.limits.deadline;
        let late = |held: &Held| held.since + deadline <= now;
        while let Some(index) = self.sent.iter().position(|sent| sent.held().any(late)) {
            let Some(place) = self.sent[index].place_of(late) else { break };
            done.extend(self.take(index, place, End::Forgotten));
        }
        while self.queue.front().is_some_and(late) {
            let Some(held) = self.queue.pop_front() else { break };
            // Never published: surely not stored.
            done.push(self.done(held, End::Rejected(Reason::Unavailable, Vec::new())));
        }
        done
    }

    /// When [`Pending::tick`] or [`Pending::next`] has something to do at the latest.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let unanswered = self.sent.iter().filter_map(|sent| sent.stored_at).min();
        let answer = unanswered.map(|at| at + self.limits.answer_wait);
        let sure = self
            .sent
            .iter()
            .filter(|sent| sent.asks_again && !sent.due)
            .filter_map(|sent| sent.sure_at)
            .min();
        let first_sent = self.sent.iter().filter_map(|sent| sent.held().next());
        let oldest = first_sent.chain(self.queue.front()).map(|held| held.since).min();
        let deadline = oldest.map(|since| since + self.limits.deadline);
        // A pause that nobody waits for ends without notice: it would wake the connection for ever.
        let publish = self.not_before.filter(|_| self.waits_to_publish());
        [answer, sure, deadline, publish].into_iter().flatten().min()
    }

    /// Gives all drafts up. What was never published is surely not stored; of the others nobody knows.
    pub(crate) fn give_up(&mut self) -> Vec<Done> {
        let sent = std::mem::take(&mut self.sent);
        let queue = std::mem::take(&mut self.queue);
        let published = sent.into_iter().flat_map(|sent| sent.places).filter_map(|place| place.held);
        let published = published.map(|held| (held, End::Forgotten));
        let unpublished =
            queue.into_iter().map(|held| (held, End::Rejected(Reason::Unavailable, Vec::new())));
        let all: Vec<_> = published.chain(unpublished).collect();
        all.into_iter().map(|(held, end)| self.done(held, end)).collect()
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// What goes together in the next submission: as many units as fit, and at least one.
    fn bundle(&mut self) -> Vec<Place> {
        let (mut places, mut bytes) = (Vec::new(), 0);
        let bytes_max = self.limits.submission_bytes_max.min(self.limits.message_bytes_max / 2);
        while let Some(unit) = self.queue.front().map(|held| held.unit) {
            let drafts = self.queue.iter().take_while(|held| held.unit == unit);
            let (count, more) =
                drafts.fold((0, 0), |(count, bytes), held| (count + 1, bytes + held.draft.json_bytes()));
            bytes += more;
            let full = places.len() + count > self.limits.submission_drafts_max || bytes > bytes_max;
            if full && !places.is_empty() {
                break;
            }
            places.extend(self.queue.drain(..count).map(|held| Place {
                draft: held.draft.clone(),
                unit,
                held: Some(held),
                committed: false,
            }));
        }
        places
    }

    fn take(&mut self, index: usize, place: usize, end: End) -> Option<Done> {
        let sent = self.sent.get_mut(index)?;
        let place = sent.places.get_mut(place)?;
        let held = place.held.take()?;
        place.committed = end == End::Accepted;
        if sent.held().next().is_none() {
            self.sent.remove(index);
        }
        Some(self.done(held, end))
    }

    fn done(&mut self, held: Held, end: End) -> Done {
        self.drafts -= 1;
        self.bytes -= held.bytes();
        debug_assert!(self.drafts > 0 || self.bytes == 0, "{} bytes of nothing", self.bytes);
        if let Some(count) = self.keys.get_mut(&held.key) {
            *count -= 1;
            if *count == 0 {
                self.keys.remove(&held.key);
            }
        }
        Done { draft: held.draft, key: held.key, since: held.since, asked: held.asked, end }
    }

    fn all_held(&mut self) -> impl Iterator<Item = &mut Held> {
        let places = self.sent.iter_mut().flat_map(|sent| &mut sent.places);
        let sent = places.filter_map(|place| place.held.as_mut());
        sent.chain(self.queue.iter_mut())
    }
}

/// Whether two drafts of one key say the same, to the byte.
fn same(one: &Draft, other: &Draft) -> bool {
    one.event_type == other.event_type
        && one.base_event_id == other.base_event_id
        && one.payload.get() == other.payload.get()
        && match (&one.v1, &other.v1) {
            (None, None) => true,
            (Some(one), Some(other)) => one.is_as_written(other),
            _ => false,
        }
}

#[cfg(test)]
mod tests;
