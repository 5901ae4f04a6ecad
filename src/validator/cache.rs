//! Partition states in memory, the least recently used ones let go when they take too many bytes.
//!
//! A state is taken out to be worked on and put back afterwards, so that one partition's work never waits
//! for another's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::metrics;
use crate::event::PartitionKey;
use crate::log::SnapshotInfo;
use crate::state::PartitionState;

/// How far the latest snapshot of a partition is, shared with whoever writes the next one.
#[derive(Debug, Default)]
pub(super) struct SnapshotProgress {
    ordinal: AtomicU64,
    log_bytes: AtomicU64,
    bytes: AtomicU64,
    asked_at: AtomicU64,
}

impl SnapshotProgress {
    pub(super) fn new(info: SnapshotInfo) -> Self {
        let progress = Self::default();
        progress.written(info);
        progress
    }

    pub(super) fn written(&self, info: SnapshotInfo) {
        self.ordinal.store(info.ordinal, Ordering::Relaxed);
        self.log_bytes.store(info.log_bytes, Ordering::Relaxed);
        self.bytes.store(info.bytes, Ordering::Relaxed);
        self.asked_at.fetch_max(info.ordinal, Ordering::Relaxed);
    }

    /// The ordinal of the latest one's last event.
    pub(super) fn ordinal(&self) -> u64 {
        self.ordinal.load(Ordering::Relaxed)
    }

    /// Whether it is time for another one; says so once per `events_min` events.
    pub(super) fn is_due(&self, state: &PartitionState, events_min: u64, share_min: f64) -> bool {
        let events_min = events_min.max(1);
        let since_asked = state.ordinal().saturating_sub(self.asked_at.load(Ordering::Relaxed));
        let bytes = state.log_bytes().saturating_sub(self.log_bytes.load(Ordering::Relaxed));
        let due = since_asked >= events_min
            && bytes as f64 >= self.bytes.load(Ordering::Relaxed) as f64 * share_min;
        if due {
            self.asked_at.store(state.ordinal(), Ordering::Relaxed);
        }
        due
    }
}

/// A state, and the ownership under which it was last known to be at the head.
pub(super) struct Cached {
    pub state: PartitionState,
    pub owned_since: u64,
    pub snapshot: Arc<SnapshotProgress>,
}

pub(super) struct PartitionCache {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

struct Inner {
    states: LruCache<PartitionKey, (Cached, usize)>,
    bytes: usize,
}

impl PartitionCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { inner: Mutex::new(Inner { states: LruCache::unbounded(), bytes: 0 }), bytes_max }
    }

    /// Whether the state is here, and has been since under this ownership it was last known to be current.
    pub(super) fn holds(&self, key: &PartitionKey, owned_since: u64) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.states.peek(key).is_some_and(|(cached, _)| cached.owned_since == owned_since)
    }

    pub(super) fn take(&self, key: &PartitionKey) -> Option<Cached> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (cached, bytes) = inner.states.pop(key)?;
        inner.bytes -= bytes;
        Some(cached)
    }

    pub(super) fn put(&self, key: PartitionKey, cached: Cached) {
        let bytes = cached.state.memory_bytes();
        let mut dropped = Vec::new();
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, (_, old))) = inner.states.push(key, (cached, bytes)) {
                inner.bytes -= old;
            }
            inner.bytes += bytes;
            while inner.bytes > self.bytes_max && inner.states.len() > 1 {
                let Some((_, (state, bytes))) = inner.states.pop_lru() else { break };
                inner.bytes -= bytes;
                dropped.push(state);
            }
            metrics::cache_bytes(inner.bytes);
        }
        // Freeing a large state takes a while: not under the lock.
        drop(dropped);
    }
}
