//! What a client of plain HTTP is told: a notice that stands by itself, for whoever puts it into an answer.

use crate::event::{EventId, FieldError, Reason};
use crate::protocol::{ErrorCode, Notice};

/// What an exchange comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// The draft is in the log; here is its event.
    Committed { event_id: EventId, event: String },
    /// The draft is not in the log.
    Rejected { reason: Reason, errors: Vec<FieldError>, retry_after_ms: Option<u64> },
    /// Some of the log: its events as a JSON list, where to go on, and where the log ends.
    Page { events: String, next: EventId, head: EventId, has_more: bool },
    /// Something went wrong; or nobody knows what became of the draft.
    Failed { code: ErrorCode, message: String, retry_after_ms: Option<u64>, is_of_draft: bool },
}

impl Told {
    /// What a notice says, if it can be an answer of plain HTTP.
    pub(crate) fn of(notice: &Notice<'_>) -> Option<Self> {
        Some(match *notice {
            Notice::Accepted { event_id, event, .. } => Self::Committed { event_id, event: event.to_owned() },
            Notice::Rejected { reason, errors, retry_after_ms, .. } => {
                Self::Rejected { reason, errors: errors.to_vec(), retry_after_ms }
            }
            Notice::SyncPage { events, next, head, has_more, .. } => {
                Self::Page { events: format!("[{}]", events.join(",")), next, head, has_more }
            }
            Notice::Error { code, message, details } => Self::Failed {
                code,
                message: message.to_owned(),
                retry_after_ms: details.and_then(|details| details.retry_after_ms),
                is_of_draft: details.is_some_and(|details| details.draft_id.is_some()),
            },
            _ => return None,
        })
    }
}
