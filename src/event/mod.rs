//! The record: what a draft and a committed event are, and the keys they go by.
//!
//! Everything here is a plain value. This module knows no clock, no network and no NATS, and imports
//! nothing else of ours; every other module speaks in its words.

mod answer;
pub mod canonical;
mod decided;
mod draft;
pub mod json;
mod keys;
mod map;
mod record;
mod units;

#[cfg(test)]
mod tests;

pub use answer::{Answer, FieldError, Outcome, Reason};
pub use decided::{Decided, NotDecided};
pub(crate) use draft::json_text_bytes;
pub use draft::{Draft, ReplyTo, Submission, Submitter, V1Fields};
pub(crate) use keys::is_plain;
pub use keys::{
    ClientId, ContentHash, DraftKey, EventId, KeyError, PARTITION_BYTES_MAX, PartitionKey, Slot, Token,
};
pub use record::{CommittedEvent, EventRecord};
pub use units::Units;
