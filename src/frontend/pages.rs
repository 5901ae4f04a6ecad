//! Pages of the log for connections that have left their partition's ring, shared among them.
//!
//! When a thousand clients come back after a break they read the same history: each page is read once, and
//! who asks for one that is being read waits for it. Pages are cut where the ordinal is a multiple of their
//! length, so that readers who start in different places soon read the same ones.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use lru::LruCache;
use tokio::sync::OnceCell;

use super::entry::Entry;
use super::{lock, metrics};
use crate::event::{EventId, Token};
use crate::log::{Log, LogError};

/// The cache.
pub(super) struct Pages {
    log: Log,
    events_max: usize,
    bytes_max: usize,
    cache_bytes_max: usize,
    cache: Mutex<Cache>,
}

type Key = (Token, EventId);
type Slot = Arc<OnceCell<Arc<LogPage>>>;

struct Cache {
    slots: LruCache<Key, (Slot, usize)>,
    bytes: usize,
}

/// Some events of a partition, in order; at least one of the log's, though it may be unreadable.
pub(super) struct LogPage {
    /// The events that can be read.
    pub entries: Vec<Arc<Entry>>,
    /// The last event of the log that the page covers.
    pub last: EventId,
    bytes: usize,
    /// Whether it has as much as a page may have: only such a page is kept.
    pub full: bool,
}

impl Pages {
    pub(super) fn new(log: Log, events_max: usize, bytes_max: usize, cache_bytes_max: usize) -> Self {
        let cache = Mutex::new(Cache { slots: LruCache::unbounded(), bytes: 0 });
        Self { log, events_max, bytes_max, cache_bytes_max, cache }
    }

    /// The page behind `after`. `None` when the log has nothing there, or the replica that answered does
    /// not have it yet.
    pub(super) async fn page(&self, token: &Token, after: EventId) -> Result<Option<Arc<LogPage>>, LogError> {
        let key = (token.clone(), after);
        let slot = lock(&self.cache).slots.get_or_insert(key.clone(), Default::default).0.clone();
        let page = slot.get_or_try_init(|| self.read(token, after)).await.cloned();
        self.settle(&key, &slot, page.as_deref().ok());
        page.map(|page| (page.last > after).then_some(page))
    }

    /// Whether the page behind `after` is here, or being read.
    pub(super) fn knows(&self, token: &Token, after: EventId) -> bool {
        lock(&self.cache).slots.contains(&(token.clone(), after))
    }

    async fn read(&self, token: &Token, after: EventId) -> Result<Arc<LogPage>, LogError> {
        metrics::count(metrics::PAGES_READ);
        let started = Instant::now();
        let page = self.log.page(token, after, self.events_max, self.bytes_max).await?;
        metrics::duration(metrics::PAGE_SECONDS, started.elapsed().as_secs_f64());
        let mut read = LogPage { entries: Vec::new(), last: after, bytes: 0, full: page.more };
        let mut ordinal = None;
        for stored in page.events {
            let id = stored.id;
            match Entry::parse(stored) {
                Ok(entry) => {
                    if let Some(expected) = ordinal.filter(|expected| *expected != entry.ordinal) {
                        super::feed::report_hole(token, read.last, id, expected, entry.ordinal);
                    }
                    ordinal = Some(entry.ordinal + 1);
                    read.bytes += entry.cost();
                    read.entries.push(Arc::new(entry));
                }
                Err(error) => super::feed::report_unreadable(token, id, &error),
            }
            read.last = id;
        }
        if read.full {
            self.align(&mut read);
        }
        Ok(Arc::new(read))
    }

    /// Cuts a full page behind the last event whose ordinal is a multiple of the page's length.
    fn align(&self, page: &mut LogPage) {
        let length = self.events_max as u64;
        let cut = page.entries.iter().rposition(|entry| entry.ordinal % length == 0);
        if let Some(cut) = cut {
            page.entries.truncate(cut + 1);
            page.last = page.entries.last().map_or(page.last, |entry| entry.id);
            page.bytes = page.entries.iter().map(|entry| entry.cost()).sum();
        }
    }

    /// Lets go of what is kept of a partition.
    pub(super) fn forget(&self, token: &Token) {
        let mut cache = lock(&self.cache);
        let Cache { slots, bytes } = &mut *cache;
        let keys: Vec<Key> =
            slots.iter().map(|(key, _)| key).filter(|(of, _)| of == token).cloned().collect();
        for key in keys {
            if let Some((_, cost)) = slots.pop(&key) {
                *bytes -= cost;
            }
        }
    }

    /// Accounts for a page that was read, and makes room. A short page is not kept: it ends at what was the
    /// head just then.
    fn settle(&self, key: &Key, slot: &Slot, page: Option<&LogPage>) {
        let mut cache = lock(&self.cache);
        let Cache { slots, bytes } = &mut *cache;
        let Some((kept, cost)) = slots.peek_mut(key) else { return };
        if !Arc::ptr_eq(kept, slot) {
            return;
        }
        match page {
            Some(page) if page.full => {
                *bytes = *bytes + page.bytes - *cost;
                *cost = page.bytes;
            }
            _ => {
                *bytes -= *cost;
                slots.pop(key);
            }
        }
        while *bytes > self.cache_bytes_max {
            let Some((_, (_, cost))) = slots.pop_lru() else { break };
            *bytes -= cost;
        }
        metrics::hot().page_cache_bytes.set(*bytes as f64);
    }
}
