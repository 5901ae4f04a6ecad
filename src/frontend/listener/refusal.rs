//! What is said, in HTTP, to whoever does not get a WebSocket.

use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use crate::frontend::metrics;

/// Why there is no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
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
    /// The head has more bytes or headers than are read.
    HeadTooLarge,
    /// It is no head of a request.
    Malformed,
    /// A line of the head ends without a carriage return.
    LineEnd,
    /// Another version of HTTP.
    HttpVersion,
    /// No `Host`, several, or one that is none.
    Host,
    /// An upgrade that announces a body.
    Body,
    /// Something of an upgrade is there twice, or not as RFC 6455 has it.
    Handshake,
}

impl Refusal {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Full | Self::GoingAway => StatusCode::SERVICE_UNAVAILABLE,
            Self::Address | Self::Rate => StatusCode::TOO_MANY_REQUESTS,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::NoUpgrade | Self::Malformed | Self::LineEnd | Self::Host | Self::Body | Self::Handshake => {
                StatusCode::BAD_REQUEST
            }
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HttpVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// The code, of the same catalogue as a WebSocket's errors.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Full | Self::GoingAway => "unavailable",
            Self::Address | Self::Rate => "rate_limited",
            Self::Origin => "forbidden",
            Self::HeadTooLarge => "message_too_large",
            _ => "bad_request",
        }
    }

    pub(crate) fn message(self) -> &'static str {
        match self {
            Self::Full => "this frontend has as many connections as it takes",
            Self::Address => "this address has as many connections as it may have",
            Self::Rate => "too many connections were opened a moment ago",
            Self::GoingAway => "this frontend is going away; reconnect",
            Self::Origin => "pages of this origin may not connect here",
            Self::NoUpgrade => "this path takes WebSocket upgrades only",
            Self::Version => "only version 13 of WebSocket is spoken here",
            Self::NotFound => "there is nothing here; the WebSocket is at /ws",
            Self::Method => "only GET is answered here, and HEAD where there is no WebSocket",
            Self::HeadTooLarge => "a request's head has at most 16 KiB and 64 headers",
            Self::Malformed => "this is no head of an HTTP request",
            Self::LineEnd => "every line of a request's head ends with CR and LF",
            Self::HttpVersion => "only HTTP/1.1 is spoken here",
            Self::Host => "a request names its host, once (`Host`)",
            Self::Body => "an upgrade has no body (`Content-Length`, `Transfer-Encoding`)",
            Self::Handshake => {
                "an upgrade has one `Sec-WebSocket-Key`, of 16 bytes in base64, and one version"
            }
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
            Self::HeadTooLarge => "head_too_large",
            _ => "bad_request",
        }
    }

    /// The answer, with the time after which another try makes sense where there is one.
    pub(crate) fn answer(self, retry_after: Option<Duration>) -> Response<String> {
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
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            _ => {}
        }
        *response.body_mut() = body.to_string();
        response
    }
}
