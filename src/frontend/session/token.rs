//! The end of a connection's identity, and the fresh token that puts it off; and the end that others put to it.
//!
//! A connection is let in by a token and goes on by it: when it has expired, nothing more is sent or taken. A
//! fresh token may permit other things than the one before, but is of the same client and user.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::socket::End;
use super::state::Session;
use crate::auth::{AuthError, Identity, Refusal};
use crate::frontend::admission::registry::DisconnectReason;
use crate::protocol::{CloseCode, ErrorCode, Notice};
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
        DisconnectReason::LogWentBack => {
            let why = "events of this partition that were sent are missing from the log";
            End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway)
        }
    }
}

impl Session {
    /// Ends the connection if its token has expired.
    pub(crate) fn check_identity(&self) -> Result<(), End> {
        match self.expires {
            Some(at) if at <= Instant::now() => {
                let why = "the token has expired";
                Err(End::Close(ErrorCode::AuthFailed, why.into(), CloseCode::Policy))
            }
            _ => Ok(()),
        }
    }

    /// Goes on under a fresh token, or ends if that is not good.
    pub(crate) async fn refresh(&mut self, id: Option<&str>, token: &str) -> Result<(), End> {
        let fresh = match self.shared.auth.refresh(&self.identity, token).await {
            Ok(fresh) => Arc::new(fresh),
            Err(AuthError::Refused(why)) => {
                let (code, why) = (ErrorCode::AuthFailed, why.to_string());
                return Err(self.socket.error_and_close(id, code, &why, CloseCode::Policy).await);
            }
            // Whether it is good will be known later: the client may ask again while its token lasts.
            Err(error @ AuthError::Unavailable(_)) => {
                return self.error(id, ErrorCode::Unavailable, &error.to_string()).await;
            }
        };
        if !(fresh.may_read() && fresh.may_enter(self.feed.partition().as_str())) {
            let why = "the fresh token does not permit what this connection is for";
            return Err(self.socket.error_and_close(id, ErrorCode::Forbidden, why, CloseCode::Policy).await);
        }
        self.expires = ends_at(&fresh);
        self.listed.refresh(&fresh);
        if self.shared.auth.is_revoked(&fresh) {
            return Err(end_of(DisconnectReason::Revoked));
        }
        self.identity = fresh;
        let notice = Notice::TokenRefreshed { expires_at: self.identity.expires_at };
        self.socket.send(id, &notice).await
    }
}
