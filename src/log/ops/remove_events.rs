//! Taking events out of the log. For an operator who has looked, and for nobody else: it undoes what was committed.

use async_nats::jetstream::stream::Stream;
use serde::Serialize;

use crate::event::{EventId, Token};
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::integrity::damage::LogDamage;
use crate::log::read::replay::StoredEvent;
use crate::log::subjects;

/// An event that was taken out, as it is kept: one line of JSON, with all that it takes to see what it was.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedEvent {
    /// Its id.
    pub event_id: EventId,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body, base64.
    pub body: String,
}

impl Log {
    /// An event with all that belongs to it.
    pub async fn whole_event(&self, id: EventId) -> Result<RemovedEvent, LogError> {
        use base64::Engine;
        const WHAT: &str = "reading an event";
        let stored = self
            .committed_stream(WHAT)
            .await?
            .get_raw_message(id.0)
            .await
            .map_err(|error| LogError::unavailable(WHAT, format!("{id}: {error}")))?;
        let headers = stored.headers.iter().flat_map(|(name, values)| {
            values.iter().map(|value| (name.to_string(), value.as_str().to_owned()))
        });
        Ok(RemovedEvent {
            event_id: id,
            headers: headers.collect(),
            subject: stored.subject.to_string(),
            body: base64::engine::general_purpose::STANDARD.encode(&stored.payload),
        })
    }

    /// Deletes events, which nothing brings back, the last one first, so that what is left is a beginning of the
    /// partition at every moment. That they are missing is from now on as it should be.
    pub async fn delete_events(&self, events: &[EventId]) -> Result<(), LogError> {
        const WHAT: &str = "deleting an event";
        let stream = self.committed_stream(WHAT).await?;
        for id in events.iter().rev() {
            let deleted = stream.delete_message(id.0).await;
            if !deleted.map_err(|error| LogError::refused(WHAT, format!("{id}: {error}")))? {
                return Err(LogError::refused(WHAT, format!("{id} was not deleted")));
            }
        }
        let (before, now, damages) = self.compare_with_mark().await?;
        let meant =
            |damage: &LogDamage| matches!(damage, LogDamage::Deleted { .. } | LogDamage::Purged { .. });
        match now {
            Some(now) if damages.iter().all(meant) => self.accept(before, now).await.map(drop),
            _ => Ok(()),
        }
    }

    async fn committed_stream(&self, what: &'static str) -> Result<Stream<()>, LogError> {
        let stream = self.js.get_stream_no_info(subjects::COMMITTED_STREAM).await;
        stream.map_err(|error| LogError::unavailable(what, error))
    }

    /// All events of a partition from `after` on, whatever they are, told to `each` in order.
    pub async fn each_event(
        &self,
        token: &Token,
        mut each: impl FnMut(&StoredEvent),
    ) -> Result<(), LogError> {
        let Some(head) = self.leader_head(token).await? else { return Ok(()) };
        let mut replay = self.replay(token, EventId::NONE, head.id);
        while let Some(stored) = replay.next().await? {
            each(&stored);
        }
        Ok(())
    }
}
