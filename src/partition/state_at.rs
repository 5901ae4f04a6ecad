//! Time travel: a partition's state as it was right after one of its events.

use std::sync::Arc;

use super::load::{LoadError, apply, settle};
use crate::event::{EventId, EventRecord, Token};
use crate::log::Log;
use crate::log::LogError;
use crate::log::SnapshotPart;
use crate::state::{Fold, PartitionState, StatePart};

/// Why there is no such state.
#[derive(Debug, thiserror::Error)]
pub enum StateAtError {
    /// The event is another partition's.
    #[error("event {0} is of another partition")]
    OtherPartition(EventId),
    /// There is no such event.
    #[error("there is no event {0}")]
    NoEvent(EventId),
    /// It would take more folding than is done for this.
    #[error(
        "the state at event {id} is {events} events after the last one at hand, and at most {events_max} are folded"
    )]
    TooFar {
        /// The event.
        id: EventId,
        /// How many events would be folded.
        events: u64,
        /// How many are.
        events_max: u64,
    },
    /// The log could not be read, or does not fold.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<LogError> for StateAtError {
    fn from(error: LogError) -> Self {
        Self::Load(error.into())
    }
}

impl Log {
    /// The state right after event `id`, which must be the partition's: from the snapshot, if that lies
    /// before, and what came between.
    pub async fn state_at(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        id: EventId,
    ) -> Result<PartitionState, StateAtError> {
        self.state_at_within(token, fold, id, u64::MAX).await
    }

    /// [`Log::state_at`], if that takes no more than so many events.
    pub async fn state_at_within(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        id: EventId,
        events_max: u64,
    ) -> Result<PartitionState, StateAtError> {
        let event = match self.event(id).await? {
            Some((of, event)) if of == *token => event,
            Some(_) => return Err(StateAtError::OtherPartition(id)),
            None => return Err(StateAtError::NoEvent(id)),
        };
        // An event that cannot be read is told by the fold.
        let ordinal = EventRecord::parse(&event.body).map_or(0, |record| record.ordinal);
        match self.fold_to(token, fold, id, ordinal, events_max).await {
            // What looks like damage of the log is called so only when a second read shows it again.
            Err(StateAtError::Load(LoadError::Broken { event, why })) => {
                tracing::warn!(%token, %event, why, "the log looks damaged; reading it again");
                self.fold_to(token, fold, id, ordinal, events_max).await
            }
            folded => folded,
        }
    }

    async fn fold_to(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        id: EventId,
        ordinal: u64,
        events_max: u64,
    ) -> Result<PartitionState, StateAtError> {
        let mut state = self.snapshot_before(token, id).await?.unwrap_or_else(PartitionState::follower);
        let events = ordinal.saturating_sub(state.ordinal());
        if events > events_max {
            return Err(StateAtError::TooFar { id, events, events_max });
        }
        let mut replay = self.replay(token, state.head(), id);
        while let Some(stored) = replay.next().await? {
            apply(fold.as_ref(), &mut state, &stored)?;
            settle(&state)?;
        }
        Ok(state)
    }

    /// The snapshot, if it is not younger than `id` and can be used.
    async fn snapshot_before(&self, token: &Token, id: EventId) -> Result<Option<PartitionState>, LogError> {
        let Some(info) = self.snapshot_info(token, SnapshotPart::State).await? else { return Ok(None) };
        if info.event_id > id {
            return Ok(None);
        }
        let Some(bytes) = self.usable(token, SnapshotPart::State).await? else { return Ok(None) };
        let decoded = StatePart::decode(&bytes).and_then(|part| {
            let state = PartitionState::from_state_part(&part)?;
            Ok((part.event_id <= id).then_some(state))
        });
        Ok(decoded.unwrap_or_else(|error| {
            tracing::error!(%token, %error, "the snapshot is unusable; folding the whole log instead");
            None
        }))
    }
}
