//! A partition's state at its head, kept at hand: loaded when first asked for, folded forward after that,
//! and serialised once for all who ask at the same head.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::Feed;
use crate::event::EventId;
use crate::frontend::metrics;
use crate::frontend::ring::RingRead;
use crate::log::{LoadError, LogError, StoredEvent, apply};
use crate::state::PartitionState;

/// How many events are folded before other work gets its turn.
const EVENTS_PER_TURN: usize = 256;

/// What is kept.
#[derive(Default)]
pub(super) struct Warm {
    state: Option<Box<PartitionState>>,
    serialised: Option<Arc<StateAt>>,
    used: Option<Instant>,
}

/// A serialised state.
pub(in crate::frontend) struct StateAt {
    /// The last event in it.
    pub event_id: EventId,
    /// That event's ordinal.
    pub ordinal: u64,
    /// Its JSON.
    pub json: Box<RawValue>,
}

impl Warm {
    /// Drops everything unless somebody asked within `idle`.
    pub(super) fn forget_idle(&mut self, idle: Duration) {
        if self.used.is_some_and(|used| used.elapsed() >= idle) {
            *self = Self::default();
        }
    }
}

impl Feed {
    /// The state at the head as it is when this is called, or at a later one. Those who ask at once share
    /// one serialisation.
    pub(in crate::frontend) async fn state(&self) -> Result<Arc<StateAt>, LogError> {
        let wanted = self.head_now();
        let mut warm = self.warm.lock().await;
        warm.used = Some(Instant::now());
        if let Some(state) = warm.serialised.as_ref().filter(|state| state.event_id >= wanted) {
            return Ok(state.clone());
        }
        // Those who ask wait for each other here; not for one time-out after another.
        if !self.shared.log.state().borrow().connected {
            let why = "NATS is not connected".to_owned();
            return Err(LogError::Unavailable { what: "reading a state", why });
        }
        let mut state = match warm.state.take() {
            Some(state) => state,
            None => self.load().await?,
        };
        let upto = self.head_now();
        if let Err(error) = self.fold_to(&mut state, upto).await {
            // What is folded so far is good, and the next one to ask goes on from there.
            warm.state = Some(state);
            return Err(error);
        }
        metrics::count(metrics::STATES);
        let (state, serialised) = blocking(move || serialise(state)).await??;
        let serialised = Arc::new(serialised);
        warm.state = Some(state);
        warm.serialised = Some(serialised.clone());
        Ok(serialised)
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
                apply(self.shared.fold.as_ref(), state, &stored).map_err(log_error)?;
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
fn log_error(error: LoadError) -> LogError {
    match error {
        LoadError::Log(error) => error,
        broken @ LoadError::Broken { .. } => {
            LogError::Malformed { what: "folding a state", why: broken.to_string() }
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| LogError::Malformed { what: "working on a state", why: error.to_string() })
}

fn serialise(state: Box<PartitionState>) -> Result<(Box<PartitionState>, StateAt), LogError> {
    let malformed = |why: String| LogError::Malformed { what: "serialising a state", why };
    let text = String::from_utf8(state.document().canonical()).map_err(|why| malformed(why.to_string()))?;
    let json = RawValue::from_string(text).map_err(|why| malformed(why.to_string()))?;
    let at = StateAt { event_id: state.head(), ordinal: state.ordinal(), json };
    Ok((state, at))
}
