//! Who may do what: who a connection is, and what that permits.

mod identity;
mod jwt;
mod keys;
pub mod metrics;
mod mint;
pub mod permissions;
mod refusal;

pub use identity::{AuthError, Authenticator, Identity, Tokens};
pub use jwt::{JwtVerifier, TokenRules};
pub use keys::{KeyError, KeySet};
pub use mint::{Grant, SigningKey};
pub use refusal::Refusal;
