//! Revocations, as they are kept: a key-value bucket of which the administration writes, and everybody who
//! checks tokens reads. An entry goes by itself when its time is up (`Nats-TTL`).
//!
//! It is read in the order in which it was written, by direct gets from where a reader has got to: a reader
//! needs no consumer, and no right but to read.

use std::time::Duration;

use async_nats::{HeaderMap, Message, header};
use bytes::Bytes;

use super::append::CommitError;
use super::client::Log;
use super::error::LogError;
use super::ownership::KV_OPERATION;
use super::read::batch_get::BatchGet;
use super::subjects::{REVOKED_STREAM, REVOKED_SUBJECTS, revoked};

/// The most entries that are read at a time.
const ENTRIES_AT_ONCE: usize = 256;
/// How long it is kept that an entry was taken back: longer than any reader is without a look, or without a
/// look at everything.
const LIFTED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// An entry of the bucket.
#[derive(Debug, Clone)]
pub struct StoredRevocation {
    /// Its place: later ones have higher ones.
    pub sequence: u64,
    /// Its key.
    pub key: String,
    /// What it says; `None` if it was taken back.
    pub body: Option<Bytes>,
}

impl Log {
    /// Entries behind a place, in the order written; of every key only the latest. None when there are no more.
    ///
    /// A replica that lags may answer: what is not there yet comes with a later call.
    pub async fn revocations(&self, after: u64) -> Result<Vec<StoredRevocation>, LogError> {
        let get = BatchGet {
            seq: Some(after.saturating_add(1)),
            next_by_subj: Some(REVOKED_SUBJECTS.to_owned()),
            batch: ENTRIES_AT_ONCE,
            ..BatchGet::default()
        };
        let found = self.batch_get("reading revocations", REVOKED_STREAM, get).await?;
        let prefix = revoked("");
        let entries = found.into_iter().map(|stored| {
            let is_lifted = is_lifted(&stored.message);
            StoredRevocation {
                sequence: stored.sequence,
                key: stored.subject.strip_prefix(&prefix).unwrap_or(&stored.subject).to_owned(),
                body: (!is_lifted).then_some(stored.message.payload),
            }
        });
        Ok(entries.collect())
    }

    /// What is kept under a key, if anything is.
    pub async fn revocation(&self, key: &str) -> Result<Option<Bytes>, LogError> {
        let get = BatchGet { multi_last: vec![revoked(key)], batch: 1, ..BatchGet::default() };
        let found = self.batch_get("reading a revocation", REVOKED_STREAM, get).await?;
        let kept = found.into_iter().find(|stored| !is_lifted(&stored.message));
        Ok(kept.map(|stored| stored.message.payload))
    }

    /// Keeps an entry under a key, in the place of the one before; for ever, or for a while of at least a second.
    /// Gives its place.
    pub async fn revoke(&self, key: &str, body: Bytes, keep: Option<Duration>) -> Result<u64, LogError> {
        let mut headers = HeaderMap::new();
        if let Some(keep) = keep {
            headers.insert(header::NATS_MESSAGE_TTL, format!("{}s", keep.as_secs().max(1)));
        }
        self.write("keeping a revocation", key, headers, body).await
    }

    /// Takes back what is kept under a key. Gives the place of the note of that.
    pub async fn lift_revocation(&self, key: &str) -> Result<u64, LogError> {
        let mut headers = HeaderMap::new();
        headers.insert(KV_OPERATION, "DEL");
        headers.insert(header::NATS_MESSAGE_TTL, format!("{}s", LIFTED_FOR.as_secs()));
        self.write("taking back a revocation", key, headers, Bytes::new()).await
    }

    async fn write(
        &self,
        what: &'static str,
        key: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<u64, LogError> {
        self.stored_publish(revoked(key), headers, body).await.map_err(|error| match error {
            CommitError::NotStored(why) => LogError::refused(what, why),
            error => LogError::unavailable(what, error),
        })
    }
}

/// Whether an entry is the note that there is none any more.
fn is_lifted(entry: &Message) -> bool {
    entry.headers.as_ref().is_some_and(|headers| headers.get(KV_OPERATION).is_some())
}
