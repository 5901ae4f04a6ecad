//! Reading from the stream's leader.
//!
//! With replicas, a direct get may be answered by one that lags. For whoever shows events that is a moment's
//! delay; for a validator that has just taken a slot it would be a state of the past, on which it may reject
//! what the present would accept. Commits are checked by the stream, rejections are not: so a validator asks
//! the leader for the head.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::connection::Log;
use super::drafts::ApiError;
use super::error::LogError;
use super::replay::StoredEvent;
use super::subjects;
use crate::event::{EventId, Token};

#[derive(Deserialize)]
struct Reply {
    message: Option<Stored>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Stored {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct StreamInfo {
    state: Option<StreamState>,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct StreamState {
    last_seq: u64,
}

impl Log {
    /// The last event of all partitions, as the leader of the stream has it: what anybody has been told of so far
    /// is no later one.
    pub async fn last_of_all(&self) -> Result<EventId, LogError> {
        const WHAT: &str = "asking the leader for the last event";
        let subject = self.api(&format!("STREAM.INFO.{}", subjects::COMMITTED_STREAM));
        let reply = self.request(WHAT, subject, None, Bytes::new()).await?;
        let info: StreamInfo =
            serde_json::from_slice(&reply.payload).map_err(|error| LogError::malformed(WHAT, error))?;
        match (info.state, info.error) {
            (Some(state), _) => Ok(EventId(state.last_seq)),
            (None, Some(error)) => Err(LogError::unavailable(WHAT, error)),
            (None, None) => Err(LogError::malformed(WHAT, "neither a state nor an error")),
        }
    }

    /// The last event of a partition, as the leader of the stream has it.
    pub async fn leader_head(&self, token: &Token) -> Result<Option<StoredEvent>, LogError> {
        const WHAT: &str = "asking the leader for a partition's head";
        let get = serde_json::json!({ "last_by_subj": subjects::committed(token) });
        Ok(self.leader_get(WHAT, &get).await?.map(|(_, event)| event))
    }

    /// An event of a partition by its id, as the leader of the stream has it.
    pub async fn leader_event(&self, token: &Token, id: EventId) -> Result<Option<StoredEvent>, LogError> {
        const WHAT: &str = "asking the leader for an event";
        let found = self.leader_get(WHAT, &serde_json::json!({ "seq": id.0 })).await?;
        Ok(found.filter(|(subject, _)| *subject == subjects::committed(token)).map(|(_, event)| event))
    }

    /// What is kept under a key of the revocations, as the leader of the stream has it.
    pub async fn leader_revocation(&self, key: &str) -> Result<Option<Bytes>, LogError> {
        const WHAT: &str = "asking the leader for a revocation";
        let get = serde_json::json!({ "last_by_subj": subjects::revoked(key) });
        let kept = self.leader_get_of(subjects::REVOKED_STREAM, WHAT, &get).await?;
        // That one was taken back is a message without a body.
        Ok(kept.map(|(_, kept)| kept.body).filter(|body| !body.is_empty()))
    }

    /// One message of the log, with its subject.
    async fn leader_get(
        &self,
        what: &'static str,
        get: &serde_json::Value,
    ) -> Result<Option<(String, StoredEvent)>, LogError> {
        self.leader_get_of(subjects::COMMITTED_STREAM, what, get).await
    }

    /// One message of a stream, with its subject.
    async fn leader_get_of(
        &self,
        stream: &str,
        what: &'static str,
        get: &serde_json::Value,
    ) -> Result<Option<(String, StoredEvent)>, LogError> {
        let subject = self.api(&format!("STREAM.MSG.GET.{stream}"));
        let reply = self.request(what, subject, None, Bytes::from(get.to_string())).await?;
        let reply: Reply =
            serde_json::from_slice(&reply.payload).map_err(|error| LogError::malformed(what, error))?;
        match (reply.message, reply.error) {
            (Some(stored), _) => {
                let body = STANDARD.decode(stored.data).map_err(|error| LogError::malformed(what, error))?;
                let event = StoredEvent { id: EventId(stored.seq), body: Bytes::from(body) };
                Ok(Some((stored.subject, event)))
            }
            (None, Some(error)) if error.code == 404 => Ok(None),
            (None, Some(error)) => Err(LogError::unavailable(what, error)),
            (None, None) => Err(LogError::malformed(what, "neither a message nor an error")),
        }
    }
}
