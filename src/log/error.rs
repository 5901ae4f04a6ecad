//! What can go wrong with the log, sorted by what the caller can do about it.

use std::fmt::Display;

/// A failed operation on the log.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// NATS cannot be reached, or did not answer in time. Trying again is right; whether the operation was
    /// carried out is not known.
    #[error("{what}: the log is unreachable ({why})")]
    Unavailable {
        /// What was tried.
        what: &'static str,
        /// What the client library said.
        why: String,
    },
    /// NATS answered, and said no. Trying again will not help until somebody changes something.
    #[error("{what}: refused by NATS ({why})")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What NATS said.
        why: String,
    },
    /// What came back is not what belongs there.
    #[error("{what}: unexpected content ({why})")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl LogError {
    pub(crate) fn unavailable(what: &'static str, why: impl Display) -> Self {
        Self::Unavailable { what, why: why.to_string() }
    }

    pub(crate) fn refused(what: &'static str, why: impl Display) -> Self {
        Self::Refused { what, why: why.to_string() }
    }

    pub(crate) fn malformed(what: &'static str, why: impl Display) -> Self {
        Self::Malformed { what, why: why.to_string() }
    }

    /// Whether the same call may succeed later without anybody's doing.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
