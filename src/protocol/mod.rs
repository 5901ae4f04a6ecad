//! The wire: frames to requests, notices to frames.
//!
//! A dialect is a way to write the same few things. What a client may ask for is a [`Request`], what it may
//! be told is a [`Notice`]; `classic` reads and writes them as the design document has them, and a second
//! dialect is a second file beside it. The frontend deals in requests and notices only.
//!
//! This module does no I/O and knows no clock: message ids and times come in as arguments. It never looks
//! into a payload or a state; both are passed on as they were written.

mod classic;
mod depth;
mod notice;
mod request;

#[cfg(test)]
mod tests;

pub use depth::deeper_than;
pub use notice::{CloseCode, ErrorCode, Header, Notice, Snapshot};
pub use request::{BadRequest, Connect, Frame, Request, Submit, Sync};

use crate::event::CommittedEvent;

/// A way to write requests and notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// The design document's messages (`protocol-classic.md`).
    #[default]
    Classic,
}

impl Dialect {
    /// Reads a frame.
    pub fn decode(self, text: &str) -> Result<Frame, BadRequest> {
        match self {
            Self::Classic => classic::decode(text),
        }
    }

    /// Writes a notice.
    pub fn encode(self, header: &Header<'_>, notice: &Notice<'_>) -> String {
        match self {
            Self::Classic => classic::encode(header, notice),
        }
    }

    /// Writes an event as everybody who watches its partition gets it. The frame depends on nothing but
    /// the event, so one serves every connection.
    pub fn encode_broadcast(self, event: &CommittedEvent<'_>) -> EncodedEvent {
        match self {
            Self::Classic => classic::encode_broadcast(event),
        }
    }
}

/// A broadcast frame, and where in it the event itself stands.
#[derive(Debug, Clone)]
pub struct EncodedEvent {
    /// The frame.
    pub frame: String,
    /// The event's first byte in the frame.
    pub event_start: usize,
    /// The byte behind the event's last.
    pub event_end: usize,
}
