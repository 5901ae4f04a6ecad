//! Authentication of a client: by its token, or of anyone.

use crate::auth::identity::Identity;
use crate::auth::jwt::{JwtVerifier, TokenRules};
use crate::auth::keys::source::{Keys, Renewal};
use crate::auth::metrics;
use crate::auth::refusal::Refusal;
use crate::auth::revocation::Revocations;
use crate::event::ClientId;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The token is not good.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Nobody can say just now whether it is good, and why not.
    #[error("the token cannot be checked now: {0}")]
    Unavailable(&'static str),
}

/// The longest token that is passed over, in bytes, where none are asked for.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Who decides on that.
#[derive(Debug, Clone)]
pub enum Authenticator {
    /// Anyone is who he says he is, and may do everything. For development.
    Anyone,
    /// Whoever has a token that is good.
    Jwt(Arc<Tokens>),
}

/// What tokens are checked with.
#[derive(Debug)]
pub struct Tokens {
    verifier: JwtVerifier,
    keys: Keys,
    revocations: Arc<Revocations>,
}

impl Tokens {
    /// Checks by these rules, with the keys from there.
    pub fn new(rules: TokenRules, keys: Keys) -> Self {
        Self { verifier: JwtVerifier::new(rules), keys, revocations: Arc::default() }
    }

    /// Whose token this is, if it is good.
    pub async fn identify(&self, token: Option<&str>) -> Result<Identity, AuthError> {
        let keys = self.keys.now();
        let mut verified = self.verifier.verify(&keys, token);
        if verified == Err(Refusal::UnknownKey) {
            match self.keys.renew(&keys).await {
                Renewal::Keys(keys) => verified = self.verifier.verify(&keys, token),
                Renewal::Same => {}
                Renewal::Failed => {
                    let why = "its key is not known, and the keys cannot be fetched";
                    return Err(AuthError::Unavailable(why));
                }
            }
        }
        let identity = verified.inspect_err(metrics::refused)?;
        if !self.revocations.is_known() {
            return Err(AuthError::Unavailable("what was revoked could not be read yet"));
        }
        if self.revocations.cover(&identity) {
            return Err(refused(Refusal::Revoked));
        }
        Ok(identity)
    }
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

    /// Why it can let nobody in; `None` if it can.
    pub fn unready(&self) -> Option<&'static str> {
        match self {
            Self::Anyone => None,
            Self::Jwt(tokens) if tokens.keys.now().is_empty() => {
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
            Self::Jwt(tokens) => tokens.keys.keep_current(stop).await,
        }
    }

    /// Checks a token for a client that says it is `client_id`.
    pub async fn authenticate(
        &self,
        client_id: &ClientId,
        token: Option<&str>,
    ) -> Result<Identity, AuthError> {
        match self {
            Self::Anyone => Ok(Identity {
                client_id: client_id.clone(),
                user_id: None,
                permissions: vec!["*".to_owned(), "admin".to_owned()],
                roles: Vec::new(),
                partitions: None,
                expires_at: None,
                ends_at: None,
                token_id: None,
                issued_at: None,
            }),
            Self::Jwt(tokens) => {
                let identity = tokens.identify(token).await?;
                if identity.client_id != *client_id {
                    return Err(refused(Refusal::OtherClient));
                }
                Ok(identity)
            }
        }
    }

    /// Checks a token with which somebody who is connected wants to go on. What he may do can change, who he
    /// is cannot.
    pub async fn refresh(&self, current: &Identity, token: &str) -> Result<Identity, AuthError> {
        let mut fresh = self.authenticate(&current.client_id, Some(token)).await?;
        match (&current.user_id, &fresh.user_id) {
            (Some(current), Some(fresh)) if current != fresh => return Err(refused(Refusal::OtherUser)),
            // Otherwise the next token could name another user.
            (Some(current), None) => fresh.user_id = Some(current.clone()),
            _ => {}
        }
        Ok(fresh)
    }
}

pub(crate) fn refused(why: Refusal) -> AuthError {
    metrics::refused(&why);
    AuthError::Refused(why)
}
