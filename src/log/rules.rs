//! Applications' rules, as they are kept: a key-value bucket of which the operator writes, and everybody who folds
//! events reads. Versions are kept for ever, because events name them.

use async_nats::{HeaderMap, header};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::append::CommitError;
use super::client::Log;
use super::error::LogError;
use super::read::batch_get::BatchGet;
use super::subjects::{RULES_IN_FORCE, RULES_STREAM, RULES_VERSIONS, rules_version};
use crate::event::{RulesInForceId, RulesVersion};

/// The most activations that are remembered; what is in force is the last.
const ACTIVATIONS_MAX: usize = 200;
/// What NATS needs of a message besides what is kept.
const KEY_BYTES: usize = 4096;

/// One time at which rules were put in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Activation {
    /// What was.
    pub rules: RulesInForceId,
    /// When, in Unix milliseconds.
    pub at: u64,
}

/// All of them, the latest last.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Activations {
    activations: Vec<Activation>,
}

/// A version that is kept.
#[derive(Debug, Clone)]
pub struct RulesPublished {
    /// Which.
    pub version: RulesVersion,
    /// What was published.
    pub body: Bytes,
}

impl Log {
    /// The most bytes of a version that are kept.
    pub fn rules_bytes_max(&self) -> usize {
        self.message_bytes_max().saturating_sub(KEY_BYTES)
    }

    /// What is in force. A replica that lags may answer, with what was before.
    pub async fn rules_in_force(&self) -> Result<Option<RulesInForceId>, LogError> {
        const WHAT: &str = "reading which rules are in force";
        let body = self.kept_rules(WHAT, RULES_IN_FORCE.to_owned()).await?;
        let known = body.map(|body| read(WHAT, &body)).transpose()?.unwrap_or_default();
        Ok(known.activations.last().map(|last| last.rules))
    }

    /// What was put in force, the latest last, as the leader of the bucket has it.
    pub async fn rules_activations(&self) -> Result<Vec<Activation>, LogError> {
        Ok(self.activations().await?.1.activations)
    }

    /// Puts a version in force. Fails if somebody else does at the same time.
    pub async fn activate_rules(&self, version: RulesVersion, at: u64) -> Result<RulesInForceId, LogError> {
        const WHAT: &str = "putting rules in force";
        let (place, mut known) = self.activations().await?;
        let activation = known.activations.last().map_or(1, |last| last.rules.activation + 1);
        let rules = RulesInForceId { activation, version };
        known.activations.push(Activation { rules, at });
        let over = known.activations.len().saturating_sub(ACTIVATIONS_MAX);
        known.activations.drain(..over);
        let body = serde_json::to_vec(&known).map_err(|error| LogError::malformed(WHAT, error))?;
        self.keep_rules(WHAT, RULES_IN_FORCE.to_owned(), place, body.into()).await?;
        Ok(rules)
    }

    /// Keeps a version. False if it was kept before.
    pub async fn publish_rules(&self, version: RulesVersion, body: Bytes) -> Result<bool, LogError> {
        const WHAT: &str = "keeping a version of the rules";
        if self.rules_of(version).await?.is_some() {
            return Ok(false);
        }
        self.keep_rules(WHAT, rules_version(&version.to_string()), 0, body).await?;
        Ok(true)
    }

    /// A version's module.
    pub async fn rules_of(&self, version: RulesVersion) -> Result<Option<Bytes>, LogError> {
        self.kept_rules("reading a version of the rules", rules_version(&version.to_string())).await
    }

    /// All versions that are kept.
    pub async fn rules_published(&self) -> Result<Vec<RulesPublished>, LogError> {
        const WHAT: &str = "listing the versions of the rules";
        let prefix = rules_version("");
        let found = self.get_all(WHAT, RULES_STREAM, RULES_VERSIONS.to_owned()).await?;
        let published = found.into_iter().filter_map(|stored| {
            let version = stored.subject.strip_prefix(&prefix)?.parse().ok()?;
            Some(RulesPublished { version, body: stored.message.payload })
        });
        Ok(published.collect())
    }

    async fn activations(&self) -> Result<(u64, Activations), LogError> {
        match self.leader_rules_in_force().await? {
            None => Ok((0, Activations::default())),
            Some((place, body)) => Ok((place.0, read("reading which rules are in force", &body)?)),
        }
    }

    async fn kept_rules(&self, what: &'static str, subject: String) -> Result<Option<Bytes>, LogError> {
        let get = BatchGet { multi_last: vec![subject], batch: 1, ..BatchGet::default() };
        let found = self.batch_get(what, RULES_STREAM, get).await?;
        Ok(found.into_iter().next().map(|stored| stored.message.payload))
    }

    /// Keeps something in the place of what stands at `place`; 0 where there is nothing.
    async fn keep_rules(
        &self,
        what: &'static str,
        subject: String,
        place: u64,
        body: Bytes,
    ) -> Result<(), LogError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, place.to_string());
        match self.stored_publish(subject, headers, body).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict) => {
                Err(LogError::refused(what, "somebody else has just done the same; look, and try again"))
            }
            Err(CommitError::NotStored(why)) => Err(LogError::refused(what, why)),
            Err(error) => Err(LogError::unavailable(what, error)),
        }
    }
}

fn read(what: &'static str, body: &[u8]) -> Result<Activations, LogError> {
    serde_json::from_slice(body).map_err(|error| LogError::malformed(what, error))
}
