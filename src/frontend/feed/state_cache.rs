//! A partition's state, kept at hand: loaded when first asked for, folded forward after that, and serialised once for
//! all who ask.
//!
//! A large state is serialised at most so often. Whoever has seen nothing of what came since then gets the copy at hand,
//! and the events after it; others wait. What is at hand is counted, and gives way when the memory is full.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until};

use super::Feed;
use super::ring::RingRead;
use crate::event::EventId;
use crate::frontend::admission::memory::Hold;
use crate::frontend::metrics;
use crate::log::{LogError, StoredEvent};
use crate::partition::{LoadError, apply};
use crate::state::PartitionState;

/// How many events are folded before other work gets its turn.
const EVENTS_PER_TURN: usize = 256;
/// A state of so many bytes is serialised whenever somebody asks.
const SMALL_BYTES_MAX: usize = 64 * 1024;
/// The shortest pause after a larger one was serialised, and the pause as so many times what that took.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_TIMES: u32 = 20;
/// The text of a part of a state, in bytes; as a JSON string it is at most twice as long.
const PART_BYTES: usize = 256 * 1024;

/// What is kept.
#[derive(Default)]
pub(crate) struct Warm {
    state: Option<(Box<PartitionState>, Hold)>,
    serialised: Option<Arc<StateAt>>,
    used: Option<Instant>,
    /// When it may be serialised again.
    due: Option<Instant>,
}

/// A serialised state.
pub(crate) struct StateAt {
    /// The last event in it.
    pub event_id: EventId,
    /// That event's ordinal.
    pub ordinal: u64,
    /// The length of its JSON.
    pub bytes: usize,
    /// Its JSON.
    pub text: StateText,
    _hold: Hold,
}

/// The JSON of a state.
pub(crate) enum StateText {
    /// As it is.
    Whole(Box<RawValue>),
    /// In parts, each as a JSON string.
    Parts(Vec<Box<str>>),
}

impl Warm {
    /// Drops everything unless somebody asked within `idle`.
    pub(crate) fn forget_idle(&mut self, idle: Duration) {
        if self.used.is_some_and(|used| used.elapsed() >= idle) {
            *self = Self::default();
        }
    }

    /// When what is kept was last asked for; `None` if nothing is.
    pub(crate) fn kept_since(&self) -> Option<Instant> {
        self.used.filter(|_| self.state.is_some() || self.serialised.is_some())
    }

    /// The copy at hand, if it will do.
    fn copy(&self, wanted: EventId, at_least: EventId) -> Option<Arc<StateAt>> {
        let is_new = self.due.is_some_and(|due| due > Instant::now());
        let will_do = |copy: &&Arc<StateAt>| copy.event_id >= if is_new { at_least } else { wanted };
        self.serialised.as_ref().filter(will_do).cloned()
    }
}

impl Feed {
    /// The state at the head as it is when this is called, or at a later one; or where a large one was serialised a
    /// moment ago that has `at_least` this event, that one. Those who ask at once share one serialisation.
    pub(crate) async fn state(&self, at_least: EventId) -> Result<Arc<StateAt>, LogError> {
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

/// Drops what is so large that it takes a while.
async fn drop_aside(large: impl Send + 'static) {
    if let Err(error) = tokio::task::spawn_blocking(move || drop(large)).await {
        tracing::error!(%error, "a state could not be let go");
    }
}

fn serialise(
    state: Box<PartitionState>,
    whole_max: usize,
    mut hold: Hold,
) -> Result<(Box<PartitionState>, StateAt), LogError> {
    let malformed = |why: String| LogError::Malformed { what: "serialising a state", why };
    let text = String::from_utf8(state.document().canonical()).map_err(|why| malformed(why.to_string()))?;
    let bytes = text.len();
    let (text, held) = if bytes <= whole_max {
        (StateText::Whole(RawValue::from_string(text).map_err(|why| malformed(why.to_string()))?), bytes)
    } else {
        let parts = parts_of(&text).map_err(|why| malformed(why.to_string()))?;
        let held = parts.iter().map(|part| part.len()).sum();
        (StateText::Parts(parts), held)
    };
    hold.set(held);
    let at = StateAt { event_id: state.head(), ordinal: state.ordinal(), bytes, text, _hold: hold };
    Ok((state, at))
}

/// A text in parts, each as a JSON string.
fn parts_of(text: &str) -> serde_json::Result<Vec<Box<str>>> {
    let (mut parts, mut rest) = (Vec::with_capacity(text.len() / PART_BYTES + 1), text);
    while !rest.is_empty() {
        let (part, more) = rest.split_at(rest.floor_char_boundary(PART_BYTES));
        parts.push(serde_json::to_string(part)?.into_boxed_str());
        rest = more;
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_up_the_text() {
        for text in ["", "a", &"é\"\\".repeat(PART_BYTES), &"x".repeat(2 * PART_BYTES)] {
            let parts = parts_of(text).unwrap();
            let texts: Vec<String> = parts.iter().map(|part| serde_json::from_str(part).unwrap()).collect();
            assert_eq!(texts.concat(), text);
            assert!(parts.iter().all(|part| part.len() <= 2 * PART_BYTES + 2));
        }
    }
}
