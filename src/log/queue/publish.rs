//! Drafts on their way: frontends publish them, and the owner of a slot takes them off the work queue.

use crate::log::api::PublishAck;

use bytes::Bytes;

use crate::event::PartitionKey;
use crate::event::Token;
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::subjects;
use crate::log::trace_headers;
use crate::log::trace_headers::PlacedTrace;

/// A draft was not, or not surely, stored in DRAFTS.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// DRAFTS is full: validators do not keep up, or there is none. Not stored.
    #[error("the draft queue is full")]
    Full,
    /// NATS refused it for good. Not stored.
    #[error("the draft was refused: {0}")]
    Refused(String),
    /// No answer: it may or may not be stored.
    #[error("the draft queue cannot be reached: {0}")]
    Unknown(LogError),
}

impl Log {
    /// Puts a submission on the work queue, and waits until it is there.
    ///
    /// Two publishes that are under way at once may be stored in either order: what must stay in order is
    /// published one after the other.
    pub async fn publish_draft(
        &self,
        partition: &PartitionKey,
        token: &Token,
        body: Bytes,
    ) -> Result<(), PublishError> {
        self.publish_traced_draft(partition, token, body, &[]).await
    }

    /// [`Log::publish_draft`], with the traces of its drafts beside it.
    pub async fn publish_traced_draft(
        &self,
        partition: &PartitionKey,
        token: &Token,
        body: Bytes,
        traces: &[PlacedTrace],
    ) -> Result<(), PublishError> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return stand_in.publish_draft(partition, token, body).await;
        }
        const WHAT: &str = "publishing a draft";
        let subject = subjects::draft(partition.slot(self.settings.slots), token);
        let reply = match self.request(WHAT, subject, trace_headers::of_drafts(traces), body).await {
            Ok(reply) => reply,
            Err(LogError::Refused { why, .. }) => return Err(PublishError::Refused(why)),
            Err(error) => return Err(PublishError::Unknown(error)),
        };
        let ack: PublishAck = serde_json::from_slice(&reply.payload)
            .map_err(|error| PublishError::Unknown(LogError::malformed(WHAT, error)))?;
        match ack.error {
            None => Ok(()),
            Some(error) if error.is_full() => Err(PublishError::Full),
            // 4xx is about the message, 5xx about the server's own state just now.
            Some(error) if error.code < 500 => Err(PublishError::Refused(error.to_string())),
            Some(error) => Err(PublishError::Unknown(LogError::unavailable(WHAT, error))),
        }
    }
}
