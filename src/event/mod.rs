//! The record: what a draft and a committed event are, and the keys they go by.
//!
//! Everything here is a plain value. This module knows no clock, no network and no NATS, and imports
//! nothing else of ours; every other module speaks in its words.

mod decided;
mod draft;
mod filter;
mod groups;
mod ids;
mod record;
mod reply;
mod rules_version;

#[cfg(test)]
mod tests;

pub use decided::{Decided, NotDecided};
pub(crate) use draft::json_text_bytes;
pub use draft::{Draft, ReplyTo, Submission, Submitter, V1Fields};
pub use filter::EventFilter;
pub use groups::AtomicGroups;
pub(crate) use ids::is_plain;
pub use ids::{
    ClientId, ContentHash, DraftKey, EventId, KeyError, PARTITION_BYTES_MAX, PartitionKey, Slot, Token,
};
pub use record::{CommittedEvent, EventRecord};
pub use reply::{Answer, FieldError, Outcome, Reason};
pub use rules_version::{NoVersion, RulesInForceId, RulesVersion};
