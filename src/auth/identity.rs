//! Who a connection is, and who says so.

use super::jwt::JwtVerifier;
use super::permissions::allows;
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
    /// When that ends, in Unix seconds; `None` for never.
    pub expires_at: Option<u64>,
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
#[error("{0}")]
pub struct AuthError(pub String);

/// Who decides on that.
#[derive(Debug, Clone)]
pub enum Authenticator {
    /// Anyone is who he says he is, and may do everything. For development.
    Anyone,
    /// Whoever has a token that is good.
    Jwt(Box<JwtVerifier>),
}

impl Authenticator {
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
                token_id: None,
            }),
            Self::Jwt(verifier) => verifier.verify(client_id, token),
        }
    }
}
