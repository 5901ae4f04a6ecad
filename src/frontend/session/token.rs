//! The end of a connection's identity, and the fresh token that puts it off; and the end that others put to it.
//!
//! A connection is let in by a token and goes on by it: when it has expired, nothing more is sent or taken. A
//! fresh token may permit other things than the one before, but is of the same client and user.

use std::time::Duration;

use tokio::time::Instant;

use super::socket::End;
use crate::auth::{Identity, Refusal};
use crate::frontend::admission::registry::DisconnectReason;
use crate::protocol::{CloseCode, ErrorCode};
use crate::util::time;

/// When an identity ends, by this process's clock; `None` for never.
pub(crate) fn ends_at(identity: &Identity) -> Option<Instant> {
    let left_ms = identity.ends_at?.saturating_mul(1000).saturating_sub(time::now_ms());
    Instant::now().checked_add(Duration::from_millis(left_ms))
}

/// How a connection that is dismissed ends.
pub(crate) fn end_of(why: DisconnectReason) -> End {
    match why {
        DisconnectReason::Closed => {
            let why = "an operator has closed this client's connections";
            End::Close(ErrorCode::AuthFailed, why.into(), CloseCode::Policy)
        }
        DisconnectReason::Revoked => {
            End::Close(ErrorCode::AuthFailed, Refusal::Revoked.to_string().into(), CloseCode::Policy)
        }
        DisconnectReason::Reconnect => {
            let why = "an operator asks this client to reconnect";
            End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway)
        }
        DisconnectReason::OtherRules => {
            let why =
                "other rules of the application came in force; reconnect to hear whether they let you in";
            End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway)
        }
        DisconnectReason::LogWentBack => {
            let why = "events of this partition that were sent are missing from the log";
            End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway)
        }
    }
}
