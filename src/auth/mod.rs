//! Who may do what: who a connection is, and what that permits.

pub(crate) mod authenticator;
mod claims;
mod client_ids;
mod hook;
mod identity;
mod jwt;
mod keys;
pub mod metrics;
pub mod permissions;
mod refusal;
mod revocation;
mod tokens;

pub use authenticator::Authenticator;
pub use claims::ClaimNames;
pub use client_ids::ClientIds;
pub use hook::{Hook, HookSettings, Occasion};
pub use identity::Identity;
pub use jwt::{JwtVerifier, TokenRules};
pub use keys::mint::{Grant, SigningKey};
pub use keys::remote::{Remote, RemoteSettings};
pub use keys::source::{FileKind, Keys};
pub use keys::{KeyError, KeyFileError, KeySet};
pub use refusal::Refusal;
pub use revocation::{
    Revocation, RevocationError, Revocations, Revoked, RevokedSet, TOKEN_ID_BYTES_MAX, USER_ID_BYTES_MAX,
};
pub use tokens::{Asked, AuthError, Tokens};
