//! The HTTP side: the upgrade to WebSocket, and what an orchestrator asks.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use futures_util::FutureExt;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, error_span};

use super::session::{Hub, serve};

/// What a socket's buffers hold; an idle connection keeps the first for as long as it lives.
const READ_BUFFER_BYTES: usize = 2 * 1024;
const WRITE_BUFFER_BYTES: usize = 16 * 1024;

/// What the routes share.
#[derive(Clone)]
pub(super) struct Http {
    pub hub: Arc<Hub>,
    pub sessions: TaskTracker,
    pub connections: Arc<AtomicU64>,
}

/// The routes.
pub(super) fn router(http: Http) -> Router {
    Router::new()
        .route("/ws", get(upgrade))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/version", get(|| async { env!("CARGO_PKG_VERSION") }))
        .with_state(http)
}

async fn ready(State(http): State<Http>) -> (StatusCode, &'static str) {
    let hub = &http.hub;
    if hub.drain.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "going away")
    } else if !hub.log.state().borrow().connected {
        (StatusCode::SERVICE_UNAVAILABLE, "NATS cannot be reached")
    } else if !hub.answers.is_alive() {
        (StatusCode::SERVICE_UNAVAILABLE, "no answers can be heard")
    } else {
        (StatusCode::OK, "ok")
    }
}

async fn upgrade(
    State(http): State<Http>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    let token = bearer(&headers).or_else(|| access_token(&query?));
    let connection = http.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let Http { hub, sessions, .. } = http;
    let admission = hub.limits.admit();
    // From here on the frontend does not end before this connection has, or was never made.
    let tracked = sessions.token();
    let frame_bytes_max = hub.settings.frame_bytes_max;
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(frame_bytes_max)
        .max_frame_size(frame_bytes_max)
        .on_upgrade(move |socket| {
            // Of the level that no filter leaves out: a warning without its connection helps nobody.
            let span = error_span!(
                "connection",
                connection,
                client = tracing::field::Empty,
                partition = tracing::field::Empty
            );
            async move {
                let _tracked = tracked;
                let serving = serve(hub, connection, socket, admission, token);
                if AssertUnwindSafe(serving).catch_unwind().await.is_err() {
                    error!("a defect ended a connection: its task panicked");
                }
            }
            .instrument(span)
        })
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// The token in a query. What a JWT is made of needs no escaping there.
fn access_token(query: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix("access_token=")).map(str::to_owned)
}
