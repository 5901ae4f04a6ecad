//! Units of work: which drafts of a submission stand or fall together.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// How many drafts each unit of work of a submission has, in order. Those behind the first rejected draft of a
/// unit are not processed; another unit's rejections are nothing to it. Empty where each draft is a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AtomicGroups(Vec<u32>);

impl AtomicGroups {
    /// Of drafts with these numbers of units: neighbours with the same number are one unit.
    pub fn of(numbers: impl Iterator<Item = u64>) -> Self {
        let (mut sizes, mut last) = (Vec::new(), None);
        for number in numbers {
            match sizes.last_mut() {
                Some(size) if last == Some(number) => *size += 1,
                _ => sizes.push(1),
            }
            last = Some(number);
        }
        match sizes.iter().all(|size| *size == 1) {
            true => Self::default(),
            false => Self(sizes),
        }
    }

    /// Whether each draft is a unit.
    pub fn all_single(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether they are units of so many drafts.
    pub fn fit(&self, drafts: usize) -> bool {
        self.all_single()
            || self.0.iter().try_fold(0_usize, |sum, size| sum.checked_add(*size as usize)) == Some(drafts)
    }

    /// The places of the unit that the draft at `place` belongs to.
    pub fn group_of(&self, place: usize) -> Range<usize> {
        let mut start = 0;
        for size in &self.0 {
            let end = start + *size as usize;
            if place < end {
                return start..end;
            }
            start = end;
        }
        place..place + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_with_one_number_are_a_unit() {
        let units = AtomicGroups::of([4, 4, 7, 8, 8, 8].into_iter());
        assert!(units.fit(6) && !units.fit(5) && !units.fit(7));
        let group_of: Vec<_> = (0..6).map(|place| units.group_of(place)).collect();
        assert_eq!(group_of, [0..2, 0..2, 2..3, 3..6, 3..6, 3..6]);
        assert_eq!(serde_json::to_string(&units).unwrap(), "[2,1,3]");
    }

    #[test]
    fn drafts_that_are_units_each_take_no_room() {
        let units = AtomicGroups::of([1, 2, 3].into_iter());
        assert!(units.all_single() && units.fit(3));
        assert_eq!(units.group_of(2), 2..3);
    }

    #[test]
    fn sizes_that_no_submission_has_do_not_fit() {
        let units: AtomicGroups = serde_json::from_str("[4294967295,4294967295]").unwrap();
        assert!(!units.fit(2));
    }
}
