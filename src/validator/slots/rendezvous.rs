//! Which validator should hold which slot: rendezvous hashing, so that a validator that comes or goes
//! moves only its own share.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::event::Slot;

/// The validator that should hold `slot`; `None` if there is none at all.
///
/// Validators of different builds may disagree for the length of a rolling upgrade. That costs a few
/// hand-overs and no more: ownership itself is decided by compare-and-set.
pub(crate) fn holder(slot: Slot, validators: &BTreeSet<String>) -> Option<&str> {
    validators.iter().max_by_key(|id| (weight(slot, id), id.as_str())).map(String::as_str)
}

fn weight(slot: Slot, validator: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (slot.0, validator).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validators(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_newcomer_takes_slots_only_for_itself() {
        let before = validators(&["a", "b", "c"]);
        let after = validators(&["a", "b", "c", "d"]);
        let mut moved = 0;
        for slot in (0..256).map(Slot) {
            let (old, new) = (holder(slot, &before), holder(slot, &after));
            if old != new {
                assert_eq!(new, Some("d"));
                moved += 1;
            }
        }
        assert!((32..=96).contains(&moved), "{moved} of 256 slots moved to one of four");
    }

    #[test]
    fn nobody_holds_a_slot_where_nobody_is() {
        assert_eq!(holder(Slot(1), &BTreeSet::new()), None);
    }
}
