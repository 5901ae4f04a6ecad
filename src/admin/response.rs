//! Responses in JSON.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, body: &Value) -> Response {
    raw_json(status, body.to_string().into_bytes())
}

/// An answer in JSON that is written already.
pub(crate) fn raw_json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
