//! Reading from the stream's leader.
//!
//! With replicas, a direct get may be answered by one that lags. For whoever shows events that is a moment's
//! delay; for a validator that has just taken a slot it would be a state of the past, on which it may reject
//! what the present would accept. Commits are checked by the stream, rejections are not: so a validator asks
//! the leader for the head.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::replay::StoredEvent;
use crate::event::{EventId, Token};
use crate::faults;
use crate::log::api::ApiError;
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::subjects;

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
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct StreamState {
    last_seq: u64,
    /// The messages of each subject that was asked for.
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

/// The stream's replicas, as the one that answers sees them.
#[derive(Deserialize)]
struct Cluster {
    #[serde(default)]
    leader: String,
    /// The others.
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Deserialize)]
struct Replica {
    /// Nanoseconds since it was last heard of.
    #[serde(default = "never")]
    active: u64,
}

fn never() -> u64 {
    u64::MAX
}

impl Cluster {
    /// How many of the others were heard of within this time.
    fn heard_of(&self, within: Duration) -> usize {
        self.replicas.iter().filter(|replica| u128::from(replica.active) < within.as_nanos()).count()
    }

    /// Whether a majority, with the one that answers, was heard of within this time.
    fn is_majority(&self, within: Duration) -> bool {
        2 * (self.heard_of(within) + 1) > self.replicas.len() + 1
    }
}

/// A replica that has heard of the leader within this time elects no other: NATS takes at least 4 s for that.
const NO_ELECTION: Duration = Duration::from_secs(2);
/// The pause between two looks at who leads: the leader hears of the others once a second.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// The most looks, for a little more than the longest election.
const LOOKS_MAX: u32 = 50;

impl Log {
    /// The last event of all partitions, as the leader of the stream has it: what anybody has been told of so far
    /// is no later one.
    pub async fn last_of_all(&self) -> Result<EventId, LogError> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return stand_in.last_of_all().await;
        }
        Ok(EventId(
            self.confirmed_state("asking the leader for the last event", Bytes::new()).await?.last_seq,
        ))
    }

    /// How many events a partition has, as the leader of the stream has it. No later read tells of fewer.
    pub(crate) async fn events_of(&self, token: &Token) -> Result<u64, LogError> {
        const WHAT: &str = "asking the leader for a partition's events";
        let subject = subjects::committed(token);
        let asked = serde_json::json!({ "subjects_filter": subject }).to_string();
        let state = self.confirmed_state(WHAT, asked.into()).await?;
        Ok(state.subjects.and_then(|counts| counts.get(&subject).copied()).unwrap_or(0))
    }

    /// What the leader of the log says of the stream; `asked` says what is wanted beside the usual.
    ///
    /// Any server that believes to lead answers this from memory, also one that was cut off or paused while the others
    /// have elected another. So the answer counts only if no other can have been elected before it: all replicas were
    /// heard of so recently that none has called an election; or a majority was heard of after it, as replicas answer
    /// only the leader that they follow.
    async fn confirmed_state(&self, what: &'static str, asked: Bytes) -> Result<StreamState, LogError> {
        let mut first: Option<(Instant, String, StreamState)> = None;
        for _ in 0..LOOKS_MAX {
            let asked_at = Instant::now();
            let (state, cluster) = self.stream_state(what, asked.clone()).await?;
            let Some(cluster) = cluster.filter(|cluster| !cluster.replicas.is_empty()) else {
                return Ok(state);
            };
            if cluster.heard_of(NO_ELECTION) == cluster.replicas.len() || faults::broken("believe_old_leader")
            {
                return Ok(state);
            }
            first = match first.take() {
                Some((answered, leader, first)) if leader == cluster.leader => {
                    // What was heard before this question was asked is older than its answer says.
                    if cluster.is_majority(asked_at.saturating_duration_since(answered)) {
                        return Ok(first);
                    }
                    Some((answered, leader, first))
                }
                _ => Some((Instant::now(), cluster.leader, state)),
            };
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(LogError::unavailable(what, "the stream has no leader that a majority follows"))
    }

    /// What the server says of the stream that answers for it, and what replicas it sees.
    async fn stream_state(
        &self,
        what: &'static str,
        asked: Bytes,
    ) -> Result<(StreamState, Option<Cluster>), LogError> {
        let subject = self.api(&format!("STREAM.INFO.{}", subjects::COMMITTED_STREAM));
        let reply = self.request(what, subject, None, asked).await?;
        let info: StreamInfo =
            serde_json::from_slice(&reply.payload).map_err(|error| LogError::malformed(what, error))?;
        match (info.state, info.error) {
            (Some(state), _) => Ok((state, info.cluster)),
            (None, Some(error)) => Err(LogError::unavailable(what, error)),
            (None, None) => Err(LogError::malformed(what, "neither a state nor an error")),
        }
    }

    /// The id of the last message that the log still has, as the leader of the stream has it.
    pub async fn leader_last(&self) -> Result<Option<EventId>, LogError> {
        const WHAT: &str = "asking the leader for the last event";
        let get = serde_json::json!({ "last_by_subj": subjects::COMMITTED_ALL });
        Ok(self.leader_get(WHAT, &get).await?.map(|(_, event)| event.id))
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

    /// Which rules were put in force, as the leader of the stream has it, and the place where that stands.
    pub(crate) async fn leader_rules_in_force(&self) -> Result<Option<(EventId, Bytes)>, LogError> {
        const WHAT: &str = "asking the leader which rules are in force";
        let get = serde_json::json!({ "last_by_subj": subjects::RULES_IN_FORCE });
        let kept = self.leader_get_of(subjects::RULES_STREAM, WHAT, &get).await?;
        Ok(kept.map(|(_, kept)| (kept.id, kept.body)))
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
        if stream == subjects::COMMITTED_STREAM && faults::is_old_leader() {
            return Ok(None);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(active_ms: &[u64]) -> Cluster {
        let replicas = active_ms.iter().map(|ms| Replica { active: ms * 1_000_000 }).collect();
        Cluster { leader: "one".to_owned(), replicas }
    }

    #[test]
    fn a_leader_is_believed_by_whom_it_has_heard_of() {
        let within = Duration::from_millis(100);
        assert!(cluster(&[5, 5_000]).is_majority(within), "two of three");
        assert!(!cluster(&[5_000, 5_000]).is_majority(within), "alone of three");
        assert!(!cluster(&[5, 5_000, 5_000]).is_majority(within), "two of four");
        assert!(cluster(&[5, 5, 5_000, 5_000]).is_majority(within), "three of five");
        assert_eq!(cluster(&[5, 5_000]).heard_of(within), 1);
        let unknown: Cluster =
            serde_json::from_str(r#"{"leader":"one","replicas":[{"name":"two"}]}"#).unwrap();
        assert_eq!(unknown.heard_of(Duration::from_secs(1_000)), 0);
    }
}
