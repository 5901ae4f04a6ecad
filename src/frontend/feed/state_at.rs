//! A partition's state in the past, as far as it can be made with little work.

use std::sync::Arc;

use super::partition::Feed;
use super::state::{blocking, drop_aside, serialise};
use super::state_cache::SerializedState;
use crate::event::EventId;
use crate::partition::StateAtError;

/// How many events are folded for one request. The snapshot is a thousand events behind the head or more, so a state of
/// the last thousands is there; what lies before the snapshot is folded from the log's beginning.
pub(crate) const EVENTS_MAX: u64 = 10_000;

/// Why there is no such state.
#[derive(Debug)]
pub(crate) enum NoState {
    /// Another one is being made.
    Busy,
    /// There is none, or it takes too much.
    At(StateAtError),
}

impl Feed {
    /// The state right after an event of the partition. One at a time is made, apart from those of the head.
    pub(crate) async fn state_at(&self, id: EventId) -> Result<Arc<SerializedState>, NoState> {
        let _place = self.shared.tasks.past.try_acquire().map_err(|_| NoState::Busy)?;
        let (log, fold) = (&self.shared.log, &self.shared.fold);
        let state = log.state_at_within(&self.token, fold, id, EVENTS_MAX).await.map_err(NoState::At)?;
        let mut hold = self.shared.memory.shared();
        hold.set(state.memory_bytes());
        let of_copy = self.shared.memory.shared();
        let serialised = blocking(move || serialise(Box::new(state), usize::MAX, of_copy)).await;
        let (state, serialised) =
            serialised.and_then(|done| done).map_err(|error| NoState::At(error.into()))?;
        drop_aside((state, hold)).await;
        Ok(Arc::new(serialised))
    }
}
