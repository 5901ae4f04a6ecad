//! What there is, for whoever looks after it: the partitions in the log and the drafts on the queue.
//!
//! JetStream counts messages by subject; this asks for those counts, and is not for any hot path.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use crate::event::{EventId, PartitionKey, Slot, Token};
use crate::log::api::ApiError;
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::read::replay::StoredEvent;
use crate::log::streams::bootstrap::NO_STREAM;
use crate::log::subjects;

/// The most subjects that are counted. With more partitions than this, the survey refuses instead of taking
/// ever more memory.
const SUBJECTS_MAX: u64 = 2_000_000;

/// A partition in the log.
#[derive(Debug, Clone)]
pub struct PartitionStats {
    /// The partition.
    pub partition: PartitionKey,
    /// How many events it has.
    pub events: u64,
    /// The last of them; `None` if it could not be had together with the others.
    pub last: Option<StoredEvent>,
}

/// Some of the partitions, in the order of their subject tokens.
#[derive(Debug, Clone)]
pub struct PartitionPage {
    /// How many partitions there are in all.
    pub total: u64,
    /// The partitions.
    pub partitions: Vec<PartitionStats>,
    /// Whether there are more behind them.
    pub more: bool,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    state: Option<State>,
    #[serde(default)]
    error: Option<ApiError>,
    #[serde(default)]
    total: u64,
}

#[derive(Deserialize)]
struct State {
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

impl Log {
    /// At most `max` partitions behind `after`, each with its last event.
    pub async fn partitions(&self, after: Option<&Token>, max: usize) -> Result<PartitionPage, LogError> {
        const WHAT: &str = "counting the partitions";
        let after = after.map(subjects::committed);
        let mut page = BTreeMap::new();
        let (mut total, mut behind) = (0, 0_usize);
        self.count_subjects(WHAT, subjects::COMMITTED_STREAM, subjects::COMMITTED_ALL, |subject, events| {
            total += 1;
            if after.as_ref().is_none_or(|after| subject > *after) {
                behind += 1;
                page.insert(subject, events);
                if page.len() > max {
                    page.pop_last();
                }
            }
        })
        .await?;
        let mut last = self.last_events(page.keys().cloned().collect()).await?;
        let mut partitions = Vec::with_capacity(page.len());
        for (subject, events) in page {
            match subjects::token_of_committed(&subject).map(Token::parse) {
                Some(Ok((_, partition))) => {
                    partitions.push(PartitionStats { partition, events, last: last.remove(&subject) });
                }
                // Not ours; said, so that somebody finds out who wrote it.
                _ => tracing::warn!(subject, "a subject in the log that is no partition's; left out"),
            }
        }
        Ok(PartitionPage { total, partitions, more: behind > max })
    }

    /// All partitions in the log, in the order of their subject tokens.
    pub async fn partition_names(&self) -> Result<Vec<PartitionKey>, LogError> {
        const WHAT: &str = "listing the partitions";
        let mut names = BTreeMap::new();
        self.count_subjects(WHAT, subjects::COMMITTED_STREAM, subjects::COMMITTED_ALL, |subject, _| {
            match subjects::token_of_committed(&subject).map(Token::parse) {
                Some(Ok((_, partition))) => drop(names.insert(subject, partition)),
                _ => tracing::warn!(subject, "a subject in the log that is no partition's; left out"),
            }
        })
        .await?;
        Ok(names.into_values().collect())
    }

    /// How many undecided drafts each slot has; slots without any are not in it. No queue has no drafts: it may
    /// be gone with a NATS that was restarted, until a validator makes it anew.
    pub async fn drafts_by_slot(&self) -> Result<BTreeMap<Slot, u64>, LogError> {
        const WHAT: &str = "counting the drafts";
        let mut drafts = BTreeMap::new();
        self.count_subjects(WHAT, subjects::DRAFTS_STREAM, subjects::DRAFTS_ALL, |subject, count| {
            let slot = subject.split('.').nth(1).and_then(|slot| slot.parse().ok());
            if let Some(slot) = slot {
                *drafts.entry(Slot(slot)).or_default() += count;
            }
        })
        .await?;
        Ok(drafts)
    }

    /// Tells `each` every subject of a stream and its number of messages.
    pub(crate) async fn count_subjects(
        &self,
        what: &'static str,
        stream: &str,
        filter: &str,
        mut each: impl FnMut(String, u64),
    ) -> Result<(), LogError> {
        let mut offset = 0_u64;
        loop {
            let body = json!({ "subjects_filter": filter, "offset": offset }).to_string();
            let subject = self.api(&format!("STREAM.INFO.{stream}"));
            let reply = self.request(what, subject, None, body.into()).await?;
            let info: Info =
                serde_json::from_slice(&reply.payload).map_err(|error| LogError::malformed(what, error))?;
            match info.error {
                None => {}
                Some(error) if error.err_code == NO_STREAM && stream == subjects::DRAFTS_STREAM => {
                    return Ok(());
                }
                // 4xx is about the request, 5xx about the server's own state just now.
                Some(error) if error.code < 500 => return Err(LogError::refused(what, error)),
                Some(error) => return Err(LogError::unavailable(what, error)),
            }
            let subjects = info.state.and_then(|state| state.subjects).unwrap_or_default();
            if info.total > SUBJECTS_MAX {
                let why = format!("{} subjects, of which at most {SUBJECTS_MAX} are counted", info.total);
                return Err(LogError::refused(what, why));
            }
            offset += subjects.len() as u64;
            let done = subjects.is_empty() || offset >= info.total;
            for (subject, count) in subjects {
                each(subject, count);
            }
            if done {
                return Ok(());
            }
        }
    }

    /// The last event on each subject.
    async fn last_events(&self, of: Vec<String>) -> Result<BTreeMap<String, StoredEvent>, LogError> {
        const WHAT: &str = "reading partitions' heads";
        let found = self.get_last_of(WHAT, subjects::COMMITTED_STREAM, of).await?;
        Ok(found
            .into_iter()
            .map(|stored| {
                let event = StoredEvent { id: EventId(stored.sequence), body: stored.message.payload };
                (stored.subject, event)
            })
            .collect())
    }
}
