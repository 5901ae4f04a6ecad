//! Which drafts of a partition are committed, and as which events.
//!
//! The index knows the last drafts in full. Of those before, which can be any number, it keeps ten bytes a draft: a
//! mark of its key, and its event id. That is enough to say of nearly every new draft that it is new, and of the others
//! which events to look at in the log. What the log said of a draft counts until the draft is committed, and no longer
//! than its round.
//!
//! Draft ids are a client's to choose, so the mark is a keyed hash, with a key that this process made and tells nobody:
//! ids that share a mark cannot be computed. No more than [`ALIKE_MAX`] drafts share one; further ones are kept whole.
//! So a draft is looked for at no more than so many events, whatever its id.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use super::IndexEntry;
use crate::event::{ContentHash, DraftKey, EventId};
use crate::faults;

/// The fewest drafts that are settled at a time; a partition with no more is known in full.
const RECENT_MIN: usize = 128;
/// And the fewest as a part of those that are settled already: so what a draft costs does not grow with the partition.
const RECENT_PARTS: usize = 32;
/// The most settled drafts that share a mark. Of 30 million drafts with any ids, fewer than one in a hundred shares its
/// mark with another one, and none with so many.
const ALIKE_MAX: usize = 4;

const MARK_BYTES: usize = 4;
const ID_BYTES: usize = 6;

/// What an index knows of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftLookup {
    /// It is not committed.
    NotFound,
    /// It is committed as this event, with this content.
    Committed(EventId, ContentHash),
    /// One of a few events may be it: [`PartitionState::draft_candidates`](super::PartitionState::draft_candidates).
    Maybe,
}

/// A settled draft: its mark, then its event's id; both big-endian, so they sort as bytes.
type Settled = [u8; MARK_BYTES + ID_BYTES];

#[derive(Debug, Default)]
pub(crate) struct DraftIndex {
    recent: HashMap<DraftKey, (EventId, ContentHash)>,
    /// Sorted, and at most [`ALIKE_MAX`] of one mark.
    settled: Vec<Settled>,
    /// Old drafts that have no place among the settled ones.
    whole: HashMap<DraftKey, (EventId, ContentHash)>,
    /// What the log said of drafts that may be settled, and have not been committed since.
    told: HashMap<DraftKey, Option<(EventId, ContentHash)>>,
    #[cfg(test)]
    marks_max: Option<u32>,
}

impl DraftIndex {
    /// As a snapshot has it: each once.
    pub(crate) fn of_entries(entries: &[IndexEntry]) -> Self {
        let mut index = Self::default();
        index.enter(entries);
        index
    }

    fn enter(&mut self, entries: &[IndexEntry]) {
        if entries.len() <= RECENT_MIN {
            self.recent.extend(entries.iter().map(|(key, id, hash)| (*key, (*id, *hash))));
            return;
        }
        self.settled = entries.iter().filter_map(|(key, id, _)| settled(self.mark(key), *id)).collect();
        self.settled.sort_unstable_by_key(order);
        let (mut left_out, mut last, mut alike) = (HashSet::new(), None, 0);
        self.settled.retain(|draft| {
            alike = if last.is_some_and(|last| same_mark(&last, draft)) { alike + 1 } else { 1 };
            last = Some(*draft);
            alike <= ALIKE_MAX || !left_out.insert(*draft)
        });
        if self.settled.len() < entries.len() {
            let is_left_out = |(key, id, _): &&IndexEntry| {
                settled(self.mark(key), *id).is_none_or(|draft| left_out.contains(&draft))
            };
            let whole = entries.iter().filter(is_left_out).map(|(key, id, hash)| (*key, (*id, *hash)));
            self.whole = whole.collect();
        }
    }

    /// Enters a committed draft. One that is there already stays as it is.
    pub(crate) fn insert(&mut self, key: DraftKey, id: EventId, hash: ContentHash) {
        if !faults::broken("keep_told") {
            // It may have been told of as not committed.
            self.told.remove(&key);
        }
        self.recent.insert(key, (id, hash));
        if self.recent.len() >= RECENT_MIN.max(self.settled.len() / RECENT_PARTS) {
            self.settle();
        }
    }

    pub(crate) fn lookup(&self, key: &DraftKey) -> DraftLookup {
        if let Some((id, hash)) = self.recent.get(key).or_else(|| self.whole.get(key)) {
            return DraftLookup::Committed(*id, *hash);
        }
        if self.candidates(key).next().is_none() {
            return DraftLookup::NotFound;
        }
        match self.told.get(key) {
            Some(Some((id, hash))) => DraftLookup::Committed(*id, *hash),
            Some(None) => DraftLookup::NotFound,
            None => DraftLookup::Maybe,
        }
    }

    /// The settled events one of which may be that draft: [`ALIKE_MAX`] at most.
    pub(crate) fn candidates(&self, key: &DraftKey) -> impl Iterator<Item = EventId> {
        let mark = self.mark(key);
        let from = self.settled.partition_point(|draft| draft[..MARK_BYTES] < mark[..]);
        let same = self.settled[from..].iter().take_while(move |draft| draft[..MARK_BYTES] == mark[..]);
        same.map(event_id)
    }

    /// Takes what the log says of a draft.
    pub(crate) fn tell(&mut self, key: DraftKey, found: Option<(EventId, ContentHash)>) {
        self.told.insert(key, found);
    }

    /// Forgets what the log said: the drafts that it was asked for are decided.
    pub(crate) fn forget_told(&mut self) {
        if self.told.capacity() > 0 {
            self.told = HashMap::new();
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        // A hash table's entries have a byte each beside them, and it is never fuller than seven eighths.
        let entries = self.recent.capacity() + self.whole.capacity() + self.told.capacity();
        entries * 8 / 7 * (size_of::<IndexEntry>() + 1) + self.settled.capacity() * size_of::<Settled>()
    }

    /// Keeps ten bytes of each recent draft. One without room for its id, after 280 trillion events, and one that shares
    /// its mark with many, is kept whole.
    pub(crate) fn settle(&mut self) {
        let mut new = Vec::with_capacity(self.recent.len());
        for (key, (id, hash)) in std::mem::take(&mut self.recent) {
            match settled(self.mark(&key), id) {
                Some(draft) => new.push((draft, key, hash)),
                None => drop(self.whole.insert(key, (id, hash))),
            }
        }
        new.sort_unstable_by_key(|(draft, ..)| order(draft));
        let mut merged: Vec<Settled> = Vec::with_capacity(self.settled.len() + new.len());
        let mut old = std::mem::take(&mut self.settled).into_iter().peekable();
        for (draft, key, hash) in new {
            // All old ones of a mark come before its first new one, so that none of them loses its place.
            while let Some(old) = old.next_if(|old| *old <= draft || same_mark(old, &draft)) {
                merged.push(old);
            }
            let alike = merged.iter().rev().take_while(|other| same_mark(other, &draft));
            let (mut count, mut is_there) = (0, false);
            for other in alike {
                count += 1;
                is_there |= *other == draft;
            }
            match count {
                _ if is_there => {}
                0..ALIKE_MAX => {
                    // Among those of its mark the ids may not be in order yet.
                    let at = merged.len() - merged.iter().rev().take_while(|other| **other > draft).count();
                    merged.insert(at, draft);
                }
                _ => drop(self.whole.insert(key, (event_id(&draft), hash))),
            }
        }
        merged.extend(old);
        self.settled = merged;
    }

    fn mark(&self, key: &DraftKey) -> [u8; MARK_BYTES] {
        /// The key of this process's marks.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        if faults::broken("weak_marks") {
            return [key.0[0], 0, 0, 0];
        }
        let hash = KEY.hash_one(key.0);
        #[cfg(test)]
        let hash = self.marks_max.map_or(hash, |max| (hash % u64::from(max)) << 32);
        ((hash >> 32) as u32).to_be_bytes()
    }
}

/// The order of their bytes, as a number.
fn order(draft: &Settled) -> u128 {
    let mut bytes = [0; 16];
    bytes[..MARK_BYTES + ID_BYTES].copy_from_slice(draft);
    u128::from_be_bytes(bytes)
}

fn same_mark(one: &Settled, other: &Settled) -> bool {
    one[..MARK_BYTES] == other[..MARK_BYTES]
}

fn event_id(draft: &Settled) -> EventId {
    let mut id = [0; 8];
    id[8 - ID_BYTES..].copy_from_slice(&draft[MARK_BYTES..]);
    EventId(u64::from_be_bytes(id))
}

fn settled(mark: [u8; MARK_BYTES], id: EventId) -> Option<Settled> {
    let id = id.0.to_be_bytes();
    let (above, id) = id.split_at(8 - ID_BYTES);
    if above.iter().any(|byte| *byte != 0) {
        return None;
    }
    let mut draft = [0; MARK_BYTES + ID_BYTES];
    draft[..MARK_BYTES].copy_from_slice(&mark);
    draft[MARK_BYTES..].copy_from_slice(id);
    Some(draft)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key by its number.
    fn key(number: u32) -> DraftKey {
        let mut key = [0; 16];
        key[4..8].copy_from_slice(&number.to_be_bytes());
        DraftKey(key)
    }

    /// An empty index that tells no more than so many marks apart.
    fn with_marks(marks: u32) -> DraftIndex {
        DraftIndex { marks_max: Some(marks), ..DraftIndex::default() }
    }

    /// What an index says of a draft once the log was asked, which is `log`.
    fn ask(
        index: &mut DraftIndex,
        key: DraftKey,
        log: &HashMap<EventId, (DraftKey, ContentHash)>,
    ) -> Option<(EventId, ContentHash)> {
        if index.lookup(&key) == DraftLookup::Maybe {
            assert!(index.candidates(&key).count() <= ALIKE_MAX);
            let found = index.candidates(&key).find_map(|id| {
                let (found, hash) = log[&id];
                (found == key).then_some((id, hash))
            });
            index.tell(key, found);
        }
        match index.lookup(&key) {
            DraftLookup::NotFound => None,
            DraftLookup::Committed(id, hash) => Some((id, hash)),
            DraftLookup::Maybe => panic!("it was told"),
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        /// A draft is looked for, and committed if it is not.
        Decide(u32),
        /// The same, many in a row.
        DecideMany(u32, u32),
        /// One that is committed is entered again, as a replay does.
        EnterAgain(u32),
        Settle,
        ForgetTold,
        /// The partition is loaded from a snapshot of what is committed.
        Load,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (0_u32..600).prop_map(Op::Decide),
            4 => (0_u32..600, 1_u32..150).prop_map(|(from, count)| Op::DecideMany(from, count)),
            2 => any::<u32>().prop_map(Op::EnterAgain),
            2 => Just(Op::Settle),
            1 => Just(Op::ForgetTold),
            1 => Just(Op::Load),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever is asked, committed, settled and loaded in which order, and however many drafts look alike, an index
        /// that may ask the log says what a table of all drafts says.
        #[test]
        fn it_knows_what_a_table_of_all_drafts_knows(
            marks in prop_oneof![1_u32..8, 8_u32..1_000, Just(u32::MAX)],
            ops in prop::collection::vec(op(), 1..80),
            big in any::<bool>(),
        ) {
            let mut all: HashMap<DraftKey, (EventId, ContentHash)> = HashMap::new();
            let mut log = HashMap::new();
            let mut index = with_marks(marks);
            let mut next = if big { (1 << 48) - 300 } else { 7 };
            for op in ops {
                let numbers = match op {
                    Op::Decide(number) => number..number + 1,
                    Op::DecideMany(from, count) => from..from + count,
                    Op::EnterAgain(which) => {
                        if let Some((key, (id, hash))) = all.iter().nth(which as usize % all.len().max(1)) {
                            index.insert(*key, *id, *hash);
                        }
                        continue;
                    }
                    Op::Settle => {
                        index.settle();
                        continue;
                    }
                    Op::ForgetTold => {
                        index.forget_told();
                        continue;
                    }
                    Op::Load => {
                        let mut entries: Vec<_> = all.iter().map(|(key, (id, hash))| (*key, *id, *hash)).collect();
                        entries.sort_by_key(|(key, ..)| *key);
                        index = with_marks(marks);
                        index.enter(&entries);
                        continue;
                    }
                };
                for number in numbers {
                    let key = key(number);
                    let found = ask(&mut index, key, &log);
                    prop_assert_eq!(found, all.get(&key).copied(), "draft {}", number);
                    if found.is_none() {
                        let (id, hash) = (EventId(next), ContentHash(next ^ 1));
                        next += 1;
                        index.insert(key, id, hash);
                        all.insert(key, (id, hash));
                        log.insert(id, (key, hash));
                    }
                }
                prop_assert!(index.settled.is_sorted());
                prop_assert!(index.settled.windows(2).all(|pair| pair[0] != pair[1]), "none is there twice");
                let alike = index.settled.windows(ALIKE_MAX + 1).any(|many| same_mark(&many[0], &many[ALIKE_MAX]));
                prop_assert!(!alike, "more share a mark than may");
            }
        }
    }

    #[test]
    fn a_draft_of_a_long_partition_takes_a_dozen_bytes() {
        let mut index = DraftIndex::default();
        let count = 100_000;
        for number in 0..count {
            index.insert(key(number), EventId(number.into()), ContentHash(1));
        }
        assert!(index.memory_bytes() < 14 * count as usize, "{}", index.memory_bytes() / count as usize);
        // None of these is committed, and hardly one must be looked for in the log: by chance 2.3.
        let perhaps = (count..2 * count).filter(|n| index.lookup(&key(*n)) != DraftLookup::NotFound).count();
        assert!(perhaps <= 20, "{perhaps}");
    }

    /// Of the second of two keys that share their mark the log says that it is not committed; then it is, and is settled.
    #[test]
    fn what_the_log_said_of_a_draft_is_not_believed_once_it_is_committed() {
        let mut index = with_marks(1);
        index.insert(key(0), EventId(1), ContentHash(0));
        index.settle();
        assert_eq!(index.lookup(&key(1)), DraftLookup::Maybe);
        index.tell(key(1), None);
        assert_eq!(index.lookup(&key(1)), DraftLookup::NotFound);
        index.insert(key(1), EventId(2), ContentHash(1));
        index.settle();
        assert_eq!(index.lookup(&key(1)), DraftLookup::Maybe);
    }

    /// Ids whose keys begin alike are as far apart as any others.
    #[test]
    fn a_client_cannot_choose_ids_that_share_a_mark() {
        let mut index = DraftIndex::default();
        for number in 0..1_000 {
            index.insert(key(number), EventId(number.into()), ContentHash(1));
        }
        index.settle();
        assert!(index.whole.is_empty());
        assert!((0..1_000).all(|number| index.candidates(&key(number)).count() <= 2));
    }
}
