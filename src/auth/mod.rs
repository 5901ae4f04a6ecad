//! Who may do what: who a connection is, and what that permits.

mod identity;
mod jwks;
mod jwt;
mod keys;
pub mod metrics;
mod mint;
pub mod permissions;
mod refusal;
mod remote;
mod revocation;
mod source;

pub use identity::{AuthError, Authenticator, Identity, Tokens};
pub use jwt::{JwtVerifier, TokenRules};
pub use keys::{KeyError, KeyFileError, KeySet};
pub use mint::{Grant, SigningKey};
pub use refusal::Refusal;
pub use remote::{Remote, RemoteSettings};
pub use revocation::{Revocation, RevocationError, Revocations, Revoked, RevokedSet, TOKEN_ID_BYTES_MAX};
pub use source::{FileKind, Keys};
