//! The wire: frames to requests, notices to frames.
//!
//! A dialect is a way to write the same few things. What a client may ask for is a [`Request`], what it may
//! be told is a [`Notice`]; `classic` reads and writes them as the design document has them, `v1` as the
//! published client does. The frontend deals in requests and notices only.
//!
//! This module does no I/O and knows no clock: message ids and times come in as arguments. It never looks
//! into a payload or a state; both are passed on as they were written.

mod classic;
mod depth;
mod fields;
mod json;
mod notice;
mod plain;
mod request;
mod v1;

#[cfg(test)]
mod tests;

pub use classic::PARTITIONS_MAX;
pub use notice::{CloseCode, Details, ErrorCode, Header, ItemResult, Notice, Snapshot, StateForm};
pub use plain::PlainDraft;
pub use request::{
    About, BadRequest, Connect, DecodeError, Frame, Request, Submit, SubmitBatch, Subscribe, Sync,
};
pub use v1::{Checked, ItemContext, ItemRefusal, PROTOCOL_VERSION as V1_VERSION, SubmitItem};

use crate::event::{CommittedEvent, Reason};
use crate::protocol::notice::EncodedEvent;

/// A way to write requests and notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// The design document's messages (`protocol-classic.md`).
    #[default]
    Classic,
    /// The published client's messages (`protocol-v1.md`).
    V1,
}

impl Dialect {
    /// The dialect that a connection's first frame speaks.
    /// `None` where it is no JSON object.
    pub fn of_first_frame(text: &str) -> Option<Self> {
        v1::is_v1(text).map(|is| if is { Self::V1 } else { Self::Classic })
    }

    /// The name by which operators are told of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::V1 => "v1",
        }
    }

    /// Whether an error of this kind always ends a connection of this dialect; what ends it anyway is not
    /// asked for.
    pub fn closes_on(self, code: ErrorCode) -> bool {
        match self {
            Self::Classic => false,
            Self::V1 => {
                matches!(code, ErrorCode::RateLimited | ErrorCode::Unavailable | ErrorCode::ServerError)
            }
        }
    }

    /// Reads a frame. An event that makes it nested deeper than `depth_max` is that event's fault, and no other
    /// frame may be. Takes time and room linear in the text, and no stack for its depth.
    pub fn decode(self, text: &str, depth_max: usize) -> Result<Frame, DecodeError> {
        match self {
            Self::Classic => classic::decode(text, depth_max),
            Self::V1 => v1::decode(text, depth_max),
        }
    }

    /// What a rejection for `reason` is called in a [`Notice::BatchResult`].
    pub fn reason_name(self, reason: Reason) -> &'static str {
        match self {
            Self::Classic => reason.as_str(),
            Self::V1 => v1::reason_name(reason),
        }
    }

    /// Writes a notice.
    pub fn encode(self, header: &Header<'_>, notice: &Notice<'_>) -> String {
        match self {
            Self::Classic => classic::encode(header, notice),
            Self::V1 => v1::encode(header, notice),
        }
    }

    /// Writes an event as everybody who watches its partition gets it. The frame depends on nothing but
    /// the event, so one serves every connection.
    pub fn encode_broadcast(self, event: &CommittedEvent<'_>) -> EncodedEvent {
        match self {
            Self::Classic => classic::encode_broadcast(event),
            Self::V1 => v1::encode_broadcast(event),
        }
    }
}
