//! Answers: what a validator tells the frontend about a submission.

use serde::{Deserialize, Serialize};

use super::EventId;

/// One finding of a validation layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The path from the event, for example `payload.value.id`.
    pub field: String,
    /// For a person.
    pub message: String,
    /// For a program; stable. The codes are in `docs/PROTOCOL.md`.
    pub code: String,
}

impl FieldError {
    /// The event takes more bytes in the log than fit there.
    pub fn too_large_for_log(bytes: usize, bytes_max: usize) -> Self {
        Self {
            field: "payload".to_owned(),
            message: format!(
                "the event takes {bytes} bytes in the log, which takes at most {bytes_max}; make it smaller"
            ),
            code: "TOO_LARGE_FOR_LOG".to_owned(),
        }
    }

    /// What is wrong at a field.
    pub fn new(field: &str, code: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into(), code: code.to_owned() }
    }
}

/// Why a draft was rejected; in the classic dialect the `reason` of `event_rejected`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Layers 1 and 2: schema and business rules.
    ValidationFailed,
    /// Layer 3: permission.
    Forbidden,
    /// Layer 4: the draft id was used for other content.
    DuplicateDraft,
    /// Layer 5: someone else changed the same path since `baseEventId`.
    Conflict,
    /// The frontend's limit; never from a validator.
    RateLimited,
    /// Not stored; safe to send again under the same draft id.
    Unavailable,
}

impl Reason {
    /// The reason's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::ValidationFailed => "validation_failed",
            Reason::Forbidden => "forbidden",
            Reason::DuplicateDraft => "duplicate_draft",
            Reason::Conflict => "conflict",
            Reason::RateLimited => "rate_limited",
            Reason::Unavailable => "unavailable",
        }
    }
}

/// What became of one draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Outcome {
    /// It is in the log, now or since an earlier submission, under this event id.
    #[serde(rename_all = "camelCase")]
    Committed {
        /// Its place.
        event_id: EventId,
    },
    /// It is not in the log, and this copy of it never will be.
    Rejected {
        /// Which layer.
        reason: Reason,
        /// All that this layer found.
        errors: Vec<FieldError>,
    },
    /// It stood behind a rejected one in its unit of work.
    NotProcessed,
}

/// A validator's answer to one submission: an outcome per draft, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The connection of the submission.
    pub connection: u64,
    /// The submission.
    pub submission: u64,
    /// The attempt that was decided.
    pub attempt: u32,
    /// An outcome per draft.
    pub outcomes: Vec<Outcome>,
}
