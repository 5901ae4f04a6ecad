//! Commits: checked publishes to COMMITTED, single or as one atomic batch.
//!
//! The check is everything that safety rests on: JetStream stores an event only if the partition's last
//! event is still the one that the event was validated against.

use async_nats::{HeaderMap, header};
use bytes::Bytes;

use super::api::{ApiError, PublishAck};
use super::client::Log;
use super::error::LogError;
use super::subjects;
use super::trace_headers;
use super::trace_headers::PlacedTrace;
use crate::event::{EventId, Token};
use crate::faults;

/// JetStream's error code for 'the last sequence of this subject is another one'.
const WRONG_LAST_SEQUENCE: [u64; 2] = [10071, 10164];
/// The most messages of an atomic batch that the server takes.
pub const BATCH_EVENTS_MAX: usize = 1000;

/// What an event's message in COMMITTED has beside the record, at most: the headers of a commit.
pub const COMMIT_HEADERS_BYTES: usize = 1024;

/// A commit that did not, or not surely, happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A server says that the partition has other events after the expected one. With replicas that is no proof that
    /// nothing was stored: one that only believes to lead says so of what the leader stores. It means: read again.
    #[error("the partition has moved on")]
    Conflict,
    /// A server refused it for another reason. That is no proof either.
    #[error("not stored: {0}")]
    NotStored(String),
    /// No answer: it may or may not be stored, or be stored yet.
    #[error("no answer: {0}")]
    Unknown(LogError),
}

/// The events of one partition in an atomic batch.
#[derive(Debug, Clone)]
pub struct CommitPart {
    /// The partition.
    pub token: Token,
    /// Its last event, against which these were validated.
    pub expected: EventId,
    /// The records, in order; at least one.
    pub bodies: Vec<Bytes>,
}

impl Log {
    /// Commits one event.
    pub async fn commit_one(
        &self,
        token: &Token,
        expected: EventId,
        body: Bytes,
        trace: Option<&String>,
    ) -> Result<EventId, CommitError> {
        let mut headers = HeaderMap::new();
        trace_headers::add_event(&mut headers, trace);
        if !faults::broken("commit_unchecked") {
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.0.to_string());
        }
        let id = EventId(self.stored_publish(subjects::committed(token), headers, body).await?);
        self.observe(id);
        Ok(id)
    }

    /// Commits all events of all parts, or none. Gives the id of each part's first event; the others of a
    /// part follow without gaps. At most [`BATCH_EVENTS_MAX`] events in all, and no partition twice.
    /// `traces` are those of each part's events, by place; none at all where nothing is traced.
    pub async fn commit_batch(
        &self,
        parts: &[CommitPart],
        traces: &[Vec<PlacedTrace>],
    ) -> Result<Vec<EventId>, CommitError> {
        let total: usize = parts.iter().map(|part| part.bodies.len()).sum();
        assert!((1..=BATCH_EVENTS_MAX).contains(&total), "a batch of {total} events");
        let batch_id = self.client.new_inbox();
        let batch_id = batch_id.rsplit('.').next().unwrap_or(&batch_id);
        let mut number = 0;
        let mut last_ack = None;
        for (place, part) in parts.iter().enumerate() {
            let mut traced = traces.get(place).into_iter().flatten().peekable();
            for (index, body) in part.bodies.iter().enumerate() {
                number += 1;
                let mut headers = HeaderMap::new();
                let trace = traced.next_if(|(place, _)| *place == index).map(|(_, trace)| trace);
                trace_headers::add_event(&mut headers, trace);
                headers.insert(header::NATS_BATCH_ID, batch_id);
                headers.insert(header::NATS_BATCH_SEQUENCE, number.to_string());
                if index == 0 && !faults::broken("commit_unchecked") {
                    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, part.expected.0.to_string());
                }
                let subject = subjects::committed(&part.token);
                if number < total {
                    self.client.publish_with_headers(subject, headers, body.clone()).await.map_err(
                        |error| CommitError::NotStored(format!("the batch could not be sent whole: {error}")),
                    )?;
                } else {
                    headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
                    last_ack = Some(self.stored_publish(subject, headers, body.clone()).await?);
                }
            }
        }
        // The acknowledgement names the last event; the others stand right before it.
        let last = last_ack.unwrap_or_default();
        self.observe(EventId(last));
        let mut first = last + 1 - total as u64;
        Ok(parts
            .iter()
            .map(|part| {
                let id = EventId(first);
                first += part.bodies.len() as u64;
                id
            })
            .collect())
    }

    /// Publishes into a stream and waits for the acknowledgement; gives the sequence number.
    pub(crate) async fn stored_publish(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<u64, CommitError> {
        const WHAT: &str = "storing";
        let reply = match self.request(WHAT, subject, Some(headers), body).await {
            Ok(reply) => reply,
            Err(LogError::Refused { why, .. }) => return Err(CommitError::NotStored(why)),
            Err(error) => return Err(CommitError::Unknown(error)),
        };
        let ack: PublishAck = serde_json::from_slice(&reply.payload)
            .map_err(|error| CommitError::Unknown(LogError::malformed(WHAT, error)))?;
        match ack.error {
            None => Ok(ack.seq),
            Some(error) if is_conflict(&error) => Err(CommitError::Conflict),
            Some(error) => Err(CommitError::NotStored(error.to_string())),
        }
    }
}

fn is_conflict(error: &ApiError) -> bool {
    WRONG_LAST_SEQUENCE.contains(&error.err_code)
}
