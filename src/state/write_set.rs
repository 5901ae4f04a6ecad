//! Touches: which part of the state an event changed, and whether two changed the same.
//!
//! What the conflict layer compares. The last [`TOUCHES_MAX`] of a partition are kept; what is older can be
//! read from the log again, as far back as that number allows.

use std::collections::VecDeque;

use crate::event::{ClientId, EventId};

/// How many events back a draft's `baseEventId` may lie, unless configured otherwise.
pub const TOUCHES_MAX: usize = 16_384;

/// The part of the state that an event changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteSet {
    /// No part of it.
    Nothing,
    /// All of it.
    Everything,
    /// What lies at a path.
    Path(Box<str>),
    /// One node of a tree: its item and its place.
    Node {
        /// The tree's path.
        target: Box<str>,
        /// The node.
        id: Box<str>,
    },
}

impl WriteSet {
    /// Whether the two changed the same. A path overlaps with itself, its ancestors and its descendants; a
    /// tree action with actions on the same node, and with paths that hold the tree, lead into the node's
    /// item or are the `tree` array.
    pub fn overlaps(&self, other: &WriteSet) -> bool {
        match (self, other) {
            (WriteSet::Nothing, _) | (_, WriteSet::Nothing) => false,
            (WriteSet::Everything, _) | (_, WriteSet::Everything) => true,
            (WriteSet::Path(a), WriteSet::Path(b)) => below(a, b).is_some() || below(b, a).is_some(),
            (WriteSet::Node { target, id }, WriteSet::Path(path))
            | (WriteSet::Path(path), WriteSet::Node { target, id }) => path_meets(path, target, id),
            (WriteSet::Node { target: a, id: x }, WriteSet::Node { target: b, id: y }) => {
                if a == b {
                    x == y
                } else if b.len() > a.len() {
                    // A tree inside the other's item.
                    below(b, a).is_some() && path_meets(b, a, x)
                } else {
                    below(a, b).is_some() && path_meets(a, b, y)
                }
            }
        }
    }
}

/// What is left of `path` below `ancestor`: empty where they are the same.
pub(crate) fn below<'a>(path: &'a str, ancestor: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(ancestor)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
}

/// Whether a path holds, or leads into, what an action on a tree's node changes.
fn path_meets(path: &str, target: &str, id: &str) -> bool {
    if below(target, path).is_some() {
        return true;
    }
    let Some(rest) = below(path, target) else { return false };
    match rest.split_once('.').unwrap_or((rest, "")) {
        ("tree", _) => true,
        // An id may hold dots where a path cannot say so: then too much overlaps rather than too little.
        ("items", item) => rest == "items" || below(item, id).is_some() || below(id, item).is_some(),
        _ => false,
    }
}

/// The touches of a partition's last events.
#[derive(Debug)]
pub(crate) struct WriteSets {
    ring: VecDeque<Entry>,
    max: usize,
    /// The event up to which touches are not known.
    floor: EventId,
    /// Read again from the log, not joined to the ring yet: oldest first.
    older: Vec<(u64, Entry)>,
    /// Bases below this are known to lie too far back.
    too_old_below: EventId,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    id: EventId,
    client: ClientId,
    touch: WriteSet,
}

/// What the known touches say of a draft.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ConflictCheck {
    /// Nobody else changed the same.
    Clear,
    /// The first event that did.
    Overlap(EventId),
    /// The base lies before what is known.
    Unknown,
    /// The base lies more events back than are ever kept.
    TooOld,
}

impl WriteSets {
    pub(crate) fn new(max: usize, floor: EventId) -> Self {
        let too_old_below = EventId::NONE;
        Self { ring: VecDeque::new(), max, floor, older: Vec::new(), too_old_below, bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    pub(crate) fn floor(&self) -> EventId {
        self.floor
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn push(&mut self, id: EventId, client: ClientId, touch: WriteSet) {
        // One client's run of events shares one name.
        let client = match self.ring.back() {
            Some(last) if last.client == client => last.client.clone(),
            _ => client,
        };
        let entry = Entry { id, client, touch };
        self.bytes += entry.bytes();
        self.ring.push_back(entry);
        self.trim();
    }

    fn trim(&mut self) {
        while self.ring.len() > self.max {
            if let Some(gone) = self.ring.pop_front() {
                self.bytes -= gone.bytes();
                self.floor = self.floor.max(gone.id);
            }
        }
    }

    /// Whether someone else than `client` changed the same after `base`.
    pub(crate) fn since(&self, base: EventId, client: &ClientId, touch: &WriteSet) -> ConflictCheck {
        if base < self.floor {
            let full = self.ring.len() >= self.max;
            return if full || base < self.too_old_below {
                ConflictCheck::TooOld
            } else {
                ConflictCheck::Unknown
            };
        }
        let from = self.ring.partition_point(|entry| entry.id <= base);
        let hit =
            self.ring.range(from..).find(|entry| entry.client != *client && entry.touch.overlaps(touch));
        hit.map_or(ConflictCheck::Clear, |entry| ConflictCheck::Overlap(entry.id))
    }

    /// Takes an older event that was read again, in the order of the log, beginning with the first after
    /// `from`. `floor_ordinal` is the ordinal of the event at the floor. Says whether it wants the next one.
    pub(crate) fn add_older(
        &mut self,
        from: EventId,
        floor_ordinal: u64,
        (id, ordinal): (EventId, u64),
        client: ClientId,
        touch: WriteSet,
    ) -> bool {
        if id > self.floor || ordinal > floor_ordinal {
            return false;
        }
        if self.older.last().is_some_and(|(last, _)| last + 1 != ordinal) {
            self.older.clear();
        }
        let room = self.max.saturating_sub(self.ring.len()) as u64;
        if self.older.is_empty() && floor_ordinal - ordinal + 1 > room {
            self.too_old_below = self.too_old_below.max(id);
            return false;
        }
        self.older.push((ordinal, Entry { id, client, touch }));
        if ordinal < floor_ordinal {
            return true;
        }
        for (_, entry) in std::mem::take(&mut self.older).into_iter().rev() {
            self.bytes += entry.bytes();
            self.ring.push_front(entry);
        }
        self.floor = from;
        false
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        let names = match &self.touch {
            WriteSet::Nothing | WriteSet::Everything => 0,
            WriteSet::Path(path) => path.len(),
            WriteSet::Node { target, id } => target.len() + id.len(),
        };
        std::mem::size_of::<Entry>() + names + self.client.as_str().len()
    }
}
