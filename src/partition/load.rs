//! A partition's state out of the log: the snapshot, and what came after it.

use std::sync::Arc;

use crate::event::{CommittedEvent, ContentHash, DraftKey, EventId, EventRecord, Token};
use crate::faults;
use crate::log::Log;
use crate::log::LogError;
use crate::log::StoredEvent;
use crate::log::metrics;
use crate::log::{SnapshotInfo, SnapshotPart, fits_snapshot};
use crate::state::{ApplyError, Fold, IndexEntry, IndexPart, PartitionState, SnapshotError, StatePart};

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

/// How many events are folded before other tasks get their turn.
const EVENTS_PER_TURN: usize = 256;

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
                return Err(gone_back(snapshot.event_id, EventId::NONE, with_index));
            }
            let state = Start::empty(with_index).state;
            return Ok(Some(Loaded { state, snapshot: SnapshotInfo::default(), indexed: 0 }));
        };
        let Start { mut state, replay_from, newest, snapshot, index } =
            self.start(token, with_index, use_index).await?;
        if newest > head.id {
            // It may have been replaced since the head was asked for: by that time there was a later head.
            let again = self.head_for(token, with_index).await?.map_or(EventId::NONE, |head| head.id);
            if newest > again {
                return Err(gone_back(newest, again, with_index));
            }
        }
        let mut count = EventCount::up_to(index.event_id, &state);
        self.advance(token, fold, &mut state, Span { after: replay_from, upto: head.id }, &mut count, seen)
            .await?;
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

    /// Loads the draft index as of event `upto` of a partition, to be written: that event is the partition's
    /// `ordinal`th. `entries` are those of all events after `known_from` up to there; the others are read from the
    /// log. `None` if nothing is new, or the index would be longer than what is read back.
    ///
    /// The index has a draft for every event. One that was written with fewer is made again from the log.
    pub async fn load_index(
        &self,
        token: &Token,
        upto: EventId,
        ordinal: u64,
        known_from: EventId,
        entries: Vec<IndexEntry>,
    ) -> Result<Option<IndexPart>, LoadError> {
        if !fits_snapshot(IndexPart::encoded_len(ordinal)) {
            tracing::warn!(
                %token, drafts = ordinal,
                "the draft index is too long for a snapshot; a validator that loads the partition reads the later drafts from the log"
            );
            return Ok(None);
        }
        let bytes = self.usable(token, SnapshotPart::Index).await?;
        let decoded = tokio::task::spawn_blocking(move || decode_index(bytes.as_deref()));
        let mut index =
            decoded.await.map_err(|error| LogError::malformed("decoding a draft index", error))?;
        if index.event_id >= upto {
            return Ok(None);
        }
        let summary = IndexSummary::of(&index);
        self.extend_index(token, &mut index, upto, known_from, entries.clone()).await?;
        if index.entries.len() as u64 != ordinal && !faults::broken("believe_indexes") {
            report_incomplete_index(token, summary, None);
            index = IndexPart::default();
            self.extend_index(token, &mut index, upto, known_from, entries).await?;
        }
        let drafts = index.entries.len() as u64;
        if drafts != ordinal && !faults::broken("believe_indexes") {
            let why = format!("the log has {drafts} events up to this one, which says it is the {ordinal}th");
            return Err(LoadError::Broken { event: upto, why });
        }
        Ok(Some(index))
    }

    /// Enters the drafts of all events after the index's own up to `upto`.
    async fn extend_index(
        &self,
        token: &Token,
        index: &mut IndexPart,
        upto: EventId,
        known_from: EventId,
        entries: Vec<IndexEntry>,
    ) -> Result<(), LoadError> {
        let mut new = Vec::new();
        let mut replay = self.replay(token, index.event_id, known_from);
        while let Some(stored) = replay.next().await? {
            new.push(index_entry(&parse(&stored)?));
            if new.len().is_multiple_of(EVENTS_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        new.extend(entries);
        index.extend(upto, new);
        Ok(())
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
                if self.leader_event(token, *id).await?.is_some() {
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
        let index = if use_index { self.usable(token, SnapshotPart::Index).await? } else { None };
        let decode = move || Start::decode(snapshot, &state, with_index.then_some(index.as_deref()));
        let decoded = tokio::task::spawn_blocking(decode)
            .await
            .map_err(|error| LogError::malformed("decoding a snapshot", error))?;
        Ok(decoded.unwrap_or_else(|error| {
            tracing::error!(%token, %error, "the snapshot cannot be used; folding the whole log instead");
            Start::empty(with_index)
        }))
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

/// A draft index without its entries.
#[derive(Debug, Clone, Copy, Default)]
struct IndexSummary {
    event_id: EventId,
    drafts: u64,
}

impl IndexSummary {
    fn of(index: &IndexPart) -> Self {
        Self { event_id: index.event_id, drafts: index.entries.len() as u64 }
    }
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

/// An index that lacks drafts, or has some too many: an older version read the log with a hole, or it was damaged.
/// What it lacks could be committed a second time, so the log is read instead.
fn report_incomplete_index(token: &Token, index: IndexSummary, events: Option<u64>) {
    metrics::incomplete_index();
    let IndexSummary { event_id, drafts } = index;
    tracing::error!(
        %token, %event_id, drafts, events,
        "the snapshot's draft index does not have a draft for every event; making it again from the log"
    );
}

/// A draft index; an empty one where there is none, or none that can be used: the log has it all.
fn decode_index(bytes: Option<&[u8]>) -> IndexPart {
    bytes
        .map(IndexPart::decode)
        .transpose()
        .unwrap_or_else(|error| {
            tracing::error!(%error, "a snapshot's draft index cannot be used; reading the log instead");
            None
        })
        .unwrap_or_default()
}

/// A snapshot of event `at`, which the partition does not have. Whoever asked the leader knows that the events are
/// gone; others may have asked a replica that lags.
fn gone_back(at: EventId, head: EventId, asked_leader: bool) -> LoadError {
    let why = format!("the partition's log ends at event {head}, and its snapshot is of event {at}");
    if asked_leader {
        let why = format!("{why}: events behind {head} are gone from the log");
        LoadError::Broken { event: at, why }
    } else {
        LogError::unavailable("loading a state", why).into()
    }
}

/// Reads an event out of its bytes.
pub fn parse(stored: &StoredEvent) -> Result<CommittedEvent<'_>, LoadError> {
    match EventRecord::parse(&stored.body) {
        Ok(record) => Ok(CommittedEvent { id: stored.id, record }),
        Err(error) => Err(LoadError::Broken { event: stored.id, why: error.to_string() }),
    }
}

fn index_entry(event: &CommittedEvent<'_>) -> IndexEntry {
    (event.record.draft_key(), event.id, event.record.content_hash)
}

/// Folds one event into a state.
pub fn apply(fold: &dyn Fold, state: &mut PartitionState, stored: &StoredEvent) -> Result<(), LoadError> {
    state.apply(fold, &parse(stored)?, stored.body.len()).map_err(|error| does_not_fold(stored, error))
}

fn does_not_fold(stored: &StoredEvent, why: ApplyError) -> LoadError {
    LoadError::Broken { event: stored.id, why: why.to_string() }
}
