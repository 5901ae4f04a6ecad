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

use super::event::Entry;
use crate::event::{EventId, Token};
use crate::faults;
use crate::frontend::admission::memory::Hold;
use crate::frontend::metrics;
use crate::log::{Log, LogError, PageReader};
use crate::util::sync::lock;

/// The cache.
pub(crate) struct Pages {
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
pub(crate) struct Place {
    pub after: EventId,
    pub ordinal: Option<u64>,
}

/// Some events of a partition, in order; at least one of the log's, though it may be unreadable.
pub(crate) struct LogPage {
    /// The events that can be read.
    pub entries: Vec<Arc<Entry>>,
    /// The last event of the log that the page covers.
    pub last: EventId,
    /// Its ordinal, if it is known.
    ordinal: Option<u64>,
    /// The ordinal of the first event that it covers, if it is known.
    first: Option<u64>,
    bytes: usize,
    /// Whether it will always be what it is, since the log goes on behind it: only such a page is kept.
    pub full: bool,
}

impl LogPage {
    /// Where it ends.
    pub(crate) fn end(&self) -> Place {
        Place { after: self.last, ordinal: self.ordinal }
    }

    /// The events behind `position`.
    pub(crate) fn behind(&self, position: EventId) -> &[Arc<Entry>] {
        &self.entries[self.entries.partition_point(|entry| entry.id <= position)..]
    }
}

impl Pages {
    pub(crate) fn new(
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

    /// A page with what is after a place; it may begin before. `None` when the log has nothing there, or the
    /// replica that answered does not have it yet. [`LogError::Malformed`] if events are missing there.
    pub(crate) async fn page(&self, token: &Token, place: Place) -> Result<Option<Arc<LogPage>>, LogError> {
        let Place { after, ordinal } = place;
        let (key, slot) = {
            let mut cache = lock(&self.cache);
            let key = cache.begin(token, after);
            let slot = cache.slots.get_or_insert(key.clone(), Default::default).0.clone();
            (key, slot)
        };
        // What is inside a page follows; what it begins with, only its reader knows.
        let ordinal = ordinal.filter(|_| key.1 == after);
        let page = slot.get_or_try_init(|| self.read(&key, ordinal)).await.cloned();
        self.settle(&key, &slot, page.as_deref().ok());
        let page = page?;
        if !follows(ordinal, page.first) {
            let why = format!("the page after {after} does not begin with the next event");
            return Err(LogError::Malformed { what: "reading a page of the log", why });
        }
        Ok((page.last > after).then_some(page))
    }

    /// Has `pages` pages asked for in one request, from the first one on that is not here of as many from `from` on.
    /// Gives where that is, for [`read_run`](Self::read_run). `None` where all are here, or just being read.
    pub(crate) fn begin_run(&self, token: &Token, from: Place, pages: usize) -> Option<EventId> {
        let mut cache = lock(&self.cache);
        let mut place = from;
        for _ in 0..pages {
            let key = cache.begin(token, place.after);
            match cache.slots.peek(&key) {
                Some((slot, _)) => place = slot.get().filter(|page| page.full)?.end(),
                None if cache.runs.contains_key(&key) => return None,
                None => {
                    cache.runs.insert(key, Run::new(place, pages));
                    return Some(place.after);
                }
            }
        }
        None
    }

    /// Reads the pages of a run, or has others read them, who need them sooner.
    pub(crate) async fn read_run(&self, token: &Token, from: EventId, pages: usize) -> Result<(), LogError> {
        let mut place = Place { after: from, ordinal: None };
        let mut read = Ok(());
        for _ in 0..pages {
            match self.page(token, place).await {
                Ok(Some(page)) if page.full => place = page.end(),
                Ok(_) => break,
                Err(error) => {
                    read = Err(error);
                    break;
                }
            }
        }
        // Where it ended too soon.
        lock(&self.cache).runs.remove(&(token.clone(), place.after));
        read
    }

    /// Reads the page that begins there: the next one of a run, or one by itself.
    async fn read(&self, key: &Key, ordinal: Option<u64>) -> Result<Arc<LogPage>, LogError> {
        let ordinal = if key.1 == EventId::NONE { Some(0) } else { ordinal };
        let run = lock(&self.cache).runs.remove(key);
        let mut run = run.unwrap_or_else(|| Run::new(Place { after: key.1, ordinal }, 1));
        run.at.ordinal = run.at.ordinal.or(ordinal);
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
    pub(crate) fn forget(&self, token: &Token) {
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
    pub(crate) fn give_way(&self) {
        let mut cache = lock(&self.cache);
        let bytes_max = cache.bytes / 2;
        cache.keep(bytes_max);
    }
}

/// Whether an event with ordinal `next` comes right after that with ordinal `before`, as far as these are known.
fn follows(before: Option<u64>, next: Option<u64>) -> bool {
    before.zip(next).is_none_or(|(before, next)| next == before + 1) || faults::broken("believe_batches")
}

/// Events are missing in the log before this one.
fn hole_before(token: &Token, before: EventId, entry: &Entry, expected: u64) -> LogError {
    super::report::report_hole(token, before, entry.id, expected, entry.ordinal);
    let why = format!("events are missing between {before} and {}", entry.id);
    LogError::Malformed { what: "reading a page of the log", why }
}

/// Successive pages, out of one request as far as its limits go.
struct Run {
    /// Where the next page begins.
    at: Place,
    /// How many pages are wanted.
    left: usize,
    /// What is coming.
    events: Option<PageReader>,
    /// An event before which events seem to be missing.
    doubted: Option<EventId>,
}

impl Run {
    fn new(at: Place, left: usize) -> Self {
        Self { at, left, events: None, doubted: None }
    }

    /// The next page: up to the next event whose ordinal is a multiple of a page's length, or as many bytes as a page
    /// may have, or the end of the log. Where events are missing, a second read must show it; then there is no page.
    async fn page(&mut self, pages: &Pages, token: &Token) -> Result<LogPage, LogError> {
        metrics::count(metrics::PAGES_READ);
        let started = Instant::now();
        let (entries, last) = (Vec::new(), self.at.after);
        let mut page = LogPage { entries, last, ordinal: None, first: None, bytes: 0, full: false };
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
            let (id, size) = (stored.id, stored.body.len());
            let expected = self.at.ordinal.map(|before| before + 1);
            match Entry::parse(stored) {
                Ok(entry) => {
                    let hole = expected.filter(|expected| *expected != entry.ordinal);
                    if let Some(expected) = hole.filter(|_| !faults::broken("believe_batches")) {
                        if self.doubted == Some(id) {
                            return Err(hole_before(token, page.last, &entry, expected));
                        }
                        self.doubted = Some(id);
                        goes_on = None;
                        self.at.after = page.last;
                        continue;
                    }
                    self.at.ordinal = Some(entry.ordinal);
                    if events == 0 {
                        page.first = self.at.ordinal;
                    }
                    page.full |= entry.ordinal.is_multiple_of(pages.events_max as u64);
                    page.bytes += entry.cost();
                    if !entry.is_mark {
                        page.entries.push(Arc::new(entry));
                    }
                }
                Err(error) => {
                    super::report::report_unreadable(token, id, &error);
                    self.at.ordinal = expected;
                }
            }
            (events, bytes) = (events + 1, bytes + size);
            page.full |= events >= pages.events_max || bytes >= pages.bytes_max;
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
