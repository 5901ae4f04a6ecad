//! A partition's events as they come: server-sent events.
//!
//! Nothing is queued for its reader: it is written what lies between its position and the head, from the same feed as
//! every session, as fast as it reads; and one that does not read for the time of a stall is closed.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use crate::event::EventId;
use crate::frontend::admission::memory::Hold;
use crate::frontend::feed::Watched;
use crate::frontend::feed::event::Entry;
use crate::frontend::feed::page_cache::Place;
use crate::frontend::listener::http;
use crate::frontend::metrics;
use crate::frontend::session::line::leave_after;
use crate::frontend::session::socket::End;
use crate::frontend::shared::FrontendShared;
use crate::log::LogError;
use crate::protocol::{CloseCode, Dialect, ErrorCode};

/// How many bytes go out at once; one event may be longer.
const OUT_BYTES: usize = 64 * 1024;
/// The pause after a read of the log that failed.
const READ_PAUSE: Duration = Duration::from_millis(100);

/// What goes out, in chunks (RFC 9112, 7.1).
pub(super) struct Output<S> {
    stream: S,
    bytes: Vec<u8>,
    hold: Hold,
    /// Whether no chunk is half written.
    is_whole: bool,
}

/// Why a stream ends.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ending<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

/// The head of the answer, without what depends on who asks.
fn head(mut headers: HeaderMap) -> Vec<u8> {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    // Proxies would keep events back until there are many.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    http::head_on_the_wire(StatusCode::OK, &headers)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Output<S> {
    pub(super) fn new(stream: S, hold: Hold) -> Self {
        Self { stream, bytes: Vec::new(), hold, is_whole: true }
    }

    /// Begins the answer. False if it is all that is asked for, or cannot be written.
    pub(super) async fn begin(&mut self, headers: HeaderMap, head_only: bool) -> bool {
        let written = async {
            self.stream.write_all(&head(headers)).await?;
            self.stream.flush().await
        };
        written.await.is_ok() && !head_only
    }

    fn push(&mut self, entry: &Entry) {
        let event = entry.encoded(Dialect::Classic).event();
        self.bytes.extend_from_slice(format!("id: {}\ndata: ", entry.id).as_bytes());
        // A line end in JSON stands between its parts, where a space is the same.
        let line = event.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte });
        self.bytes.extend(line);
        self.bytes.extend_from_slice(b"\n\n");
    }

    async fn flush(&mut self) -> Result<(), End> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let size = format!("{:x}\r\n", self.bytes.len());
        let mut chunk = Vec::with_capacity(size.len() + self.bytes.len() + 2);
        chunk.extend_from_slice(size.as_bytes());
        chunk.append(&mut self.bytes);
        chunk.extend_from_slice(b"\r\n");
        self.hold.set(chunk.len());
        self.is_whole = false;
        let written = async {
            self.stream.write_all(&chunk).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => End::Stalled,
            _ => End::Gone,
        })?;
        self.is_whole = true;
        self.hold.set(0);
        Ok(())
    }

    /// Says why there is no more, if that can be said.
    pub(super) async fn end(mut self, end: &End, retry_after_ms: u64, linger: Duration) -> &'static str {
        let (code, message) = match end {
            End::Close(code, message, _) if self.is_whole => (*code, message),
            End::Close(code, ..) => return code.as_str(),
            End::Stalled => return "stalled",
            End::Gone | End::Told(_) => return "gone",
        };
        let waits = matches!(code, ErrorCode::Unavailable | ErrorCode::RateLimited);
        let ending = Ending { code: code.as_str(), message, retry_after_ms: waits.then_some(retry_after_ms) };
        let ending = serde_json::to_string(&ending).unwrap_or_default();
        self.bytes = format!("event: end\ndata: {ending}\n\n").into_bytes();
        let last = async {
            self.flush().await?;
            self.stream.write_all(b"0\r\n\r\n").await.map_err(|_| End::Gone)?;
            self.stream.shutdown().await.map_err(|_| End::Gone)
        };
        // Whether its reader still takes that is its own affair.
        let _ = timeout(linger, last).await;
        code.as_str()
    }

    /// Writes what comes behind a position, until there is a reason to end.
    pub(super) async fn run(
        &mut self,
        shared: &FrontendShared,
        feed: &Watched,
        position: EventId,
        expires: Option<Instant>,
    ) -> End {
        match self.follow(shared, feed, position, expires).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn follow(
        &mut self,
        shared: &FrontendShared,
        feed: &Watched,
        position: EventId,
        expires: Option<Instant>,
    ) -> Result<End, End> {
        let settings = &shared.settings;
        let beat = Duration::from_millis(settings.heartbeat_interval_ms);
        let mut head = feed.head();
        let mut place = Place { after: position, ordinal: (position == EventId::NONE).then_some(0) };
        let (mut beat_at, mut read_after, mut leave_at) = (Instant::now() + beat, None, None);
        // A reader that comes back before any event has come says where it began.
        self.bytes = format!("retry: {}\nid: {position}\n\n", settings.retry_after_ms).into_bytes();
        loop {
            let now = Instant::now();
            if expires.is_some_and(|at| at <= now) {
                let why = "the token has expired";
                return Ok(End::Close(ErrorCode::AuthFailed, why.into(), CloseCode::Policy));
            }
            if shared.drain.is_cancelled() && leave_at.is_none() {
                leave_at = Some(now + leave_after(shared));
            }
            if leave_at.is_some_and(|at| at <= now) {
                let why = "this frontend is going away; reconnect";
                return Ok(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway));
            }
            if beat_at <= now {
                self.bytes.extend_from_slice(b"event: heartbeat\ndata: {}\n\n");
            }
            read_after = read_after.filter(|at| *at > now);
            let upto = head.borrow_and_update().unwrap_or(EventId::NONE);
            let is_behind = place.after < upto;
            if is_behind && read_after.is_none() {
                match feed.read(place, upto, settings.frames_per_turn_max).await {
                    Ok(batch) => {
                        let (mut events, mut bytes) = (0, 0);
                        for entry in &batch.entries {
                            self.push(entry);
                            (events, bytes) = (events + 1, bytes + entry.body.len() as u64);
                            if self.bytes.len() >= OUT_BYTES {
                                self.flush().await?;
                            }
                        }
                        metrics::hot().broadcasts.increment(events);
                        metrics::hot().broadcast_bytes.increment(bytes);
                        place = batch.end_place();
                    }
                    Err(LogError::Malformed { .. }) => {
                        let why =
                            format!("the log lacks events after {}; begin without `since`", place.after);
                        return Ok(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway));
                    }
                    Err(error) => {
                        warn!(%error, position = %place.after, "failed to read the log; retrying");
                        read_after = Some(Instant::now() + READ_PAUSE);
                    }
                }
            }
            if !self.bytes.is_empty() {
                self.flush().await?;
                beat_at = Instant::now() + beat;
            }
            if place.after < upto && read_after.is_none() {
                continue;
            }
            let wake = [expires, read_after, leave_at].into_iter().flatten().fold(beat_at, Instant::min);
            let mut byte = [0];
            tokio::select! {
                biased;
                // Whatever comes: there is nothing to say on a stream, and its reader's end is one.
                _ = self.stream.read(&mut byte) => return Ok(End::Gone),
                () = shared.drain.cancelled(), if leave_at.is_none() => {}
                changed = head.changed(), if read_after.is_none() => {
                    if changed.is_err() {
                        return Ok(End::Gone);
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
    }
}
