//! What `benches/micro.rs` measures of the parts that are nobody else's business.

use std::sync::Arc;

use bytes::Bytes;

use super::feed::event::Entry;
use super::feed::ring::{Ring, RingRead};
use crate::event::EventId;
use crate::log::StoredEvent;
use crate::protocol::Dialect;

/// A ring, and a cursor at its head.
pub struct RingTurn {
    ring: Ring,
    ordinal: u64,
}

impl RingTurn {
    /// A full ring of events with this record.
    pub fn full(body: &Bytes, events: usize) -> serde_json::Result<Self> {
        let mut this = Self { ring: Ring::new(EventId::NONE, 0, events, usize::MAX), ordinal: 0 };
        for _ in 0..events {
            this.push(body)?;
        }
        Ok(this)
    }

    /// Puts an event in, as it comes from the log.
    pub fn push(&mut self, body: &Bytes) -> serde_json::Result<()> {
        self.ordinal += 1;
        let stored = StoredEvent { id: EventId(self.ordinal), body: body.clone() };
        self.ring.push(Arc::new(Entry::parse(stored)?));
        Ok(())
    }

    /// Reads the last `events` of the ring as a connection does, encoded; gives their bytes.
    pub fn read(&self, events: u64, dialect: Dialect) -> usize {
        match self.ring.read(EventId(self.ordinal - events), usize::MAX) {
            RingRead::Events(entries) => entries.iter().map(|entry| entry.encoded(dialect).frame.len()).sum(),
            RingRead::Evicted => 0,
        }
    }
}
