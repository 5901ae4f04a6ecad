//! A long stretch of a partition's history through a consumer of its own: three times as fast as direct gets
//! (`cargo bench --bench accounts`), for who may make one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Stream as PullStream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use futures_util::StreamExt;
use tokio::time::timeout;
use tracing::{debug, info};

use super::batch_get::Stored;
use crate::event::EventId;
use crate::faults;
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::subjects;

const WHAT: &str = "reading the log through a consumer";

/// The most events and bytes of a history that are asked for at a time, by a consumer or by direct gets. What comes
/// faster than it is taken waits here, so the events must fit into a subscription.
pub(super) const EVENTS_AT_ONCE: usize = 4096;
pub(super) const BYTES_AT_ONCE: usize = 4 << 20;
/// How long NATS keeps a consumer whose process died.
const KEPT_UNUSED: Duration = Duration::from_secs(10);

/// The events of a partition from some event on, without end.
///
/// A consumer numbers what it delivers, so an event that was lost on the way leaves a hole in the numbers. It is
/// noticed, and then the read is over: the reader goes on with direct gets.
pub(super) struct LongRead {
    log: Log,
    consumer: PullConsumer,
    messages: PullStream,
    /// Events delivered so far.
    delivered: u64,
}

impl LongRead {
    /// Begins to read a subject of the log behind an event. `None` if this process may not, or it failed.
    pub(super) async fn open(log: &Log, subject: &str, after: EventId) -> Option<Self> {
        if !log.reads_by_consumers.load(Ordering::Relaxed) {
            return None;
        }
        match Self::try_open(log, subject, after).await {
            Ok(read) => Some(read),
            Err(error) if log.state().borrow().connected => {
                // Most often the right to make one: what asks for that gets no answer.
                log.reads_by_consumers.store(false, Ordering::Relaxed);
                info!(%error, "long histories are read by direct gets from now on, which takes longer");
                None
            }
            Err(error) => {
                debug!(%error, "a long history is read by direct gets");
                None
            }
        }
    }

    async fn try_open(log: &Log, subject: &str, after: EventId) -> Result<Self, LogError> {
        let unavailable = |error: &dyn std::fmt::Display| LogError::unavailable(WHAT, error);
        let stream = log
            .js
            .get_stream_no_info(subjects::COMMITTED_STREAM)
            .await
            .map_err(|error| unavailable(&error))?;
        let consumer: PullConsumer = stream
            .create_consumer_strict(pull::Config {
                name: Some(format!("read-{:016x}", rand::random::<u64>())),
                filter_subject: subject.to_owned(),
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after.0 + 1 },
                ack_policy: AckPolicy::None,
                inactive_threshold: KEPT_UNUSED,
                num_replicas: 1,
                memory_storage: true,
                ..Default::default()
            })
            .await
            .map_err(|error| unavailable(&error))?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(EVENTS_AT_ONCE)
            .max_bytes_per_batch(BYTES_AT_ONCE)
            .expires(Duration::from_secs(30))
            .messages()
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(Self { log: log.clone(), consumer, messages, delivered: 0 })
    }

    /// The next event. After an error the read is over, and what was given until then is whole.
    pub(super) async fn next(&mut self) -> Result<Stored, LogError> {
        let next = timeout(self.log.settings.request_timeout, self.messages.next()).await;
        let message = match next {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return Err(LogError::unavailable(WHAT, error)),
            Ok(None) => return Err(LogError::unavailable(WHAT, "the consumer ended")),
            Err(_) => return Err(LogError::unavailable(WHAT, "nothing came in time")),
        };
        let info = message.info().map_err(|error| LogError::malformed(WHAT, error))?;
        let (number, sequence) = (info.consumer_sequence, info.stream_sequence);
        self.delivered += 1;
        if number != self.delivered && !faults::broken("believe_consumers") {
            let why = format!("delivery {number} came where {} was due", self.delivered);
            return Err(LogError::unavailable(WHAT, why));
        }
        let message = message.message;
        Ok(Stored { sequence, subject: message.subject.to_string(), message })
    }

    /// Has NATS forget the consumer now, rather than when nobody has used it for a while.
    pub(super) fn end(self) {
        let Self { log, consumer, messages, .. } = self;
        drop(messages);
        tokio::spawn(async move {
            let name = &consumer.cached_info().name;
            let Ok(stream) = log.js.get_stream_no_info(subjects::COMMITTED_STREAM).await else { return };
            if let Err(error) = stream.delete_consumer(name).await {
                debug!(%error, "a consumer that is not used any more ends by itself");
            }
        });
    }
}
