//! An event as connections read it: parsed once, encoded once per dialect.

use std::sync::OnceLock;
use std::time::Instant;

use bytes::Bytes;

use crate::event::{CommittedEvent, Draft, DraftKey, EventId, EventRecord};
use crate::frontend::websocket::EncodedFrames;
use crate::json::canonical::content_hash;
use crate::log::StoredEvent;
use crate::protocol::Dialect;

/// An event of a watched partition.
pub(crate) struct Entry {
    /// Its place.
    pub id: EventId,
    /// The how-manieth of its partition it is.
    pub ordinal: u64,
    /// When it was committed, by NATS's clock.
    pub timestamp_ms: u64,
    /// When it came here.
    pub received_at: Instant,
    /// The draft that it was.
    pub draft_key: DraftKey,
    /// Whether it is a mark, which no client is shown.
    pub is_mark: bool,
    /// Its record.
    pub body: Bytes,
    classic: OnceLock<Encoded>,
    v1: OnceLock<Encoded>,
}

/// An event encoded in one dialect.
pub(crate) struct Encoded {
    /// The broadcast frame.
    pub frame: EncodedFrames,
    event: std::ops::Range<usize>,
}

impl Encoded {
    /// The event alone.
    pub(crate) fn event(&self) -> &str {
        self.frame.as_str().get(self.event.clone()).unwrap_or("null")
    }
}

impl Entry {
    /// Reads an event of the log.
    pub(crate) fn parse(stored: StoredEvent) -> serde_json::Result<Self> {
        let record = EventRecord::parse(&stored.body)?;
        let (ordinal, draft_key, timestamp_ms) = (record.ordinal, record.draft_key(), record.timestamp);
        let is_mark = record.is_mark;
        Ok(Self {
            id: stored.id,
            ordinal,
            timestamp_ms,
            received_at: Instant::now(),
            draft_key,
            is_mark,
            body: stored.body,
            classic: OnceLock::new(),
            v1: OnceLock::new(),
        })
    }

    /// The event in a dialect; encoded when the first connection asks.
    pub(crate) fn encoded(&self, dialect: Dialect) -> &Encoded {
        let cell = match dialect {
            Dialect::Classic => &self.classic,
            Dialect::V1 => &self.v1,
        };
        cell.get_or_init(|| match EventRecord::parse(&self.body) {
            Ok(record) => {
                let encoded = dialect.encode_broadcast(&CommittedEvent { id: self.id, record });
                Encoded {
                    event: encoded.event_start..encoded.event_end,
                    frame: EncodedFrames::text(&encoded.frame),
                }
            }
            // Not reached: the same bytes were parsed when the entry was made.
            Err(_) => Encoded { frame: EncodedFrames::text(""), event: 0..0 },
        })
    }

    /// Whether the event is what a draft asked for. That the draft ids are the same is not enough, since a
    /// client may use one twice: the type and the payload must be too, to the byte, or in the v1 dialect all
    /// that makes the content. What is the same but spelt otherwise, a validator's answer tells.
    pub(crate) fn is_of(&self, draft: &Draft) -> bool {
        let Ok(record) = EventRecord::parse(&self.body) else { return false };
        if record.event_type != draft.event_type || record.payload.get() != draft.payload.get() {
            return false;
        }
        // Mostly a draft is in the log as it was submitted, which is quicker seen than hashed.
        match (&draft.v1, &record.v1) {
            (None, _) => true,
            (Some(fields), Some(stored)) if fields.is_as_written(stored) => true,
            (Some(_), _) => content_hash(draft).is_ok_and(|hash| hash == record.content_hash),
        }
    }

    /// Roughly what it takes in memory, in bytes: its record, and as much again encoded.
    pub(crate) fn cost(&self) -> usize {
        2 * self.body.len() + 256
    }
}
