//! Deciding one round: drafts in, staged events and provisional outcomes out. No I/O.
//!
//! Each draft is decided on the state that all accepted ones before it would make. What is staged becomes
//! true when it is committed; until then no outcome of the round leaves the validator.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use crate::event::{
    Draft, DraftKey, EventId, EventRecord, FieldError, Outcome, PartitionKey, Reason, ReplyTo,
    RulesInForceId, Submission, Submitter,
};
use crate::faults;
use crate::log::{BATCH_EVENTS_MAX, COMMIT_HEADERS_BYTES, PlacedTrace};
use crate::rules::{Decision, Rules};
use crate::state::{AppError, DraftLookup, PartitionState};
use crate::telemetry::traces::TraceParent;
use crate::validator::log_backend::LogBackend;
use crate::validator::metrics;
use crate::validator::shared::Shared;

/// How long a round goes on deciding. What is left is the next one's, so that a partition with much to decide takes
/// its turn with the others.
const DECIDING_MAX: Duration = Duration::from_millis(50);
/// The most bytes of payloads that are decided where all else runs: one draft's, and all together.
const LIGHT_DRAFT_BYTES_MAX: usize = 16 * 1024;
const LIGHT_BYTES_MAX: usize = 128 * 1024;
/// How far the last event may be ahead of NATS's clock for its timestamp to be given to the next one too: by as much
/// the clocks of NATS's servers may differ, or that of an older version's validator. Time that is further ahead is wrong,
/// and is not waited for.
const AHEAD_MAX_MS: u64 = 5_000;

/// A submission that was taken off the queue and is not yet answered.
pub(crate) struct PendingSubmission<D> {
    /// The message that it came in.
    pub message: D,
    /// What it says.
    pub submission: Submission,
    /// What became of its first drafts, in order.
    pub outcomes: Vec<Outcome>,
    /// How many of the outcomes are final: decided on what is in the log.
    pub settled: usize,
    /// Whether the live subject does not tell the frontend all of it.
    pub needs_answer: bool,
    /// Drafts that made a rule panic.
    pub poisoned: Vec<usize>,
    /// Drafts before this place were decided before: see [`decided_before`].
    decided_before: usize,
    /// When it was taken off the queue, and when all of it was decided for the first time.
    pub taken: Instant,
    pub decided: Option<Instant>,
    /// The traces of its drafts that are traced, by place.
    pub traces: Vec<(usize, TraceParent)>,
}

impl<D> PendingSubmission<D> {
    pub(crate) fn new(message: D, submission: Submission) -> Self {
        Self {
            message,
            submission,
            outcomes: Vec::new(),
            settled: 0,
            needs_answer: false,
            poisoned: Vec::new(),
            decided_before: 0,
            taken: Instant::now(),
            decided: None,
            traces: Vec::new(),
        }
    }

    /// Has the traces of its drafts go on here.
    pub(crate) fn follow(&mut self, traces: Vec<PlacedTrace>) {
        let known = traces.into_iter().filter_map(|(place, text)| Some((place, TraceParent::parse(&text)?)));
        self.traces = known.filter(|(place, _)| *place < self.submission.drafts.len()).collect();
    }

    fn trace_decisions(&self) {
        let started = SystemTime::now() - self.taken.elapsed();
        for (place, trace) in &self.traces {
            let Some(mut span) = trace.span("decide", started) else { continue };
            span.set("insieme.partition", self.submission.partition.as_str().to_owned());
            span.set(
                "insieme.outcome",
                match self.outcomes.get(*place) {
                    Some(Outcome::Committed { .. }) => "accepted",
                    Some(Outcome::Rejected { reason, .. }) => reason.as_str(),
                    Some(Outcome::NotProcessed) | None => "not_processed",
                },
            );
        }
    }

    /// Takes note of when all of it was decided.
    pub(crate) fn note_decided(&mut self) {
        if self.decided.is_none() && self.is_decided() {
            self.decided = Some(Instant::now());
            metrics::stage_decided(self.taken.elapsed());
            self.trace_decisions();
        }
    }

    pub(crate) fn is_decided(&self) -> bool {
        self.outcomes.len() == self.submission.drafts.len()
    }

    /// Whether some draft of it is not in the log, as far as it is decided.
    pub(crate) fn is_rejected(&self) -> bool {
        self.outcomes.iter().any(|outcome| !matches!(outcome, Outcome::Committed { .. }))
    }

    fn undecided(&self) -> usize {
        self.submission.drafts.len() - self.outcomes.len()
    }

    /// Forgets what was decided on a state that did not come to be.
    pub(crate) fn rollback(&mut self) {
        self.outcomes.truncate(self.settled);
    }
}

/// An accepted draft on its way into the log.
pub(crate) struct Staged {
    /// The submission and the draft's place in it; `None` for the partition's initial state.
    pub place: Option<(usize, usize)>,
    /// The record to be committed.
    pub body: Bytes,
    /// Its timestamp, the same for the whole round.
    pub timestamp: u64,
}

/// Why a round could not be decided. Nothing is staged, or the state is to be thrown away.
pub(crate) enum RoundBlocked {
    /// A draft's `baseEventId` lies before what the state remembers: events behind this one are needed.
    NeedsHistory(EventId),
    /// The log must be asked which of the drafts are committed: [`to_be_found`] says of which.
    NeedsDrafts,
    /// The partition's last event was decided under rules that were put in force later than those known here.
    OlderRules { known: Option<RulesInForceId>, last: RulesInForceId },
    /// The state is not that of the last event: an application's rules had it that are not in force any more.
    Reload,
    /// The application's rules do not give a state, or say nothing of a draft.
    App(AppError),
    /// A rule panicked on this draft of this submission. The state is not to be used any more.
    Panicked { work: usize, draft: usize },
}

/// Whether deciding may take so long that others should not wait behind it.
pub(crate) fn is_heavy<D>(works: &VecDeque<PendingSubmission<D>>) -> bool {
    let drafts = works.iter().flat_map(|work| work.submission.drafts.iter().skip(work.outcomes.len()));
    let mut bytes = 0;
    drafts.map(|draft| draft.payload.get().len()).any(|length| {
        bytes += length;
        length > LIGHT_DRAFT_BYTES_MAX || bytes > LIGHT_BYTES_MAX
    })
}

/// Decides drafts until there is enough for one commit, or it has taken long enough, nothing is left, or the next one can be decided
/// only once those before it are committed. Returns what is to be committed; if that is nothing, every
/// outcome reached is final.
pub(crate) fn decide_round<P: LogBackend>(
    shared: &Shared<P>,
    partition: &PartitionKey,
    state: &mut PartitionState,
    works: &mut VecDeque<PendingSubmission<P::Draft>>,
    now_ms: u64,
) -> Result<Vec<Staged>, RoundBlocked> {
    let settings = &shared.settings;
    let waiting: usize = works.iter().map(PendingSubmission::undecided).sum();
    // Few waiting drafts go one by one, which is quicker than an atomic batch of them.
    let events_max = if shared.committer.favours_singles(waiting) { 1 } else { settings.batch_events_max };
    let bytes_max = shared.committer.room();
    let rules = shared.rules.now();
    let app = app_for(shared, state)?;
    let mut round =
        Round { shared, rules: &rules, app, partition, state, staged: Vec::new(), bytes: 0, now_ms };
    if round.open_partition() {
        return Ok(round.staged);
    }
    let (started, mut decided) = (Instant::now(), false);
    for (index, work) in works.iter_mut().enumerate() {
        match decided_before(round.state, &work.submission, work.outcomes.len()) {
            Some(place) => work.decided_before = place,
            None if round.staged.is_empty() => return Err(RoundBlocked::NeedsDrafts),
            None => return Ok(round.staged),
        }
        while !work.is_decided() {
            let place = work.outcomes.len();
            let unit = work.submission.units.group_of(place);
            // A unit of work is committed whole, so it is begun only where it has room.
            let room = round.staged.len() + (unit.end - place) <= events_max.min(BATCH_EVENTS_MAX)
                && round.bytes < bytes_max;
            let begins = place == unit.start;
            if !round.staged.is_empty() && begins && !room || round.staged.len() >= BATCH_EVENTS_MAX {
                return Ok(round.staged);
            }
            if begins && decided && started.elapsed() > DECIDING_MAX {
                return Ok(round.staged);
            }
            decided = true;
            if round.decide(index, work)? == Step::Blocked {
                return Ok(round.staged);
            }
        }
    }
    Ok(round.staged)
}

/// The application's rules that decide this round, if any do. Never older ones than those that decided the last event.
fn app_for<P: LogBackend>(
    shared: &Shared<P>,
    state: &PartitionState,
) -> Result<Option<RulesInForceId>, RoundBlocked> {
    let known = shared.rules.app();
    match state.rules() {
        Some(last) if known.is_none_or(|known| known.activation < last.activation) => {
            Err(RoundBlocked::OlderRules { known, last })
        }
        _ if state.is_ahead_of_log(known.map(|known| known.version)) => Err(RoundBlocked::Reload),
        _ => Ok(known),
    }
}

#[derive(PartialEq, Eq)]
enum Step {
    Decided,
    /// It can be decided only once what is staged is committed.
    Blocked,
}

struct Round<'a, P: LogBackend> {
    shared: &'a Shared<P>,
    /// Those in force when the round began.
    rules: &'a Rules,
    /// The application's, where they decide.
    app: Option<RulesInForceId>,
    partition: &'a PartitionKey,
    state: &'a mut PartitionState,
    staged: Vec<Staged>,
    bytes: usize,
    now_ms: u64,
}

impl<P: LogBackend> Round<'_, P> {
    /// Stages the configured initial state of an empty partition. True if it did.
    fn open_partition(&mut self) -> bool {
        let Some((server, init)) = &self.shared.initial else { return false };
        // An application's rules have an initial state of their own.
        if self.state.is_opened() || self.app.is_some() {
            return false;
        }
        match self.rules.decide(self.state, server, init) {
            Decision::Commit(accepted) => match self.stage(None, server, init, *accepted) {
                Ok(()) => true,
                Err(StageError::TooLarge(error)) => {
                    tracing::error!(partition = %self.partition, "the initial state cannot be stored: {}", error.message);
                    false
                }
                Err(StageError::Defect) => false,
            },
            _ => false,
        }
    }

    /// Decides the next draft of `work`.
    fn decide(&mut self, index: usize, work: &mut PendingSubmission<P::Draft>) -> Result<Step, RoundBlocked> {
        let place = work.outcomes.len();
        let PendingSubmission { submission, outcomes, needs_answer, poisoned, decided_before, .. } = work;
        let Some(draft) = submission.drafts.get(place) else { return Ok(Step::Decided) };
        let submitter = &submission.submitter;
        // What it was rejected for is not known any more, but may still be the case.
        let was_rejected = place < *decided_before && !is_known(self.state, submitter, draft);
        if poisoned.contains(&place) {
            outcomes.push(rejection(
                Reason::ValidationFailed,
                "payload",
                "INTERNAL_ERROR",
                "the server failed on this event; it was reported, and nothing is stored",
            ));
        } else if let Some(app) = self.app {
            let at = (index, place);
            match self.decide_by_app(app, at, submission, draft, was_rejected)? {
                Some(outcome) => {
                    *needs_answer |=
                        matches!(outcome, Outcome::Committed { event_id } if event_id != EventId::NONE);
                    outcomes.push(outcome);
                }
                None => return Ok(Step::Blocked),
            }
        } else {
            let panicked = |_| RoundBlocked::Panicked { work: index, draft: place };
            let decision = catch_unwind(AssertUnwindSafe(|| self.rules.decide(self.state, submitter, draft)))
                .map_err(panicked)?;
            match decision {
                Decision::Commit(_) if was_rejected => outcomes.push(decided_already()),
                Decision::Commit(accepted) => {
                    let staged = catch_unwind(AssertUnwindSafe(|| {
                        self.stage(Some((index, place)), submitter, draft, *accepted)
                    }))
                    .map_err(panicked)?;
                    match staged {
                        Ok(()) => {
                            if faults::is_on(faults::TELL_ORIGIN) {
                                self.tell_origin(&submission.reply_to);
                            }
                            // The event id is filled in when it is known.
                            outcomes.push(Outcome::Committed { event_id: EventId::NONE });
                        }
                        Err(StageError::TooLarge(error)) => outcomes.push(Outcome::Rejected {
                            reason: Reason::ValidationFailed,
                            errors: vec![error],
                        }),
                        Err(StageError::Defect) => return Err(panicked(Box::new(()))),
                    }
                }
                Decision::AlreadyCommitted(event_id) => {
                    metrics::duplicate();
                    *needs_answer = true;
                    outcomes.push(Outcome::Committed { event_id });
                }
                Decision::Reject { reason, errors } => outcomes.push(Outcome::Rejected { reason, errors }),
                Decision::Wait => return Ok(Step::Blocked),
                Decision::NeedHistory { .. } | Decision::NeedDraft if !self.staged.is_empty() => {
                    return Ok(Step::Blocked);
                }
                Decision::NeedDraft => return Err(RoundBlocked::NeedsDrafts),
                Decision::NeedHistory { from } => return Err(RoundBlocked::NeedsHistory(from)),
            }
        }
        if matches!(outcomes.last(), Some(Outcome::Rejected { .. })) && !faults::broken("batch_goes_on") {
            outcomes.resize(submission.units.group_of(place).end, Outcome::NotProcessed);
        }
        Ok(Step::Decided)
    }

    /// Has the application's rules decide a draft. `None` if it can be decided only once what is staged is committed.
    fn decide_by_app(
        &mut self,
        rules: RulesInForceId,
        at: (usize, usize),
        submission: &Submission,
        draft: &Draft,
        was_rejected: bool,
    ) -> Result<Option<Outcome>, RoundBlocked> {
        let submitter = &submission.submitter;
        let (key, content_hash) = match self.rules.admit_to_app(self.state, submitter, draft) {
            Ok(admitted) => admitted,
            Err(Decision::AlreadyCommitted(event_id)) => {
                metrics::duplicate();
                return Ok(Some(Outcome::Committed { event_id }));
            }
            Err(Decision::Reject { reason, errors }) => {
                return Ok(Some(Outcome::Rejected { reason, errors }));
            }
            Err(Decision::NeedDraft) if self.staged.is_empty() => return Err(RoundBlocked::NeedsDrafts),
            Err(_) => return Ok(None),
        };
        if was_rejected {
            return Ok(Some(decided_already()));
        }
        let timestamp = timestamp(self.now_ms, self.state.last_timestamp());
        let ordinal = self.state.ordinal() + self.state.staged() as u64 + 1;
        let mut record =
            EventRecord::of_draft(draft, self.partition, submitter, content_hash, ordinal, timestamp);
        record.rules = Some(rules);
        let body = match self.body_of(&record) {
            Ok(body) => body,
            Err(StageError::TooLarge(error)) => {
                return Ok(Some(Outcome::Rejected { reason: Reason::ValidationFailed, errors: vec![error] }));
            }
            Err(StageError::Defect) => return Err(RoundBlocked::Panicked { work: at.0, draft: at.1 }),
        };
        let fold = self.shared.fold.as_ref();
        let verdict = self.state.decide_by_app(fold, &record, submitter).map_err(RoundBlocked::App)?;
        if let Some(fault) = verdict.fault {
            metrics::rules_failed();
            self.shared.tell_fault(self.partition, rules, submission, draft, &fault);
        }
        if !verdict.errors.is_empty() {
            let reason = if verdict.is_forbidden { Reason::Forbidden } else { Reason::ValidationFailed };
            return Ok(Some(Outcome::Rejected { reason, errors: verdict.errors }));
        }
        self.state.stage_by_app(rules, (key, content_hash, submitter.client_id.clone()));
        self.bytes += body.len();
        self.staged.push(Staged { place: Some(at), body, timestamp });
        if faults::is_on(faults::TELL_ORIGIN) {
            self.tell_origin(&submission.reply_to);
        }
        Ok(Some(Outcome::Committed { event_id: EventId::NONE }))
    }

    /// The bytes of a record, if the log takes them.
    fn body_of(&self, record: &EventRecord<'_>) -> Result<Bytes, StageError> {
        let body = record.to_json().map_err(|error| {
            tracing::error!(partition = %self.partition, %error, "an accepted draft has no record");
            StageError::Defect
        })?;
        // What NATS takes may be less than it was when the frontend took the draft.
        let bytes_max = self.shared.log.message_bytes_max().saturating_sub(COMMIT_HEADERS_BYTES);
        if body.len() > bytes_max {
            return Err(StageError::TooLarge(FieldError::too_large_for_log(body.len(), bytes_max)));
        }
        Ok(Bytes::from(body))
    }

    /// Adds to the record staged last for which copy of its draft it is; for tests.
    fn tell_origin(&mut self, of: &ReplyTo) {
        let Some(staged) = self.staged.last_mut() else { return };
        let (Ok(origin), Some(record)) = (serde_json::to_string(of), staged.body.strip_suffix(b"}")) else {
            return;
        };
        staged.body = [record, b",\"testOrigin\":", origin.as_bytes(), b"}"].concat().into();
    }

    /// Folds an accepted draft into the state, ahead of its commit.
    fn stage(
        &mut self,
        place: Option<(usize, usize)>,
        submitter: &Submitter,
        draft: &Draft,
        accepted: crate::state::Accepted,
    ) -> Result<(), StageError> {
        let timestamp = timestamp(self.now_ms, self.state.last_timestamp());
        let (hash, ordinal) = (accepted.content_hash, accepted.ordinal);
        let record = EventRecord::of_draft(draft, self.partition, submitter, hash, ordinal, timestamp);
        let body = self.body_of(&record)?;
        self.state.stage(self.shared.fold.as_ref(), accepted).map_err(|error| {
            tracing::error!(partition = %self.partition, %error, "an accepted draft does not fold");
            StageError::Defect
        })?;
        self.bytes += body.len();
        self.staged.push(Staged { place, body, timestamp });
        Ok(())
    }
}

/// What becomes of a draft that would pass now, but stood before one that is committed, and was rejected.
fn decided_already() -> Outcome {
    rejection(
        Reason::Conflict,
        "draftId",
        "DECIDED_BEFORE",
        "it was rejected already, and what was sent after it is committed; propose it anew",
    )
}

/// Whether a draft is in the log, or will be with this round.
fn is_known(state: &PartitionState, submitter: &Submitter, draft: &Draft) -> bool {
    let key = draft.key(&submitter.client_id);
    state.is_staged(&key) || !matches!(state.lookup(&key), DraftLookup::NotFound)
}

/// The drafts not decided yet of which the log must be asked whether they are committed.
pub(crate) fn to_be_found<D>(
    state: &PartitionState,
    works: &VecDeque<PendingSubmission<D>>,
) -> Vec<DraftKey> {
    let undecided = works.iter().flat_map(|work| {
        let client = &work.submission.submitter.client_id;
        work.submission.drafts.iter().skip(work.outcomes.len()).map(|draft| draft.key(client))
    });
    undecided.filter(|key| state.lookup(key) == DraftLookup::Maybe).collect()
}

/// Up to which place a submission was decided before, by an earlier copy of it or by an earlier owner: the unit
/// with a draft that is in the log since the first attempt, or will be with this round. What stands before that
/// unit and is not in the log was rejected, or stood behind a rejected one. Nobody may have been told, or
/// believed it; but decided again it might be accepted, behind what was sent after it. `None` if the log must be asked.
fn decided_before(state: &PartitionState, submission: &Submission, from: usize) -> Option<usize> {
    let since = submission.reply_to.since;
    let nothing_later = state.head() <= since && state.staged() == 0;
    if submission.drafts.len() < from + 2 || nothing_later || faults::broken("decide_again") {
        return Some(0);
    }
    for (place, draft) in submission.drafts.iter().enumerate().skip(from).rev() {
        let key = draft.key(&submission.submitter.client_id);
        let in_log = match state.lookup(&key) {
            DraftLookup::NotFound => state.is_staged(&key),
            DraftLookup::Committed(event_id, _) => event_id > since,
            DraftLookup::Maybe => return None,
        };
        if in_log {
            return Some(submission.units.group_of(place).start);
        }
    }
    Some(0)
}

/// Why an accepted draft was not staged. The state is as it was.
enum StageError {
    /// Its record is larger than the log takes.
    TooLarge(FieldError),
    /// A defect in a rule, logged where it was found.
    Defect,
}

/// The timestamp of an event that is committed now, after one of `last`.
pub(crate) fn timestamp(now_ms: u64, last: u64) -> u64 {
    if last <= now_ms + AHEAD_MAX_MS { now_ms.max(last) } else { now_ms }
}

/// A rejection with one finding.
pub(crate) fn rejection(reason: Reason, field: &str, code: &str, message: &str) -> Outcome {
    let error = FieldError { field: field.to_owned(), message: message.to_owned(), code: code.to_owned() };
    Outcome::Rejected { reason, errors: vec![error] }
}
