//! A watched partition: its recent events, its head, and those who wait for a commit.

use crate::event::{DraftKey, EventId, PartitionKey, Token};
use crate::frontend::admission::memory::{Hold, Memory};
use crate::frontend::admission::registry::ConnectionRegistry;
use crate::frontend::feed::broadcast::BroadcastCache;
use crate::frontend::feed::broadcast::Run;
use crate::frontend::feed::event::Entry;
use crate::frontend::feed::page_cache::{Pages, Place};
use crate::frontend::feed::ring::{Ring, RingRead};
use crate::frontend::feed::state_cache::StateCache;
use crate::frontend::metrics;
use crate::frontend::settings::FrontendSettings;
use crate::log::{Log, LogError, SnapshotInfo, SnapshotPart};
use crate::protocol::Dialect;
use crate::state::Fold;
use crate::util::sync::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all feeds share.
pub(crate) struct Shared {
    pub log: Log,
    pub fold: Arc<dyn Fold>,
    pub pages: Pages,
    pub memory: Arc<Memory>,
    pub settings: Arc<FrontendSettings>,
    pub registry: Arc<ConnectionRegistry>,
    pub tasks: Tasks,
    /// How many feeds nobody watches. For a moment it may be one off.
    pub unwatched: AtomicIsize,
}

/// What runs for the feeds.
pub(crate) struct Tasks {
    pub(crate) tracker: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Places for readers whose pages are read before they ask for them.
    ahead: Arc<Semaphore>,
    /// Places for states that are being made: each takes room that is not counted yet.
    pub(crate) states: Semaphore,
    /// The place for a state of the past that is being made.
    pub(crate) past: Semaphore,
}

/// For how many readers pages are read ahead at the same time.
pub(crate) const AHEAD_MAX: usize = 8;

/// How many states are made at the same time.
pub(crate) const STATES_MAX: usize = 2;

/// How many pages are read ahead of a reader.
pub(crate) const PAGES_AHEAD: usize = 8;

impl Default for Tasks {
    fn default() -> Self {
        let ahead = Arc::new(Semaphore::new(AHEAD_MAX));
        let states = Semaphore::new(STATES_MAX);
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            ahead,
            states,
            past: Semaphore::new(1),
        }
    }
}

/// How many feeds may go on though nobody watches them: who goes from partition to partition leaves one in each.
const UNWATCHED_MAX: isize = 1_024;

impl Shared {
    /// Whether a feed that nobody watches ends at once, since there are so many others.
    pub(crate) fn is_crowded(&self) -> bool {
        self.unwatched.load(Ordering::Acquire) > UNWATCHED_MAX
    }

    /// Reads so many pages from there on, which somebody will soon ask for, if there is room for that: NATS reads while
    /// the clients do.
    fn read_ahead(self: &Arc<Self>, token: &Token, from: Place, pages: usize) {
        let Ok(place) = Arc::clone(&self.tasks.ahead).try_acquire_owned() else { return };
        let Some(from) = self.pages.begin_run(token, from, pages) else { return };
        let (shared, token) = (Arc::clone(self), token.clone());
        self.tasks.tracker.spawn(async move {
            let reading = shared.pages.read_run(&token, from, pages);
            if let Some(Err(error)) = shared.tasks.stop.run_until_cancelled(reading).await {
                tracing::debug!(partition = %token, %error, "pages could not be read ahead");
            }
            drop(place);
        });
    }
}

/// A watched partition.
pub(crate) struct Feed {
    pub(crate) shared: Arc<Shared>,
    pub(crate) partition: PartitionKey,
    pub(crate) token: Token,
    pub(crate) ring: RwLock<Ring>,
    pub(crate) ring_bytes: Mutex<RingBytes>,
    /// The last event; `None` until the log was reached for the first time.
    pub(crate) head: watch::Sender<Option<EventId>>,
    pub(crate) waiters: Mutex<HashMap<DraftKey, Vec<DraftWatcher>>>,
    pub(crate) watchers: AtomicUsize,
    /// Asks the task to compare itself with the log now.
    pub(crate) request_check: Notify,
    runs: Mutex<BroadcastCache>,
    snapshot: tokio::sync::Mutex<Option<(Instant, Option<SnapshotInfo>)>>,
    pub(crate) warm: tokio::sync::Mutex<StateCache>,
}

/// What a ring holds, as it is told and as it is counted.
pub(crate) struct RingBytes {
    share: metrics::Share,
    hold: Hold,
}

impl RingBytes {
    pub(crate) fn set(&mut self, bytes: usize) {
        self.share.set(bytes);
        self.hold.set(bytes);
    }
}

/// A connection that waits for a draft's commit.
pub(crate) struct DraftWatcher {
    connection: u64,
    pub(crate) inbox: mpsc::Sender<Arc<Entry>>,
}

/// Some events behind a position, and the position that a reader has then.
pub(crate) struct EventBatch {
    /// The events.
    pub entries: Vec<Arc<Entry>>,
    /// Where it ends: the last event, or further on where an event cannot be read.
    pub end: EventId,
}

impl EventBatch {
    /// Where it ends, with the ordinal of the last event if that is there.
    pub(crate) fn end_place(&self) -> Place {
        let last = self.entries.last().filter(|last| last.id == self.end);
        Place { after: self.end, ordinal: last.map(|last| last.ordinal) }
    }
}

impl Feed {
    pub(crate) fn new(shared: Arc<Shared>, partition: PartitionKey) -> Self {
        let settings = &shared.settings;
        let ring = Ring::new(EventId::NONE, 0, settings.ring_events_max, settings.ring_bytes_max);
        Self {
            token: partition.token(),
            partition,
            ring: RwLock::new(ring),
            ring_bytes: Mutex::new(RingBytes {
                share: metrics::Share::of(&metrics::hot().ring_bytes),
                hold: shared.memory.shared(),
            }),
            head: watch::Sender::new(None),
            waiters: Mutex::default(),
            watchers: AtomicUsize::new(0),
            request_check: Notify::new(),
            runs: Mutex::default(),
            snapshot: tokio::sync::Mutex::default(),
            warm: tokio::sync::Mutex::default(),
            shared,
        }
    }

    /// The partition.
    pub(crate) fn partition(&self) -> &PartitionKey {
        &self.partition
    }

    /// The partition's subject token.
    pub(crate) fn token(&self) -> &Token {
        &self.token
    }

    /// The head, to read and to wait on; `None` until the feed has reached the log.
    pub(crate) fn head(&self) -> watch::Receiver<Option<EventId>> {
        self.head.subscribe()
    }

    /// The head now.
    pub(crate) fn head_now(&self) -> EventId {
        self.head.borrow().unwrap_or(EventId::NONE)
    }

    /// How many events the partition has.
    pub(crate) fn ordinal(&self) -> u64 {
        self.ring().ordinal()
    }

    /// Asks for a look at the log, because somebody knows of an event that is not here.
    pub(crate) fn request_check(&self) {
        self.request_check.notify_one();
    }

    /// At most `max` events after a place, up to `upto`, which must be at most the head: from the ring, or if the
    /// place has left it, from the log. Never skips one: if the log lacks events there, that is
    /// [`LogError::Malformed`].
    pub(crate) async fn read(&self, place: Place, upto: EventId, max: usize) -> Result<EventBatch, LogError> {
        let position = place.after;
        let read = self.ring().read(position, max);
        let (mut entries, mut end) = match read {
            RingRead::Events(entries) if entries.len() < max => (entries, upto),
            RingRead::Events(entries) => {
                let end = entries.last().map_or(upto, |entry| entry.id);
                (entries, end)
            }
            RingRead::Evicted => {
                metrics::hot().ring_misses.increment(1);
                // Boxed: few connections at a time are here, and all would keep the room.
                let page = Box::pin(self.shared.pages.page(&self.token, place)).await?;
                let page = page.ok_or_else(|| LogError::Unavailable {
                    what: "reading a page of the log",
                    why: format!("no event after {position} yet, though {upto} is known"),
                })?;
                let behind = page.behind(position);
                let entries: Vec<_> = behind.iter().take(max).cloned().collect();
                let received_at = page.end().ordinal.unwrap_or(u64::MAX);
                // Only such as will be full: others are not kept.
                let left = self.ordinal().saturating_sub(received_at) as usize
                    / self.shared.settings.page_events_max;
                if page.full && left > 0 {
                    self.shared.read_ahead(&self.token, page.end(), left.min(PAGES_AHEAD));
                }
                let cut = entries.len() < behind.len();
                let end = if cut { entries.last().map_or(page.last, |entry| entry.id) } else { page.last };
                (entries, end)
            }
        };
        while entries.last().is_some_and(|entry| entry.id > upto) {
            entries.pop();
        }
        end = end.min(upto);
        Ok(EventBatch { entries, end })
    }

    /// One event, if it is in the ring.
    pub(crate) fn recent(&self, id: EventId) -> Option<Arc<Entry>> {
        self.ring().get(id)
    }

    /// Has `inbox` told of the commit of a draft.
    pub(crate) fn watch_draft(&self, key: DraftKey, connection: u64, inbox: &mpsc::Sender<Arc<Entry>>) {
        let mut waiters = lock(&self.waiters);
        let of_key = waiters.entry(key).or_default();
        if of_key.iter().all(|waiter| waiter.connection != connection) {
            of_key.push(DraftWatcher { connection, inbox: inbox.clone() });
        }
    }

    /// Takes back [`Feed::watch_draft`].
    pub(crate) fn forget(&self, key: DraftKey, connection: u64) {
        let mut waiters = lock(&self.waiters);
        let Some(of_key) = waiters.get_mut(&key) else { return };
        of_key.retain(|waiter| waiter.connection != connection);
        if of_key.is_empty() {
            waiters.remove(&key);
        }
    }

    /// How many events up to `ordinal` are behind the partition's latest snapshot. What is known of the
    /// snapshot may be a little old.
    pub(crate) async fn since_snapshot(&self, ordinal: u64) -> u64 {
        let snapshot = self.snapshot_info().await.map_or(0, |info| info.ordinal);
        ordinal.saturating_sub(snapshot)
    }

    /// What snapshot there is, as of a moment ago.
    pub(crate) async fn snapshot_info(&self) -> Option<SnapshotInfo> {
        // Locked while it is looked up: those who connect at once look once.
        let mut known = self.snapshot.lock().await;
        let age_max = Duration::from_millis(self.shared.settings.snapshot_info_ms);
        if let Some((at, info)) = *known
            && at.elapsed() < age_max
        {
            return info;
        }
        let last = known.and_then(|(_, info)| info);
        if !self.shared.log.state().borrow().connected {
            return last;
        }
        let looked = self.shared.log.snapshot_info(&self.token, SnapshotPart::State);
        let info = match tokio::time::timeout(age_max, looked).await {
            Ok(Ok(info)) => info,
            Ok(Err(error)) => {
                tracing::warn!(partition = %self.partition, %error, "cannot look for a snapshot");
                last
            }
            Err(_) => {
                tracing::warn!(partition = %self.partition, "looking for a snapshot takes too long");
                last
            }
        };
        // A failure counts as a look too: nobody waits for the next one behind this one.
        *known = Some((Instant::now(), info));
        info
    }

    pub(crate) fn ring(&self) -> std::sync::RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets half of the recent events go; who needs them reads them from the log.
    pub(crate) fn let_half_of_the_ring_go(&self) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let bytes_max = ring.bytes() / 2;
        ring.keep(bytes_max);
        lock(&self.ring_bytes).set(ring.bytes());
    }

    pub(crate) fn has_watchers(&self) -> bool {
        self.watchers.load(Ordering::Acquire) > 0
    }
}

impl Feed {
    /// The frames of at most `max` events behind `position`, up to `upto`, which must be at most the head. `None`
    /// where the position has left the ring.
    pub(crate) fn run(&self, position: EventId, upto: EventId, max: usize, dialect: Dialect) -> Option<Run> {
        // Locked while it is made: those who come meanwhile want the same one.
        let mut runs = lock(&self.runs);
        let last = runs.of(dialect);
        if let Some(run) = last
            && (run.from, run.upto) == (position, upto)
        {
            return Some(run.clone());
        }
        let RingRead::Events(entries) = self.ring().read(position, max) else { return None };
        Some(last.insert(Run::of(&entries, position, upto, max, dialect)).clone())
    }

    /// Lets go of what was put together: it may never be asked for again.
    pub(crate) fn forget_runs(&self) {
        *lock(&self.runs) = BroadcastCache::default();
    }
}
