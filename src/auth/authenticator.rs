//! Who decides who a connection is: nobody, or whoever checks its token.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::hook::Occasion;
use super::identity::Identity;
use super::refusal::Refusal;
use super::revocation::Revocations;
use super::tokens::{Asked, AuthError, Tokens, refused};
use crate::event::{ClientId, PartitionKey};

/// The longest token that is passed over, in bytes, where none are asked for.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Who decides who may come in.
#[derive(Debug, Clone)]
pub enum Authenticator {
    /// Anyone is who he says he is, and may do everything. For development.
    Anyone,
    /// Whoever has a token that is good.
    Jwt(Arc<Tokens>),
}

impl Authenticator {
    /// How far clocks may be apart, in seconds.
    pub fn leeway_s(&self) -> u64 {
        match self {
            Self::Anyone => 0,
            Self::Jwt(tokens) => tokens.verifier.leeway_s(),
        }
    }

    /// The longest token that is looked at, in bytes.
    pub fn token_bytes_max(&self) -> usize {
        match self {
            Self::Anyone => TOKEN_BYTES_MAX,
            Self::Jwt(tokens) => tokens.verifier.token_bytes_max(),
        }
    }

    /// Whether nobody says which user a client is for.
    pub fn takes_anyone(&self) -> bool {
        matches!(self, Self::Anyone)
    }

    /// Whether a token can say by itself which client it is for.
    pub fn reads_tokens(&self) -> bool {
        matches!(self, Self::Jwt(tokens) if tokens.keys.is_some())
    }

    /// Why it can let nobody in; `None` if it can.
    pub fn unready(&self) -> Option<&'static str> {
        match self {
            Self::Anyone => None,
            Self::Jwt(tokens) if tokens.keys.as_ref().is_some_and(|keys| keys.now().is_empty()) => {
                Some("the keys for tokens could not be fetched yet")
            }
            Self::Jwt(tokens) if !tokens.revocations.is_known() => {
                Some("what was revoked could not be read yet")
            }
            Self::Jwt(_) => None,
        }
    }

    /// What it knows to be revoked, for whoever keeps that; `None` where no tokens are asked for.
    pub fn revocations(&self) -> Option<&Arc<Revocations>> {
        match self {
            Self::Anyone => None,
            Self::Jwt(tokens) => Some(&tokens.revocations),
        }
    }

    /// Whether somebody who was let in is so no more. Asked once more when he can be found by whoever revokes:
    /// it may have been revoked in between.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        self.revocations().is_some_and(|revocations| revocations.cover(identity))
    }

    /// Keeps the keys as they are where they come from, until told to stop.
    pub async fn keep_current(&self, stop: &CancellationToken) {
        match self {
            Self::Anyone => stop.cancelled().await,
            Self::Jwt(tokens) => match &tokens.keys {
                Some(keys) => keys.keep_current(stop).await,
                None => stop.cancelled().await,
            },
        }
    }

    /// Who somebody is and what he may do, if he is let in.
    pub async fn authenticate(&self, asked: Asked<'_>, token: Option<&str>) -> Result<Identity, AuthError> {
        match self {
            Self::Anyone => Ok(Identity::of_anyone(asked.client_id.clone())),
            Self::Jwt(tokens) => tokens.admit(asked, token).await,
        }
    }

    /// Whose a token is, for somebody who does not say which client he is. The application is not asked.
    pub async fn whose(&self, token: Option<&str>) -> Result<Identity, AuthError> {
        match self {
            Self::Anyone => Ok(Identity::of_anyone(ClientId::server())),
            Self::Jwt(tokens) => {
                let keys = tokens.keys.as_ref();
                let keys = keys.ok_or(AuthError::Unavailable("there are no keys to check tokens with"))?;
                tokens.unless_revoked(tokens.signed(keys, None, token).await?, token)
            }
        }
    }

    /// Checks a token with which somebody who is connected wants to go on. What he may do can change, who he
    /// is cannot.
    pub async fn refresh(
        &self,
        current: &Identity,
        partition: Option<&PartitionKey>,
        token: &str,
    ) -> Result<Identity, AuthError> {
        let asked = Asked { occasion: Occasion::Refresh, client_id: &current.client_id, partition };
        let mut fresh = self.authenticate(asked, Some(token)).await?;
        match (&current.user_id, &fresh.user_id) {
            (Some(current), Some(fresh)) if current != fresh => {
                return Err(refused(Refusal::OtherUser, Some(token)));
            }
            // Otherwise the next token could name another user.
            (Some(current), None) => fresh.user_id = Some(current.clone()),
            _ => {}
        }
        Ok(fresh)
    }
}
