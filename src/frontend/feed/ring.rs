//! A partition's recent events, in order and without a gap.
//!
//! Pure: no clock, no log, no lock. It takes an event only as the successor of the one before, and bounds
//! itself in events and in bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::Entry;
use crate::event::EventId;
use crate::faults;

/// The ring.
pub(crate) struct Ring {
    /// The event before the first one here.
    base: EventId,
    head: EventId,
    /// The head's ordinal, if the head can be read.
    ordinal: Option<u64>,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
}

/// What a reader at some position gets.
#[derive(Debug)]
pub(crate) enum RingRead<T> {
    /// The events behind the position; none when it is the head.
    Events(Vec<T>),
    /// The position has left the ring: read the log.
    Evicted,
}

impl Ring {
    /// A ring that begins after `head`, the partition's last event so far. `ordinal` is the head's, if that can be
    /// read.
    pub(crate) fn new(
        head: EventId,
        ordinal: impl Into<Option<u64>>,
        events_max: usize,
        bytes_max: usize,
    ) -> Self {
        let (ordinal, entries) = (ordinal.into(), VecDeque::new());
        Self { base: head, head, ordinal, entries, bytes: 0, events_max, bytes_max }
    }

    /// The last event.
    pub(crate) fn head(&self) -> EventId {
        self.head
    }

    /// The last event's ordinal: how many events the partition has.
    pub(crate) fn ordinal(&self) -> u64 {
        self.ordinal.unwrap_or(0)
    }

    /// Roughly what it holds, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The ordinal that the next event must have, if the event does not have it: events are missing in between.
    pub(crate) fn is_hole_before(&self, entry: &Entry) -> Option<u64> {
        let expected = self.ordinal? + 1;
        let believes = faults::broken("believe_batches") || faults::broken("believe_live");
        (entry.ordinal != expected && !believes).then_some(expected)
    }

    /// Appends the event that comes right after the head. Does not take any other: see
    /// [`is_hole_before`](Self::is_hole_before).
    pub(crate) fn push(&mut self, entry: Arc<Entry>) {
        debug_assert!(entry.id > self.head);
        if self.is_hole_before(&entry).is_some() {
            return;
        }
        self.head = entry.id;
        self.ordinal = Some(entry.ordinal);
        self.bytes += entry.cost();
        self.entries.push_back(entry);
        self.keep(self.bytes_max);
    }

    /// Lets the oldest events go until so many bytes are left, and as many events as may be here; but one stays.
    pub(crate) fn keep(&mut self, bytes_max: usize) {
        while self.entries.len() > self.events_max || (self.bytes > bytes_max && self.entries.len() > 1) {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.cost();
            self.base = oldest.id;
        }
    }

    /// Begins again with this event, before which the log has a hole. Readers before the hole have left the ring.
    pub(crate) fn restart(&mut self, entry: Arc<Entry>) {
        (self.entries, self.bytes) = (VecDeque::new(), 0);
        self.base = EventId(entry.id.0.saturating_sub(1));
        self.head = self.base;
        self.ordinal = None;
        if entry.is_mark { self.pass(entry.id, entry.ordinal) } else { self.push(entry) }
    }

    /// Passes over the event that comes right after the head, which no client is shown.
    pub(crate) fn pass(&mut self, id: EventId, ordinal: u64) {
        self.head = id;
        self.ordinal = Some(ordinal);
        if self.entries.is_empty() {
            self.base = id;
        }
    }

    /// Passes over an event that cannot be read.
    pub(crate) fn skip(&mut self, id: EventId) {
        self.head = id;
        self.ordinal = self.ordinal.map(|ordinal| ordinal + 1);
        if self.entries.is_empty() {
            self.base = id;
        }
    }

    /// At most `max` events behind `position`.
    pub(crate) fn read(&self, position: EventId, max: usize) -> RingRead<Arc<Entry>> {
        if position < self.base {
            return RingRead::Evicted;
        }
        let start = self.entries.partition_point(|entry| entry.id <= position);
        let start = if faults::broken("ring_repeats") { start.saturating_sub(1) } else { start };
        RingRead::Events(self.entries.iter().skip(start).take(max).cloned().collect())
    }

    /// One event, if it is here.
    pub(crate) fn get(&self, id: EventId) -> Option<Arc<Entry>> {
        let index = self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?;
        self.entries.get(index).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::testing::entry;
    use proptest::prelude::*;

    fn ids(read: RingRead<Arc<Entry>>) -> Option<Vec<u64>> {
        match read {
            RingRead::Events(entries) => Some(entries.iter().map(|entry| entry.id.0).collect()),
            RingRead::Evicted => None,
        }
    }

    #[test]
    fn a_new_ring_knows_the_head_and_nothing_before_it() {
        let ring = Ring::new(EventId(7), 3, 4, 1 << 20);
        assert_eq!(ids(ring.read(EventId(7), 9)), Some(vec![]));
        assert_eq!(ids(ring.read(EventId(6), 9)), None);
        assert_eq!(ids(ring.read(EventId(9), 9)), Some(vec![]));
    }

    #[test]
    fn only_the_successor_is_taken() {
        let mut ring = Ring::new(EventId(7), 3, 4, 1 << 20);
        ring.push(entry(9, 4));
        assert_eq!(ring.is_hole_before(&entry(12, 6)), Some(5));
        ring.push(entry(12, 6));
        assert_eq!((ring.head(), ring.ordinal()), (EventId(9), 4));
        ring.push(entry(11, 5));
        assert_eq!(ids(ring.read(EventId(7), 9)), Some(vec![9, 11]));
    }

    #[test]
    fn a_ring_that_begins_again_after_a_hole_serves_nobody_across_it() {
        let mut ring = Ring::new(EventId(7), 3, 4, 1 << 20);
        ring.push(entry(9, 4));
        ring.restart(entry(12, 6));
        assert_eq!(ids(ring.read(EventId(9), 9)), None);
        ring.push(entry(13, 7));
        assert_eq!(ids(ring.read(EventId(12), 9)), Some(vec![13]));
    }

    #[test]
    fn after_a_head_that_cannot_be_read_any_event_is_taken() {
        let mut ring = Ring::new(EventId(7), None, 4, 1 << 20);
        ring.push(entry(9, 4));
        assert_eq!((ring.head(), ring.ordinal()), (EventId(9), 4));
    }

    #[test]
    fn bytes_bound_the_ring_but_leave_one_event() {
        let cost = entry(1, 1).cost();
        let mut ring = Ring::new(EventId::NONE, 0, 100, cost * 2);
        for n in 1..=5 {
            ring.push(entry(n, n));
        }
        assert_eq!(ids(ring.read(EventId(3), 9)), Some(vec![4, 5]));
        assert_eq!(ids(ring.read(EventId(2), 9)), None);
        let mut tiny = Ring::new(EventId::NONE, 0, 100, 1);
        tiny.push(entry(1, 1));
        assert_eq!(ids(tiny.read(EventId::NONE, 9)), Some(vec![1]));
    }

    proptest! {
        /// Whatever steps a cursor takes, and wherever it starts, it sees every event behind its start
        /// once and in order, or is told that it has left the ring.
        #[test]
        fn a_cursor_sees_every_event_once(
            start in 0_u64..50,
            gaps in proptest::collection::vec(1_u64..5, 1..80),
            events_max in 1_usize..20,
            step in 1_usize..7,
            reads in proptest::collection::vec(any::<bool>(), 80),
        ) {
            let mut ring = Ring::new(EventId(start), 10, events_max, 1 << 20);
            let (mut position, mut id) = (EventId(start), start);
            let mut unread: VecDeque<u64> = VecDeque::new();
            for (n, gap) in gaps.iter().enumerate() {
                id += gap;
                ring.push(entry(id, 11 + n as u64));
                prop_assert_eq!(ring.head(), EventId(id));
                unread.push_back(id);
                if !reads[n] {
                    continue;
                }
                match ids(ring.read(position, step)) {
                    None => {
                        prop_assert!(unread.len() > events_max);
                        // What a connection does then: read the log up to the head.
                        unread.clear();
                        position = ring.head();
                    }
                    Some(seen) => {
                        prop_assert!(unread.len() <= events_max);
                        for id in seen {
                            prop_assert_eq!(Some(id), unread.pop_front());
                            position = EventId(id);
                        }
                    }
                }
            }
        }
    }
}
