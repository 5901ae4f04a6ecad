//! What is said, in HTTP, to whoever does not get a WebSocket.

use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use crate::frontend::metrics;

/// Why there is no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::frontend) enum Refusal {
    /// The frontend has as many connections as it takes.
    Full,
    /// The address has as many connections as it may have.
    Address,
    /// There were too many upgrades a moment ago.
    Rate,
    /// The frontend goes away.
    GoingAway,
    /// The page may not have its visitors connect.
    Origin,
    /// Something else is asked for than a WebSocket.
    NoUpgrade,
    /// Another version of WebSocket.
    Version,
    /// There is nothing at this path.
    NotFound,
    /// Not with this method.
    Method,
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Self::Full | Self::GoingAway => StatusCode::SERVICE_UNAVAILABLE,
            Self::Address | Self::Rate => StatusCode::TOO_MANY_REQUESTS,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::NoUpgrade => StatusCode::BAD_REQUEST,
            Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// The code, of the same catalogue as a WebSocket's errors.
    fn code(self) -> &'static str {
        match self {
            Self::Full | Self::GoingAway => "unavailable",
            Self::Address | Self::Rate => "rate_limited",
            Self::Origin => "forbidden",
            Self::NoUpgrade | Self::Version | Self::NotFound | Self::Method => "bad_request",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Full => "this frontend has as many connections as it takes",
            Self::Address => "this address has as many connections as it may have",
            Self::Rate => "too many connections were opened a moment ago",
            Self::GoingAway => "this frontend is going away; reconnect",
            Self::Origin => "pages of this origin may not connect here",
            Self::NoUpgrade => "this path takes WebSocket upgrades only",
            Self::Version => "only version 13 of WebSocket is spoken here",
            Self::NotFound => "there is nothing here; the WebSocket is at /ws",
            Self::Method => "only GET is answered here",
        }
    }

    /// The name under which it is counted.
    fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
            Self::Rate => "rate",
            Self::GoingAway => "going_away",
            Self::Origin => "origin",
            Self::NoUpgrade | Self::Version | Self::NotFound | Self::Method => "bad_request",
        }
    }

    /// The answer, with the time after which another try makes sense where there is one.
    pub(super) fn answer(self, retry_after: Option<Duration>) -> Response<String> {
        metrics::count_by(metrics::UPGRADES_REFUSED, "reason", self.label());
        let mut body = serde_json::json!({ "code": self.code(), "message": self.message() });
        let mut response = Response::new(String::new());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(wait) = retry_after {
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
            body["retryAfterMs"] = wait_ms.into();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000)));
        }
        match self {
            Self::Version => {
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            Self::Method => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
            }
            _ => {}
        }
        *response.body_mut() = body.to_string();
        response
    }
}
