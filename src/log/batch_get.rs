//! Batched direct gets: many stored messages for one request, without a consumer.
//!
//! `async-nats` has no call for this yet; the request is one JSON object and the reply a run of messages
//! that ends with status 204. A consumer must be made and deleted, and needs rights that a frontend must not have;
//! it is the faster way only where a hundred thousand events are read in a row (`benches/accounts.rs`).
//!
//! What comes back is checked against what was asked for. NATS sends a reply to whatever subject the request
//! names, so whoever knows a frontend's inbox and may ask the log something can have the answer sent there: a
//! genuine event, but of another partition, or another place.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber, header};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::timeout;

use super::connection::Log;
use super::error::LogError;
use super::subjects;

/// What to get; the field names are NATS's.
#[derive(Debug, Default, Serialize)]
pub(super) struct BatchGet {
    /// The first sequence number to look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Only messages on this subject, or that begin as it does if it ends in `>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_by_subj: Option<String>,
    /// The last message of every subject that is one of these, or begins as one that ends in `>`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub multi_last: Vec<String>,
    /// The most messages in the reply.
    pub batch: usize,
    /// The most bytes in the reply, headers and subjects included; the message that passes it is still sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<usize>,
}

/// A message as it is stored.
pub(super) struct Stored {
    pub sequence: u64,
    pub subject: String,
    pub message: Message,
}

/// The reply to a [`BatchGet`], message by message.
pub(super) struct Batch {
    what: &'static str,
    stream: &'static str,
    request: BatchGet,
    replies: Subscriber,
    wait: Duration,
    got: usize,
    last: u64,
    pending: u64,
}

impl Log {
    /// Gets messages from `stream`. Nothing found is an empty answer. Each message may take the request
    /// time-out to arrive.
    pub(super) async fn batch_get(
        &self,
        what: &'static str,
        stream: &'static str,
        request: BatchGet,
    ) -> Result<Vec<Stored>, LogError> {
        let mut batch = self.open_batch(what, stream, request).await?;
        let mut found = Vec::new();
        while let Some(stored) = batch.next().await? {
            found.push(stored);
        }
        Ok(found)
    }

    /// Asks for messages from `stream`, to be taken one by one as they come.
    pub(super) async fn open_batch(
        &self,
        what: &'static str,
        stream: &'static str,
        request: BatchGet,
    ) -> Result<Batch, LogError> {
        let body = serde_json::to_vec(&request).map_err(|error| LogError::malformed(what, error))?;
        let inbox = self.client.new_inbox();
        let replies =
            self.client.subscribe(inbox.clone()).await.map_err(|error| LogError::unavailable(what, error))?;
        self.client
            .publish_with_reply(self.api(&format!("DIRECT.GET.{stream}")), inbox, Bytes::from(body))
            .await
            .map_err(|error| LogError::unavailable(what, error))?;
        let wait = self.settings.request_timeout;
        Ok(Batch { what, stream, request, replies, wait, got: 0, last: 0, pending: 0 })
    }
}

impl Batch {
    /// The next message; `None` behind the last. After an error the batch is over.
    pub(super) async fn next(&mut self) -> Result<Option<Stored>, LogError> {
        let what = self.what;
        let reply = timeout(self.wait, self.replies.next())
            .await
            .map_err(|_| LogError::unavailable(what, "timed out"))?
            .ok_or_else(|| LogError::unavailable(what, "the connection is closing"))?;
        match reply.status {
            // 204: the end of the batch. 404: there is nothing.
            Some(status) if status.as_u16() == 204 || status == StatusCode::NOT_FOUND => {
                self.pending = header_u64(&reply, subjects::NUM_PENDING).unwrap_or(0);
                Ok(None)
            }
            Some(StatusCode::NO_RESPONDERS) => {
                Err(LogError::unavailable(what, format!("stream {} does not answer", self.stream)))
            }
            Some(status) if status != StatusCode::OK => {
                let why = reply.description.as_ref().map_or("no reason given", |text| text.as_str());
                Err(LogError::refused(what, format!("{status} {why}")))
            }
            _ => {
                let stored = stored(what, reply)?;
                self.check(&stored)?;
                self.got += 1;
                self.last = stored.sequence;
                Ok(Some(stored))
            }
        }
    }

    /// How many more there were in the stream, known once [`next`](Self::next) has given the last.
    pub(super) fn pending(&self) -> u64 {
        self.pending
    }

    /// Whether this is what was asked for. What is not makes the whole answer unknown, so the question is asked
    /// again.
    fn check(&self, stored: &Stored) -> Result<(), LogError> {
        let Stored { sequence, subject, message } = stored;
        let from = header_str(message, header::NATS_STREAM);
        if from == Some(self.stream) && self.request.asks_for(subject, *sequence, self.last, self.got) {
            return Ok(());
        }
        tracing::warn!(
            subject,
            sequence,
            what = self.what,
            "a stored message that was not asked for; asking again"
        );
        Err(LogError::unavailable(self.what, format!("message {sequence} on {subject} was not asked for")))
    }
}

impl BatchGet {
    /// Whether a message can be in the answer, behind `got` others of which the last is `last`.
    fn asks_for(&self, subject: &str, sequence: u64, last: u64, got: usize) -> bool {
        let wanted = match &self.next_by_subj {
            Some(wanted) => is_of(wanted, subject),
            None => self.multi_last.is_empty() || self.multi_last.iter().any(|of| is_of(of, subject)),
        };
        wanted && sequence >= self.seq.unwrap_or(1) && sequence > last && got < self.batch
    }
}

fn is_of(pattern: &str, subject: &str) -> bool {
    pattern.strip_suffix('>').map_or(subject == pattern, |start| subject.starts_with(start))
}

fn stored(what: &'static str, message: Message) -> Result<Stored, LogError> {
    let sequence = header_u64(&message, header::NATS_SEQUENCE)
        .ok_or_else(|| LogError::unavailable(what, "a reply without a stored message's sequence number"))?;
    let subject = header_str(&message, header::NATS_SUBJECT)
        .ok_or_else(|| LogError::unavailable(what, "a reply without a stored message's subject"))?
        .to_owned();
    Ok(Stored { sequence, subject, message })
}

/// A header's text.
pub(super) fn header_str(message: &Message, name: impl header::IntoHeaderName) -> Option<&str> {
    Some(message.headers.as_ref()?.get(name)?.as_str())
}

/// A header that holds a number.
pub(super) fn header_u64(message: &Message, name: impl header::IntoHeaderName) -> Option<u64> {
    header_str(message, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_only_for_what_was_asked() {
        let page = BatchGet {
            seq: Some(5),
            next_by_subj: Some("committed.a".into()),
            batch: 2,
            ..BatchGet::default()
        };
        assert!(page.asks_for("committed.a", 5, 0, 0) && page.asks_for("committed.a", 9, 5, 1));
        assert!(!page.asks_for("committed.b", 5, 0, 0), "another partition's");
        assert!(!page.asks_for("committed.a", 4, 0, 0), "an earlier place");
        assert!(!page.asks_for("committed.a", 9, 9, 1), "the same again");
        assert!(!page.asks_for("committed.a", 9, 5, 2), "more than asked for");

        let last = |of: &str| BatchGet { multi_last: vec![of.into()], batch: 9, ..BatchGet::default() };
        assert!(last("committed.a").asks_for("committed.a", 7, 0, 0));
        assert!(!last("committed.a").asks_for("committed.ab", 7, 0, 0));
        assert!(last("$KV.SLOTS.>").asks_for("$KV.SLOTS.slot.1", 7, 0, 0));
        assert!(!last("$KV.SLOTS.>").asks_for("$KV.OTHER.slot.1", 7, 0, 0));
        let one = BatchGet { seq: Some(3), batch: 1, ..BatchGet::default() };
        assert!(one.asks_for("committed.whose", 3, 0, 0));
    }
}
