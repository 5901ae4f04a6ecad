//! The floor of a slot: which of its drafts are decided, as its owner knows it.
//!
//! No I/O. Drafts come off the queue in order, and each is in hand until it is settled. What the floor says of
//! them goes into the slot's key before a client is told of a rejection, so that the next owner passes over what
//! was told, whether or not NATS has removed it from the queue by then.

use std::collections::BTreeMap;

use crate::event::Decided;
use crate::faults;

/// The floor of one hold.
#[derive(Debug, Default)]
pub(crate) struct Floor {
    queue: String,
    /// The last draft of which a rejection was told, or is about to be.
    told: u64,
    /// The last draft that came, or that an earlier owner has told of.
    last: u64,
    /// The drafts up to `last` that are not decided, and whether they came to this owner.
    open: BTreeMap<u64, bool>,
}

/// What a draft is that comes off the queue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// To be decided.
    New,
    /// In hand already.
    Again,
    /// Decided already.
    Decided,
}

impl Floor {
    /// The floor with which a hold begins that takes drafts off `queue`: what the owner before it said, unless that
    /// was of another queue.
    pub(crate) fn new(before: Decided, queue: &str) -> Self {
        if before.queue != queue || faults::broken("forget_floor") {
            return Self { queue: queue.to_owned(), ..Self::default() };
        }
        let open = before.open.into_iter().map(|sequence| (sequence, false)).collect();
        Self { queue: before.queue, told: before.upto, last: before.upto, open }
    }

    /// A draft comes.
    pub(crate) fn take(&mut self, sequence: u64) -> Arrival {
        match self.open.get_mut(&sequence) {
            Some(true) => return Arrival::Again,
            Some(came) => *came = true,
            None if sequence <= self.last => return Arrival::Decided,
            None => {
                self.last = sequence;
                self.open.insert(sequence, true);
            }
        }
        // Those before it that an earlier owner left open would have come before it: they are off the queue.
        while let Some(first) =
            self.open.first_entry().filter(|first| *first.key() < sequence && !first.get())
        {
            first.remove();
        }
        Arrival::New
    }

    /// A draft is decided, and nobody is told of a rejection.
    pub(crate) fn settle(&mut self, sequence: u64) {
        self.open.remove(&sequence);
    }

    /// A draft is decided, and a rejection is about to be told.
    pub(crate) fn tell(&mut self, sequence: u64) {
        self.open.remove(&sequence);
        self.told = self.told.max(sequence);
    }

    /// What the next owner must know.
    pub(crate) fn decided(&self) -> Decided {
        let open = self.open.range(..self.told).map(|(sequence, _)| *sequence).collect();
        Decided { queue: self.queue.clone(), upto: self.told, open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_next_owner_passes_over_what_was_told_and_nothing_else() {
        let mut first = Floor::new(Decided::default(), "q");
        for sequence in [2, 5, 9] {
            assert_eq!(first.take(sequence), Arrival::New);
        }
        first.tell(5);
        first.settle(9);
        assert_eq!(first.decided(), Decided { queue: "q".to_owned(), upto: 5, open: vec![2] });
        assert_eq!(first.take(2), Arrival::Again);
        assert_eq!(first.take(9), Arrival::Decided);

        let mut next = Floor::new(first.decided(), "q");
        assert_eq!(next.take(2), Arrival::New);
        assert_eq!(next.take(5), Arrival::Decided);
        assert_eq!(next.take(9), Arrival::New, "found in the log, if it was committed");
        assert_eq!(next.decided(), Decided { queue: "q".to_owned(), upto: 5, open: vec![2] });
    }

    #[test]
    fn a_queue_that_was_made_again_has_no_floor() {
        let before = Decided { queue: "q".to_owned(), upto: 7, open: vec![] };
        let mut floor = Floor::new(before, "r");
        assert_eq!(floor.take(1), Arrival::New);
        assert_eq!(floor.decided(), Decided { queue: "r".to_owned(), upto: 0, open: vec![] });
    }

    #[test]
    fn what_is_off_the_queue_is_not_open_for_ever() {
        let before = Decided { queue: "q".to_owned(), upto: 9, open: vec![3, 4, 8] };
        let mut floor = Floor::new(before, "q");
        assert_eq!(floor.take(8), Arrival::New);
        assert_eq!(floor.decided().open, [8]);
        floor.settle(8);
        assert_eq!(floor.take(4), Arrival::Decided);
    }

    proptest! {
        /// Owner after owner: a draft that was told is never decided again, and one that is not decided comes to
        /// some owner as new for as long as it is in the queue.
        #[test]
        fn nothing_told_is_decided_again(
            owners in proptest::collection::vec(proptest::collection::vec((0_u8..4, 0_usize..8), 0..40), 1..8),
        ) {
            let mut queue: Vec<u64> = (1..=200).map(|n| n * 3).collect();
            let mut told = std::collections::BTreeSet::new();
            let mut before = Decided::default();
            for steps in owners {
                let mut floor = Floor::new(before, "q");
                let (mut next, mut hand) = (0, Vec::new());
                for (what, which) in steps {
                    match what {
                        0 | 1 => {
                            let Some(sequence) = queue.get(next).copied() else { continue };
                            next += 1;
                            match floor.take(sequence) {
                                Arrival::New => {
                                    prop_assert!(!told.contains(&sequence));
                                    hand.push(sequence);
                                }
                                Arrival::Decided => prop_assert!(told.contains(&sequence)),
                                Arrival::Again => prop_assert!(false, "{sequence} came once"),
                            }
                        }
                        _ if hand.is_empty() => {}
                        2 => {
                            let sequence = hand.remove(which % hand.len());
                            floor.tell(sequence);
                            told.insert(sequence);
                        }
                        _ => {
                            // Committed, and off the queue.
                            let sequence = hand.remove(which % hand.len());
                            floor.settle(sequence);
                            let at = queue.iter().position(|queued| *queued == sequence).unwrap();
                            queue.remove(at);
                            next -= usize::from(at < next);
                        }
                    }
                }
                before = floor.decided();
            }
        }
    }
}
