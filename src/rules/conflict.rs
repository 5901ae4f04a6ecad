//! Layer 5: conflicts, for drafts that say what they were based on.

use super::finding::finding;
use crate::event::{ClientId, EventId, FieldError};
use crate::state::{ConflictCheck, PartitionState, WriteSet};

/// What becomes of a draft's `baseEventId`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConflictPolicy {
    /// A draft without it is refused.
    Mandatory,
    /// It counts where it is given.
    #[default]
    Optional,
    /// It never counts: the last write wins.
    Ignored,
}

/// The policy of each target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConflictPolicies {
    /// Where no prefix says otherwise.
    pub default: ConflictPolicy,
    /// For a path and what lies below it; the longest that fits counts.
    pub by_prefix: Vec<(String, ConflictPolicy)>,
}

impl ConflictPolicies {
    /// The policy of a target.
    pub fn of(&self, target: Option<&str>) -> ConflictPolicy {
        let fits = |prefix: &str| target.is_some_and(|target| crate::state::below(target, prefix).is_some());
        let fitting = self.by_prefix.iter().filter(|(prefix, _)| fits(prefix));
        fitting.max_by_key(|(prefix, _)| prefix.len()).map_or(self.default, |(_, policy)| *policy)
    }
}

/// What layer 5 says of a draft.
#[derive(Debug)]
pub(crate) enum Verdict {
    Clear,
    Conflict(FieldError),
    Wait,
    NeedHistory(EventId),
}

pub(crate) fn check(
    state: &PartitionState,
    policy: ConflictPolicy,
    client: &ClientId,
    base: Option<EventId>,
    touch: &WriteSet,
) -> Verdict {
    // What changes no state is in nobody's way, and nothing comes before a first event.
    if policy == ConflictPolicy::Ignored || matches!(touch, WriteSet::Nothing | WriteSet::Everything) {
        return Verdict::Clear;
    }
    let Some(base) = base else {
        return match policy {
            ConflictPolicy::Mandatory => conflict("this target takes changes only with a baseEventId"),
            _ => Verdict::Clear,
        };
    };
    match state.touched_since(base, client, touch) {
        ConflictCheck::Overlap(id) => {
            conflict(format!("event {id} of another client changed the same after {base}"))
        }
        ConflictCheck::TooOld => {
            conflict(format!("event {base} lies too many events back to be checked; sync and try again"))
        }
        ConflictCheck::Unknown => Verdict::NeedHistory(base),
        ConflictCheck::Clear if state.is_touched_by_staged(client, touch) => Verdict::Wait,
        ConflictCheck::Clear => Verdict::Clear,
    }
}

fn conflict(message: impl AsRef<str>) -> Verdict {
    Verdict::Conflict(finding("baseEventId", "CONFLICT", message.as_ref()))
}
