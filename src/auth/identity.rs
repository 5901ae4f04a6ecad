//! Who a connection is, and who says so.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::jwt::{JwtVerifier, TokenRules};
use super::metrics;
use super::permissions::allows;
use super::refusal::Refusal;
use super::source::{Keys, Renewal};
use crate::event::{ClientId, Submitter};

/// Who a connection is, as far as we believe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The client.
    pub client_id: ClientId,
    /// The user behind it, where the token names one.
    pub user_id: Option<String>,
    /// What it may do: `<action>` or `<action>:<target>`, `*` for all.
    pub permissions: Vec<String>,
    /// Where: partitions by name, or by how they begin with a `*` behind it; `None` for anywhere.
    pub partitions: Option<Vec<String>>,
    /// When the token expires, in Unix seconds; `None` for never.
    pub expires_at: Option<u64>,
    /// When that has passed by every clock: later than that by what clocks may be apart.
    pub ends_at: Option<u64>,
    /// The token's own name (`jti`), by which it can be revoked; `None` where it has none.
    pub token_id: Option<String>,
}

impl Identity {
    /// Whether it may connect, sync and be sent broadcasts.
    pub fn may_read(&self) -> bool {
        allows(&self.permissions, "read", None)
    }

    /// Whether it may connect to a partition.
    pub fn may_enter(&self, partition: &str) -> bool {
        self.partitions.as_ref().is_none_or(|allowed| {
            allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => partition.starts_with(beginning),
                None => partition == pattern,
            })
        })
    }

    /// How a submission names it.
    pub fn submitter(&self) -> Submitter {
        Submitter {
            client_id: self.client_id.clone(),
            user_id: self.user_id.clone(),
            permissions: self.permissions.clone(),
        }
    }
}

/// Why somebody is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The token is not good.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The keys cannot be had from their issuer just now, and those that there are do not include the
    /// token's: nobody can say whether it is good.
    #[error("the token cannot be checked just now: its key is not known, and the keys cannot be fetched")]
    Unavailable,
}

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
}

impl Tokens {
    /// Checks by these rules, with the keys from there.
    pub fn new(rules: TokenRules, keys: Keys) -> Self {
        Self { verifier: JwtVerifier::new(rules), keys }
    }

    /// Whose token this is, if it is good.
    pub async fn identify(&self, token: Option<&str>) -> Result<Identity, AuthError> {
        let keys = self.keys.now();
        let mut verified = self.verifier.verify(&keys, token);
        if verified == Err(Refusal::UnknownKey) {
            match self.keys.renew(&keys).await {
                Renewal::Keys(keys) => verified = self.verifier.verify(&keys, token),
                Renewal::Same => {}
                Renewal::Failed => return Err(AuthError::Unavailable),
            }
        }
        Ok(verified.inspect_err(metrics::refused)?)
    }
}

impl Authenticator {
    /// Whether it can let anybody in.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Anyone => true,
            Self::Jwt(tokens) => !tokens.keys.now().is_empty(),
        }
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
                permissions: vec!["*".to_owned()],
                partitions: None,
                expires_at: None,
                ends_at: None,
                token_id: None,
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
        let fresh = self.authenticate(&current.client_id, Some(token)).await?;
        match (&current.user_id, &fresh.user_id) {
            (Some(current), Some(fresh)) if current != fresh => Err(refused(Refusal::OtherUser)),
            _ => Ok(fresh),
        }
    }
}

fn refused(why: Refusal) -> AuthError {
    metrics::refused(&why);
    AuthError::Refused(why)
}
