//! Live events: JetStream repeats every stored event on a plain subject of its partition.
//!
//! Nobody but JetStream may publish there. But NATS sends a reply to whatever subject the request names, so a
//! frontend in wrong hands can have an answer of the log sent there: a genuine event, which a batched get puts
//! behind whatever came before it in the *batch*. What is repeated by JetStream is told apart by its headers, which
//! requests cannot choose.

use async_nats::{Message, Subscriber, header};
use futures_util::StreamExt;

use super::batch_get::{header_str, header_u64};
use super::replay::StoredEvent;
use crate::event::{EventId, Token};
use crate::faults;
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::subjects;
use crate::log::trace_headers;

/// A live event, and which one of the partition came before it: whoever does not have that one has a gap
/// to fill from the log first.
#[derive(Debug, Clone)]
pub struct LiveEvent {
    /// The event.
    pub event: StoredEvent,
    /// The partition's event before it; [`EventId::NONE`] if it is the first.
    pub previous: EventId,
    /// Its trace, as a `traceparent`.
    pub trace: Option<String>,
}

/// A subscription to a partition's live events. Delivery is at most once: after a reconnect or when the
/// reader is too slow, events are missing, which [`LiveEvent::previous`] and the connection's epoch tell.
/// Ends when dropped.
pub struct LiveFeed {
    subscriber: Source,
    committed: String,
}

/// Where they come from.
enum Source {
    Nats(Subscriber),
    /// A test's own log.
    #[cfg(test)]
    Given(tokio::sync::mpsc::UnboundedReceiver<LiveEvent>),
}

impl Log {
    /// Subscribes. When this returns, the server has the subscription: an event stored later is seen.
    pub async fn live(&self, token: &Token) -> Result<LiveFeed, LogError> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            let subscriber = Source::Given(stand_in.live(token).await?);
            return Ok(LiveFeed { subscriber, committed: String::new() });
        }
        let subscriber = self
            .client
            .subscribe(subjects::live(token))
            .await
            .map_err(|error| LogError::unavailable("subscribing to live events", error))?;
        self.flush().await?;
        Ok(LiveFeed { subscriber: Source::Nats(subscriber), committed: subjects::committed(token) })
    }
}

impl LiveFeed {
    /// The next live event; `None` when the connection was closed for good. Cancel safe.
    pub async fn next(&mut self) -> Option<LiveEvent> {
        loop {
            let message = match &mut self.subscriber {
                Source::Nats(subscriber) => subscriber.next().await?,
                #[cfg(test)]
                Source::Given(events) => return events.recv().await,
            };
            let (true, Some(id), Some(previous)) = (
                self.is_repeated(&message),
                header_u64(&message, header::NATS_SEQUENCE),
                header_u64(&message, header::NATS_LAST_SEQUENCE),
            ) else {
                tracing::warn!(subject = %message.subject, "a message on a live subject that JetStream did not put there; ignored");
                continue;
            };
            let trace = trace_headers::event_of(message.headers.as_ref());
            return Some(LiveEvent {
                event: StoredEvent { id: EventId(id), body: message.payload },
                previous: EventId(previous),
                trace,
            });
        }
    }

    /// Whether JetStream has repeated this message here, as far as its headers tell: it is this partition's, and no
    /// part of an answer to a batched get.
    fn is_repeated(&self, message: &Message) -> bool {
        let headers_fit = header_str(message, header::NATS_STREAM) == Some(subjects::COMMITTED_STREAM)
            && header_str(message, header::NATS_SUBJECT) == Some(self.committed.as_str())
            && header_str(message, subjects::NUM_PENDING).is_none();
        headers_fit || faults::broken("believe_headers")
    }

    /// The next live event if one is here already. Never waits.
    pub fn try_next(&mut self) -> Option<LiveEvent> {
        use futures_util::FutureExt;
        self.next().now_or_never().flatten()
    }
}
