//! What every request for something brings along.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::Hub;
use super::access::Admin;
use super::problem::Problem;

/// A request that was let in.
pub(crate) struct Asking {
    pub hub: Arc<Hub>,
    /// Who asks.
    pub admin: Admin,
    /// What stands behind the question mark.
    pub query: Option<String>,
}

impl FromRequestParts<Arc<Hub>> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<Hub>) -> Result<Self, Problem> {
        let admin = parts.extensions.get().cloned();
        Ok(Self {
            hub: hub.clone(),
            admin: admin.ok_or_else(|| {
                Problem::server_error("a request without an authenticated administrator".to_owned())
            })?,
            query: parts.uri.query().map(str::to_owned),
        })
    }
}
