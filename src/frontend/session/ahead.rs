//! Clients that have seen events that the log does not have: the log went back, or this is another backend.
//!
//! A classic client is told so and may ask again without a cursor. The published v1 client has no code for it: it
//! takes an empty page for "nothing new", misses what is committed next, and dies on its own checks when ids are
//! given again. It is stopped by an error after which it does not come back by itself.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::socket::End;
use crate::event::EventId;
use crate::frontend::feed::partition::Feed;
use crate::frontend::metrics;
use crate::frontend::shared::FrontendShared;
use crate::log::LogError;
use crate::protocol::{CloseCode, ErrorCode};

/// How often a head that is before what the client has seen is looked at again. The client may come from a frontend
/// that is a moment ahead of this one.
const HEAD_LOOKS: u32 = 5;
const HEAD_LOOK_PAUSE: Duration = Duration::from_millis(100);

/// The partition's head, once it is at `seen` or after it, or after a short wait.
pub(crate) async fn head_after(feed: &Feed, seen: EventId) -> EventId {
    let mut head = feed.head();
    for _ in 0..HEAD_LOOKS {
        if seen <= feed.head_now() {
            break;
        }
        feed.request_check();
        // When the time is up, the head is looked at again.
        let _ = timeout(HEAD_LOOK_PAUSE, head.wait_for(|head| head.is_some_and(|head| head >= seen))).await;
    }
    feed.head_now()
}

/// How long the log may take to say how far it is.
const LOG_WAIT: Duration = Duration::from_secs(2);

/// Whether an event that a client has seen and this frontend has not is lost, so that the client is to give up what it
/// keeps. That is no matter of this frontend alone, which may be cut off from NATS and lag: either the log ends before
/// the event, as its leader says, or another event is in its place.
pub(crate) async fn is_lost(shared: &FrontendShared, feed: &Feed, seen: EventId) -> Result<bool, LogError> {
    const WHAT: &str = "asking how far the log is";
    let last = timeout(LOG_WAIT, shared.latest.since(Instant::now())).await;
    let last = last.map_err(|_| LogError::Unavailable { what: WHAT, why: "timed out".to_owned() })?;
    Ok(last < seen || shared.log.holds(feed.token(), seen).await? == Some(false))
}

/// What a client is told that has seen more than this frontend.
pub(crate) const LAGS: &str = "this frontend has not heard of the partition's last events yet";

/// What a client is told whose last event is not in the log.
pub(crate) fn beyond(field: &str, seen: EventId, head: EventId) -> String {
    metrics::count(metrics::BEYOND_LOG);
    format!(
        "cursor_beyond_log: `{field}` {seen} is not in this partition, which ends at {head}: the log went back, or \
         this is another backend; discard what was kept of this partition and begin without a cursor"
    )
}

/// The end of a connection that would be sent events with a gap: the log is damaged there.
pub(crate) fn missing_events(after: EventId) -> End {
    let why = format!("the log lacks events after {after}; connect without `lastEventId`");
    End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway)
}
