//! A partition's state out of the log: the snapshot, and what came after it.

use std::sync::Arc;

use super::connection::Log;
use super::error::LogError;
use super::replay::StoredEvent;
use super::snapshots::{SnapshotInfo, SnapshotPart};
use crate::event::{CommittedEvent, EventId, EventRecord, Token};
use crate::state::{ApplyError, Fold, IndexPart, PartitionState, SnapshotError, StatePart};

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
        let Some(head) = self.head_for(token, with_index).await? else {
            if let Some(snapshot) = self.snapshot_info(token, SnapshotPart::State).await? {
                return Err(gone_back(&snapshot, EventId::NONE, with_index));
            }
            let state = if with_index { PartitionState::new() } else { PartitionState::follower() };
            return Ok(Loaded { state, snapshot: SnapshotInfo::default(), indexed: 0 });
        };
        let Start { mut state, replay_from, snapshot, indexed } = self.start(token, with_index).await?;
        if snapshot.event_id.max(state.head()) > head.id {
            // It may have been replaced since the head was asked for: by that time there was a later head.
            let again = self.head_for(token, with_index).await?.map_or(EventId::NONE, |head| head.id);
            if snapshot.event_id.max(state.head()) > again {
                return Err(gone_back(&snapshot, again, with_index));
            }
        }
        // The index may be older than the state: what lies between them goes into the index alone.
        let mut replay = self.replay(token, replay_from, state.head());
        while let Some(stored) = replay.next().await? {
            state.index_only(&parse(&stored)?);
        }
        self.advance(token, fold, &mut state, head.id).await?;
        #[cfg(feature = "fault-points")]
        if crate::fault::broken("forget_drafts") {
            state.forget_drafts();
        }
        Ok(Loaded { state, snapshot, indexed })
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
        self.advance(token, fold, state, head.id).await?;
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
        let decoded = tokio::task::spawn_blocking(move || decode(&state, with_index.then_some(index)))
            .await
            .map_err(|error| LogError::malformed("decoding a snapshot", error))?;
        match decoded {
            Ok((state, replay_from, indexed)) => Ok(Start { state, replay_from, snapshot, indexed }),
            Err(error) => {
                tracing::error!(%token, %error, "the snapshot cannot be used; folding the whole log instead");
                Ok(Start::empty(with_index))
            }
        }
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
    ) -> Result<(), LoadError> {
        let mut replay = self.replay(token, state.head(), upto);
        let mut folded = 0_usize;
        while let Some(stored) = replay.next().await? {
            apply(fold.as_ref(), state, &stored)?;
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
    replay_from: EventId,
    snapshot: SnapshotInfo,
    indexed: u64,
}

impl Start {
    fn empty(with_index: bool) -> Self {
        let state = if with_index { PartitionState::new() } else { PartitionState::follower() };
        Self { state, replay_from: EventId::NONE, snapshot: SnapshotInfo::default(), indexed: 0 }
    }
}

/// Makes a state of a snapshot's parts; gives where the replay begins, and how many drafts the index had. `index` is
/// `None` where none is wanted, `Some(None)` where it is wanted and not there.
fn decode(
    state: &[u8],
    index: Option<Option<Vec<u8>>>,
) -> Result<(PartitionState, EventId, u64), SnapshotError> {
    let state = StatePart::decode(state)?;
    let Some(index) = index else {
        let follower = PartitionState::from_state_part(&state)?;
        return Ok((follower, state.event_id, 0));
    };
    let nothing = || IndexPart { event_id: EventId::NONE, entries: Vec::new() };
    let index = index.map_or_else(
        || Ok(nothing()),
        |bytes| {
            IndexPart::decode(&bytes).inspect_err(|error| {
                tracing::error!(%error, "a snapshot's draft index cannot be used; reading the log instead");
            })
        },
    );
    let index = index.unwrap_or_else(|_| nothing());
    let (replay_from, indexed) = (PartitionState::replay_from(&state, &index), index.entries.len() as u64);
    Ok((PartitionState::from_snapshot(&state, index)?, replay_from, indexed))
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

/// Folds one event into a state.
pub fn apply(fold: &dyn Fold, state: &mut PartitionState, stored: &StoredEvent) -> Result<(), LoadError> {
    let event = parse(stored)?;
    state
        .apply(fold, &event, stored.body.len())
        .map_err(|error: ApplyError| LoadError::Broken { event: stored.id, why: error.to_string() })
}
