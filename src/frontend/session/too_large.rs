//! What the log cannot take: rejected here, with the limit, and not sent to a validator over and over.

use super::lane::Lane;
use super::line::Line;
use crate::event::{Draft, FieldError, json_text_bytes};
use crate::faults;

/// What a message to validators has beside its drafts, the submitter and the partition, at most: headers, where the
/// answer goes, and which drafts are a unit of work.
const ENVELOPE_BYTES: usize = 8 * 1024;

impl Lane {
    /// How many bytes of drafts the log takes in one message of this connection.
    pub(crate) fn drafts_bytes_max(&self, line: &Line) -> usize {
        let partition = json_text_bytes(self.feed.partition().as_str());
        let besides = ENVELOPE_BYTES + partition + line.identity.submitter_json_bytes();
        line.shared.log.message_bytes_max().saturating_sub(besides)
    }

    /// Why a draft cannot be stored, if it is too large.
    pub(crate) fn too_large(&self, line: &Line, draft: &Draft) -> Option<FieldError> {
        let (bytes, bytes_max) = (draft.json_bytes(), self.drafts_bytes_max(line));
        if bytes <= bytes_max || faults::broken("any_size") {
            return None;
        }
        // A copy that was handed in while NATS took more may be committed.
        let is_pending = self.pending.holds(draft.key(&line.identity.client_id));
        (!is_pending).then(|| FieldError::too_large_for_log(bytes, bytes_max))
    }
}
