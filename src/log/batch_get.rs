//! Batched direct gets: many stored messages for one request, without a consumer.
//!
//! `async-nats` has no call for this yet; the request is one JSON object and the reply a run of messages
//! that ends with status 204.

use std::time::Duration;

use async_nats::{Message, StatusCode, header};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::timeout;

use super::connection::Log;
use super::error::LogError;

/// What to get; the field names are NATS's.
#[derive(Debug, Default, Serialize)]
pub(super) struct BatchGet {
    /// The first sequence number to look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Only messages on this subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_by_subj: Option<String>,
    /// The last message of every subject that matches one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub multi_last: Vec<String>,
    /// The most messages in the reply.
    pub batch: usize,
    /// The most bytes in the reply; the message that passes it is still sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<usize>,
}

/// A message as it is stored.
pub(super) struct Stored {
    pub sequence: u64,
    pub subject: String,
    pub message: Message,
}

impl Log {
    /// Gets messages from `stream`. Nothing found is an empty answer. Each message may take the request
    /// time-out to arrive.
    pub(super) async fn batch_get(
        &self,
        what: &'static str,
        stream: &str,
        request: &BatchGet,
    ) -> Result<Vec<Stored>, LogError> {
        let wait: Duration = self.settings.request_timeout;
        let body = serde_json::to_vec(request).map_err(|error| LogError::malformed(what, error))?;
        let inbox = self.client.new_inbox();
        let mut replies =
            self.client.subscribe(inbox.clone()).await.map_err(|error| LogError::unavailable(what, error))?;
        self.client
            .publish_with_reply(format!("$JS.API.DIRECT.GET.{stream}"), inbox, Bytes::from(body))
            .await
            .map_err(|error| LogError::unavailable(what, error))?;
        let mut found = Vec::new();
        loop {
            let reply = timeout(wait, replies.next())
                .await
                .map_err(|_| LogError::unavailable(what, "timed out"))?
                .ok_or_else(|| LogError::unavailable(what, "the connection is closing"))?;
            match reply.status {
                // 204: the end of the batch. 404: there is nothing.
                Some(status) if status.as_u16() == 204 || status == StatusCode::NOT_FOUND => {
                    return Ok(found);
                }
                Some(StatusCode::NO_RESPONDERS) => {
                    return Err(LogError::unavailable(what, format!("stream {stream} does not answer")));
                }
                Some(status) if status != StatusCode::OK => {
                    let why = reply.description.as_ref().map_or("no reason given", |text| text.as_str());
                    return Err(LogError::refused(what, format!("{status} {why}")));
                }
                _ => found.push(stored(what, reply)?),
            }
        }
    }
}

fn stored(what: &'static str, message: Message) -> Result<Stored, LogError> {
    let sequence = header_u64(&message, header::NATS_SEQUENCE)
        .ok_or_else(|| LogError::malformed(what, "a stored message without its sequence number"))?;
    let subject = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(header::NATS_SUBJECT))
        .map(|subject| subject.as_str().to_owned())
        .ok_or_else(|| LogError::malformed(what, "a stored message without its subject"))?;
    Ok(Stored { sequence, subject, message })
}

/// A header that holds a number.
pub(super) fn header_u64(message: &Message, name: header::HeaderName) -> Option<u64> {
    message.headers.as_ref()?.get(name)?.as_str().parse().ok()
}
