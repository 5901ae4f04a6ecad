//! What a validator needs of the log, as a trait: the same decision, commit and takeover logic runs on JetStream
//! ([`Log`]) and, in tests, on a simulated log that fails by seed (`src/simulation`).
//!
//! Everything is static: a validator on JetStream is compiled as if there were no trait.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::event::{Answer, ContentHash, Decided, DraftKey, EventId, PartitionKey, Slot, Token};
use crate::log::{
    CommitError, CommitPart, ConnectionState, DraftMessage, Log, LogError, OwnedSlot, OwnershipChanges,
    OwnershipView, PlacedTrace, SlotConsumer, SlotKey,
};
use crate::partition::{LoadError, Loaded};
use crate::state::{Fold, PartitionState};

/// The log, as a validator sees it. What each call promises is said at [`Log`]'s method of the same name.
pub(crate) trait LogBackend: Clone + Send + Sync + 'static {
    /// A submission that was taken off the queue.
    type Draft: QueuedDraft<LogBackend = Self>;
    /// The drafts of one slot.
    type Consumer: SlotDrafts<Draft = Self::Draft>;
    /// Changes of slot ownership.
    type Changes: OwnershipFeed;

    fn slots(&self) -> u16;
    fn state(&self) -> watch::Receiver<ConnectionState>;
    fn now_ms(&self) -> u64;
    fn message_bytes_max(&self) -> usize;
    fn commit_one(
        &self,
        token: &Token,
        expected: EventId,
        body: Bytes,
        trace: Option<&String>,
    ) -> impl Future<Output = Result<EventId, CommitError>> + Send;
    fn commit_batch(
        &self,
        parts: &[CommitPart],
        traces: &[Vec<PlacedTrace>],
    ) -> impl Future<Output = Result<Vec<EventId>, CommitError>> + Send;
    fn load_partition(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
    ) -> impl Future<Output = Result<Loaded, LoadError>> + Send;
    fn catch_up(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        state: &mut PartitionState,
    ) -> impl Future<Output = Result<u64, LoadError>> + Send;
    fn extend_history(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        state: &mut PartitionState,
        from: EventId,
    ) -> impl Future<Output = Result<usize, LoadError>> + Send;
    fn find_draft(
        &self,
        token: &Token,
        key: &DraftKey,
        candidates: &[EventId],
    ) -> impl Future<Output = Result<Option<(EventId, ContentHash)>, LoadError>> + Send;
    fn answer(&self, frontend: &str, answer: &Answer) -> impl Future<Output = Result<(), LogError>> + Send;
    fn slot_consumer(
        &self,
        slot: Slot,
        revision: u64,
    ) -> impl Future<Output = Result<Self::Consumer, LogError>> + Send;
    fn open_queue(&self) -> impl Future<Output = Result<(), LogError>> + Send;
    fn announce(&self, validator: &str) -> impl Future<Output = Result<(), LogError>> + Send;
    fn withdraw(&self, validator: &str) -> impl Future<Output = Result<(), LogError>> + Send;
    fn ownership(&self) -> impl Future<Output = Result<OwnershipView, LogError>> + Send;
    fn take_slot(
        &self,
        slot: Slot,
        validator: &str,
        known: Option<&SlotKey>,
    ) -> impl Future<Output = Result<Option<OwnedSlot>, LogError>> + Send;
    fn write_slot(
        &self,
        held: OwnedSlot,
        validator: &str,
        decided: &Decided,
    ) -> impl Future<Output = Result<Option<OwnedSlot>, LogError>> + Send;
    fn release_slot(
        &self,
        held: OwnedSlot,
        decided: &Decided,
    ) -> impl Future<Output = Result<(), LogError>> + Send;
    fn keeps_slots(&self) -> bool;
    fn ownership_changes(&self) -> impl Future<Output = Result<Self::Changes, LogError>> + Send;
}

/// A submission that was taken off the queue and is not decided yet.
pub(crate) trait QueuedDraft: Send + Sync + 'static {
    type LogBackend;

    fn body(&self) -> &Bytes;
    fn partition(&self) -> Result<(Token, PartitionKey), LogError>;
    /// The traces of its drafts, by place.
    fn traces(&self) -> Vec<PlacedTrace> {
        Vec::new()
    }
    fn sequence(&self) -> u64;
    fn stored_at_ms(&self) -> u64;
    fn acknowledge(&self) -> impl Future<Output = Result<(), LogError>> + Send;
    fn confirm(&self, log: &Self::LogBackend) -> impl Future<Output = Result<(), LogError>> + Send;
}

/// The drafts of one slot, for the time of one ownership.
pub(crate) trait SlotDrafts: Send + 'static {
    type Draft;

    fn queue(&self) -> &str;
    fn next(&mut self) -> impl Future<Output = Result<Self::Draft, LogError>> + Send;
}

/// Changes of slot ownership as they happen.
pub(crate) trait OwnershipFeed: Send + 'static {
    fn next(&mut self, known: &BTreeSet<String>) -> impl Future<Output = Option<()>> + Send;
}

impl LogBackend for Log {
    type Draft = DraftMessage;
    type Consumer = SlotConsumer;
    type Changes = OwnershipChanges;

    fn slots(&self) -> u16 {
        self.slots()
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.state()
    }

    fn now_ms(&self) -> u64 {
        self.now_ms()
    }

    fn message_bytes_max(&self) -> usize {
        self.message_bytes_max()
    }

    async fn commit_one(
        &self,
        token: &Token,
        expected: EventId,
        body: Bytes,
        trace: Option<&String>,
    ) -> Result<EventId, CommitError> {
        self.commit_one(token, expected, body, trace).await
    }

    async fn commit_batch(
        &self,
        parts: &[CommitPart],
        traces: &[Vec<PlacedTrace>],
    ) -> Result<Vec<EventId>, CommitError> {
        self.commit_batch(parts, traces).await
    }

    async fn load_partition(&self, token: &Token, fold: &Arc<dyn Fold>) -> Result<Loaded, LoadError> {
        self.load_partition(token, fold, true).await
    }

    async fn catch_up(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        state: &mut PartitionState,
    ) -> Result<u64, LoadError> {
        self.catch_up(token, fold, state).await
    }

    async fn extend_history(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        state: &mut PartitionState,
        from: EventId,
    ) -> Result<usize, LoadError> {
        self.extend_history(token, fold, state, from).await
    }

    async fn find_draft(
        &self,
        token: &Token,
        key: &DraftKey,
        candidates: &[EventId],
    ) -> Result<Option<(EventId, ContentHash)>, LoadError> {
        self.find_draft(token, key, candidates).await
    }

    async fn answer(&self, frontend: &str, answer: &Answer) -> Result<(), LogError> {
        self.answer(frontend, answer).await
    }

    async fn slot_consumer(&self, slot: Slot, revision: u64) -> Result<SlotConsumer, LogError> {
        self.slot_consumer(slot, revision).await
    }

    async fn open_queue(&self) -> Result<(), LogError> {
        self.open_queue().await
    }

    async fn announce(&self, validator: &str) -> Result<(), LogError> {
        self.announce(validator).await
    }

    async fn withdraw(&self, validator: &str) -> Result<(), LogError> {
        self.withdraw(validator).await
    }

    async fn ownership(&self) -> Result<OwnershipView, LogError> {
        self.ownership().await
    }

    async fn take_slot(
        &self,
        slot: Slot,
        validator: &str,
        known: Option<&SlotKey>,
    ) -> Result<Option<OwnedSlot>, LogError> {
        self.take_slot(slot, validator, known).await
    }

    async fn write_slot(
        &self,
        held: OwnedSlot,
        validator: &str,
        decided: &Decided,
    ) -> Result<Option<OwnedSlot>, LogError> {
        self.write_slot(held, validator, decided).await
    }

    async fn release_slot(&self, held: OwnedSlot, decided: &Decided) -> Result<(), LogError> {
        self.release_slot(held, decided).await
    }

    fn keeps_slots(&self) -> bool {
        self.keeps_slots()
    }

    async fn ownership_changes(&self) -> Result<OwnershipChanges, LogError> {
        self.ownership_changes().await
    }
}

impl QueuedDraft for DraftMessage {
    type LogBackend = Log;

    fn body(&self) -> &Bytes {
        self.body()
    }

    fn partition(&self) -> Result<(Token, PartitionKey), LogError> {
        self.partition()
    }

    fn traces(&self) -> Vec<PlacedTrace> {
        self.traces()
    }

    async fn acknowledge(&self) -> Result<(), LogError> {
        self.acknowledge().await
    }

    async fn confirm(&self, log: &Log) -> Result<(), LogError> {
        self.confirm(log).await
    }

    fn sequence(&self) -> u64 {
        self.sequence()
    }

    fn stored_at_ms(&self) -> u64 {
        self.stored_at_ms()
    }
}

impl SlotDrafts for SlotConsumer {
    type Draft = DraftMessage;

    fn queue(&self) -> &str {
        self.queue()
    }

    async fn next(&mut self) -> Result<DraftMessage, LogError> {
        self.next().await
    }
}

impl OwnershipFeed for OwnershipChanges {
    async fn next(&mut self, known: &BTreeSet<String>) -> Option<()> {
        self.next(known).await
    }
}
