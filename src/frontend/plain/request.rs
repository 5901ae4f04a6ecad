//! What a request of plain HTTP asks for, as its head says.

use hyper::Method;
use hyper::header::{self, HeaderName, HeaderValue};

use super::answer::Answer;
use super::body::Framing;
use crate::event::{ClientId, EventId, PartitionKey};
use crate::frontend::listener::{Head, http};
use crate::util::percent::decoded;

/// Where all paths begin.
const ROOT: &str = "/partitions";
/// A draft's id, where a header has it.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The last event that a reader of a stream has.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// To commit an event.
    Submit,
    /// A page of events.
    Events,
    /// Events as they come.
    Stream,
    /// A state.
    State,
    /// What a page of another origin may ask for.
    Preflight,
    /// Nothing that there is.
    None,
}

impl Endpoint {
    /// The name by which metrics call it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Events => "events",
            Self::Stream => "stream",
            Self::State => "state",
            Self::Preflight => "preflight",
            Self::None => "none",
        }
    }
}

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub endpoint: Endpoint,
    pub partition: PartitionKey,
    /// Who asks, if it is not left to the token to say.
    pub client_id: Option<ClientId>,
    pub token: Option<String>,
    /// The last event that the client has.
    pub since: Option<EventId>,
    pub limit: Option<u64>,
    /// The event at which the state is asked for.
    pub at: Option<EventId>,
    /// The draft's id, if a header has it.
    pub key: Option<String>,
    pub framing: Framing,
    /// Whether the body is sent when it is asked for.
    pub expects_continue: bool,
    /// Whether only the head of the answer is asked for.
    pub head_only: bool,
}

/// Whether a path is of this interface.
pub(crate) fn is_for(path: &str) -> bool {
    path.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Request {
    /// Understands a head.
    pub(super) fn of(head: &Head) -> (Endpoint, Result<Self, Answer>) {
        let mut endpoint = Endpoint::None;
        let request = Self::read(head, &mut endpoint);
        (endpoint, request)
    }

    fn read(head: &Head, endpoint: &mut Endpoint) -> Result<Self, Answer> {
        if !head.is_1_1 {
            return Err(Answer::problem(505, "bad_request", "only HTTP/1.1 is spoken here"));
        }
        let (partition, resource) = resource(head.target.path()).ok_or_else(|| {
            let what = "there are /partitions/{partition}/events and /partitions/{partition}/state";
            Answer::problem(404, "bad_request", what)
        })?;
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        *endpoint = match resource {
            _ if head.method == Method::OPTIONS => Endpoint::Preflight,
            "events" if head.method == Method::POST => Endpoint::Submit,
            "events" if is_read && accepts_events(head) => Endpoint::Stream,
            "events" if is_read => Endpoint::Events,
            "state" if is_read => Endpoint::State,
            _ => {
                let allow =
                    if resource == "events" { "GET, HEAD, POST, OPTIONS" } else { "GET, HEAD, OPTIONS" };
                let wrong =
                    Answer::problem(405, "bad_request", "not with this method; `Allow` has those that are");
                return Err(wrong.with(header::ALLOW, HeaderValue::from_static(allow)));
            }
        };
        let bad = |why: &str| Answer::problem(400, "bad_request", why);
        let framing = Framing::of(&head.headers).map_err(bad)?;
        if *endpoint != Endpoint::Submit && !framing.is_empty() {
            return Err(bad("only POST has a body"));
        }
        let partition =
            decoded(partition, false).ok_or_else(|| bad("the partition is not percent-encoded UTF-8"))?;
        let partition = PartitionKey::new(partition).map_err(|why| bad(&format!("the partition {why}")))?;
        let known: &[&str] = match endpoint {
            Endpoint::Events => &["clientId", "access_token", "since", "limit"],
            Endpoint::Stream => &["clientId", "access_token", "since"],
            Endpoint::State => &["clientId", "access_token", "at"],
            _ => &["clientId", "access_token"],
        };
        let query = Query::of(head.target.query().unwrap_or_default(), known).map_err(|why| bad(&why))?;
        let client_id = query.text("clientId").map(ClientId::new).transpose();
        let client_id = client_id.map_err(|why| bad(&format!("`clientId` {why}")))?;
        let mut since = query.number("since").map_err(|why| bad(&why))?;
        if *endpoint == Endpoint::Stream && head.headers.contains_key(&LAST_EVENT_ID) {
            let last = http::only(&head.headers, &LAST_EVENT_ID).and_then(|last| last.to_str().ok());
            let last = last.and_then(whole).ok_or_else(|| bad("`Last-Event-ID` is one whole number"))?;
            since = Some(last);
        }
        let limit = query.number("limit").map_err(|why| bad(&why))?;
        let at = query.number("at").map_err(|why| bad(&why))?;
        let key = match head.headers.contains_key(&IDEMPOTENCY_KEY) {
            false => None,
            true => {
                let key = http::only(&head.headers, &IDEMPOTENCY_KEY).and_then(|key| key.to_str().ok());
                Some(unquoted(key.ok_or_else(|| bad("`Idempotency-Key` is there once, in ASCII"))?))
            }
        };
        let expects_continue = match http::only(&head.headers, &header::EXPECT) {
            None if !head.headers.contains_key(header::EXPECT) => false,
            Some(what) if what.as_bytes().eq_ignore_ascii_case(b"100-continue") => true,
            _ => {
                return Err(Answer::problem(
                    417,
                    "bad_request",
                    "nothing but `100-continue` can be expected",
                ));
            }
        };
        if *endpoint == Endpoint::Submit && !is_json(head) {
            let why = "a draft is sent with `Content-Type: application/json`, and without `Content-Encoding`";
            return Err(Answer::problem(415, "bad_request", why));
        }
        Ok(Self {
            endpoint: *endpoint,
            partition,
            client_id,
            token: http::bearer(&head.headers).or_else(|| query.text("access_token").map(str::to_owned)),
            since: since.map(EventId),
            limit,
            at: at.map(EventId),
            key,
            framing,
            expects_continue,
            head_only: head.method == Method::HEAD,
        })
    }
}

/// The partition of a path as it is written there, and what of it.
fn resource(path: &str) -> Option<(&str, &str)> {
    let (partition, resource) = path.strip_prefix(ROOT)?.strip_prefix('/')?.split_once('/')?;
    matches!(resource, "events" | "state").then_some((partition, resource))
}

/// Whether a stream is asked for.
fn accepts_events(head: &Head) -> bool {
    let values = head.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let kinds = values.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    kinds.into_iter().any(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn is_json(head: &Head) -> bool {
    let kind = http::only(&head.headers, &header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next());
    !head.headers.contains_key(header::CONTENT_ENCODING)
        && kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// A key that is a quoted string, as the draft of a standard has it, without its quotes; any other as it is.
fn unquoted(key: &str) -> String {
    match key.strip_prefix('"').and_then(|key| key.strip_suffix('"')) {
        Some(inner) if !inner.contains(['"', '\\']) => inner.to_owned(),
        _ => key.to_owned(),
    }
}

/// What stands behind the question mark: each parameter once, and known.
struct Query(Vec<(&'static str, String)>);

impl Query {
    fn of(query: &str, known: &[&'static str]) -> Result<Self, String> {
        let mut found: Vec<(&'static str, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = known.iter().find(|known| **known == name) else {
                return Err(format!(
                    "there is a parameter here that is not known; there are {}",
                    known.join(", ")
                ));
            };
            if found.iter().any(|(earlier, _)| earlier == name) {
                return Err(format!("`{name}` is given twice"));
            }
            let value =
                decoded(value, true).ok_or_else(|| format!("`{name}` is not percent-encoded UTF-8"))?;
            found.push((name, value));
        }
        Ok(Self(found))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.text(name) else { return Ok(None) };
        whole(text).map(Some).ok_or_else(|| format!("`{name}` must be a whole number, 0 or more"))
    }
}

/// A whole number that is written as digits only.
fn whole(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderMap;

    fn head(method: &str, target: &str, headers: &[(&'static str, &'static str)]) -> Head {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let headers: HeaderMap = headers.iter().map(pair).collect();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Head { method, target: target.parse().unwrap(), is_1_1: true, headers }
    }

    #[test]
    fn a_request_is_understood() {
        let (endpoint, request) =
            Request::of(&head("GET", "/partitions/a%2Fb+%C3%A9/events?since=7&limit=3&clientId=x+y", &[]));
        let request = request.unwrap();
        assert_eq!((endpoint, request.partition.as_str()), (Endpoint::Events, "a/b+é"));
        assert_eq!((request.since, request.limit), (Some(EventId(7)), Some(3)));
        assert_eq!(request.client_id.unwrap().as_str(), "x y");
        let stream = [("accept", "text/html, Text/Event-Stream;q=1"), ("last-event-id", "9")];
        let (endpoint, request) = Request::of(&head("GET", "/partitions//events?since=7", &stream));
        assert_eq!((endpoint, request.unwrap().since), (Endpoint::Stream, Some(EventId(9))));
        let draft = [("content-type", "application/json; charset=utf-8"), ("idempotency-key", "\"k\"")];
        let (endpoint, request) = Request::of(&head("POST", "/partitions/p/events", &draft));
        assert_eq!((endpoint, request.unwrap().key.as_deref()), (Endpoint::Submit, Some("k")));
        let (endpoint, request) = Request::of(&head("HEAD", "/partitions/p/state?at=4", &[]));
        assert!(endpoint == Endpoint::State && request.unwrap().head_only);
        assert!(
            is_for("/partitions") && is_for("/partitions/p") && !is_for("/partitionsx") && !is_for("/ws")
        );
    }

    #[test]
    fn what_is_wrong_with_a_request_is_told() {
        let json = ("content-type", "application/json");
        for (method, target, headers, status) in [
            ("GET", "/partitions", &[][..], 404),
            ("GET", "/partitions/p", &[], 404),
            ("GET", "/partitions/p/events/", &[], 404),
            ("GET", "/partitions/p/q/events", &[], 404),
            ("PUT", "/partitions/p/events", &[], 405),
            ("POST", "/partitions/p/state", &[], 405),
            ("GET", "/partitions/%zz/events", &[], 400),
            ("GET", "/partitions/%ff/events", &[], 400),
            ("GET", "/partitions/p/events?limt=1", &[], 400),
            ("GET", "/partitions/p/events?since=1&since=1", &[], 400),
            ("GET", "/partitions/p/events?since=-1", &[], 400),
            ("GET", "/partitions/p/events?since=", &[], 400),
            ("GET", "/partitions/p/events", &[("content-length", "1")], 400),
            ("GET", "/partitions/p/events", &[("accept", "text/event-stream"), ("last-event-id", "x")], 400),
            ("POST", "/partitions/p/events", &[], 415),
            ("POST", "/partitions/p/events", &[json, ("content-encoding", "gzip")], 415),
            ("POST", "/partitions/p/events", &[json, ("expect", "more")], 417),
            (
                "POST",
                "/partitions/p/events",
                &[json, ("content-length", "1"), ("transfer-encoding", "chunked")],
                400,
            ),
            (
                "POST",
                "/partitions/p/events",
                &[json, ("idempotency-key", "a"), ("idempotency-key", "b")],
                400,
            ),
        ] {
            let (_, request) = Request::of(&head(method, target, headers));
            assert_eq!(request.unwrap_err().status.as_u16(), status, "{method} {target} {headers:?}");
        }
        let long = format!("/partitions/{}/events", "x".repeat(257));
        assert_eq!(Request::of(&head("GET", &long, &[])).1.unwrap_err().status.as_u16(), 400);
    }
}
