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
        let index = if with_index { Index::Decide } else { Index::None };
        self.load(token, fold, index).await.map(|(loaded, _)| loaded)
    }

    /// Loads what the next snapshot of a partition is made of: the state, and with `with_index` the whole draft index.
    pub async fn load_for_snapshot(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        with_index: bool,
    ) -> Result<(Loaded, Option<IndexPart>), LoadError> {
        let index = if with_index { Index::Write } else { Index::None };
        self.load(token, fold, index).await
    }

    async fn load(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        index: Index,
    ) -> Result<(Loaded, Option<IndexPart>), LoadError> {
        let deciding = index != Index::None;
        let Some(head) = self.head_for(token, deciding).await? else {
            if let Some(snapshot) = self.snapshot_info(token, SnapshotPart::State).await? {
                return Err(gone_back(&snapshot, EventId::NONE, deciding));
            }
            let Start { state, part, .. } = Start::empty(index);
            return Ok((Loaded { state, snapshot: SnapshotInfo::default(), indexed: 0 }, part));
        };
        let Start { mut state, mut part, replay_from, snapshot, indexed } = self.start(token, index).await?;
        if snapshot.event_id.max(state.head()) > head.id {
            // It may have been replaced since the head was asked for: by that time there was a later head.
            let again = self.head_for(token, deciding).await?.map_or(EventId::NONE, |head| head.id);
            if snapshot.event_id.max(state.head()) > again {
                return Err(gone_back(&snapshot, again, deciding));
            }
        }
        let mut new: Vec<IndexEntry> = Vec::new();
        let mut enter = |event: &CommittedEvent<'_>| {
            if index == Index::Write {
                new.push((event.record.draft_key(), event.id, event.record.content_hash));
            }
        };
        // The index may be older than the state: what lies between them goes into the index alone.
        let mut replay = self.replay(token, replay_from, state.head());
        while let Some(stored) = replay.next().await? {
            let event = parse(&stored)?;
            state.index_only(&event);
            enter(&event);
        }
        self.advance(token, fold, &mut state, head.id, enter).await?;
        if let Some(part) = &mut part {
            part.extend(state.head(), new);
        }
        #[cfg(feature = "fault-points")]
        if crate::fault::broken("forget_drafts") {
            state.forget_drafts();
        }
        Ok((Loaded { state, snapshot, indexed }, part))
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
        self.advance(token, fold, state, head.id, |_| {}).await?;
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

    async fn start(&self, token: &Token, index: Index) -> Result<Start, LogError> {
        let (Some(snapshot), Some(state)) = (
            self.snapshot_info(token, SnapshotPart::State).await?,
            self.usable(token, SnapshotPart::State).await?,
        ) else {
            return Ok(Start::empty(index));
        };
        let bytes = match index {
            Index::None => None,
            Index::Decide | Index::Write => self.usable(token, SnapshotPart::Index).await?,
        };
        let decoded = tokio::task::spawn_blocking(move || Start::decode(snapshot, &state, index, bytes))
            .await
            .map_err(|error| LogError::malformed("decoding a snapshot", error))?;
        Ok(decoded.unwrap_or_else(|error| {
            tracing::error!(%token, %error, "the snapshot cannot be used; folding the whole log instead");
            Start::empty(index)
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
        upto: EventId,
        mut seen: impl FnMut(&CommittedEvent<'_>),
    ) -> Result<(), LoadError> {
        let mut replay = self.replay(token, state.head(), upto);
        let mut folded = 0_usize;
        while let Some(stored) = replay.next().await? {
            seen(&apply(fold.as_ref(), state, &stored)?);
            folded += 1;
            // Folding is work for the processor: others get their turn.
            if folded.is_multiple_of(EVENTS_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}

/// What is wanted of the draft index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    None,
    /// In the state, as drafts are decided with.
    Decide,
    /// All of it, to be written.
    Write,
}

/// Where a replay starts: a snapshot, or nothing.
struct Start {
    state: PartitionState,
    /// The index, where it is to be written.
    part: Option<IndexPart>,
    replay_from: EventId,
    snapshot: SnapshotInfo,
    indexed: u64,
}

impl Start {
    fn empty(index: Index) -> Self {
        let state = if index == Index::Decide { PartitionState::new() } else { PartitionState::follower() };
        let part = (index == Index::Write).then(IndexPart::default);
        Self { state, part, replay_from: EventId::NONE, snapshot: SnapshotInfo::default(), indexed: 0 }
    }

    /// From a snapshot's parts. An index that is not there, or not to be used, is read from the log.
    fn decode(
        snapshot: SnapshotInfo,
        state: &[u8],
        index: Index,
        bytes: Option<Vec<u8>>,
    ) -> Result<Self, SnapshotError> {
        let state = StatePart::decode(state)?;
        let part = bytes.map(|bytes| IndexPart::decode(&bytes)).transpose().unwrap_or_else(|error| {
            tracing::error!(%error, "a snapshot's draft index cannot be used; reading the log instead");
            None
        });
        let part = part.unwrap_or_default();
        let (replay_from, indexed) = (PartitionState::replay_from(&state, &part), part.entries.len() as u64);
        let start = |state, part| Self { state, part, replay_from, snapshot, indexed };
        Ok(match index {
            Index::None => {
                Self { replay_from: state.event_id, ..start(PartitionState::from_state_part(&state)?, None) }
            }
            Index::Decide => start(PartitionState::from_snapshot(&state, &part)?, None),
            Index::Write => start(PartitionState::from_state_part(&state)?, Some(part)),
        })
    }
}

/// A snapshot of an event that the partition does not have. Whoever asked the leader knows that the events are
/// gone; others may have asked a replica that lags.
fn gone_back(snapshot: &SnapshotInfo, head: EventId, asked_leader: bool) -> LoadError {
    let at = snapshot.event_id;
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

/// Folds one event into a state. Gives the event as it was read.
pub fn apply<'a>(
    fold: &dyn Fold,
    state: &mut PartitionState,
    stored: &'a StoredEvent,
) -> Result<CommittedEvent<'a>, LoadError> {
    let event = parse(stored)?;
    state
        .apply(fold, &event, stored.body.len())
        .map_err(|error: ApplyError| LoadError::Broken { event: stored.id, why: error.to_string() })?;
    Ok(event)
}
