//! Who may do what: who a connection is, and what that permits.

pub(crate) mod authenticator;
mod identity;
mod jwt;
mod keys;
pub mod metrics;
pub mod permissions;
mod refusal;
mod revocation;

pub use authenticator::{AuthError, Authenticator, Tokens};
pub use identity::Identity;
pub use jwt::{JwtVerifier, TokenRules};
pub use keys::mint::{Grant, SigningKey};
pub use keys::remote::{Remote, RemoteSettings};
pub use keys::source::{FileKind, Keys};
pub use keys::{KeyError, KeyFileError, KeySet};
pub use refusal::Refusal;
pub use revocation::{Revocation, RevocationError, Revocations, Revoked, RevokedSet, TOKEN_ID_BYTES_MAX};
