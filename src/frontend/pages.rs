//! Pages of the log for connections that have left their partition's ring, shared among them.
//!
//! When a thousand clients come back after a break they read the same history: each page is read once, and
//! who asks for one that is being read waits for it. Pages are cut where the ordinal is a multiple of their
//! length, so that readers who start in different places soon read the same ones; and who has read a part of one
//! goes on in it.

use std::collections::BTreeMap;
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
    /// The last event of each page that is kept, by where the page begins.
    ends: BTreeMap<Key, EventId>,
    bytes: usize,
}

impl Cache {
    /// Where the page begins that has what is behind `after`: in a page that is kept, or there.
    fn begin(&self, token: &Token, after: EventId) -> Key {
        let key = (token.clone(), after);
        let before = self.ends.range(..=&key).next_back();
        match before.filter(|((of, _), end)| of == token && **end > after) {
            Some((begin, _)) => begin.clone(),
            None => key,
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some((_, cost)) = self.slots.pop(key) {
            self.bytes -= cost;
        }
        self.ends.remove(key);
    }
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

impl LogPage {
    /// The events behind `position`.
    pub(super) fn behind(&self, position: EventId) -> &[Arc<Entry>] {
        &self.entries[self.entries.partition_point(|entry| entry.id <= position)..]
    }
}

impl Pages {
    pub(super) fn new(log: Log, events_max: usize, bytes_max: usize, cache_bytes_max: usize) -> Self {
        let cache = Cache { slots: LruCache::unbounded(), ends: BTreeMap::new(), bytes: 0 };
        let cache = Mutex::new(cache);
        Self { log, events_max, bytes_max, cache_bytes_max, cache }
    }

    /// A page with what is behind `after`; it may begin before. `None` when the log has nothing there, or the
    /// replica that answered does not have it yet.
    pub(super) async fn page(&self, token: &Token, after: EventId) -> Result<Option<Arc<LogPage>>, LogError> {
        let (key, slot) = {
            let mut cache = lock(&self.cache);
            let key = cache.begin(token, after);
            let slot = cache.slots.get_or_insert(key.clone(), Default::default).0.clone();
            (key, slot)
        };
        let page = slot.get_or_try_init(|| self.read(token, key.1)).await.cloned();
        self.settle(&key, &slot, page.as_deref().ok());
        page.map(|page| (page.last > after).then_some(page))
    }

    /// Where the first page begins that is not here, of the `most` from the one behind `after` on. `None` where all are
    /// here, or one is just being read.
    pub(super) fn first_unknown(&self, token: &Token, after: EventId, most: usize) -> Option<EventId> {
        let cache = lock(&self.cache);
        let mut after = after;
        for _ in 0..most {
            match cache.slots.peek(&cache.begin(token, after)) {
                None => return Some(after),
                Some((slot, _)) => after = slot.get().filter(|page| page.full)?.last,
            }
        }
        None
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
        let keys: Vec<Key> =
            cache.slots.iter().map(|(key, _)| key).filter(|(of, _)| of == token).cloned().collect();
        for key in &keys {
            cache.remove(key);
        }
    }

    /// Accounts for a page that was read, and makes room. A short page is not kept: it ends at what was the
    /// head just then.
    fn settle(&self, key: &Key, slot: &Slot, page: Option<&LogPage>) {
        let mut cache = lock(&self.cache);
        let Some((kept, cost)) = cache.slots.peek_mut(key) else { return };
        if !Arc::ptr_eq(kept, slot) {
            return;
        }
        match page {
            Some(page) if page.full => {
                let grown = page.bytes - std::mem::replace(cost, page.bytes);
                cache.bytes += grown;
                if grown > 0 {
                    cache.ends.insert(key.clone(), page.last);
                }
            }
            _ => cache.remove(key),
        }
        while cache.bytes > self.cache_bytes_max {
            let Some((key, _)) = cache.slots.peek_lru() else { break };
            let key = key.clone();
            cache.remove(&key);
        }
        metrics::hot().page_cache_bytes.set(cache.bytes as f64);
    }
}
