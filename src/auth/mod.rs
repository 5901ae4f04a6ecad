//! Who may do what: who a connection is, and what that permits.

mod identity;
mod jwt;
pub mod permissions;

pub use identity::{AuthError, Authenticator, Identity};
pub use jwt::{JwtVerifier, KeyError, TokenRules};
