//! What an operator can set about a validator. Every queue, cache, batch and retry has its bound here.

use serde::{Deserialize, Serialize};

/// The settings of a validator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidatorSettings {
    /// The name under which it owns slots; empty for a random one. Two validators must never share it.
    pub id: String,
    /// The most bytes of partition states kept in memory, by their own estimate.
    pub cache_bytes_max: usize,
    /// The most drafts of one partition that are decided and committed as one atomic batch, 1 to 1000.
    pub batch_events_max: usize,
    /// The most bytes of an atomic batch.
    pub batch_bytes_max: usize,
    /// How many single commits may be under way at once. Whether waiting commits go singly or together as
    /// one atomic batch is measured; this is only the bound.
    pub singles_in_flight_max: usize,
    /// How many atomic batches may be under way at once, 1 to 50. What waits for one goes together in the next,
    /// and a batch costs NATS far more than what is in it, so more of them at once are smaller and slower.
    pub batches_in_flight_max: usize,
    /// How long a draft whose commit is in the log may wait to be taken off the queue, in milliseconds, so that
    /// others go along. One that a crash leaves there comes again, and is found committed.
    pub acknowledge_after_ms: u64,
    /// The fewest events between two snapshots of a partition.
    pub snapshot_events_min: u64,
    /// The fewest bytes of events between two snapshots, as a part of the snapshot's own size.
    pub snapshot_share_min: f64,
    /// How many snapshots may wait to be written; further ones are left for later.
    pub snapshot_queue_max: usize,
    /// The longest pause between two tries at the log, in milliseconds.
    pub retry_pause_max_ms: u64,
}

impl Default for ValidatorSettings {
    fn default() -> Self {
        Self {
            id: String::new(),
            cache_bytes_max: 512 << 20,
            batch_events_max: 500,
            batch_bytes_max: 8 << 20,
            singles_in_flight_max: 256,
            batches_in_flight_max: 1,
            acknowledge_after_ms: 2,
            snapshot_events_min: 1000,
            snapshot_share_min: 0.5,
            snapshot_queue_max: 64,
            retry_pause_max_ms: 1000,
        }
    }
}
