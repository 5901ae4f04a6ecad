//! A partition's state at its head, kept at hand: loaded when first asked for, folded forward after that,
//! and serialised once for all who ask at the same head.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tracing::error;

use super::Feed;
use crate::event::{CommittedEvent, EventId, EventRecord};
use crate::frontend::metrics;
use crate::frontend::ring::RingRead;
use crate::log::{LogError, SnapshotPart, StoredEvent};
use crate::state::{PartitionState, SnapshotError, StatePart};

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

    /// The state of the latest snapshot, or the empty one when there is none that can be used.
    async fn load(&self) -> Result<Box<PartitionState>, LogError> {
        let bytes = match self.shared.log.read_snapshot(&self.token, SnapshotPart::State).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Box::new(PartitionState::follower())),
            Err(why) if why.is_retryable() => return Err(why),
            Err(why) => return Ok(self.without_snapshot(&why)),
        };
        let decode = move || -> Result<_, SnapshotError> {
            Ok(Box::new(PartitionState::from_state_part(&StatePart::decode(&bytes)?)?))
        };
        Ok(blocking(decode).await?.unwrap_or_else(|why| self.without_snapshot(&why)))
    }

    fn without_snapshot(&self, why: &dyn std::fmt::Display) -> Box<PartitionState> {
        error!(partition = %self.partition, %why, "a snapshot cannot be used; folding the whole log instead");
        Box::new(PartitionState::follower())
    }

    /// Folds what lies between the state and `upto`: from the ring if it is all there, else through a
    /// replay.
    async fn fold_to(&self, state: &mut PartitionState, upto: EventId) -> Result<(), LogError> {
        while state.head() < upto {
            let at_hand = self.ring().read(state.head(), EVENTS_PER_TURN);
            let RingRead::Events(entries) = at_hand else {
                return self.replay_to(state, upto).await;
            };
            for entry in entries.iter().take_while(|entry| entry.id <= upto) {
                self.fold_one(state, entry.id, &entry.body)?;
            }
            if entries.len() < EVENTS_PER_TURN {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn replay_to(&self, state: &mut PartitionState, upto: EventId) -> Result<(), LogError> {
        let mut replay = self.shared.log.replay(&self.token, state.head(), upto).await?;
        let mut folded = 0;
        while let Some(StoredEvent { id, body }) = replay.next().await? {
            self.fold_one(state, id, &body)?;
            folded += 1;
            if folded % EVENTS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Folds one event. One that does not fold stops the state where it is: what would come out could not
    /// be called the state.
    fn fold_one(&self, state: &mut PartitionState, id: EventId, body: &[u8]) -> Result<(), LogError> {
        let malformed = |why: String| LogError::Malformed { what: "folding a state", why };
        let record = EventRecord::parse(body).map_err(|why| malformed(format!("event {id}: {why}")))?;
        let event = CommittedEvent { id, record };
        state.apply(self.shared.fold.as_ref(), &event, body.len()).map_err(|why| malformed(why.to_string()))
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
