//! The routes, and what every request passes first: a place, a token, and a line in the log about who asked
//! for what.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::time::timeout;
use tracing::info;

use super::access;
use super::place::Place;
use super::problem::Problem;
use super::response::raw_json;
use super::routes::{
    clients, closing, connections, events, logs, partitions, processes, rejections, revocations,
};
use super::state::AdminState;
use crate::pages::{self, Page};

/// All routes. `/livez`, `/readyz` and `/version` answer everybody.
pub(crate) fn routes(hub: Arc<AdminState>) -> Router {
    let body_bytes_max = hub.settings.body_bytes_max;
    let asked = Router::new()
        .route("/partitions", get(partitions::list))
        .route("/partitions/{partition}/state", get(partitions::state))
        .route("/partitions/{partition}/events", get(events::range))
        .route("/partitions/{partition}/connections", get(connections::of_partition))
        .route("/partitions/{partition}/snapshot", post(partitions::snapshot))
        .route("/connections", get(connections::all))
        .route("/clients", get(clients::list))
        .route("/clients/{client}", get(connections::of_client))
        .route("/clients/{client}/close", post(closing::client))
        .route("/clients/{client}/revoke", post(revocations::client).delete(revocations::lift_client))
        .route("/users/{user}", get(connections::of_user))
        .route("/users/{user}/close", post(closing::user))
        .route("/users/{user}/revoke", post(revocations::user).delete(revocations::lift_user))
        .route("/tokens/{token}/revoke", post(revocations::token).delete(revocations::lift_token))
        .route("/revocations", get(revocations::list))
        .route("/log", get(logs::tell).put(logs::change))
        .route("/processes", get(processes::list))
        .route("/rejections", get(rejections::follow))
        .route("/slots", get(partitions::slots))
        .layer(from_fn_with_state(hub.clone(), pass));
    // The inspector's files hold nothing of anybody's, and a browser asks for them without a token.
    let shown = pages::INSPECTOR
        .iter()
        .fold(asked, |router, page| router.route(page.path, get(move || async move { file(page) })));
    shown
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/version", get(|| async { raw_json(StatusCode::OK, crate::version::as_json().into_bytes()) }))
        .fallback(|| async {
            Problem::not_found("no such path; docs/operations/observe.md lists them (Administration)")
        })
        .method_not_allowed_fallback(|| async {
            Problem::method("the path is there, but not for this method")
        })
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(hub)
}

/// A file of the inspector.
fn file(page: &'static Page) -> Response {
    let mut response = page.text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.kind));
    for (name, value) in pages::HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

async fn ready(State(hub): State<Arc<AdminState>>) -> (StatusCode, &'static str) {
    if hub.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: going away\n")
    } else if hub.log.state().borrow().connected {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: NATS cannot be reached\n")
    }
}

/// Lets a request through that may be made, and writes down that it was.
async fn pass(State(hub): State<Arc<AdminState>>, request: Request, next: Next) -> Response {
    let (began, method) = (Instant::now(), request.method().clone());
    // Without the query: that may hold what a person mistook for a place to put a token.
    let path = request.uri().path().to_owned();
    let admin = match access::enter(&hub, request.headers()).await {
        Ok(admin) => admin,
        Err(problem) => {
            let response = problem.into_response();
            info!(%method, path, status = response.status().as_u16(), "administration refused");
            return response;
        }
    };
    // Before the request takes a place: a body that does not come to its end takes none from others.
    let mut request = match whole(&hub, request).await {
        Ok(request) => request,
        Err(problem) => return problem.into_response(),
    };
    let Some(place) = Place::take(&hub.places, request.extensions().get().cloned()) else {
        let why = "too many concurrent requests (admin.requests_max); retry";
        return Problem::busy(why).into_response();
    };
    let place = Arc::new(place);
    let (client, user) = (admin.0.client_id.clone(), admin.0.user_id.clone().unwrap_or_default());
    request.extensions_mut().insert(admin);
    // A stream holds on to the place for as long as it is open.
    request.extensions_mut().insert(place.clone());
    let mut response = next.run(request).await;
    // What is told is of this moment, and not for everybody.
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    info!(
        %method, path, status = response.status().as_u16(), %client, user,
        ms = began.elapsed().as_millis() as u64, "administration"
    );
    response
}

/// A request with all of its body.
async fn whole(hub: &AdminState, request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = timeout(BODY_TIME_MAX, to_bytes(body, hub.settings.body_bytes_max)).await;
    let bytes = bytes.map_err(|_| Problem::slow("the request body did not arrive in time"))?;
    let bytes = bytes.map_err(|error| {
        Problem::bad_request(format!("the body: {error} (admin.body_bytes_max bounds it)"))
    })?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

pub(crate) const BODY_TIME_MAX: Duration = Duration::from_secs(10);
