//! What all workers of a validator share.

use crate::event::Draft;
use crate::event::ReplyTo;
use crate::event::Submitter;
use crate::rules::LiveRules;
use crate::state::Fold;
use crate::validator::cache::PartitionCache;
use crate::validator::commit::committer::Committer;
use crate::validator::log_backend::LogBackend;
use crate::validator::settings::ValidatorSettings;
use crate::validator::slots::acknowledger::Acknowledger;
use crate::validator::slots::stale_filter::StalePublishFilter;
use crate::validator::snapshots::snapshotter::Snapshotter;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// What all workers of a validator share.
pub(crate) struct Shared<P: LogBackend> {
    pub(crate) id: String,
    pub(crate) log: P,
    pub(crate) rules: Arc<LiveRules>,
    pub(crate) fold: Arc<dyn Fold>,
    /// Who commits a partition's initial state, and the draft that does it.
    pub(crate) initial: Option<(Submitter, Draft)>,
    pub(crate) committer: Committer,
    pub(crate) acknowledger: Acknowledger<P::Draft>,
    pub(crate) snapshotter: Snapshotter,
    pub(crate) cache: PartitionCache,
    pub(crate) stale_publishes: Mutex<StalePublishFilter>,
    /// Whether the queue must confirm each rejection as well: some owner may not heed what slots' keys say.
    pub(crate) confirms: AtomicBool,
    /// Places for slots whose drafts are just being taken over.
    pub(crate) takeovers: Semaphore,
    /// Places for rounds that may take long to decide.
    pub(crate) heavy: Semaphore,
    /// Places for rounds that an application's rules decide.
    pub(crate) by_app: Semaphore,
    /// When it was last told that an application's rules failed.
    pub(crate) fault_told: Mutex<Option<tokio::time::Instant>>,
    pub(crate) settings: ValidatorSettings,
    pub(crate) ownership_ttl: Duration,
}

impl<P: LogBackend> Shared<P> {
    /// Whether a later copy of the same drafts was taken already.
    pub(crate) fn is_stale(&self, reply_to: &ReplyTo) -> bool {
        self.stale_publishes.lock().unwrap_or_else(PoisonError::into_inner).is_stale(reply_to)
    }
}
