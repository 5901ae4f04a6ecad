//! The fresh token that puts the end of a connection's identity off.

use std::sync::Arc;

use tokio::time::Instant;

use super::line::Line;
use super::socket::End;
use super::token::{end_of, ends_at};
use crate::auth::{AuthError, Identity};
use crate::event::PartitionKey;
use crate::frontend::admission::registry::DisconnectReason;
use crate::protocol::{CloseCode, ErrorCode, Notice};

impl Line {
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

    /// The identity of a fresh token that still permits `read`. The connection ends if the token is not good.
    pub(crate) async fn fresh_identity(
        &mut self,
        id: Option<&str>,
        partition: Option<&PartitionKey>,
        token: &str,
    ) -> Result<Option<Arc<Identity>>, End> {
        let fresh = match self.shared.auth.refresh(&self.identity, partition, token).await {
            Ok(fresh) => Arc::new(fresh),
            Err(AuthError::Refused(why)) => {
                let (code, why) = (ErrorCode::AuthFailed, why.to_string());
                return Err(self.socket.error_and_close(id, code, &why, CloseCode::Policy).await);
            }
            // Whether it is good will be known later: the client may ask again while its token lasts.
            Err(error @ AuthError::Unavailable(_)) => {
                return self.error(id, ErrorCode::Unavailable, &error.to_string()).await.map(|()| None);
            }
        };
        if fresh.may_read() { Ok(Some(fresh)) } else { Err(self.not_permitted(id).await) }
    }

    /// The end of a connection whose fresh token does not permit what it is for.
    pub(crate) async fn not_permitted(&mut self, id: Option<&str>) -> End {
        let why = "the fresh token does not permit what this connection is for";
        self.socket.error_and_close(id, ErrorCode::Forbidden, why, CloseCode::Policy).await
    }

    /// Goes on under a fresh identity.
    pub(crate) async fn continue_as(&mut self, id: Option<&str>, fresh: Arc<Identity>) -> Result<(), End> {
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
