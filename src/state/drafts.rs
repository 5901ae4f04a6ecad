//! Which drafts of a partition are committed, and as which events.
//!
//! The last ones are known here in full. Of those before, which can be any number, ten bytes a draft are kept: enough
//! to say of nearly every new draft that it is new, and of the others which events to look at in the log. What the log
//! said is told to the index for as long as its drafts are being decided.

use std::collections::HashMap;

use super::IndexEntry;
use crate::event::{ContentHash, DraftKey, EventId};

/// The fewest drafts that are settled at a time; a partition with no more is known in full.
const RECENT_MIN: usize = 128;
/// And the fewest as a part of those that are settled already: so what a draft costs does not grow with the partition.
const RECENT_PARTS: usize = 32;

const MARK_BYTES: usize = 4;
const ID_BYTES: usize = 6;

/// What an index knows of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftLookup {
    /// It is not committed.
    Fresh,
    /// It is committed as this event, with this content.
    Committed(EventId, ContentHash),
    /// One of a few events may be it: [`PartitionState::draft_candidates`](super::PartitionState::draft_candidates).
    Perhaps,
}

/// A settled draft: the first bytes of its key, then its event's id; both big-endian, so they sort as bytes.
type Settled = [u8; MARK_BYTES + ID_BYTES];

#[derive(Debug, Default)]
pub(super) struct DraftIndex {
    recent: HashMap<DraftKey, (EventId, ContentHash)>,
    /// Sorted.
    settled: Vec<Settled>,
    /// What the log said of drafts that may be settled.
    told: HashMap<DraftKey, Option<(EventId, ContentHash)>>,
}

impl DraftIndex {
    /// As a snapshot has it: sorted by key, each once.
    pub(super) fn of_entries(entries: &[IndexEntry]) -> Self {
        let mut index = Self::default();
        if entries.len() > RECENT_MIN {
            index.settled = Vec::with_capacity(entries.len());
        }
        for (key, id, hash) in entries {
            match settled(key, *id).filter(|_| entries.len() > RECENT_MIN) {
                Some(draft) => index.settled.push(draft),
                None => drop(index.recent.insert(*key, (*id, *hash))),
            }
        }
        // By key is by mark; of equal marks, the ids may be in any order.
        index.settled.sort();
        index
    }

    /// Enters a committed draft. One that is there already stays as it is.
    pub(super) fn insert(&mut self, key: DraftKey, id: EventId, hash: ContentHash) {
        self.recent.insert(key, (id, hash));
        if self.recent.len() >= RECENT_MIN.max(self.settled.len() / RECENT_PARTS) {
            self.settle();
        }
    }

    pub(super) fn lookup(&self, key: &DraftKey) -> DraftLookup {
        if let Some((id, hash)) = self.recent.get(key) {
            return DraftLookup::Committed(*id, *hash);
        }
        if self.candidates(key).next().is_none() {
            return DraftLookup::Fresh;
        }
        match self.told.get(key) {
            Some(Some((id, hash))) => DraftLookup::Committed(*id, *hash),
            Some(None) => DraftLookup::Fresh,
            None => DraftLookup::Perhaps,
        }
    }

    /// The settled events one of which may be that draft.
    pub(super) fn candidates(&self, key: &DraftKey) -> impl Iterator<Item = EventId> {
        let mark = mark(key);
        let from = self.settled.partition_point(|draft| draft[..MARK_BYTES] < mark[..]);
        let same = self.settled[from..].iter().take_while(move |draft| draft[..MARK_BYTES] == mark[..]);
        same.map(|draft| {
            let mut id = [0; 8];
            id[8 - ID_BYTES..].copy_from_slice(&draft[MARK_BYTES..]);
            EventId(u64::from_be_bytes(id))
        })
    }

    /// Takes what the log says of a draft.
    pub(super) fn tell(&mut self, key: DraftKey, found: Option<(EventId, ContentHash)>) {
        self.told.insert(key, found);
    }

    /// Forgets what the log said: the drafts that it was asked for are decided.
    pub(super) fn forget_told(&mut self) {
        if self.told.capacity() > 0 {
            self.told = HashMap::new();
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // A hash table's entries have a byte each beside them, and it is never fuller than seven eighths.
        (self.recent.capacity() + self.told.capacity()) * 8 / 7 * (size_of::<IndexEntry>() + 1)
            + self.settled.capacity() * size_of::<Settled>()
    }

    /// Keeps ten bytes of each recent draft. One without room for its id, behind 280 trillion events, stays recent.
    pub(super) fn settle(&mut self) {
        let mut new = Vec::with_capacity(self.recent.len());
        self.recent.retain(|key, (id, _)| match settled(key, *id) {
            Some(draft) => {
                new.push(draft);
                false
            }
            None => true,
        });
        new.sort_unstable();
        let mut merged = Vec::with_capacity(self.settled.len() + new.len());
        let mut new = new.into_iter().peekable();
        for old in &self.settled {
            while let Some(draft) = new.next_if(|draft| draft < old) {
                merged.push(draft);
            }
            new.next_if_eq(old);
            merged.push(*old);
        }
        merged.extend(new);
        self.settled = merged;
    }
}

fn mark(key: &DraftKey) -> [u8; MARK_BYTES] {
    let mut mark = [0; MARK_BYTES];
    mark.copy_from_slice(&key.0[..MARK_BYTES]);
    mark
}

fn settled(key: &DraftKey, id: EventId) -> Option<Settled> {
    let id = id.0.to_be_bytes();
    let (above, id) = id.split_at(8 - ID_BYTES);
    if above.iter().any(|byte| *byte != 0) {
        return None;
    }
    let mut draft = [0; MARK_BYTES + ID_BYTES];
    draft[..MARK_BYTES].copy_from_slice(&mark(key));
    draft[MARK_BYTES..].copy_from_slice(id);
    Some(draft)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key by its number. Few bits of it are in the mark, so that many keys share theirs.
    fn key(number: u32, marks: u32) -> DraftKey {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&((number % marks).wrapping_mul(0x9e37_79b9)).to_be_bytes());
        key[4..8].copy_from_slice(&number.to_be_bytes());
        DraftKey(key)
    }

    /// What an index says of a draft once the log was asked, which is `log`.
    fn ask(
        index: &mut DraftIndex,
        key: DraftKey,
        log: &HashMap<EventId, (DraftKey, ContentHash)>,
    ) -> Option<(EventId, ContentHash)> {
        if index.lookup(&key) == DraftLookup::Perhaps {
            let found = index.candidates(&key).find_map(|id| {
                let (found, hash) = log[&id];
                (found == key).then_some((id, hash))
            });
            index.tell(key, found);
        }
        match index.lookup(&key) {
            DraftLookup::Fresh => None,
            DraftLookup::Committed(id, hash) => Some((id, hash)),
            DraftLookup::Perhaps => panic!("it was told"),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is settled when, and however it was loaded, an index that may ask the log knows each draft.
        #[test]
        fn it_knows_what_a_table_of_all_drafts_knows(
            count in 0_u32..2_000,
            marks in 1_u32..3_000,
            loaded in 0_u32..2_000,
            settles in prop::collection::vec(0_u32..2_000, 0..8),
            big in any::<bool>(),
        ) {
            let mut all = HashMap::new();
            let mut log = HashMap::new();
            let base = if big { (1 << 48) - 1_000 } else { 7 };
            let mut entries = Vec::new();
            for number in 0..count {
                let (key, id, hash) =
                    (key(number, marks), EventId(base + u64::from(number)), ContentHash(number.into()));
                all.insert(key, (id, hash));
                log.insert(id, (key, hash));
                entries.push((key, id, hash));
            }
            let (before, after) = entries.split_at(loaded.min(count) as usize);
            let mut before = before.to_vec();
            before.sort_by_key(|(key, ..)| *key);
            let mut index = DraftIndex::of_entries(&before);
            for (key, id, hash) in after {
                index.insert(*key, *id, *hash);
                if settles.contains(&(id.0 as u32)) {
                    index.settle();
                }
            }
            // Entering one again, as a replay from before a snapshot does, changes nothing.
            for (key, id, hash) in entries.iter().step_by(3) {
                index.insert(*key, *id, *hash);
            }
            for number in 0..count + 100 {
                let key = key(number, marks);
                prop_assert_eq!(ask(&mut index, key, &log), all.get(&key).copied());
            }
            index.forget_told();
            prop_assert!(index.candidates(&key(0, marks)).count() <= count as usize);
            prop_assert!(index.settled.is_sorted());
            prop_assert!(index.settled.windows(2).all(|pair| pair[0] != pair[1]), "none is there twice");
        }
    }

    #[test]
    fn a_draft_of_a_long_partition_takes_a_dozen_bytes() {
        let mut index = DraftIndex::default();
        let count = 100_000;
        for number in 0..count {
            index.insert(key(number, u32::MAX), EventId(number.into()), ContentHash(1));
        }
        assert!(index.memory_bytes() < 14 * count as usize, "{}", index.memory_bytes() / count as usize);
        // None of these is committed, and hardly one must be looked for in the log.
        let perhaps =
            (count..2 * count).filter(|n| index.lookup(&key(*n, u32::MAX)) != DraftLookup::Fresh).count();
        assert!(perhaps <= 1, "{perhaps}");
    }
}
