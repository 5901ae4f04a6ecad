//! Pages of the log for connections that have left their partition's ring, shared among them.
//!
//! When a thousand clients come back after a break they read the same history: each page is read once, and
//! who asks for one that is being read waits for it. Pages are cut where the ordinal is a multiple of their
//! length, so that readers who start in different places soon read the same ones; and who has read a part of one
//! goes on in it. Pages that somebody will soon ask for are read ahead, several out of one request.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lru::LruCache;
use tokio::sync::OnceCell;

use super::entry::Entry;
use super::memory::Hold;
use super::{lock, metrics};
use crate::event::{EventId, Token};
use crate::log::{Log, LogError, PageReader};

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
    /// Pages that are on their way, by where the next of them begins. Whoever reads that page takes them from there.
    runs: HashMap<Key, Run>,
    bytes: usize,
    hold: Hold,
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

    /// Lets pages go until so many bytes are left.
    fn keep(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max {
            let Some((key, _)) = self.slots.peek_lru() else { break };
            let key = key.clone();
            self.remove(&key);
        }
        metrics::hot().page_cache_bytes.set(self.bytes as f64);
        self.hold.set(self.bytes);
    }
}

/// A place in a partition: behind an event, whose ordinal may be known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub after: EventId,
    pub ordinal: Option<u64>,
}

/// Some events of a partition, in order; at least one of the log's, though it may be unreadable.
pub(super) struct LogPage {
    /// The events that can be read.
    pub entries: Vec<Arc<Entry>>,
    /// The last event of the log that the page covers.
    pub last: EventId,
    /// Its ordinal, if it is known.
    ordinal: Option<u64>,
    bytes: usize,
    /// Whether it will always be what it is, since the log goes on behind it: only such a page is kept.
    pub full: bool,
}

impl LogPage {
    /// Where it ends.
    pub(super) fn end(&self) -> Place {
        Place { after: self.last, ordinal: self.ordinal }
    }

    /// The events behind `position`.
    pub(super) fn behind(&self, position: EventId) -> &[Arc<Entry>] {
        &self.entries[self.entries.partition_point(|entry| entry.id <= position)..]
    }
}

impl Pages {
    pub(super) fn new(
        log: Log,
        hold: Hold,
        events_max: usize,
        bytes_max: usize,
        cache_bytes_max: usize,
    ) -> Self {
        let cache = Cache {
            slots: LruCache::unbounded(),
            ends: BTreeMap::new(),
            runs: HashMap::new(),
            bytes: 0,
            hold,
        };
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
        let page = slot.get_or_try_init(|| self.read(&key)).await.cloned();
        self.settle(&key, &slot, page.as_deref().ok());
        page.map(|page| (page.last > after).then_some(page))
    }

    /// Has `pages` pages asked for in one request, from the first one on that is not here of as many from `from` on.
    /// Gives where that is, for [`read_run`](Self::read_run). `None` where all are here, or just being read.
    pub(super) fn begin_run(&self, token: &Token, from: Place, pages: usize) -> Option<EventId> {
        let mut cache = lock(&self.cache);
        let mut place = from;
        for _ in 0..pages {
            let key = cache.begin(token, place.after);
            match cache.slots.peek(&key) {
                Some((slot, _)) => place = slot.get().filter(|page| page.full)?.end(),
                None if cache.runs.contains_key(&key) => return None,
                None => {
                    cache.runs.insert(key, Run { at: place, left: pages, events: None });
                    return Some(place.after);
                }
            }
        }
        None
    }

    /// Reads the pages of a run, or has others read them, who need them sooner.
    pub(super) async fn read_run(&self, token: &Token, from: EventId, pages: usize) -> Result<(), LogError> {
        let mut after = from;
        let mut read = Ok(());
        for _ in 0..pages {
            match self.page(token, after).await {
                Ok(Some(page)) if page.full => after = page.last,
                Ok(_) => break,
                Err(error) => {
                    read = Err(error);
                    break;
                }
            }
        }
        // Where it ended too soon.
        lock(&self.cache).runs.remove(&(token.clone(), after));
        read
    }

    /// Reads the page that begins there: the next one of a run, or one by itself.
    async fn read(&self, key: &Key) -> Result<Arc<LogPage>, LogError> {
        let run = lock(&self.cache).runs.remove(key);
        let mut run = run.unwrap_or(Run { at: Place { after: key.1, ordinal: None }, left: 1, events: None });
        let page = run.page(self, &key.0).await?;
        if page.full && run.left > 0 {
            // Before anybody knows of this page, and asks for the next.
            let mut cache = lock(&self.cache);
            let next = cache.begin(&key.0, page.last);
            if next.1 == page.last && !cache.slots.contains(&next) {
                cache.runs.insert(next, run);
            }
        }
        Ok(Arc::new(page))
    }

    /// Lets go of what is kept of a partition.
    pub(super) fn forget(&self, token: &Token) {
        let mut cache = lock(&self.cache);
        let keys: Vec<Key> =
            cache.slots.iter().map(|(key, _)| key).filter(|(of, _)| of == token).cloned().collect();
        for key in &keys {
            cache.remove(key);
        }
        cache.runs.retain(|(of, _), _| of != token);
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
        cache.keep(self.cache_bytes_max);
    }

    /// Lets half of the pages go.
    pub(super) fn give_way(&self) {
        let mut cache = lock(&self.cache);
        let bytes_max = cache.bytes / 2;
        cache.keep(bytes_max);
    }
}

/// Successive pages, out of one request as far as its limits go.
struct Run {
    /// Where the next page begins.
    at: Place,
    /// How many pages are wanted.
    left: usize,
    /// What is coming.
    events: Option<PageReader>,
}

impl Run {
    /// The next page: up to the next event whose ordinal is a multiple of a page's length, or as many bytes as a page
    /// may have, or the end of the log.
    async fn page(&mut self, pages: &Pages, token: &Token) -> Result<LogPage, LogError> {
        metrics::count(metrics::PAGES_READ);
        let started = Instant::now();
        let mut page =
            LogPage { entries: Vec::new(), last: self.at.after, ordinal: None, bytes: 0, full: false };
        let (mut events, mut bytes) = (0, 0);
        let mut goes_on = self.events.take();
        while !page.full {
            let (reader, is_new) = match &mut goes_on {
                Some(reader) => (reader, false),
                none => (none.insert(self.ask(pages, token).await?), true),
            };
            let Some(stored) = reader.next().await? else {
                let more = reader.more();
                goes_on = None;
                page.full = more && events > 0;
                if more && events == 0 && !is_new {
                    // What was asked for ended where this page begins.
                    continue;
                }
                break;
            };
            let id = stored.id;
            (events, bytes) = (events + 1, bytes + stored.body.len());
            page.full = events >= pages.events_max || bytes >= pages.bytes_max;
            match Entry::parse(stored) {
                Ok(entry) => {
                    let expected = self.at.ordinal.map(|before| before + 1);
                    if let Some(expected) = expected.filter(|expected| *expected != entry.ordinal) {
                        super::feed::report_hole(token, page.last, id, expected, entry.ordinal);
                    }
                    self.at.ordinal = Some(entry.ordinal);
                    page.full |= entry.ordinal.is_multiple_of(pages.events_max as u64);
                    page.bytes += entry.cost();
                    if !entry.is_mark {
                        page.entries.push(Arc::new(entry));
                    }
                }
                Err(error) => {
                    super::feed::report_unreadable(token, id, &error);
                    self.at.ordinal = None;
                }
            }
            page.last = id;
        }
        self.at.after = page.last;
        page.ordinal = self.at.ordinal;
        self.left = self.left.saturating_sub(1);
        self.events = goes_on;
        metrics::duration(metrics::PAGE_SECONDS, started.elapsed().as_secs_f64());
        Ok(page)
    }

    /// Asks the log for all pages that are wanted, up to where the last of them ends.
    async fn ask(&self, pages: &Pages, token: &Token) -> Result<PageReader, LogError> {
        let before = self.at.ordinal.map_or(0, |ordinal| ordinal % pages.events_max as u64) as usize;
        let events = self.left * pages.events_max - before;
        pages.log.open_page(token, self.at.after, events, self.left.saturating_mul(pages.bytes_max)).await
    }
}
