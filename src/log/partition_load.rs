//! A partition's state out of the log: the snapshot, and what came after it.

use std::sync::Arc;

use super::connection::Log;
use super::error::LogError;
use super::replay::StoredEvent;
use super::snapshots::{SnapshotInfo, SnapshotPart};
use crate::event::{CommittedEvent, ContentHash, DraftKey, EventId, EventRecord, Token};
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
        self.load(token, fold, with_index, |_| {}).await
    }

    /// Loads the state at the head of a partition, and the index entries of the events behind its snapshot, which it is
    /// made of.
    pub async fn load_state_and_entries(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
    ) -> Result<(Loaded, Vec<IndexEntry>), LoadError> {
        let mut entries = Vec::new();
        let loaded = self.load(token, fold, false, |event| entries.push(index_entry(event))).await?;
        Ok((loaded, entries))
    }

    async fn load(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        with_index: bool,
        seen: impl FnMut(&CommittedEvent<'_>),
    ) -> Result<Loaded, LoadError> {
        let Some(head) = self.head_for(token, with_index).await? else {
            if let Some(snapshot) = self.snapshot_info(token, SnapshotPart::State).await? {
                return Err(gone_back(snapshot.event_id, EventId::NONE, with_index));
            }
            let state = Start::empty(with_index).state;
            return Ok(Loaded { state, snapshot: SnapshotInfo::default(), indexed: 0 });
        };
        let Start { mut state, replay_from, newest, snapshot, indexed } =
            self.start(token, with_index).await?;
        if newest > head.id {
            // It may have been replaced since the head was asked for: by that time there was a later head.
            let again = self.head_for(token, with_index).await?.map_or(EventId::NONE, |head| head.id);
            if newest > again {
                return Err(gone_back(newest, again, with_index));
            }
        }
        self.advance(token, fold, &mut state, replay_from, head.id, seen).await?;
        #[cfg(feature = "fault-points")]
        if crate::fault::broken("forget_drafts") {
            state.forget_drafts();
        }
        Ok(Loaded { state, snapshot, indexed })
    }

    /// Loads the draft index as of event `upto` of a partition, to be written. `entries` are those of all events
    /// behind `known_from` up to there; the others are read from the log. `None` where nothing is new.
    pub async fn load_index(
        &self,
        token: &Token,
        upto: EventId,
        known_from: EventId,
        entries: Vec<IndexEntry>,
    ) -> Result<Option<IndexPart>, LoadError> {
        let bytes = self.usable(token, SnapshotPart::Index).await?;
        let decoded = tokio::task::spawn_blocking(move || decode_index(bytes.as_deref()));
        let mut index =
            decoded.await.map_err(|error| LogError::malformed("decoding a draft index", error))?;
        if index.event_id >= upto {
            return Ok(None);
        }
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
        Ok(Some(index))
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
        self.advance(token, fold, state, state.head(), head.id, |_| {}).await?;
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

    async fn start(&self, token: &Token, with_index: bool) -> Result<Start, LogError> {
        let (Some(snapshot), Some(state)) = (
            self.snapshot_info(token, SnapshotPart::State).await?,
            self.usable(token, SnapshotPart::State).await?,
        ) else {
            return Ok(Start::empty(with_index));
        };
        let index = if with_index { self.usable(token, SnapshotPart::Index).await? } else { None };
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
    pub(super) async fn usable(
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
        from: EventId,
        upto: EventId,
        mut seen: impl FnMut(&CommittedEvent<'_>),
    ) -> Result<(), LoadError> {
        let mut replay = self.replay(token, from, upto);
        let mut folded = 0_usize;
        while let Some(stored) = replay.next().await? {
            let event = parse(&stored)?;
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

/// Where a replay starts: a snapshot, or nothing.
struct Start {
    state: PartitionState,
    /// Behind which event there is something that the state, or the index if one is wanted, does not have.
    replay_from: EventId,
    /// The last event that any part of the snapshot knows of.
    newest: EventId,
    snapshot: SnapshotInfo,
    indexed: u64,
}

impl Start {
    fn empty(with_index: bool) -> Self {
        let state = if with_index { PartitionState::new() } else { PartitionState::follower() };
        let none = EventId::NONE;
        Self { state, replay_from: none, newest: none, snapshot: SnapshotInfo::default(), indexed: 0 }
    }

    /// From a snapshot's parts: its state, and the index if one is wanted, and there.
    fn decode(
        snapshot: SnapshotInfo,
        state: &[u8],
        index: Option<Option<&[u8]>>,
    ) -> Result<Self, SnapshotError> {
        let part = StatePart::decode(state)?;
        let newest = snapshot.event_id.max(part.event_id);
        let Some(index) = index else {
            let state = PartitionState::from_state_part(&part)?;
            return Ok(Self { state, replay_from: part.event_id, newest, snapshot, indexed: 0 });
        };
        let index = decode_index(index);
        Ok(Self {
            state: PartitionState::from_snapshot(&part, &index)?,
            replay_from: PartitionState::replay_from(&part, &index),
            newest: newest.max(index.event_id),
            snapshot,
            indexed: index.entries.len() as u64,
        })
    }
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
