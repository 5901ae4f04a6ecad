//! What every request for something brings along.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::access::Admin;
use super::problem::Problem;
use super::state::AdminState;

/// A request that was let in.
pub(crate) struct AdminRequest {
    pub hub: Arc<AdminState>,
    /// Who asks.
    pub admin: Admin,
    /// What stands behind the question mark.
    pub query: Option<String>,
}

impl FromRequestParts<Arc<AdminState>> for AdminRequest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, hub: &Arc<AdminState>) -> Result<Self, Problem> {
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
