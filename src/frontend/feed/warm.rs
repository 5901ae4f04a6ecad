//! A partition's state at its head, kept at hand: loaded when first asked for, folded forward after that,
//! and serialised once for all who ask at the same head.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tracing::error;

use super::{Feed, report_unreadable};
use crate::event::{EventId, EventRecord};
use crate::frontend::metrics;
use crate::frontend::ring::RingRead;
use crate::log::{LogError, SnapshotPart, StoredEvent};
use crate::state::Fold;

/// How many events are folded before other work gets its turn.
const EVENTS_PER_TURN: usize = 256;

/// What is kept.
#[derive(Default)]
pub(super) struct Warm {
    state: Option<Folded>,
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
    async fn load(&self) -> Result<Folded, LogError> {
        let fold = self.shared.fold.clone();
        let bytes = match self.shared.log.read_snapshot(&self.token, SnapshotPart::State).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Folded::empty(fold.as_ref())),
            Err(why) if why.is_retryable() => return Err(why),
            Err(why) => {
                error!(partition = %self.partition, %why, "a snapshot cannot be read; folding the whole log instead");
                return Ok(Folded::empty(fold.as_ref()));
            }
        };
        let partition = self.partition.clone();
        blocking(move || match Folded::decode(fold.as_ref(), &bytes) {
            Ok(state) => state,
            Err(why) => {
                error!(%partition, %why, "a snapshot is damaged; folding the whole log instead");
                Folded::empty(fold.as_ref())
            }
        })
        .await
    }

    /// Folds what lies between the state and `upto`: from the ring if it is all there, else through a replay.
    async fn fold_to(&self, state: &mut Folded, upto: EventId) -> Result<(), LogError> {
        while state.event_id < upto {
            let at_hand = self.ring().read(state.event_id, EVENTS_PER_TURN);
            let RingRead::Events(entries) = at_hand else {
                return self.replay_to(state, upto).await;
            };
            let whole = entries.len() < EVENTS_PER_TURN;
            for entry in entries.iter().take_while(|entry| entry.id <= upto) {
                self.fold_one(state, entry.id, &entry.body);
            }
            if whole {
                // What is left of the way is unreadable.
                state.event_id = state.event_id.max(upto);
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn replay_to(&self, state: &mut Folded, upto: EventId) -> Result<(), LogError> {
        let mut replay = self.shared.log.replay(&self.token, state.event_id, upto).await?;
        let mut folded = 0;
        while let Some(StoredEvent { id, body }) = replay.next().await? {
            self.fold_one(state, id, &body);
            folded += 1;
            if folded % EVENTS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    fn fold_one(&self, state: &mut Folded, id: EventId, body: &[u8]) {
        match EventRecord::parse(body) {
            Ok(record) => state.fold(self.shared.fold.as_ref(), id, &record),
            Err(why) => report_unreadable(&self.token, id, &why),
        }
        state.event_id = id;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| LogError::Malformed { what: "working on a state", why: error.to_string() })
}

fn serialise(state: Folded) -> Result<(Folded, StateAt), LogError> {
    let json = state
        .to_json()
        .map_err(|error| LogError::Malformed { what: "serialising a state", why: error.to_string() })?;
    let at = StateAt { event_id: state.event_id, ordinal: state.ordinal, json };
    Ok((state, at))
}

/// STUB until `state` is there.
struct Folded {
    event_id: EventId,
    ordinal: u64,
}

impl Folded {
    fn empty(_fold: &dyn Fold) -> Self {
        Self { event_id: EventId::NONE, ordinal: 0 }
    }
    fn decode(_fold: &dyn Fold, _bytes: &[u8]) -> Result<Self, String> {
        Err("stub".into())
    }
    fn fold(&mut self, _fold: &dyn Fold, _id: EventId, record: &EventRecord<'_>) {
        self.ordinal = record.ordinal;
    }
    fn to_json(&self) -> serde_json::Result<Box<RawValue>> {
        RawValue::from_string(format!("{{\"stub\":{}}}", self.ordinal))
    }
}
