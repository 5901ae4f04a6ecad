//! Reading the log: heads, single events, pages, and history through ordered consumers.

use std::pin::Pin;

use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::consumer::{DeliverPolicy, ReplayPolicy};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::batch_get::BatchGet;
use super::connection::Log;
use super::error::LogError;
use super::subjects;
use crate::event::{EventId, Token};

/// An event as it lies in the log: its id and the bytes of its record.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Its place.
    pub id: EventId,
    /// The body; [`EventRecord::parse`](crate::event::EventRecord::parse) reads it.
    pub body: Bytes,
}

impl StoredEvent {
    /// The record as it is stored, with its id in front, as one line of JSON. A payload stands as its client
    /// wrote it, so there may be line breaks between its parts; inside strings JSON has none.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = format!("{{\"eventId\":{},", self.id).into_bytes();
        let record = self.body.strip_prefix(b"{").unwrap_or(&self.body);
        line.extend(record.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        line.push(b'\n');
        line
    }
}

/// Some events of a partition, in order.
#[derive(Debug, Clone)]
pub struct Page {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// Whether the limits cut it: there may be more behind it.
    pub more: bool,
}

impl Log {
    /// The last event of a partition.
    ///
    /// A replica that lags may answer, so this can be behind; it is never ahead.
    pub async fn head(&self, token: &Token) -> Result<Option<StoredEvent>, LogError> {
        let get = BatchGet { multi_last: vec![subjects::committed(token)], batch: 1, ..BatchGet::default() };
        self.get_events("reading a partition's head", &get).await.map(|events| events.into_iter().next())
    }

    /// The first event of a partition behind `after`.
    pub async fn next(&self, token: &Token, after: EventId) -> Result<Option<StoredEvent>, LogError> {
        Ok(self.page(token, after, 1, usize::MAX).await?.events.into_iter().next())
    }

    /// At most `events_max` events of a partition behind `after`, and hardly more than `bytes_max` bytes.
    /// For gaps and pages; long stretches come faster through [`Log::replay`].
    pub async fn page(
        &self,
        token: &Token,
        after: EventId,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Page, LogError> {
        let get = BatchGet {
            seq: Some(after.0 + 1),
            next_by_subj: Some(subjects::committed(token)),
            batch: events_max,
            max_bytes: (bytes_max < i32::MAX as usize).then_some(bytes_max),
            ..BatchGet::default()
        };
        let events = self.get_events("reading a page of the log", &get).await?;
        let bytes: usize = events.iter().map(|event| event.body.len()).sum();
        let more = events.len() >= events_max || bytes >= bytes_max;
        Ok(Page { events, more })
    }

    /// One event by its id, with its partition's token.
    pub async fn event(&self, id: EventId) -> Result<Option<(Token, StoredEvent)>, LogError> {
        const WHAT: &str = "reading an event";
        let get = BatchGet { seq: Some(id.0), batch: 1, ..BatchGet::default() };
        let found = self.batch_get(WHAT, subjects::COMMITTED_STREAM, &get).await?;
        let Some(stored) = found.into_iter().find(|stored| stored.sequence == id.0) else { return Ok(None) };
        let token = subjects::token_of_committed(&stored.subject)
            .and_then(|token| Token::parse(token).ok())
            .ok_or_else(|| LogError::malformed(WHAT, format!("subject {}", stored.subject)))?
            .0;
        Ok(Some((token, StoredEvent { id, body: stored.message.payload })))
    }

    async fn get_events(&self, what: &'static str, get: &BatchGet) -> Result<Vec<StoredEvent>, LogError> {
        let found = self.batch_get(what, subjects::COMMITTED_STREAM, get).await?;
        Ok(found
            .into_iter()
            .map(|stored| StoredEvent { id: EventId(stored.sequence), body: stored.message.payload })
            .collect())
    }

    /// The events of a partition behind `after`, up to and including `upto`, through an ordered consumer
    /// of JetStream's. `upto` must be an event of the partition (its head, say): it is how the replay
    /// knows that it is through.
    pub async fn replay(&self, token: &Token, after: EventId, upto: EventId) -> Result<Replay, LogError> {
        if upto <= after {
            return Ok(Replay { messages: None, last: after, upto, wait: self.settings.request_timeout });
        }
        let messages = self.ordered(subjects::committed(token), after).await?;
        Ok(Replay { messages: Some(messages), last: after, upto, wait: self.settings.request_timeout })
    }

    async fn ordered(&self, subject: String, after: EventId) -> Result<Pin<Box<Ordered>>, LogError> {
        const WHAT: &str = "opening a replay";
        let stream = self
            .js
            .get_stream_no_info(subjects::COMMITTED_STREAM)
            .await
            .map_err(|error| LogError::unavailable(WHAT, error))?;
        let consumer = stream
            .create_consumer(OrderedConfig {
                filter_subject: subject,
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after.0 + 1 },
                replay_policy: ReplayPolicy::Instant,
                ..Default::default()
            })
            .await
            .map_err(|error| LogError::unavailable(WHAT, error))?;
        let messages = consumer.messages().await.map_err(|error| LogError::unavailable(WHAT, error))?;
        Ok(Box::pin(messages))
    }
}

/// A stretch of a partition's history, being read.
pub struct Replay {
    messages: Option<Pin<Box<Ordered>>>,
    last: EventId,
    upto: EventId,
    wait: std::time::Duration,
}

impl Replay {
    /// The next event; `None` once the last one asked for was given. After an error the replay is over.
    pub async fn next(&mut self) -> Result<Option<StoredEvent>, LogError> {
        const WHAT: &str = "replaying the log";
        if self.last >= self.upto {
            self.messages = None;
            return Ok(None);
        }
        let Some(messages) = &mut self.messages else { return Ok(None) };
        let message = timeout(self.wait, messages.next())
            .await
            .map_err(|_| LogError::unavailable(WHAT, "timed out"))?
            .ok_or_else(|| LogError::unavailable(WHAT, "the consumer ended"))?
            .map_err(|error| LogError::unavailable(WHAT, error))?;
        let id = message.info().map_err(|error| LogError::malformed(WHAT, error))?.stream_sequence;
        self.last = EventId(id);
        if self.last > self.upto {
            // The event that was to be the last is no longer there.
            return Err(LogError::malformed(
                WHAT,
                format!("event {} is missing; the next one is {id}", self.upto),
            ));
        }
        Ok(Some(StoredEvent { id: self.last, body: message.message.payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_its_client_wrote() {
        let body = "{\"type\":\"set\",\"payload\":{\n  \"target\": \"a\\nb\"\r\n}}".into();
        let line = String::from_utf8(StoredEvent { id: EventId(7), body }.to_line()).unwrap();
        assert_eq!(line.trim_end_matches('\n').lines().count(), 1);
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["eventId"], 7);
        assert_eq!(event["payload"]["target"], "a\nb");
    }
}
