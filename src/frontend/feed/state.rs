//! The state of a watched partition, for clients that ask for it.

use super::partition::Feed;
use crate::event::EventId;
use crate::frontend::admission::memory::Hold;
use crate::frontend::feed::ring::RingRead;
use crate::frontend::feed::state_cache::{
    EVENTS_PER_TURN, PAUSE, PAUSE_TIMES, SMALL_BYTES_MAX, SerializedState, StateText, parts_of,
};
use crate::frontend::metrics;
use crate::log::{LogError, StoredEvent};
use crate::partition::{LoadError, apply};
use crate::state::PartitionState;
use serde_json::value::RawValue;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

impl Feed {
    /// The state at the head as it is when this is called, or at a later one; or where a large one was serialised a
    /// moment ago that has `at_least` this event, that one. Those who ask at once share one serialisation.
    pub(crate) async fn state(&self, at_least: EventId) -> Result<Arc<SerializedState>, LogError> {
        let wanted = self.head_now();
        let mut warm = self.warm.lock().await;
        warm.used = Some(Instant::now());
        if let Some(copy) = warm.copy(wanted, at_least) {
            return Ok(copy);
        }
        if let Some(due) = warm.due {
            sleep_until(due).await;
        }
        // Those who ask wait for each other here; not for one time-out after another.
        if !self.shared.log.state().borrow().connected {
            let why = "NATS is not connected".to_owned();
            return Err(LogError::Unavailable { what: "reading a state", why });
        }
        let _place = self.shared.tasks.states.acquire().await;
        let (mut state, mut hold) = match warm.state.take() {
            Some(kept) => kept,
            None => (self.load().await?, self.shared.memory.shared()),
        };
        hold.set(state.memory_bytes());
        let upto = self.head_now();
        if let Err(error) = self.fold_to(&mut state, upto).await {
            // What is folded so far is good, and the next one to ask goes on from there.
            warm.state = Some((state, hold));
            return Err(error);
        }
        metrics::count(metrics::STATES);
        let started = Instant::now();
        let (whole_max, of_copy) = (self.shared.settings.state_frame_bytes_max, self.shared.memory.shared());
        let (state, serialised) = blocking(move || serialise(state, whole_max, of_copy)).await??;
        let pause = PAUSE.max(started.elapsed() * PAUSE_TIMES);
        warm.due = (serialised.bytes > SMALL_BYTES_MAX).then(|| Instant::now() + pause);
        let serialised = Arc::new(serialised);
        warm.serialised = Some(serialised.clone());
        hold.set(state.memory_bytes());
        if self.shared.memory.may_keep(state.memory_bytes()) {
            warm.state = Some((state, hold));
        } else {
            drop_aside((state, hold)).await;
        }
        Ok(serialised)
    }

    /// Lets the state at hand go, unless it is just being used.
    pub(crate) async fn let_state_go(&self) {
        let Ok(mut warm) = self.warm.try_lock() else { return };
        let kept = (warm.state.take(), warm.serialised.take());
        drop(warm);
        drop_aside(kept).await;
    }

    async fn load(&self) -> Result<Box<PartitionState>, LogError> {
        let loaded = self.shared.log.load_partition(&self.token, &self.shared.fold, false).await;
        Ok(Box::new(loaded.map_err(log_error)?.state))
    }

    /// Folds what lies between the state and `upto`: from the ring if it is all there, else from the log,
    /// and then to the log's own head, which may be further on.
    async fn fold_to(&self, state: &mut PartitionState, upto: EventId) -> Result<(), LogError> {
        while state.head() < upto {
            let at_hand = self.ring().read(state.head(), EVENTS_PER_TURN);
            let RingRead::Events(entries) = at_hand else {
                let caught_up = self.shared.log.catch_up(&self.token, &self.shared.fold, state).await;
                return caught_up.map(drop).map_err(log_error);
            };
            for entry in entries.iter().take_while(|entry| entry.id <= upto) {
                let stored = StoredEvent { id: entry.id, body: entry.body.clone() };
                if apply(self.shared.fold.as_ref(), state, &stored).is_err() {
                    // The log says whether it is the log that does not fold.
                    let caught_up = self.shared.log.catch_up(&self.token, &self.shared.fold, state).await;
                    return caught_up.map(drop).map_err(log_error);
                }
            }
            if entries.len() < EVENTS_PER_TURN {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// A log that does not fold stops the state where it is: what would come out could not be called the state.
pub(crate) fn log_error(error: LoadError) -> LogError {
    match error {
        LoadError::Log(error) => error,
        broken @ LoadError::Broken { .. } => {
            LogError::Malformed { what: "folding a state", why: broken.to_string() }
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| LogError::Malformed { what: "working on a state", why: error.to_string() })
}

/// Drops what is so large that it takes a while.
pub(crate) async fn drop_aside(large: impl Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(move || drop(large)).await {
        tracing::error!(%error, "a state could not be let go");
    }
}

pub(crate) fn serialise(
    state: Box<PartitionState>,
    whole_max: usize,
    mut hold: Hold,
) -> Result<(Box<PartitionState>, SerializedState), LogError> {
    let malformed = |why: String| LogError::Malformed { what: "serialising a state", why };
    let text = String::from_utf8(state.canonical().map_err(|why| malformed(why.to_string()))?)
        .map_err(|why| malformed(why.to_string()))?;
    let bytes = text.len();
    let (text, held) = if bytes <= whole_max {
        (StateText::Whole(RawValue::from_string(text).map_err(|why| malformed(why.to_string()))?), bytes)
    } else {
        let parts = parts_of(&text).map_err(|why| malformed(why.to_string()))?;
        let held = parts.iter().map(|part| part.len()).sum();
        (StateText::Parts(parts), held)
    };
    hold.set(held);
    let at = SerializedState { event_id: state.head(), ordinal: state.ordinal(), bytes, text, _hold: hold };
    Ok((state, at))
}
