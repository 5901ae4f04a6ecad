//! The HTTP side: the upgrade to WebSocket, and what an orchestrator asks.

use std::net::IpAddr;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::refusal::Refusal;
use super::{AddressKey, Edge};
use crate::frontend::limits::Admission;
use crate::frontend::ws;

/// What an upgrade that was granted leaves behind.
pub(super) struct Granted {
    /// The connection's place.
    pub admission: Admission,
    /// The token that came with the request.
    pub token: Option<String>,
}

/// Answers a request, and says what was granted if it was an upgrade. If not, the connection is closed: whoever
/// wants something else has a place to wait for.
pub(super) fn answer(
    edge: &Edge,
    peer: IpAddr,
    request: &Request<Incoming>,
) -> (Response<String>, Option<Granted>) {
    let (mut response, granted) = look(edge, peer, request);
    if granted.is_none() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    (response, granted)
}

fn look(edge: &Edge, peer: IpAddr, request: &Request<Incoming>) -> (Response<String>, Option<Granted>) {
    let path = request.uri().path();
    if !matches!(path, "/ws" | "/livez" | "/readyz" | "/version") {
        return (Refusal::NotFound.answer(None), None);
    }
    if request.method() != Method::GET {
        return (Refusal::Method.answer(None), None);
    }
    match path {
        "/ws" => match upgrade(edge, peer, request) {
            Ok((response, granted)) => (response, Some(granted)),
            Err((refusal, retry_after)) => (refusal.answer(retry_after), None),
        },
        "/readyz" => (ready(edge), None),
        "/version" => (version(), None),
        _ => (text(StatusCode::OK, "ok"), None),
    }
}

fn version() -> Response<String> {
    let mut response = text(StatusCode::OK, &crate::version::as_json());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn ready(edge: &Edge) -> Response<String> {
    let hub = &edge.hub;
    let unready = if hub.closing.is_cancelled() || hub.drain.is_cancelled() {
        "going away"
    } else if !hub.log.state().borrow().connected {
        "NATS cannot be reached"
    } else if !hub.answers.is_alive() {
        "no answers can be heard"
    } else if let Some(why) = hub.auth.unready() {
        why
    } else {
        return text(StatusCode::OK, "ok");
    };
    text(StatusCode::SERVICE_UNAVAILABLE, unready)
}

fn text(status: StatusCode, body: &str) -> Response<String> {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

type Refused = (Refusal, Option<Duration>);

fn upgrade(
    edge: &Edge,
    peer: IpAddr,
    request: &Request<Incoming>,
) -> Result<(Response<String>, Granted), Refused> {
    let headers = request.headers();
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let (true, true, Some(key)) = (
        names(headers, header::CONNECTION, "upgrade"),
        names(headers, header::UPGRADE, "websocket"),
        key.filter(|key| !key.is_empty()),
    ) else {
        return Err((Refusal::NoUpgrade, None));
    };
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err((Refusal::Version, None));
    }
    // A browser says where it comes from, once.
    for origin in headers.get_all(header::ORIGIN) {
        if !origin.to_str().is_ok_and(|origin| edge.gate.origins.allow(origin)) {
            return Err((Refusal::Origin, None));
        }
    }
    if edge.hub.drain.is_cancelled() {
        return Err((Refusal::GoingAway, Some(edge.hub.limits.retry_after())));
    }
    let address = edge.gate.proxies.client(peer, &forwarded_for(headers));
    let admission = edge.hub.limits.admit(AddressKey::of(address))?;
    let accept = ws::accept_key(key.as_bytes());
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(
        header::SEC_WEBSOCKET_ACCEPT,
        // Base64 is always a header's value.
        HeaderValue::from_str(&accept).map_err(|_| (Refusal::NoUpgrade, None))?,
    );
    let token = bearer(headers).or_else(|| access_token(request.uri().query()?));
    Ok((response, Granted { admission, token }))
}

/// Whether one of a header's comma-separated words is this one.
fn names(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case(word))
}

fn forwarded_for(headers: &HeaderMap) -> String {
    let values = headers.get_all("x-forwarded-for");
    values.iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",")
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
