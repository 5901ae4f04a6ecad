//! `/partitions/{partition}/events`: a stretch of the log as JSON lines, or as server-sent events that go on
//! as the log does.
//!
//! Nothing is queued: the next events are read from the log when the client has taken those before. An
//! event stream ends when the log cannot be read, and its client comes back with the last id that it has,
//! as clients of event streams do by themselves.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::ordinals;
use super::partitions::named;
use crate::admin::access::Admin;
use crate::admin::place::Place;
use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::state::AdminState;
use crate::event::{ClientId, EventFilter, EventId, Token};
use crate::log::{LiveFeed, LogError, StoredEvent};
use crate::util::time;

/// The most events that are read from the log at a time.
const EVENTS_AT_ONCE: usize = 256;
/// How long a client of an event stream leaves it alone before it comes back, in milliseconds.
pub(super) const RETRY_MS: u64 = 2_000;
pub(super) const EVENT_STREAM: &str = "text/event-stream";
const PARAMETERS: [&str; 9] = ["from", "to", "ordinal", "last", "limit", "client", "type", "since", "until"];
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `GET /partitions/{partition}/events?from=&to=&ordinal=&last=&limit=&client=&type=&since=&until=`
pub(crate) async fn range(
    AdminRequest { hub, admin, query }: AdminRequest,
    Extension(place): Extension<Arc<Place>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let partition = named(path)?;
    admin.may_enter(&partition)?;
    let query = Query::parse(query.as_deref(), &PARAMETERS)?;
    let filter = filter_of(&query)?;
    let token = partition.token();
    let from = match (query.number("from")?, query.number("ordinal")?, query.number("last")?) {
        (from, None, None) => from.unwrap_or(1),
        (None, Some(ordinal), None) => ordinals::event_id(&hub.log, &token, ordinal).await?,
        (None, None, Some(count)) => ordinals::of_last(&hub.log, &token, count).await?,
        _ => {
            return Err(Problem::bad_request(
                "one of the parameters from, ordinal and last says where to begin",
            ));
        }
    };
    let left = query.number("limit")?.unwrap_or(u64::MAX);
    let to = query.number("to")?.map(EventId);
    if to.is_some_and(|to| to.0 < from) {
        return Err(Problem::bad_request("the parameter to lies before the parameter from"));
    }
    let mut after = EventId(from.saturating_sub(1));
    let streamed = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.to_ascii_lowercase().contains(EVENT_STREAM)));
    if !streamed {
        let head = hub.log.head(&token).await?.map_or(EventId::NONE, |head| head.id);
        let upto = to.map_or(head, |to| to.min(head));
        let reading =
            Reading { ends: ends_of(&admin), hub, admin, token, filter, after, upto, left, _place: place };
        return Ok(body("application/jsonl", stream::try_unfold(reading, lines)));
    }
    if let Some(last) = headers.get("last-event-id") {
        let id = last.to_str().ok().and_then(|last| last.parse().ok());
        let id = id.ok_or_else(|| Problem::bad_request("Last-Event-ID is the number of an event"))?;
        after = after.max(EventId(id));
    }
    // First the subscription, the events in the log then: none falls between the two.
    let live = hub.log.live(&token).await?;
    let following = Following {
        alive_at: Instant::now(),
        revoked: hub.revoked.clone(),
        reading: Reading {
            ends: ends_of(&admin),
            hub,
            admin,
            token,
            filter,
            after,
            upto: to.unwrap_or(EventId(u64::MAX)),
            left,
            _place: place,
        },
        live,
        begun: false,
    };
    Ok(body(EVENT_STREAM, stream::unfold(following, follow)))
}

/// Which events a query asks for.
fn filter_of(query: &Query) -> Result<EventFilter, Problem> {
    let client = query.text("client").map(ClientId::new).transpose();
    let client = client.map_err(|error| Problem::bad_request(format!("the parameter client: {error}")))?;
    let moment = |name: &str| {
        let moment = query.text(name).map(time::parse_ms).transpose();
        moment.map_err(|why| Problem::bad_request(format!("the parameter {name}: {why}")))
    };
    Ok(EventFilter {
        client,
        event_type: query.text("type").map(str::to_owned),
        since_ms: moment("since")?,
        until_ms: moment("until")?,
    })
}

pub(super) fn body<E: Into<axum::BoxError>>(
    kind: &'static str,
    stream: impl futures_util::Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response {
    let mut response = Body::from_stream(stream).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // A proxy that gathers what is streamed (nginx does) would keep an event back until there are many.
    response.headers_mut().insert(UNBUFFERED, HeaderValue::from_static("no"));
    response
}

/// A stretch of the log that is being told.
struct Reading {
    hub: Arc<AdminState>,
    /// Who reads.
    admin: Admin,
    /// When the token ends.
    ends: Option<Instant>,
    token: Token,
    /// Which of the events are told.
    filter: EventFilter,
    /// The last event that was read.
    after: EventId,
    upto: EventId,
    /// How many events are to be told yet at most.
    left: u64,
    /// The request's place among those at work.
    _place: Arc<Place>,
}

impl Reading {
    /// Whether whoever reads may not any more: the token has expired, or was revoked.
    fn is_over(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now()) || self.hub.auth.is_revoked(&self.admin.0)
    }

    /// The next events, and whether any were read; those that are asked for may be none of them.
    async fn next(&mut self) -> Result<(Vec<StoredEvent>, bool), LogError> {
        if self.after >= self.upto || self.left == 0 {
            return Ok((Vec::new(), false));
        }
        let bytes_max = self.hub.settings.events_bytes_max;
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(EVENTS_AT_ONCE);
        let mut events = self.hub.log.page(&self.token, self.after, count, bytes_max).await?;
        let over = events.iter().position(|event| event.id > self.upto);
        if let Some(over) = over {
            events.truncate(over);
            self.upto = self.after.max(events.last().map_or(self.after, |last| last.id));
        }
        self.after = events.last().map_or(self.after, |last| last.id);
        let any = !events.is_empty();
        events.retain(|event| self.filter.takes(&event.body));
        self.left -= events.len() as u64;
        Ok((events, any))
    }
}

/// The next piece of a range. An error breaks the answer off, so that nobody takes it for whole.
async fn lines(mut reading: Reading) -> Result<Option<(Bytes, Reading)>, LinesError> {
    loop {
        if reading.is_over() {
            return Err(LinesError::Over);
        }
        let read = reading.next().await.inspect_err(|error| warn!(%error, "an answer breaks off"))?;
        match read {
            (_, false) => return Ok(None),
            (events, true) if !events.is_empty() => {
                let text: Vec<u8> = events.iter().flat_map(StoredEvent::to_line).collect();
                return Ok(Some((text.into(), reading)));
            }
            _ => {}
        }
    }
}

/// Why an answer breaks off.
#[derive(Debug, thiserror::Error)]
enum LinesError {
    #[error("the token has expired or was revoked")]
    Over,
    #[error(transparent)]
    Log(#[from] LogError),
}

/// An event stream.
struct Following {
    reading: Reading,
    live: LiveFeed,
    /// Changes when something was revoked.
    revoked: watch::Receiver<()>,
    /// When the client is to hear something.
    alive_at: Instant,
    begun: bool,
}

/// The next piece of an event stream.
async fn follow(mut following: Following) -> Option<(Result<Bytes, Infallible>, Following)> {
    if !following.begun {
        following.begun = true;
        return Some((Ok(format!("retry: {RETRY_MS}\n\n").into()), following));
    }
    loop {
        let Following { reading, live, revoked, alive_at, .. } = &mut following;
        let hub = reading.hub.clone();
        let silence_max = Duration::from_millis(hub.settings.stream_alive_ms);
        revoked.mark_unchanged();
        if reading.after >= reading.upto || reading.left == 0 || hub.stop.is_cancelled() || reading.is_over()
        {
            return None;
        }
        let (events, any) = match reading.next().await {
            Ok(read) => read,
            Err(error) => {
                warn!(%error, "an event stream ends; its client comes back");
                return None;
            }
        };
        if !events.is_empty() {
            *alive_at = Instant::now() + silence_max;
            let text: Vec<u8> = events.iter().flat_map(event).collect();
            return Some((Ok(text.into()), following));
        }
        if *alive_at <= Instant::now() {
            *alive_at = Instant::now() + silence_max;
            return Some((Ok(Bytes::from_static(b": \n\n")), following));
        }
        if any {
            continue;
        }
        // Live events only tell that there is something to read. Those that were missed are found at the
        // next sign of life.
        let until = reading.ends.map_or(*alive_at, |ends| ends.min(*alive_at));
        tokio::select! {
            () = hub.stop.cancelled() => return None,
            Ok(()) = revoked.changed() => {}
            heard = timeout_at(until, live.next()) => match heard {
                Ok(Some(_)) => while live.try_next().is_some() {},
                Ok(None) => return None,
                Err(_) => {}
            },
        }
    }
}

/// An event of an event stream.
fn event(stored: &StoredEvent) -> Vec<u8> {
    let mut text = format!("id: {}\ndata: ", stored.id).into_bytes();
    text.extend(stored.to_line());
    text.push(b'\n');
    text
}

/// When an operator's token ends.
pub(super) fn ends_of(admin: &Admin) -> Option<Instant> {
    admin.0.expires_at.and_then(ends_at)
}

/// A time in Unix seconds by this process's clock.
fn ends_at(unix_s: u64) -> Option<Instant> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    Instant::now().checked_add(Duration::from_secs(unix_s).saturating_sub(now))
}
