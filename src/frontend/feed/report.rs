//! Reports of damage that a read of the log shows.

use crate::event::EventId;
use crate::event::Token;
use crate::frontend::metrics;
use tracing::error;

/// A hole in the log: events were there and are not, or ordinals were given twice.
pub(crate) fn report_hole(token: &Token, before: EventId, id: EventId, expected: u64, found: u64) {
    metrics::count(metrics::HOLES);
    error!(partition = %token, %before, event = %id, expected, found, "the log has a hole: the ordinals of two successive events do not follow");
}

/// An event that is no event.
pub(crate) fn report_unreadable(token: &Token, id: EventId, why: &serde_json::Error) {
    metrics::count(metrics::UNREADABLE);
    error!(partition = %token, event = %id, %why, "skipping an unreadable event in the log");
}
