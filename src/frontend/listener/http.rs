//! The HTTP side: the upgrade to WebSocket, and what an orchestrator asks.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, Response, StatusCode};
use tracing::info;

use super::head::Head;
use super::policy::Listener;
use super::refusal::Refusal;
use crate::frontend::admission::connection_limits::Entrance;
use crate::frontend::net::AddressKey;
use crate::frontend::session::state::CameWith;
use crate::frontend::websocket;

/// What an upgrade that was granted leaves behind.
pub(crate) struct Granted {
    /// The connection's seat among those that nobody knows yet.
    pub entrance: Entrance,
    /// What the session is to know of the request.
    pub came_with: CameWith,
}

/// The longest user agent that is kept.
const USER_AGENT_BYTES_MAX: usize = 256;

/// The longest subprotocol that is agreed on.
const SUBPROTOCOL_BYTES_MAX: usize = 256;

/// Answers a request, and says what was granted if it was an upgrade. If not, the connection is closed: whoever
/// wants something else has a place to wait for.
pub(crate) fn answer(edge: &Listener, peer: IpAddr, head: &Head) -> (Vec<u8>, Option<Granted>) {
    let (mut response, granted) = match look(edge, peer, head) {
        Ok((response, granted)) => (response, granted),
        Err((refusal, retry_after)) => (refusal.answer(retry_after), None),
    };
    if granted.is_none() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    (on_the_wire(response, head.method != Method::HEAD), granted)
}

/// Answers what was no request, or none that is looked at.
pub(crate) fn refuse(refusal: Refusal) -> Vec<u8> {
    let mut response = refusal.answer(None);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    on_the_wire(response, true)
}

/// A response as it goes over the wire.
fn on_the_wire(mut response: Response<String>, with_body: bool) -> Vec<u8> {
    let status = response.status();
    let body = std::mem::take(response.body_mut());
    let headers = response.headers_mut();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let mut wire = head_on_the_wire(status, response.headers());
    if with_body {
        wire.extend_from_slice(body.as_bytes());
    }
    wire
}

/// The head of a response as it goes over the wire.
pub(crate) fn head_on_the_wire(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let reason = status.canonical_reason().unwrap_or_default();
    let mut wire = format!("HTTP/1.1 {} {reason}\r\ndate: {date}\r\n", status.as_u16()).into_bytes();
    for (name, value) in headers {
        wire.extend_from_slice(name.as_str().as_bytes());
        wire.extend_from_slice(b": ");
        wire.extend_from_slice(value.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"\r\n");
    wire
}

fn look(edge: &Listener, peer: IpAddr, head: &Head) -> Result<(Response<String>, Option<Granted>), Refused> {
    if !names_a_host(head) {
        return Err((Refusal::Host, None));
    }
    let path = head.target.path();
    if let Some(page) = page(edge, head, path) {
        return Ok((page, None));
    }
    if !matches!(path, "/" | "/ws" | "/livez" | "/readyz" | "/version") {
        return Err((Refusal::NotFound, None));
    }
    let is_get = head.method == Method::GET;
    if !is_get && (path == "/ws" || head.method != Method::HEAD) {
        return Err((Refusal::Method, None));
    }
    Ok(match path {
        "/" | "/ws" => {
            let (response, granted) = upgrade(edge, peer, head)?;
            (response, Some(granted))
        }
        "/readyz" => (ready(edge), None),
        "/version" => (version(), None),
        _ => (text(StatusCode::OK, "ok"), None),
    })
}

/// The page that a browser asks for, where there are pages.
fn page(edge: &Listener, head: &Head, path: &str) -> Option<Response<String>> {
    let is_asked_for = matches!(head.method, Method::GET | Method::HEAD)
        && !names(&head.headers, &header::UPGRADE, "websocket");
    edge.site.as_ref().filter(|_| is_asked_for)?.answer(path)
}

/// Whether a request names its host as it must: once, and in HTTP/1.0, where load balancers ask for health without
/// one, at most once.
pub(super) fn names_a_host(head: &Head) -> bool {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    match (first, second) {
        (None, _) => !head.is_1_1,
        (Some(_), Some(_)) => false,
        (Some(host), None) => host
            .to_str()
            .is_ok_and(|host| host.is_empty() || (!host.contains('@') && host.parse::<Authority>().is_ok())),
    }
}

fn version() -> Response<String> {
    let mut response = text(StatusCode::OK, &crate::version::as_json());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn ready(edge: &Listener) -> Response<String> {
    match edge.shared.unready() {
        None => text(StatusCode::OK, "ok"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    }
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

fn upgrade(edge: &Listener, peer: IpAddr, head: &Head) -> Result<(Response<String>, Granted), Refused> {
    let headers = &head.headers;
    if !head.is_1_1 {
        return Err((Refusal::HttpVersion, None));
    }
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    if has_body {
        return Err((Refusal::Body, None));
    }
    let is_upgrade = names(headers, &header::CONNECTION, "upgrade")
        && names(headers, &header::UPGRADE, "websocket")
        && headers.contains_key(header::SEC_WEBSOCKET_KEY);
    if !is_upgrade {
        return Err((Refusal::NoUpgrade, None));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err((Refusal::Version, None));
    }
    let key = only(headers, &header::SEC_WEBSOCKET_KEY)
        .filter(|key| BASE64_STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16));
    let (Some(key), Some(_)) = (key, only(headers, &header::SEC_WEBSOCKET_VERSION)) else {
        return Err((Refusal::Handshake, None));
    };
    // A browser says where it comes from, once.
    for origin in headers.get_all(header::ORIGIN) {
        if !origin.to_str().is_ok_and(|origin| edge.gate.origins.allow(origin)) {
            info!(?origin, %peer, "a page may not connect (frontend.allowed_origins)");
            return Err((Refusal::Origin, None));
        }
    }
    if edge.shared.drain.is_cancelled() {
        return Err((Refusal::GoingAway, Some(edge.shared.limits.retry_after())));
    }
    let address = edge.gate.proxies.client(peer, &forwarded_for(headers));
    let entrance = edge.shared.limits.enter(AddressKey::of(address))?;
    let accept = websocket::accept_key(key.as_bytes());
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
    // None means anything here, and a browser that offers some closes the connection unless one is taken.
    if let Some(subprotocol) = subprotocol(headers) {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    let token = bearer(headers).or_else(|| access_token(head.target.query()?));
    let user_agent = user_agent(headers);
    Ok((response, Granted { entrance, came_with: CameWith { token, user_agent } }))
}

/// What a client names as its user agent, if that is kept.
pub(crate) fn user_agent(headers: &HeaderMap) -> Option<String> {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    agent.filter(|agent| agent.len() <= USER_AGENT_BYTES_MAX).map(str::to_owned)
}

/// The value of a header that is there once.
pub(crate) fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The first subprotocol that is offered.
fn subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let first = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?.split(',').next()?.trim();
    let is_token = |byte: u8| byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?={}".contains(&byte);
    let is_one = !first.is_empty() && first.len() <= SUBPROTOCOL_BYTES_MAX && first.bytes().all(is_token);
    HeaderValue::from_str(first).ok().filter(|_| is_one)
}

/// Whether one of a header's comma-separated words is this one.
pub(crate) fn names(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name);
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case(word))
}

pub(crate) fn forwarded_for(headers: &HeaderMap) -> String {
    let values = headers.get_all("x-forwarded-for");
    values.iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",")
}

pub(crate) fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}

/// The token in a query. What a JWT is made of needs no escaping there.
fn access_token(query: &str) -> Option<String> {
    query.split('&').find_map(|pair| pair.strip_prefix("access_token=")).map(str::to_owned)
}
