//! Who is alive, and who owns which slot: one bucket. A validator's key expires unless it is renewed; a slot's does
//! not, since it also says which of the slot's drafts are decided.
//!
//! A slot's key is written by compare-and-set, a write that a majority of the replicas agrees on. So a write that
//! went through is proof that the slot was still held, and what it says of decided drafts is what the next owner
//! reads. The view of the whole bucket may lag; it is only a hint.

use crate::log::streams::settings::KEYS_EXPIRE;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use async_nats::{HeaderMap, Subscriber, header};
use bytes::Bytes;
use futures_util::StreamExt;
use tracing::warn;

use super::append::CommitError;
use super::client::Log;
use super::error::LogError;
use super::subjects::{self, OWNERSHIP_BUCKET, OWNERSHIP_STREAM};
use crate::event::{Decided, Slot};

pub(crate) const KV_OPERATION: &str = "KV-Operation";
/// JetStream's error for a message that is to be kept, in a stream that was not made for that.
const NO_MESSAGE_TTL: &str = "(error 10166)";

/// The bucket as it is just now.
#[derive(Debug, Clone, Default)]
pub struct OwnershipView {
    /// The validators that are alive.
    pub validators: BTreeSet<String>,
    /// Those of them of an older version, which decide whatever is in the queue.
    pub older: BTreeSet<String>,
    /// The owner of every slot that a validator owns which is alive.
    pub owners: BTreeMap<Slot, String>,
    /// The key of every slot, also where the slot was released or its owner is gone.
    pub keys: BTreeMap<Slot, SlotKey>,
}

/// A slot's key, but for who owns it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotKey {
    /// Its revision.
    pub revision: u64,
    /// Which of the slot's drafts are decided.
    pub decided: Decided,
}

impl SlotKey {
    /// The hold of whoever has written it, as far as writing it again needs one.
    pub fn hold_on(&self, slot: Slot) -> OwnedSlot {
        OwnedSlot { slot, since: self.revision, revision: self.revision }
    }
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

#[cfg(feature = "fault-points")]
impl OwnedSlot {
    /// A hold that a simulated log gave.
    pub fn taken(slot: Slot, revision: u64) -> Self {
        Self { slot, since: revision, revision }
    }

    /// The same hold with its key at another revision.
    pub fn written_at(self, revision: u64) -> Self {
        Self { revision, ..self }
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
        let mut view = OwnershipView::default();
        // A key that is written meanwhile may come twice: the later one counts.
        for stored in self.get_all(WHAT, OWNERSHIP_STREAM, format!("$KV.{OWNERSHIP_BUCKET}.>")).await? {
            let header = |name: &str| stored.message.headers.as_ref().and_then(|headers| headers.get(name));
            let removed = header(KV_OPERATION).is_some();
            match stored.subject.split('.').skip(2).collect::<Vec<_>>()[..] {
                ["validator", id] => {
                    view.older.remove(id);
                    view.validators.remove(id);
                    if removed {
                        continue;
                    }
                    if header(subjects::HEEDS_DECIDED).is_none() {
                        view.older.insert(id.to_owned());
                    }
                    view.validators.insert(id.to_owned());
                }
                ["slot", number] => {
                    let slot = Slot(number.parse().map_err(|error| LogError::malformed(WHAT, error))?);
                    let decided = header(subjects::DECIDED).map(|text| text.as_str().parse()).transpose();
                    let decided =
                        decided.map_err(|error| LogError::malformed(WHAT, error))?.unwrap_or_default();
                    view.keys.insert(slot, SlotKey { revision: stored.sequence, decided });
                    view.owners.remove(&slot);
                    if !removed {
                        let owner = String::from_utf8_lossy(&stored.message.payload).into_owned();
                        view.owners.insert(slot, owner);
                    }
                }
                _ => {}
            }
        }
        view.owners.retain(|_, owner| view.validators.contains(owner));
        Ok(view)
    }

    /// Says that `validator` is alive, for one time to live of the bucket.
    pub async fn announce(&self, validator: &str) -> Result<(), LogError> {
        let subject = format!("$KV.{OWNERSHIP_BUCKET}.validator.{validator}");
        let mut headers = HeaderMap::new();
        headers.insert(subjects::HEEDS_DECIDED, "1");
        let announced = self.stored_publish(subject, headers, Bytes::from(validator.to_owned())).await;
        if announced.is_err() {
            // With one server the bucket is in memory, and gone when the server was restarted. Not noticed by 'no
            // responders': whoever watches the bucket's subjects is one.
            self.open_queue().await?;
        }
        announced.map(drop).map_err(|error| LogError::unavailable("announcing a validator", error))
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

    /// Takes a slot whose key was read as `known` (`None`: it was never owned). `None` when somebody was quicker.
    pub async fn take_slot(
        &self,
        slot: Slot,
        validator: &str,
        known: Option<&SlotKey>,
    ) -> Result<Option<OwnedSlot>, LogError> {
        let nothing = SlotKey::default();
        let SlotKey { revision, decided } = known.unwrap_or(&nothing);
        let taken = self.set_slot(slot, *revision, Some(validator), decided).await?;
        Ok(taken.map(|revision| OwnedSlot { slot, since: revision, revision }))
    }

    /// Writes the key of a slot that is held. `None` when the hold is lost.
    pub async fn write_slot(
        &self,
        held: OwnedSlot,
        validator: &str,
        decided: &Decided,
    ) -> Result<Option<OwnedSlot>, LogError> {
        let written = self.set_slot(held.slot, held.revision, Some(validator), decided).await?;
        Ok(written.map(|revision| OwnedSlot { revision, ..held }))
    }

    /// Gives a slot up. That it was lost already is no error.
    pub async fn release_slot(&self, held: OwnedSlot, decided: &Decided) -> Result<(), LogError> {
        self.set_slot(held.slot, held.revision, None, decided).await.map(drop)
    }

    /// Whether slots' keys are kept for as long as they are not replaced. In a bucket that an older version has made
    /// they expire.
    pub fn keeps_slots(&self) -> bool {
        self.keeps_slots.load(Ordering::Relaxed)
    }

    async fn set_slot(
        &self,
        slot: Slot,
        expected: u64,
        owner: Option<&str>,
        decided: &Decided,
    ) -> Result<Option<u64>, LogError> {
        let subject = format!("$KV.{OWNERSHIP_BUCKET}.slot.{slot}");
        loop {
            let keeps = self.keeps_slots();
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
            headers.insert(subjects::DECIDED, decided.to_string());
            if owner.is_none() {
                headers.insert(KV_OPERATION, "DEL");
            }
            if keeps {
                headers.insert(header::NATS_MESSAGE_TTL, "never");
            }
            let body = Bytes::from(owner.unwrap_or_default().to_owned());
            match self.stored_publish(subject.clone(), headers, body).await {
                Ok(revision) => return Ok(Some(revision)),
                Err(CommitError::Conflict) => return Ok(None),
                Err(CommitError::NotStored(why)) if keeps && why.contains(NO_MESSAGE_TTL) => {
                    self.keeps_slots.store(false, Ordering::Relaxed);
                    warn!("{KEYS_EXPIRE}");
                }
                Err(error) => return Err(LogError::unavailable("setting a slot's owner", error)),
            }
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
