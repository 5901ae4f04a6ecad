//! Storing events that were committed elsewhere, under ids that an importer wants.

use async_nats::{HeaderMap, header};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use crate::event::{EventId, Token};
use crate::log::api::ApiError;
use crate::log::append::{BATCH_EVENTS_MAX, CommitError};
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::integrity::damage::LogDamage;
use crate::log::subjects;

/// What stands at ids that an import leaves out, until it is through. No partition's token has a dot.
const GAP: &str = "committed.import.gap";

/// An event to be stored.
#[derive(Debug, Clone)]
pub struct ImportedEvent {
    /// The partition; `None` for a placeholder.
    pub token: Option<Token>,
    /// The record.
    pub body: Bytes,
    /// The last event that the partition must have. Only of a partition's first event in a batch.
    pub expected: Option<EventId>,
}

/// Where the log ends.
#[derive(Debug, Clone, Copy)]
pub struct EndOfLog {
    /// How many messages it has.
    pub messages: u64,
    /// The last id that was used; 0 if none was.
    pub last: u64,
}

#[derive(Deserialize)]
struct Purged {
    error: Option<ApiError>,
}

impl Log {
    /// Where the log ends.
    pub async fn end_of_log(&self) -> Result<EndOfLog, LogError> {
        const WHAT: &str = "asking for the end of the log";
        let info = self.stream_info(subjects::COMMITTED_STREAM).await?;
        let state = info.ok_or_else(|| LogError::refused(WHAT, "there is no log: run bootstrap"))?.state;
        Ok(EndOfLog { messages: state.messages, last: state.last_sequence })
    }

    /// Has the next event of a log that has none get this id.
    pub async fn begin_ids_at(&self, first: EventId) -> Result<(), LogError> {
        self.purge_committed("setting the first id of the log", json!({ "seq": first.0 }).to_string()).await
    }

    /// Stores events in this order, all or none, at most [`BATCH_EVENTS_MAX`], if `last` is the log's last id. Gives
    /// the id of the first; the others follow without gaps.
    pub async fn store_imported(
        &self,
        events: &[ImportedEvent],
        last: Option<EventId>,
    ) -> Result<EventId, CommitError> {
        let total = events.len();
        assert!((1..=BATCH_EVENTS_MAX).contains(&total), "a batch of {total} events");
        let inbox = self.client.new_inbox();
        let batch = inbox.rsplit('.').next().unwrap_or(&inbox);
        for (index, event) in events.iter().enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_BATCH_ID, batch);
            headers.insert(header::NATS_BATCH_SEQUENCE, (index + 1).to_string());
            if let Some(last) = last.filter(|_| index == 0) {
                headers.insert(header::NATS_EXPECTED_LAST_SEQUENCE, last.0.to_string());
            }
            if let Some(expected) = event.expected {
                headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.0.to_string());
            }
            let subject = event.token.as_ref().map_or(GAP.to_owned(), subjects::committed);
            if index + 1 < total {
                let sent = self.client.publish_with_headers(subject, headers, event.body.clone()).await;
                sent.map_err(|error| {
                    CommitError::NotStored(format!("the batch could not be sent whole: {error}"))
                })?;
            } else {
                headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
                let last = self.stored_publish(subject, headers, event.body.clone()).await?;
                return Ok(EventId((last + 1).saturating_sub(total as u64)));
            }
        }
        Err(CommitError::NotStored("an empty batch".to_owned()))
    }

    /// Removes the placeholders of an import.
    pub async fn remove_gaps(&self) -> Result<(), LogError> {
        self.purge_committed("removing placeholders of an import", json!({ "filter": GAP }).to_string()).await
    }

    /// From now on ids that an import left out are missing as they should be.
    pub async fn accept_import(&self) -> Result<(), LogError> {
        let (before, now, damages) = self.compare_with_mark().await?;
        let meant =
            |damage: &LogDamage| matches!(damage, LogDamage::Deleted { .. } | LogDamage::Purged { .. });
        match now {
            Some(now) if !damages.is_empty() && damages.iter().all(meant) => {
                self.accept(before, now).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Whether any of these partitions has an event.
    pub async fn has_events_of(&self, tokens: impl Iterator<Item = &Token>) -> Result<bool, LogError> {
        const WHAT: &str = "looking for partitions";
        let subjects: Vec<String> = tokens.map(subjects::committed).collect();
        Ok(!self.get_last_of(WHAT, subjects::COMMITTED_STREAM, subjects).await?.is_empty())
    }

    async fn purge_committed(&self, what: &'static str, ask: String) -> Result<(), LogError> {
        let subject = self.api(&format!("STREAM.PURGE.{}", subjects::COMMITTED_STREAM));
        let reply = self.request(what, subject, None, ask.into()).await?;
        let purged: Purged =
            serde_json::from_slice(&reply.payload).map_err(|error| LogError::malformed(what, error))?;
        match purged.error {
            None => Ok(()),
            Some(error) => Err(LogError::refused(what, error)),
        }
    }
}
