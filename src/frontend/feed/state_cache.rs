//! A partition's state, kept at hand: loaded when first asked for, folded forward after that, and serialised once for
//! all who ask.
//!
//! A large state is serialised at most so often. Whoever has seen nothing of what came since then gets the copy at hand,
//! and the events after it; others wait. What is at hand is counted, and gives way when the memory is full.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::event::EventId;
use crate::frontend::admission::memory::Hold;
use crate::state::PartitionState;

/// How many events are folded before other work gets its turn.
pub(crate) const EVENTS_PER_TURN: usize = 256;
/// A state of so many bytes is serialised whenever somebody asks.
pub(crate) const SMALL_BYTES_MAX: usize = 64 * 1024;
/// The shortest pause after a larger one was serialised, and the pause as so many times what that took.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
pub(crate) const PAUSE_TIMES: u32 = 20;
/// The text of a part of a state, in bytes; as a JSON string it is at most twice as long.
const PART_BYTES: usize = 256 * 1024;

/// What is kept.
#[derive(Default)]
pub(crate) struct StateCache {
    pub(crate) state: Option<(Box<PartitionState>, Hold)>,
    pub(crate) serialised: Option<Arc<SerializedState>>,
    pub(crate) used: Option<Instant>,
    /// When it may be serialised again.
    pub(crate) due: Option<Instant>,
}

/// A serialised state.
pub(crate) struct SerializedState {
    /// The last event in it.
    pub event_id: EventId,
    /// That event's ordinal.
    pub ordinal: u64,
    /// The length of its JSON.
    pub bytes: usize,
    /// Its JSON.
    pub text: StateText,
    pub(crate) _hold: Hold,
}

/// The JSON of a state.
pub(crate) enum StateText {
    /// As it is.
    Whole(Box<RawValue>),
    /// In parts, each as a JSON string.
    Parts(Vec<Box<str>>),
}

impl StateCache {
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
    pub(crate) fn copy(&self, wanted: EventId, at_least: EventId) -> Option<Arc<SerializedState>> {
        let is_new = self.due.is_some_and(|due| due > Instant::now());
        let will_do = |copy: &&Arc<SerializedState>| copy.event_id >= if is_new { at_least } else { wanted };
        self.serialised.as_ref().filter(will_do).cloned()
    }
}

/// A text in parts, each as a JSON string.
pub(crate) fn parts_of(text: &str) -> serde_json::Result<Vec<Box<str>>> {
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
