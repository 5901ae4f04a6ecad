//! A partition's state out of the log: the snapshot, and what came after it.

use std::sync::Arc;
use std::time::Duration;

use super::index::{IndexSummary, decode_index, index_entry, report_incomplete_index};
use crate::event::{CommittedEvent, ContentHash, DraftKey, EventId, EventRecord, Token};
use crate::faults;
use crate::log::Log;
use crate::log::LogError;
use crate::log::StoredEvent;
use crate::log::{SnapshotInfo, SnapshotPart};
use crate::state::{
    AppError, ApplyError, Fold, IndexEntry, IndexPart, PartitionState, SnapshotError, StatePart,
};

/// A state that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log holds an event that does not belong there: it does not parse, does not fold, or events are
    /// missing before it. Nothing may be built on it until somebody has looked.
    #[error("event {event} does not fold: {why}")]
    Broken {
        /// The event.
        event: EventId,
        /// What is wrong.
        why: String,
    },
}

/// How often, and for how long, an event that is missing is asked for again before it counts as gone.
const GONE_LOOKS_WITH_REPLICAS: u32 = 60;
const GONE_LOOKS: u32 = 4;
const GONE_PAUSE: Duration = Duration::from_millis(500);

/// How many events are folded before other tasks get their turn.
pub(super) const EVENTS_PER_TURN: usize = 256;

/// A state as loaded, and the snapshot it was loaded from.
pub struct Loaded {
    /// The state at the partition's head as it was when loading began, or later.
    pub state: PartitionState,
    /// What the snapshot stood for; all zero if there is none that can be used.
    pub snapshot: SnapshotInfo,
    /// How many drafts were in the snapshot's index; 0 if there is none that can be used, or none was asked for.
    pub indexed: u64,
}

impl Log {
    /// Loads the state at the head of a partition. `with_index` also loads the draft index, which only a
    /// validator needs.
    ///
    /// A snapshot that is missing, damaged or from the future is reported and passed over: the log has it
    /// all.
    pub async fn load_partition(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        with_index: bool,
    ) -> Result<Loaded, LoadError> {
        Ok(self.load(token, fold, with_index, false).await?.0)
    }

    /// Loads the state at the head of a partition, and the index entries of the events behind its snapshot, which it is
    /// made of.
    pub async fn load_state_and_entries(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
    ) -> Result<(Loaded, Vec<IndexEntry>), LoadError> {
        self.load(token, fold, false, true).await
    }

    /// Loads a state, and the index entries of the events that it read if they are wanted. What looks like damage of
    /// the log is called so only when a second read shows it again.
    async fn load(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        with_index: bool,
        with_entries: bool,
    ) -> Result<(Loaded, Vec<IndexEntry>), LoadError> {
        let mut use_index = with_index;
        let mut looked_again = false;
        loop {
            let mut entries = Vec::new();
            let seen = |event: &CommittedEvent<'_>| {
                if with_entries {
                    entries.push(index_entry(event));
                }
            };
            match self.load_once(token, fold, with_index, use_index, seen).await {
                Ok(Some(loaded)) => return Ok((loaded, entries)),
                Ok(None) => use_index = false,
                Err(LoadError::Broken { event, why }) if !looked_again => {
                    tracing::warn!(%token, %event, why, "the log looks damaged; reading it again");
                    looked_again = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Loads a state for [`load`](Self::load). Without `use_index` the snapshot's draft index is made from the log
    /// instead. `None` if the index lacks drafts.
    async fn load_once(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        with_index: bool,
        use_index: bool,
        seen: impl FnMut(&CommittedEvent<'_>),
    ) -> Result<Option<Loaded>, LoadError> {
        let Some(head) = self.head_for(token, with_index).await? else {
            if let Some(snapshot) = self.snapshot_info(token, SnapshotPart::State).await? {
                return Err(self.gone_back(token, snapshot.event_id, EventId::NONE, with_index).await?);
            }
            let state = Start::empty(with_index).state;
            return Ok(Some(Loaded { state, snapshot: SnapshotInfo::default(), indexed: 0 }));
        };
        let Start { mut state, replay_from, newest, snapshot, index } =
            self.start(token, with_index, use_index).await?;
        let mut upto = head.id;
        if newest > upto {
            // The snapshot may have been replaced since the head was asked for: then there is a later head.
            upto = self.head_for(token, with_index).await?.map_or(EventId::NONE, |head| head.id);
            if newest > upto {
                return Err(self.gone_back(token, newest, upto, with_index).await?);
            }
        }
        let mut count = EventCount::up_to(index.event_id, &state);
        self.advance(token, fold, &mut state, Span { after: replay_from, upto }, &mut count, seen).await?;
        if with_index && count.events != Some(index.drafts) && !faults::broken("believe_indexes") {
            report_incomplete_index(token, index, count.events);
            return Ok(None);
        }
        #[cfg(feature = "fault-points")]
        if crate::faults::broken("forget_drafts") {
            state.forget_drafts();
        }
        Ok(Some(Loaded { state, snapshot, indexed: index.drafts }))
    }

    /// Looks in the log, at the leader's, for a draft that may be committed as one of these events.
    pub async fn find_draft(
        &self,
        token: &Token,
        key: &DraftKey,
        candidates: &[EventId],
    ) -> Result<Option<(EventId, ContentHash)>, LoadError> {
        for id in candidates {
            let Some(stored) = self.leader_event(token, *id).await? else {
                // A server that lags does not have it yet.
                const WHAT: &str = "looking for a draft";
                let head = self.leader_head(token).await?.map_or(EventId::NONE, |head| head.id);
                if head < *id {
                    return Err(
                        LogError::unavailable(WHAT, format!("the log ends at {head}, before {id}")).into()
                    );
                }
                if !self.is_gone(token, *id).await? {
                    return Err(LogError::unavailable(WHAT, format!("{id} was missing a moment ago")).into());
                }
                let why = "the event is in the partition's index and no longer in its log".to_owned();
                return Err(LoadError::Broken { event: *id, why });
            };
            let record = parse(&stored)?.record;
            if record.draft_key() == *key {
                return Ok(Some((*id, record.content_hash)));
            }
        }
        Ok(None)
    }

    /// Brings a state up to the partition's head. Gives the number of events that it was behind.
    pub async fn catch_up(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        state: &mut PartitionState,
    ) -> Result<u64, LoadError> {
        let Some(head) = self.head_for(token, state.has_index()).await? else { return Ok(0) };
        if head.id <= state.head() {
            return Ok(0);
        }
        let behind = parse(&head)?.record.ordinal.saturating_sub(state.ordinal());
        let mut span = Span { after: state.head(), upto: head.id };
        let mut count = EventCount::up_to(span.after, state);
        let advanced = self.advance(token, fold, state, span, &mut count, |_| {}).await;
        if let Err(LoadError::Broken { event, why }) = advanced {
            // What is folded so far is good. The rest may have been read badly.
            tracing::warn!(%token, %event, why, "the log looks damaged; reading it again");
            span.after = state.head();
            let mut count = EventCount::up_to(span.after, state);
            self.advance(token, fold, state, span, &mut count, |_| {}).await?;
        }
        Ok(behind)
    }

    /// Tells a state of the events behind `from` that it was loaded without. Gives how many were read.
    pub async fn extend_history(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        state: &mut PartitionState,
        from: EventId,
    ) -> Result<usize, LoadError> {
        let floor = state.touch_floor();
        let mut replay = self.replay(token, from, floor);
        let mut read = 0;
        while let Some(stored) = replay.next().await? {
            read += 1;
            if !state.add_older_touch(fold.as_ref(), from, &parse(&stored)?) {
                break;
            }
        }
        Ok(read)
    }

    /// Whether an event that once was in a partition's log is gone from it.
    ///
    /// A server that was cut off or paused and still believes to lead does not have what was committed since. It may
    /// answer any number of reads, so that it has neither the event nor a later head proves nothing. The number of the
    /// partition's events comes with what shows who leads; it tells whether the head that was read is an old one. Where
    /// both do not agree, a server that lags has answered one of them; NATS puts an end to that within some ten seconds.
    async fn is_gone(&self, token: &Token, id: EventId) -> Result<bool, LoadError> {
        if faults::broken("believe_old_leader") {
            return Ok(true);
        }
        let looks = if self.settings.replicas > 1 { GONE_LOOKS_WITH_REPLICAS } else { GONE_LOOKS };
        for _ in 0..looks {
            if self.leader_event(token, id).await?.is_some() {
                return Ok(false);
            }
            let (head, ordinal) = match self.leader_head(token).await? {
                Some(head) => (head.id, parse(&head)?.record.ordinal),
                None => (EventId::NONE, 0),
            };
            let events = self.events_of(token).await?;
            // The events up to the head, and at least one more if that is an old one.
            if events < ordinal + u64::from(head < id) {
                return Ok(true);
            }
            tracing::debug!(%token, event = %id, %head, events, "a server that lags lacks an event; asking again");
            tokio::time::sleep(GONE_PAUSE).await;
        }
        Ok(true)
    }

    /// A snapshot of event `at`, which the partition does not have as far as its head was read. If the leader was
    /// asked, the events may be gone; else a replica that lags may have answered.
    async fn gone_back(
        &self,
        token: &Token,
        at: EventId,
        head: EventId,
        asked_leader: bool,
    ) -> Result<LoadError, LoadError> {
        let why = format!("the partition's log ends at event {head}, and its snapshot is of event {at}");
        if asked_leader && self.is_gone(token, at).await? {
            let why = format!("{why}: events behind {head} are missing from the log");
            return Ok(LoadError::Broken { event: at, why });
        }
        Ok(LogError::unavailable("loading a state", why).into())
    }

    /// The head: the leader's, for whoever decides on it.
    async fn head_for(&self, token: &Token, deciding: bool) -> Result<Option<StoredEvent>, LogError> {
        if deciding { self.leader_head(token).await } else { self.head(token).await }
    }

    async fn start(&self, token: &Token, with_index: bool, use_index: bool) -> Result<Start, LogError> {
        let (Some(snapshot), Some(state)) = (
            self.snapshot_info(token, SnapshotPart::State).await?,
            self.usable(token, SnapshotPart::State).await?,
        ) else {
            return Ok(Start::empty(with_index));
        };
        let index = if use_index { self.usable(token, SnapshotPart::Index(0)).await? } else { None };
        let decode = move || Start::decode(snapshot, &state, with_index.then_some(index.as_deref()));
        let decoded = tokio::task::spawn_blocking(decode)
            .await
            .map_err(|error| LogError::malformed("decoding a snapshot", error))?;
        let mut start = decoded.unwrap_or_else(|error| {
            tracing::error!(%token, %error, "the snapshot is unusable; folding the whole log instead");
            Start::empty(with_index)
        });
        // One object after the other: only the state has them all.
        for number in 1.. {
            if !start.index.is_full {
                break;
            }
            let Some(index) = self.index_object(token, number, start.index.event_id).await? else { break };
            start = tokio::task::spawn_blocking(move || start.go_on(&index))
                .await
                .map_err(|error| LogError::malformed("entering a draft index", error))?;
        }
        Ok(start)
    }

    /// A snapshot object's bytes; one that cannot be read back counts as none. One that was replaced while it was
    /// being read has no end that would come, and is read once more.
    pub(crate) async fn usable(
        &self,
        token: &Token,
        part: SnapshotPart,
    ) -> Result<Option<Vec<u8>>, LogError> {
        let mut read = self.read_snapshot(token, part).await;
        if matches!(read, Err(LogError::Unavailable { .. })) && self.state().borrow().connected {
            read = self.read_snapshot(token, part).await;
        }
        match read {
            Err(LogError::Malformed { why, .. }) => {
                tracing::error!(%token, ?part, why, "the snapshot cannot be read; reading the log instead");
                Ok(None)
            }
            other => other,
        }
    }

    async fn advance(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        state: &mut PartitionState,
        span: Span,
        count: &mut EventCount,
        mut seen: impl FnMut(&CommittedEvent<'_>),
    ) -> Result<(), LoadError> {
        let mut replay = self.replay(token, span.after, span.upto);
        let mut folded = 0_usize;
        let mut before = None;
        while let Some(stored) = replay.next().await? {
            let event = parse(&stored)?;
            let ordinal = event.record.ordinal;
            // The state compares the ordinals of what is folded; what goes into the index alone, nobody else does.
            if let Some(expected) = before.filter(|expected| *expected != ordinal)
                && !faults::broken("believe_batches")
            {
                let id = event.id;
                return Err(does_not_fold(&stored, ApplyError::Hole { id, found: ordinal, expected }));
            }
            before = Some(ordinal + 1);
            count.see(event.id, ordinal);
            // What is in the state already goes into the index alone.
            state
                .replay(fold.as_ref(), &event, stored.body.len())
                .map_err(|error| does_not_fold(&stored, error))?;
            seen(&event);
            folded += 1;
            // Folding is work for the processor: others get their turn.
            if folded.is_multiple_of(EVENTS_PER_TURN) {
                settle(state)?;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// The events that a replay reads: after the first, up to the second.
#[derive(Clone, Copy)]
struct Span {
    after: EventId,
    upto: EventId,
}

/// Where a replay starts: a snapshot, or nothing.
struct Start {
    state: PartitionState,
    /// Behind which event there is something that the state, or the index if one is wanted, does not have.
    replay_from: EventId,
    /// The last event that any part of the snapshot knows of.
    newest: EventId,
    snapshot: SnapshotInfo,
    index: IndexSummary,
}

/// How many events a partition has up to one of them, as a replay of its events tells.
struct EventCount {
    upto: EventId,
    /// `None` until it is known.
    events: Option<u64>,
}

impl EventCount {
    /// Up to `upto`, of which the state may know.
    fn up_to(upto: EventId, state: &PartitionState) -> Self {
        let events = match upto {
            EventId::NONE => Some(0),
            _ => (state.head() == upto).then(|| state.ordinal()),
        };
        Self { upto, events }
    }

    /// Takes the next event of the replay.
    fn see(&mut self, id: EventId, ordinal: u64) {
        if id == self.upto {
            self.events = Some(ordinal);
        } else if id > self.upto && self.events.is_none() {
            self.events = ordinal.checked_sub(1);
        }
    }
}

impl Start {
    fn empty(with_index: bool) -> Self {
        let state = if with_index { PartitionState::new() } else { PartitionState::follower() };
        let (snapshot, index) = (SnapshotInfo::default(), IndexSummary::default());
        Self { state, replay_from: EventId::NONE, newest: EventId::NONE, snapshot, index }
    }

    /// The index goes on in this object.
    fn go_on(mut self, index: &IndexPart) -> Self {
        self.state.enter_drafts(&index.entries);
        let before = self.index.drafts;
        self.index = IndexSummary::of(index);
        self.index.drafts += before;
        self.replay_from = self.snapshot.event_id.min(index.event_id);
        self.newest = self.newest.max(index.event_id);
        self
    }

    /// From a snapshot's parts: its state, and the index if one is wanted, and there.
    fn decode(
        snapshot: SnapshotInfo,
        state: &[u8],
        index: Option<Option<&[u8]>>,
    ) -> Result<Self, SnapshotError> {
        let part = StatePart::decode(state)?;
        let newest = snapshot.event_id.max(part.event_id);
        // What was said of the snapshot was read before it, which may have been replaced meanwhile.
        let StatePart { event_id, ordinal, log_bytes, .. } = part;
        let snapshot = SnapshotInfo { event_id, ordinal, log_bytes, ..snapshot };
        let Some(index) = index else {
            let state = PartitionState::from_state_part(&part)?;
            let index = IndexSummary::default();
            return Ok(Self { state, replay_from: part.event_id, newest, snapshot, index });
        };
        let index = decode_index(index);
        Ok(Self {
            state: PartitionState::from_snapshot(&part, &index)?,
            replay_from: PartitionState::replay_from(&part, &index),
            newest: newest.max(index.event_id),
            snapshot,
            index: IndexSummary::of(&index),
        })
    }
}

/// Reads an event out of its bytes.
pub fn parse(stored: &StoredEvent) -> Result<CommittedEvent<'_>, LoadError> {
    match EventRecord::parse(&stored.body) {
        Ok(record) => Ok(CommittedEvent { id: stored.id, record }),
        Err(error) => Err(LoadError::Broken { event: stored.id, why: error.to_string() }),
    }
}

/// From how many bytes of noted events on they are folded, so that they do not pile up.
const NOTED_BYTES_MAX: usize = 1 << 20;

/// Has an application's rules fold what was noted, if that is much.
pub fn settle(state: &PartitionState) -> Result<(), LoadError> {
    if state.noted_bytes() < NOTED_BYTES_MAX { Ok(()) } else { settle_all(state) }
}

/// Has an application's rules fold what was noted.
pub fn settle_all(state: &PartitionState) -> Result<(), LoadError> {
    if state.noted_bytes() == 0 {
        return Ok(());
    }
    tokio::task::block_in_place(|| state.settle()).map_err(|error| app_error(state, error))
}

/// Why an application's rules do not give a state.
pub fn app_error(state: &PartitionState, error: AppError) -> LoadError {
    match error {
        AppError::Unavailable(why) => LogError::unavailable("folding by the application's rules", why).into(),
        AppError::Fails(why) => LoadError::Broken { event: state.head(), why },
    }
}

/// Folds one event into a state.
pub fn apply(fold: &dyn Fold, state: &mut PartitionState, stored: &StoredEvent) -> Result<(), LoadError> {
    state.apply(fold, &parse(stored)?, stored.body.len()).map_err(|error| does_not_fold(stored, error))
}

fn does_not_fold(stored: &StoredEvent, why: ApplyError) -> LoadError {
    LoadError::Broken { event: stored.id, why: why.to_string() }
}
