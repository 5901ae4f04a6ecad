//! Where a client that pages through the log is.

use crate::event::EventId;
use tokio::time::Instant;

/// A cycle of pages that is not through.
#[derive(Clone, Copy)]
pub(crate) struct Cycle {
    /// Where it ends: the head when it began.
    pub(crate) upto: EventId,
    /// Where the next page begins.
    pub(crate) next: EventId,
    /// When its client is taken to have lost interest.
    pub idle_at: Instant,
}
