//! Who a connection is.

use super::permissions::allows;
use crate::event::{ClientId, Submitter};

/// Who a connection is, as far as we believe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The client.
    pub client_id: ClientId,
    /// The user, if the token names one.
    pub user_id: Option<String>,
    /// What it may do: `<action>` or `<action>:<target>`, `*` for all.
    pub permissions: Vec<String>,
    /// What the token says he is, for an application's rules; what roles permit is in `permissions`.
    pub roles: Vec<String>,
    /// Those of its claims that an application's rules are shown: a JSON object, as text; `None` where there are none.
    pub claims: Option<String>,
    /// Where: partitions by name, or by how they begin with a `*` behind it; `None` for anywhere.
    pub partitions: Option<Vec<String>>,
    /// When the token expires, in Unix seconds; `None` for never.
    pub expires_at: Option<u64>,
    /// When that has passed by every clock: later than that by what clocks may be apart.
    pub ends_at: Option<u64>,
    /// The token's own name (`jti`), by which it can be revoked; `None` where it has none.
    pub token_id: Option<String>,
    /// When the token was issued (`iat`), in Unix seconds; `None` where it does not say.
    pub issued_at: Option<u64>,
}

impl Identity {
    /// Of a client about whom nobody says anything, and who may do everything.
    pub(super) fn of_anyone(client_id: ClientId) -> Self {
        Self {
            client_id,
            user_id: None,
            permissions: vec!["*".to_owned(), "admin".to_owned()],
            roles: Vec::new(),
            claims: None,
            partitions: None,
            expires_at: None,
            ends_at: None,
            token_id: None,
            issued_at: None,
        }
    }

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

    /// How many bytes [`Identity::submitter`] takes in JSON, at most.
    pub fn submitter_json_bytes(&self) -> usize {
        let Self { client_id, user_id, permissions, roles, claims, .. } = self;
        Submitter::json_bytes_of(client_id, user_id.as_deref(), permissions, roles, claims.as_deref())
    }

    /// How a submission names it.
    pub fn submitter(&self) -> Submitter {
        Submitter {
            client_id: self.client_id.clone(),
            user_id: self.user_id.clone(),
            permissions: self.permissions.clone(),
            roles: self.roles.clone(),
            claims: self.claims.clone(),
        }
    }
}
