//! The v1 dialect: the messages of the published `insieme` client, `{ type, protocolVersion, payload }`.
//!
//! A project is a partition; an event's own `partition` is a label inside it, stored and given back. Events
//! that came in through the other dialect are written in this one's shape and the other way round, so both
//! see one log in one order.

mod decode;
mod encode;
mod items;

#[cfg(test)]
mod tests;

pub(crate) use decode::{decode, is_v1};
pub(crate) use encode::{encode, encode_broadcast, reason_name};
pub use items::{Checked, ItemContext, ItemRefusal, SubmitItem};

/// The one version there is.
pub const PROTOCOL_VERSION: &str = "1.0";

/// The label and schema version that an event has in this dialect if it came in through the other.
const CLASSIC_LABEL: &str = "default";
const CLASSIC_SCHEMA_VERSION: u64 = 1;
