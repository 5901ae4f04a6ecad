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
pub(crate) struct SnapshotProgress {
    ordinal: AtomicU64,
    log_bytes: AtomicU64,
    bytes: AtomicU64,
    asked_at: AtomicU64,
    /// How many drafts the latest index has.
    indexed: AtomicU64,
    /// How many the partition had when an index was last asked for.
    index_asked_at: AtomicU64,
}

/// The fewest drafts that are new between two snapshots of the index, as one part of so many of all: an index is
/// rewritten whole, so with a fixed distance each event of a long partition would cost more than the last. What is
/// not in it yet, whoever loads the partition reads from the log.
const INDEX_PARTS: u64 = 10;

/// Whether it is time for another index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexDue {
    No,
    /// Most of what it lacks is read for the state anyway.
    WithState,
    /// It lacks so much that the states would wait for it.
    Apart,
}

impl SnapshotProgress {
    /// As a state was loaded: from which snapshot, and with how many drafts in its index.
    pub(crate) fn new(info: SnapshotInfo, indexed: u64) -> Self {
        let progress = Self::default();
        progress.written(info);
        progress.indexed(indexed);
        progress
    }

    /// An index was written.
    pub(crate) fn indexed(&self, drafts: u64) {
        self.indexed.store(drafts, Ordering::Relaxed);
    }

    /// How many drafts the latest index has.
    pub(super) fn in_index(&self) -> u64 {
        self.indexed.load(Ordering::Relaxed)
    }

    /// Whether with the state's snapshot that is asked for it is time for another index; says so once for so many drafts.
    pub(crate) fn index_due(&self) -> IndexDue {
        let (drafts, indexed) = (self.asked_at.load(Ordering::Relaxed), self.indexed.load(Ordering::Relaxed));
        let covered = indexed.max(self.index_asked_at.load(Ordering::Relaxed));
        let new = drafts.saturating_sub(covered);
        if new.saturating_mul(INDEX_PARTS) < covered {
            return IndexDue::No;
        }
        self.index_asked_at.store(drafts, Ordering::Relaxed);
        match new <= drafts.saturating_sub(self.ordinal()).saturating_mul(2) {
            true => IndexDue::WithState,
            false => IndexDue::Apart,
        }
    }

    /// The index that was asked for was not written: it is due again with the next snapshot.
    pub(crate) fn index_not_written(&self) {
        self.index_asked_at.store(0, Ordering::Relaxed);
    }

    pub(crate) fn written(&self, info: SnapshotInfo) {
        self.ordinal.store(info.ordinal, Ordering::Relaxed);
        self.log_bytes.store(info.log_bytes, Ordering::Relaxed);
        self.bytes.store(info.bytes, Ordering::Relaxed);
        self.asked_at.fetch_max(info.ordinal, Ordering::Relaxed);
    }

    /// The ordinal of the latest one's last event.
    pub(crate) fn ordinal(&self) -> u64 {
        self.ordinal.load(Ordering::Relaxed)
    }

    /// Whether it is time for another one; says so once per `events_min` events.
    pub(crate) fn is_due(&self, state: &PartitionState, events_min: u64, share_min: f64) -> bool {
        let events_min = events_min.max(1);
        let since_asked = state.ordinal().saturating_sub(self.asked_at.load(Ordering::Relaxed));
        let bytes = state.log_bytes().saturating_sub(self.log_bytes.load(Ordering::Relaxed));
        let due = state.is_opened()
            && since_asked >= events_min
            && bytes as f64 >= self.bytes.load(Ordering::Relaxed) as f64 * share_min;
        if due {
            self.asked_at.store(state.ordinal(), Ordering::Relaxed);
        }
        due
    }
}

/// A state, and the ownership under which it was last known to be at the head.
pub(crate) struct Cached {
    pub state: PartitionState,
    pub owned_since: u64,
    /// Whether its last event was committed under this ownership: then nothing that was decided on an earlier state,
    /// by whomever and by whichever rules, can be committed any more.
    pub fenced: bool,
    pub snapshot: Arc<SnapshotProgress>,
}

pub(crate) struct PartitionCache {
    inner: Mutex<Inner>,
    bytes_max: usize,
}

struct Inner {
    states: LruCache<PartitionKey, (Cached, usize)>,
    bytes: usize,
}

impl PartitionCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { inner: Mutex::new(Inner { states: LruCache::unbounded(), bytes: 0 }), bytes_max }
    }

    /// Whether the state is here, and has been since under this ownership it was last known to be current.
    pub(crate) fn holds(&self, key: &PartitionKey, owned_since: u64) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.states.peek(key).is_some_and(|(cached, _)| cached.owned_since == owned_since)
    }

    pub(crate) fn take(&self, key: &PartitionKey) -> Option<Cached> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (cached, bytes) = inner.states.pop(key)?;
        inner.bytes -= bytes;
        Some(cached)
    }

    pub(crate) fn put(&self, key: PartitionKey, cached: Cached) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_written_with_the_state_while_both_lack_the_same() {
        let progress = SnapshotProgress::default();
        let asked = |drafts, state_at| {
            progress.asked_at.store(drafts, Ordering::Relaxed);
            progress.ordinal.store(state_at, Ordering::Relaxed);
            progress.index_due()
        };
        assert_eq!(asked(1000, 0), IndexDue::WithState);
        assert_eq!(asked(1000, 0), IndexDue::No, "it was asked for");
        progress.index_not_written();
        assert_eq!(asked(1000, 0), IndexDue::WithState);
        assert_eq!(asked(2000, 1000), IndexDue::WithState);
        progress.indexed(100_000);
        assert_eq!(asked(109_000, 108_000), IndexDue::No);
        assert_eq!(asked(110_000, 109_000), IndexDue::Apart);
    }

    #[test]
    fn an_index_is_written_the_less_often_the_longer_it_is() {
        let progress = SnapshotProgress::default();
        let written = (1..=100_000).filter(|hundred| {
            progress.asked_at.store(hundred * 100, Ordering::Relaxed);
            let due = progress.index_due() != IndexDue::No;
            if due {
                progress.indexed(hundred * 100);
            }
            due
        });
        let written: Vec<u64> = written.collect();
        assert_eq!(written[..10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "a short one each time");
        assert!(written.len() < 120, "{} of 100,000", written.len());
        assert!(written.windows(2).all(|pair| pair[1] <= pair[0] + pair[0].div_ceil(10)), "{written:?}");
    }
}
