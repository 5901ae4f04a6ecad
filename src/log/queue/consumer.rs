//! The consumer of a slot, and the drafts that it takes off the queue.

use crate::event::{PartitionKey, Slot, Token};
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::metrics;
use crate::log::streams::bootstrap::stream_info;
use crate::log::subjects;
use crate::log::trace_headers;
use crate::log::trace_headers::PlacedTrace;
use async_nats::jetstream::consumer::pull::Stream as PullStream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, AckKind};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use std::time::Duration;
use tracing::debug;

/// The most drafts of a slot that are taken off the queue and not yet decided.
pub(crate) const UNDECIDED_MAX: i64 = 4096;

/// How many drafts one pull asks for.
pub(crate) const PULL_MESSAGES: usize = 512;

/// A consumer is never left to redeliver by itself: that would put old drafts behind newer ones. The next
/// owner makes a new consumer, and everything undecided comes again in order.
pub(crate) const ACK_WAIT: Duration = Duration::from_secs(60 * 60);

/// The drafts of one slot, for the time of one ownership.
pub struct SlotConsumer {
    messages: PullStream,
    queue: String,
}

impl Log {
    /// Takes over the drafts of `slot` under the ownership `revision`: makes the consumer anew, under a
    /// new name, and so evicts whoever held the slot before.
    pub async fn slot_consumer(&self, slot: Slot, revision: u64) -> Result<SlotConsumer, LogError> {
        const WHAT: &str = "taking over a slot's drafts";
        let unavailable = |error: &dyn std::fmt::Display| LogError::unavailable(WHAT, error);
        let stream =
            self.js.get_stream_no_info(subjects::DRAFTS_STREAM).await.map_err(|error| unavailable(&error))?;
        let name = subjects::slot_consumer(slot, revision);
        let names: Vec<String> = match stream.consumer_names().try_collect().await {
            Ok(names) => names,
            Err(error) => {
                debug!(%slot, %error, "no queue to take drafts from; making sure that there is one");
                self.open_queue().await?;
                stream.consumer_names().try_collect().await.map_err(|error| unavailable(&error))?
            }
        };
        let queue = self.queue().await?;
        for old in names.iter().filter(|old| subjects::is_slot_consumer(old, slot)) {
            match stream.delete_consumer(old).await {
                Ok(_) => {}
                Err(error) if error.to_string().contains("10014") => {} // somebody else was quicker
                Err(error) => return Err(unavailable(&error)),
            }
        }
        let consumer: PullConsumer = stream
            .create_consumer_strict(pull::Config {
                durable_name: Some(name),
                description: Some(format!("The drafts of slot {slot}")),
                filter_subject: subjects::drafts_of(slot),
                deliver_policy: DeliverPolicy::All,
                ack_policy: AckPolicy::Explicit,
                ack_wait: ACK_WAIT,
                max_ack_pending: UNDECIDED_MAX,
                // Its state is worth nothing: whatever is undecided comes again to the next owner. On disk it costs a
                // file per slot and flush, more than the log itself.
                memory_storage: true,
                ..Default::default()
            })
            .await
            .map_err(|error| unavailable(&error))?;
        // A queue that was made again meanwhile has other drafts under the same numbers.
        if self.queue().await? != queue {
            return Err(unavailable(&"the queue was made again meanwhile"));
        }
        let messages = consumer
            .stream()
            .max_messages_per_batch(PULL_MESSAGES)
            .expires(Duration::from_secs(30))
            .heartbeat(Duration::from_secs(5))
            .messages()
            .await
            .map_err(|error| unavailable(&error))?;
        Ok(SlotConsumer { messages, queue })
    }

    /// Which queue there is: when it was made, in Unix nanoseconds.
    async fn queue(&self) -> Result<String, LogError> {
        const WHAT: &str = "asking which queue there is";
        let found = stream_info(self, subjects::DRAFTS_STREAM).await;
        let info = found.map_err(|error| LogError::unavailable(WHAT, error))?;
        let info = info.ok_or_else(|| LogError::unavailable(WHAT, "there is none"))?;
        Ok(info.created.unix_timestamp_nanos().to_string())
    }
}

impl SlotConsumer {
    /// Which queue the drafts come from: sequence numbers of two queues say nothing of each other.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The next draft. An error means that the slot is lost, or may be: the consumer was deleted by
    /// another owner, or NATS cannot be reached. Cancel safe.
    pub async fn next(&mut self) -> Result<DraftMessage, LogError> {
        const WHAT: &str = "taking a draft";
        match self.messages.next().await {
            Some(Ok(message)) => {
                let info = message.info().map_err(|error| LogError::malformed(WHAT, error))?;
                // By two clocks: NATS's and ours.
                let stored = std::time::SystemTime::from(info.published);
                metrics::draft_queued(stored.elapsed().unwrap_or_default());
                let sequence = info.stream_sequence;
                let stored_at_ms = info.published.unix_timestamp_nanos() / 1_000_000;
                let stored_at_ms = u64::try_from(stored_at_ms).unwrap_or_default();
                Ok(DraftMessage { message, sequence, stored_at_ms })
            }
            Some(Err(error)) => Err(LogError::unavailable(WHAT, error)),
            None => Err(LogError::unavailable(WHAT, "the consumer ended")),
        }
    }
}

/// A submission, taken off the queue and not yet decided.
pub struct DraftMessage {
    message: jetstream::Message,
    sequence: u64,
    stored_at_ms: u64,
}

impl DraftMessage {
    /// The submission's bytes.
    pub fn body(&self) -> &Bytes {
        &self.message.payload
    }

    /// The traces of its drafts, by place.
    pub fn traces(&self) -> Vec<PlacedTrace> {
        trace_headers::drafts_of(self.message.headers.as_ref())
    }

    /// The partition that the subject names.
    pub fn partition(&self) -> Result<(Token, PartitionKey), LogError> {
        const WHAT: &str = "reading a draft's subject";
        let subject = self.message.subject.as_str();
        let token = subjects::token_of_draft(subject).ok_or_else(|| LogError::malformed(WHAT, subject))?;
        Token::parse(token).map_err(|error| LogError::malformed(WHAT, error))
    }

    /// Its number in the queue.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When NATS stored it, by NATS's clock, in Unix milliseconds.
    pub fn stored_at_ms(&self) -> u64 {
        self.stored_at_ms
    }

    /// Removes it from the queue; nobody waits for that to have happened. If this is lost, the draft comes again, and
    /// is found committed or decided.
    pub async fn acknowledge(&self) -> Result<(), LogError> {
        self.message.ack().await.map_err(|error| LogError::unavailable("acknowledging a draft", error))
    }

    /// Removes it from the queue, and returns only when the server has confirmed it: who has lost the slot gets no
    /// confirmation. For where the next owner may not heed what the slot's key says.
    ///
    /// `async-nats`'s own `double_ack` takes the server's 'no responders' for a confirmation, which is
    /// just the answer that who has lost the slot gets; a plain request tells the two apart.
    pub async fn confirm(&self, log: &Log) -> Result<(), LogError> {
        const WHAT: &str = "confirming a rejection";
        let reply = self
            .message
            .reply
            .as_ref()
            .ok_or_else(|| LogError::malformed(WHAT, "the draft has no reply subject"))?;
        log.request(WHAT, reply.to_string(), None, AckKind::Ack.into()).await.map(drop)
    }
}
