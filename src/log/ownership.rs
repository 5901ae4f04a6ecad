//! Who is alive, and who owns which slot: one bucket whose keys expire unless renewed.
//!
//! Ownership is for speed and order only. Whoever wrongly believes to own a slot can commit nothing on
//! stale state and confirm no rejection.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::{HeaderMap, Subscriber, header};
use bytes::Bytes;
use futures_util::StreamExt;

use super::batch_get::BatchGet;
use super::commit::CommitError;
use super::connection::Log;
use super::error::LogError;
use super::subjects::{OWNERSHIP_BUCKET, OWNERSHIP_STREAM};
use crate::event::Slot;

pub(super) const KV_OPERATION: &str = "KV-Operation";
/// More keys than any deployment has: 1024 slots and as many validators.
const KEYS_MAX: usize = 4096;

/// The bucket as it is just now.
#[derive(Debug, Clone, Default)]
pub struct OwnershipView {
    /// The validators that are alive.
    pub validators: BTreeSet<String>,
    /// The owner of every owned slot.
    pub owners: BTreeMap<Slot, String>,
    /// The revision of every slot's key, also where it only says that the slot was released.
    pub revisions: BTreeMap<Slot, u64>,
}

/// A hold on a slot. Its consumer goes by the revision with which the hold began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnedSlot {
    /// The slot.
    pub slot: Slot,
    /// The key's revision when the slot was taken; never used again for another hold.
    pub since: u64,
    /// The key's revision now.
    revision: u64,
}

impl OwnedSlot {
    /// The same hold with its key at another revision: a renewal went through whose answer was lost.
    pub fn renewed_at(self, revision: u64) -> Self {
        Self { revision, ..self }
    }
}

#[cfg(feature = "fault-points")]
impl OwnedSlot {
    /// A hold that nobody gave: for the fault point at which a validator will not lose a slot.
    pub fn pretend(slot: Slot, since: u64) -> Self {
        Self { slot, since, revision: 0 }
    }

    /// A hold that a simulated log gave.
    pub fn taken(slot: Slot, revision: u64) -> Self {
        Self { slot, since: revision, revision }
    }

    /// The key's revision now.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

impl Log {
    /// Reads the bucket. Ownership is decided by compare-and-set, so a view that lags does no harm.
    pub async fn ownership(&self) -> Result<OwnershipView, LogError> {
        const WHAT: &str = "reading slot ownership";
        let get = BatchGet {
            multi_last: vec![format!("$KV.{OWNERSHIP_BUCKET}.>")],
            batch: KEYS_MAX,
            ..BatchGet::default()
        };
        let mut view = OwnershipView::default();
        for stored in self.batch_get(WHAT, OWNERSHIP_STREAM, get).await? {
            let removed =
                stored.message.headers.as_ref().is_some_and(|headers| headers.get(KV_OPERATION).is_some());
            match stored.subject.split('.').skip(2).collect::<Vec<_>>()[..] {
                ["validator", id] if !removed => {
                    view.validators.insert(id.to_owned());
                }
                ["slot", number] => {
                    let slot = Slot(number.parse().map_err(|error| LogError::malformed(WHAT, error))?);
                    view.revisions.insert(slot, stored.sequence);
                    if !removed {
                        let owner = String::from_utf8_lossy(&stored.message.payload).into_owned();
                        view.owners.insert(slot, owner);
                    }
                }
                _ => {}
            }
        }
        Ok(view)
    }

    /// Says that `validator` is alive, for one time to live of the bucket.
    pub async fn announce(&self, validator: &str) -> Result<(), LogError> {
        let subject = format!("$KV.{OWNERSHIP_BUCKET}.validator.{validator}");
        self.stored_publish(subject, HeaderMap::new(), Bytes::from(validator.to_owned()))
            .await
            .map(drop)
            .map_err(|error| LogError::unavailable("announcing a validator", error))
    }

    /// Says that `validator` is leaving.
    pub async fn withdraw(&self, validator: &str) -> Result<(), LogError> {
        let mut headers = HeaderMap::new();
        headers.insert(KV_OPERATION, "DEL");
        let subject = format!("$KV.{OWNERSHIP_BUCKET}.validator.{validator}");
        self.stored_publish(subject, headers, Bytes::new())
            .await
            .map(drop)
            .map_err(|error| LogError::unavailable("withdrawing a validator", error))
    }

    /// Takes a slot whose key is at `revision` (`None`: never owned, or expired). `None` when somebody
    /// was quicker.
    pub async fn take_slot(
        &self,
        slot: Slot,
        validator: &str,
        revision: Option<u64>,
    ) -> Result<Option<OwnedSlot>, LogError> {
        let taken = self.set_slot(slot, revision.unwrap_or(0), Some(validator)).await?;
        Ok(taken.map(|revision| OwnedSlot { slot, since: revision, revision }))
    }

    /// Renews a hold. `None` when it is lost.
    pub async fn renew_slot(&self, held: OwnedSlot, validator: &str) -> Result<Option<OwnedSlot>, LogError> {
        let renewed = self.set_slot(held.slot, held.revision, Some(validator)).await?;
        Ok(renewed.map(|revision| OwnedSlot { revision, ..held }))
    }

    /// Gives a slot up. That it was lost already is no error.
    pub async fn release_slot(&self, held: OwnedSlot) -> Result<(), LogError> {
        self.set_slot(held.slot, held.revision, None).await.map(drop)
    }

    async fn set_slot(
        &self,
        slot: Slot,
        expected: u64,
        owner: Option<&str>,
    ) -> Result<Option<u64>, LogError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        if owner.is_none() {
            headers.insert(KV_OPERATION, "DEL");
        }
        let subject = format!("$KV.{OWNERSHIP_BUCKET}.slot.{slot}");
        let body = Bytes::from(owner.unwrap_or_default().to_owned());
        match self.stored_publish(subject, headers, body).await {
            Ok(revision) => Ok(Some(revision)),
            Err(CommitError::Conflict) => Ok(None),
            Err(error) => Err(LogError::unavailable("setting a slot's owner", error)),
        }
    }

    /// Subscribes to changes of the bucket: a validator that came, went, or released a slot. A hint only;
    /// the bucket itself is the truth.
    pub async fn ownership_changes(&self) -> Result<OwnershipChanges, LogError> {
        let subscriber = self
            .client
            .subscribe(format!("$KV.{OWNERSHIP_BUCKET}.>"))
            .await
            .map_err(|error| LogError::unavailable("subscribing to slot ownership", error))?;
        Ok(OwnershipChanges { subscriber })
    }
}

/// Changes of the ownership bucket as they happen.
pub struct OwnershipChanges {
    subscriber: Subscriber,
}

impl OwnershipChanges {
    /// Returns when a slot was released or a validator left, or one came that is not in `known`. Ends
    /// never by itself; `None` when the connection was closed for good. Cancel safe.
    pub async fn next(&mut self, known: &BTreeSet<String>) -> Option<()> {
        loop {
            let message = self.subscriber.next().await?;
            let removed = message.headers.as_ref().is_some_and(|headers| headers.get(KV_OPERATION).is_some());
            let newcomer = message
                .subject
                .strip_prefix(&format!("$KV.{OWNERSHIP_BUCKET}.validator."))
                .is_some_and(|id| !known.contains(id));
            if removed || newcomer {
                return Some(());
            }
        }
    }
}
