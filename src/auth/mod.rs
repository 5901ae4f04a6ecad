//! Who may do what: who a connection is, and what that permits.

mod identity;
pub mod permissions;

pub use identity::{AuthError, Authenticator, Identity};
