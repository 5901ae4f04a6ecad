//! One round of one partition: decide the drafts that wait, commit those that pass, tell the others.
//!
//! Rejections and answers leave only after the commit that they were decided behind is in the log.

pub(crate) mod decide;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::decide::{
    PendingSubmission, RoundBlocked, Staged, decide_round, is_heavy, rejection, timestamp, to_be_found,
};
use super::cache::{Cached, SnapshotProgress};
use super::log_backend::{LogBackend, QueuedDraft};
use super::metrics;
use super::shared::Shared;
use super::slots::hold::{Hold, NotHeld};
use crate::event::{Answer, EventId, EventRecord, Outcome, PartitionKey, Reason, Token};
use crate::faults;
use crate::log::{CommitError, LogError, PlacedTrace};
use crate::partition::LoadError;
use crate::state::{AppError, PartitionState};
use crate::telemetry::traces::Span;
use crate::util::backoff::Backoff;

/// The most drafts that the log is asked for at a time.
const FINDS_AT_ONCE: usize = 32;

/// Why a partition's work stopped before its drafts were answered. They come again: to the slot's next
/// owner, or to this one when it takes the slot anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoundError {
    #[error("the slot is lost: {0}")]
    SlotLost(LogError),
    #[error(transparent)]
    NotHeld(#[from] NotHeld),
    #[error("the slot is being given up")]
    Stopped,
}

/// The place in the log that one partition is decided at, for the time of one ownership.
pub(crate) struct Partition<P: LogBackend> {
    pub key: PartitionKey,
    pub token: Token,
    pub hold: Arc<Hold<P>>,
    pub shared: Arc<Shared<P>>,
}

impl<P: LogBackend> Partition<P> {
    /// Decides and answers all of `works`, in order.
    pub(crate) async fn run(
        &self,
        mut works: VecDeque<PendingSubmission<P::Draft>>,
    ) -> Result<(), RoundError> {
        let mut cached = None;
        let result = self.run_with(&mut cached, &mut works).await;
        // A state with anything staged is one that may never come to be: it is let go.
        if let Some(mut cached) = cached.filter(|cached: &Cached| cached.state.staged() == 0) {
            cached.state.forget_told_drafts();
            self.shared.cache.put(self.key.clone(), cached);
        }
        result
    }

    async fn run_with(
        &self,
        slot: &mut Option<Cached>,
        works: &mut VecDeque<PendingSubmission<P::Draft>>,
    ) -> Result<(), RoundError> {
        let mut pause = Pause::new(self.shared.settings.retry_pause_max_ms);
        while !works.is_empty() {
            if slot.is_none() {
                match self.load_as_owner().await? {
                    Ok(cached) => *slot = Some(cached),
                    Err(LoadError::Log(error)) => {
                        warn!(partition = %self.key, drafts = %Named(works), %error, "failed to load the partition's state; retrying");
                        pause.wait(&self.hold.stop).await?;
                        continue;
                    }
                    Err(broken @ LoadError::Broken { .. }) => return self.stop_at(works, &broken).await,
                }
            }
            let started = Instant::now();
            let decided = self.decide(slot, works).await?;
            let Some(cached) = slot else { continue };
            let staged = match decided {
                Ok(staged) => staged,
                Err(RoundBlocked::NeedsHistory(from)) => {
                    match self
                        .shared
                        .log
                        .extend_history(&self.token, &self.shared.fold, &mut cached.state, from)
                        .await
                    {
                        Ok(1..) => continue,
                        Ok(0) => {
                            warn!(partition = %self.key, %from, "the partition's history is not available; retrying")
                        }
                        Err(error) => {
                            warn!(partition = %self.key, %error, "failed to read the partition's history; retrying");
                        }
                    }
                    pause.wait(&self.hold.stop).await?;
                    continue;
                }
                Err(RoundBlocked::NeedsDrafts) => {
                    match self.find_drafts(&mut cached.state, works).await {
                        Ok(()) => continue,
                        Err(LoadError::Log(error)) => {
                            warn!(partition = %self.key, drafts = %Named(works), %error, "failed to look up in the log whether the drafts are committed; retrying");
                        }
                        Err(broken @ LoadError::Broken { .. }) => {
                            *slot = None;
                            return self.stop_at(works, &broken).await;
                        }
                    }
                    pause.wait(&self.hold.stop).await?;
                    continue;
                }
                Err(RoundBlocked::OlderRules { known, last }) => {
                    let known =
                        known.map_or_else(|| "the built-in ones".to_owned(), |known| known.to_string());
                    info!(partition = %self.key, drafts = %Named(works), known, %last, "the last event was decided by later rules than those known here; waiting for them");
                    pause.wait(&self.hold.stop).await?;
                    continue;
                }
                Err(RoundBlocked::Reload) => {
                    self.decide_anew(slot, works);
                    continue;
                }
                Err(RoundBlocked::App(AppError::Unavailable(why))) => {
                    warn!(partition = %self.key, drafts = %Named(works), why, "the application's rules cannot be run just now");
                    self.decide_anew(slot, works);
                    pause.wait(&self.hold.stop).await?;
                    continue;
                }
                Err(RoundBlocked::App(AppError::Fails(why))) => {
                    let event = cached.state.head();
                    self.decide_anew(slot, works);
                    return self.stop_at(works, &LoadError::Broken { event, why }).await;
                }
                Err(RoundBlocked::Panicked { work, draft }) => {
                    metrics::poisoned();
                    *slot = None;
                    self.poison(works, work, draft);
                    continue;
                }
            };
            metrics::round(started.elapsed());
            works.iter_mut().for_each(PendingSubmission::note_decided);
            let decided = Instant::now();
            let committing = !staged.is_empty();
            if committing && !self.commit(slot, works, staged).await {
                for work in works.iter_mut() {
                    work.rollback();
                }
                *slot = None;
                pause.wait(&self.hold.stop).await?;
                continue;
            }
            if !committing && !self.is_fenced(slot, works) && !self.fence(slot).await {
                for work in works.iter_mut() {
                    work.rollback();
                }
                *slot = None;
                pause.wait(&self.hold.stop).await?;
                continue;
            }
            if committing {
                metrics::stage_committed(decided.elapsed());
            }
            pause.reset();
            self.settle(works).await?;
            self.ask_for_snapshot(slot);
        }
        Ok(())
    }

    /// Decides the next round. What may take long is decided on a thread of its own, of which there are as many as the
    /// processor does at once less one: everybody else's drafts, and the renewal of slots, go on beside it.
    async fn decide(
        &self,
        slot: &mut Option<Cached>,
        works: &mut VecDeque<PendingSubmission<P::Draft>>,
    ) -> Result<Result<Vec<Staged>, RoundBlocked>, RoundError> {
        let now_ms = self.shared.log.now_ms();
        // An application's rules are in a process that is waited for.
        let by_app =
            self.shared.rules.app().is_some() || slot.as_ref().is_some_and(|cached| cached.state.is_app());
        let apart = slot.as_ref().is_some_and(|cached| cached.state.is_apart());
        let heavy = by_app || is_heavy(works);
        let Some(mut cached) = slot.take_if(|_| heavy) else {
            let Some(cached) = slot else { return Ok(Ok(Vec::new())) };
            return Ok(decide_round(&self.shared, &self.key, &mut cached.state, works, now_ms));
        };
        // Those who wait for the process of the hostile ones must not take the places of all others.
        let places = if by_app && !apart { &self.shared.by_app } else { &self.shared.heavy };
        let _place = places.acquire().await;
        let (shared, key, mut taken) = (self.shared.clone(), self.key.clone(), std::mem::take(works));
        let deciding = tokio::task::spawn_blocking(move || {
            let decided = decide_round(&shared, &key, &mut cached.state, &mut taken, now_ms);
            (decided, cached, taken)
        });
        match deciding.await {
            Ok((decided, cached, taken)) => {
                (*slot, *works) = (Some(cached), taken);
                Ok(decided)
            }
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // The process ends.
            Err(_) => Err(RoundError::Stopped),
        }
    }

    /// Loads the state, and has the slot's key written afterwards.
    ///
    /// Without that, a validator that was put to sleep could wake up, find that others have committed, read
    /// their events, and accept on the state of today a draft that the slot's new owner has rejected on
    /// that of yesterday: JetStream's check knows only that the state is the current one. If the key could be
    /// written after the state was read, nobody else had decided anything until then. Whoever takes the slot later
    /// rejects nothing in this partition before an event of its own follows this state, and then what is decided
    /// here can no longer be committed.
    async fn load_as_owner(&self) -> Result<Result<Cached, LoadError>, RoundError> {
        let was_kept = self.shared.cache.holds(&self.key, self.hold.since);
        let cached = match self.load().await {
            Ok(cached) => cached,
            Err(error) => return Ok(Err(error)),
        };
        if was_kept || faults::broken("decide_unowned") {
            return Ok(Ok(cached));
        }
        self.hold.prove().await?;
        Ok(Ok(cached))
    }

    async fn load(&self) -> Result<Cached, LoadError> {
        let fold = &self.shared.fold;
        if let Some(mut cached) = self.shared.cache.take(&self.key) {
            if cached.owned_since == self.hold.since || faults::broken("stale_cache") {
                return Ok(cached);
            }
            // Somebody else may have owned the slot in between.
            if cached.state.is_ahead_of_log(None) {
                return self.load_anew().await;
            }
            self.shared.log.catch_up(&self.token, fold, &mut cached.state).await?;
            cached.owned_since = self.hold.since;
            cached.fenced = false;
            return Ok(cached);
        }
        self.load_anew().await
    }

    async fn load_anew(&self) -> Result<Cached, LoadError> {
        let fold = &self.shared.fold;
        let started = Instant::now();
        let loaded = self.shared.log.load_partition(&self.token, fold).await?;
        metrics::loaded(started.elapsed());
        debug!(
            token = %self.token, head = %loaded.state.head(), snapshot = %loaded.snapshot.event_id,
            indexed = loaded.indexed, "partition loaded"
        );
        Ok(Cached {
            state: loaded.state,
            owned_since: self.hold.since,
            fenced: false,
            snapshot: Arc::new(SnapshotProgress::new(loaded.snapshot, loaded.indexed)),
        })
    }

    /// Has the state know which drafts are committed that were so long ago that it must ask the log.
    async fn find_drafts(
        &self,
        state: &mut PartitionState,
        works: &VecDeque<PendingSubmission<P::Draft>>,
    ) -> Result<(), LoadError> {
        let drafts = to_be_found(state, works).into_iter().map(|key| {
            let candidates = state.draft_candidates(&key);
            async move {
                let found = self.shared.log.find_draft(&self.token, &key, &candidates).await?;
                Ok::<_, LoadError>((key, found))
            }
        });
        let found: Vec<_> = stream::iter(drafts).buffer_unordered(FINDS_AT_ONCE).try_collect().await?;
        metrics::sought(found.len());
        for (key, commit) in found {
            state.resolve_lookup(key, commit);
        }
        Ok(())
    }

    /// Commits what is staged. False if that did not, or not surely, happen: then the state is to be
    /// loaded anew and everything not settled decided again.
    async fn commit(
        &self,
        slot: &mut Option<Cached>,
        works: &mut VecDeque<PendingSubmission<P::Draft>>,
        staged: Vec<Staged>,
    ) -> bool {
        let Some(cached) = slot else { return false };
        let bodies: Vec<Bytes> = staged.iter().map(|staged| staged.body.clone()).collect();
        let lengths: Vec<usize> = bodies.iter().map(Bytes::len).collect();
        let expected = cached.state.head();
        if faults::broken("answer_before_ack") {
            self.answer_too_early(works).await;
        }
        let (mut spans, traces) = commit_spans(works, &staged);
        let committed = self.shared.committer.commit(self.token.clone(), expected, bodies, traces).await;
        for span in &mut spans {
            match &committed {
                Ok(_) => span.set("insieme.events", staged.len() as i64),
                Err(_) => span.fail("not stored; decided again"),
            }
        }
        drop(spans);
        let first = match committed {
            Ok(first) => first,
            Err(_) if faults::broken("assume_committed") => EventId(expected.0 + 1),
            Err(CommitError::Conflict) => {
                info!(partition = %self.key, %expected, drafts = %Named(works), "the partition has newer events; deciding again");
                return false;
            }
            Err(error @ (CommitError::NotStored(_) | CommitError::Unknown(_))) => {
                warn!(partition = %self.key, %expected, drafts = %Named(works), %error, "failed to commit; reading the log and deciding again");
                return false;
            }
        };
        faults::die_at(faults::DIE_AFTER_COMMIT);
        let timestamp = staged.last().map_or(0, |staged| staged.timestamp);
        let before = cached.state.last_timestamp();
        if timestamp < before {
            metrics::timestamps_set_back();
            warn!(partition = %self.key, event = %expected, before, timestamp, "the last event is ahead of NATS's clock; timestamps go on with the time of now");
        }
        cached.state.confirm(first, timestamp, &lengths);
        cached.fenced = true;
        for (place, id) in staged.iter().zip(first.0..).map(|(staged, id)| (staged.place, EventId(id))) {
            if let Some((work, draft)) = place
                && let Some(outcome) = works.get_mut(work).and_then(|work| work.outcomes.get_mut(draft))
            {
                *outcome = Outcome::Committed { event_id: id };
            }
        }
        true
    }

    /// Whether what was decided may be told, once the slot's key is written. A rejection rests on a state that may be
    /// an old one, and something that was decided on the same state before, by an earlier owner or by other rules,
    /// may be on its way into the log still. Neither can be where this owner has committed the state's last event.
    fn is_fenced(&self, slot: &Option<Cached>, works: &VecDeque<PendingSubmission<P::Draft>>) -> bool {
        let is_new =
            |work: &PendingSubmission<P::Draft>| work.outcomes.iter().skip(work.settled).any(is_rejection);
        slot.as_ref().is_none_or(|cached| cached.fenced)
            || !works.iter().any(is_new)
            || faults::broken("reject_unfenced")
    }

    /// Commits a mark. False if that did not, or not surely, happen: then the state is to be loaded anew.
    async fn fence(&self, slot: &mut Option<Cached>) -> bool {
        let Some(cached) = slot else { return false };
        let (expected, ordinal) = (cached.state.head(), cached.state.ordinal() + 1);
        let timestamp = timestamp(self.shared.log.now_ms(), cached.state.last_timestamp());
        let mark = EventRecord::mark(&self.key, expected, ordinal, timestamp);
        let (key, body) = match mark.and_then(|mark| Ok((mark.draft_key(), mark.to_json()?))) {
            Ok((key, body)) => (key, Bytes::from(body)),
            Err(error) => {
                error!(partition = %self.key, %error, "a mark has no record");
                return false;
            }
        };
        let length = body.len();
        let committed =
            self.shared.committer.commit(self.token.clone(), expected, vec![body], Vec::new()).await;
        match committed {
            Ok(id) => {
                metrics::marked();
                cached.state.confirm_mark(key, id, timestamp, length);
                cached.fenced = true;
                true
            }
            Err(error) => {
                info!(partition = %self.key, %expected, %error, "failed to commit a mark; reading the log and deciding again");
                false
            }
        }
    }

    /// Everything decided so far holds: acknowledges and answers the submissions that are through.
    async fn settle(&self, works: &mut VecDeque<PendingSubmission<P::Draft>>) -> Result<(), RoundError> {
        let mut through = Vec::new();
        while let Some(work) = works.front_mut() {
            work.settled = work.outcomes.len();
            if !work.is_decided() {
                break;
            }
            through.extend(works.pop_front());
        }
        self.finish(through).await
    }

    /// Acknowledges and answers submissions that are decided. Of rejections nobody hears before the slot's key says
    /// that they are decided.
    async fn finish(&self, works: Vec<PendingSubmission<P::Draft>>) -> Result<(), RoundError> {
        let rejected: Vec<&PendingSubmission<P::Draft>> =
            works.iter().filter(|work| work.is_rejected()).collect();
        if !rejected.is_empty() {
            self.hold.tell(rejected.iter().map(|work| work.message.sequence())).await?;
            if self.shared.confirms.load(Ordering::Relaxed) {
                for work in rejected {
                    work.message.confirm(&self.shared.log).await.map_err(RoundError::SlotLost)?;
                }
            }
        }
        for work in works {
            self.answer(work).await;
        }
        Ok(())
    }

    async fn answer(&self, work: PendingSubmission<P::Draft>) {
        metrics::decided(&work.outcomes);
        self.log_outcomes(&work);
        self.hold.floor().settle(work.message.sequence());
        if work.needs_answer || work.is_rejected() {
            let (reply_to, client) = (&work.submission.reply_to, &work.submission.submitter.client_id);
            let answer = Answer {
                connection: reply_to.connection,
                submission: reply_to.submission,
                attempt: reply_to.attempt,
                outcomes: work.outcomes,
            };
            if let Err(error) = self.shared.log.answer(&reply_to.frontend, &answer).await {
                let connection = reply_to.connection;
                warn!(partition = %self.key, connection, %client, %error, "an answer was not sent; the frontend asks again");
            }
        }
        if !faults::is_on(faults::LOSE_ACKNOWLEDGEMENTS) {
            self.shared.acknowledger.settled(work.message).await;
        }
    }

    /// One line a draft, for whoever looks for one.
    fn log_outcomes(&self, work: &PendingSubmission<P::Draft>) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let submission = &work.submission;
        let (connection, client) = (submission.reply_to.connection, &submission.submitter.client_id);
        for (draft, outcome) in submission.drafts.iter().zip(&work.outcomes) {
            let draft = draft.draft_id.as_str();
            match outcome {
                Outcome::Committed { event_id } => {
                    debug!(partition = %self.key, connection, %client, draft, event = event_id.0, "draft committed");
                }
                Outcome::Rejected { reason, errors } => {
                    let code = errors.first().map(|error| error.code.as_str());
                    debug!(partition = %self.key, connection, %client, draft, reason = reason.as_str(), code, "draft rejected");
                }
                Outcome::NotProcessed => {
                    debug!(partition = %self.key, connection, %client, draft, "draft not processed");
                }
            }
        }
    }

    /// Tells what was decided before it is committed: one of the ways in which a test breaks the product.
    async fn answer_too_early(&self, works: &VecDeque<PendingSubmission<P::Draft>>) {
        for work in works.iter().filter(|work| work.is_decided()) {
            let reply_to = &work.submission.reply_to;
            let answer = Answer {
                connection: reply_to.connection,
                submission: reply_to.submission,
                attempt: reply_to.attempt,
                outcomes: work.outcomes.clone(),
            };
            if let Err(error) = self.shared.log.answer(&reply_to.frontend, &answer).await {
                warn!(%error, "an answer was not sent");
            }
        }
    }

    /// Stops the partition: its log is not one that a state can be made of.
    async fn stop_at(
        &self,
        works: &mut VecDeque<PendingSubmission<P::Draft>>,
        broken: &LoadError,
    ) -> Result<(), RoundError> {
        metrics::partition_stopped();
        error!(partition = %self.key, error = %broken, "the log does not fold: this partition is not validated");
        self.refuse_all(works, &broken.to_string()).await
    }

    /// Answers everything with `unavailable`: nothing is stored in a partition whose log does not fold.
    async fn refuse_all(
        &self,
        works: &mut VecDeque<PendingSubmission<P::Draft>>,
        why: &str,
    ) -> Result<(), RoundError> {
        while let Some(mut work) = works.pop_front() {
            let refusal = rejection(Reason::Unavailable, "partition", "PARTITION_STOPPED", why);
            work.outcomes.truncate(work.settled);
            work.outcomes.resize(work.submission.drafts.len(), refusal);
            self.finish(vec![work]).await?;
        }
        Ok(())
    }

    /// Lets go of a state that is not that of the last event, and of what was decided on it.
    fn decide_anew(&self, slot: &mut Option<Cached>, works: &mut VecDeque<PendingSubmission<P::Draft>>) {
        works.iter_mut().for_each(PendingSubmission::rollback);
        *slot = None;
    }

    /// Rejects the draft that made a rule panic.
    fn poison(&self, works: &mut VecDeque<PendingSubmission<P::Draft>>, index: usize, draft: usize) {
        for work in works.iter_mut() {
            work.rollback();
        }
        let Some(work) = works.get_mut(index) else { return };
        let client = &work.submission.submitter.client_id;
        let id = work.submission.drafts.get(draft).map(|draft| draft.draft_id.as_str());
        let connection = work.submission.reply_to.connection;
        error!(partition = %self.key, connection, %client, draft = id, "a rule panicked on this draft; it is rejected");
        work.poisoned.push(draft);
    }

    fn ask_for_snapshot(&self, slot: &Option<Cached>) {
        let settings = &self.shared.settings;
        if let Some(cached) = slot
            && cached.snapshot.is_due(
                &cached.state,
                settings.snapshot_events_min,
                settings.snapshot_share_min,
            )
        {
            self.shared.snapshotter.ask(self.token.clone(), cached.snapshot.clone());
        }
    }
}

fn is_rejection(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Committed { .. })
}

/// The spans of the commits of traced drafts, and what goes along with their events.
fn commit_spans<D>(
    works: &VecDeque<PendingSubmission<D>>,
    staged: &[Staged],
) -> (Vec<Span>, Vec<PlacedTrace>) {
    if works.iter().all(|work| work.traces.is_empty()) {
        return (Vec::new(), Vec::new());
    }
    let now = SystemTime::now();
    let traced = staged.iter().enumerate().filter_map(|(index, staged)| {
        let (work, draft) = staged.place?;
        let traces = &works.get(work)?.traces;
        let (_, trace) = traces.iter().find(|(place, _)| *place == draft)?;
        let span = trace.span("commit", now)?;
        let header = span.parent().header();
        Some((span, (index, header)))
    });
    traced.unzip()
}

/// The drafts of some submissions, for a log line: connection, client and draft id of the first few.
struct Named<'a, D>(&'a VecDeque<PendingSubmission<D>>);

/// How many drafts a line names.
const DRAFTS_NAMED_MAX: usize = 8;

impl<D> std::fmt::Display for Named<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let submissions = self.0.iter().map(|work| &work.submission);
        let all = submissions.flat_map(|all| all.drafts.iter().map(move |draft| (all, draft)));
        for (place, (submission, draft)) in all.take(DRAFTS_NAMED_MAX).enumerate() {
            let (connection, client) = (submission.reply_to.connection, &submission.submitter.client_id);
            write!(f, "{}{connection}/{client}/{}", if place == 0 { "" } else { " " }, draft.draft_id)?;
        }
        let count: usize = self.0.iter().map(|work| work.submission.drafts.len()).sum();
        match count.saturating_sub(DRAFTS_NAMED_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Pauses between tries, from 5 ms to the configured longest.
struct Pause(Backoff);

impl Pause {
    fn new(max_ms: u64) -> Self {
        Self(Backoff::new(Duration::from_millis(5), Duration::from_millis(max_ms)))
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    async fn wait(&mut self, stop: &CancellationToken) -> Result<(), RoundError> {
        let waited = stop.run_until_cancelled(tokio::time::sleep(self.0.next())).await;
        waited.ok_or(RoundError::Stopped)
    }
}
