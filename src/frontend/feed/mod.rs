//! A partition's feed: what its connections read, kept in step with the log.
//!
//! One task per watched partition (`task`) owns the live subscription, fills the gaps and appends to the
//! ring. Connections read from here at their own pace, each by its position; nothing is queued for them. The
//! feed looks at every event once, and tells the connections whose drafts they were before it moves the
//! head, so that an acceptance always comes before its broadcast.

mod broadcast;
pub(crate) mod event;
pub(crate) mod page_cache;
mod registry;
pub(crate) mod ring;
mod state_cache;
mod task;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

pub(crate) use registry::{Feeds, Watched};
pub(crate) use state_cache::{StateAt, StateText};

use self::event::Entry;
use self::page_cache::{Pages, Place};
use self::ring::{Ring, RingRead};
use super::admission::memory::{Hold, Memory};
use super::admission::registry::{Dismissal, Roster};
use super::settings::FrontendSettings;
use super::{lock, metrics};
use crate::event::{DraftKey, EventId, PartitionKey, Token};
use crate::log::{Log, LogError, SnapshotInfo, SnapshotPart};
use crate::state::Fold;

/// What all feeds share.
pub(crate) struct Shared {
    pub log: Log,
    pub fold: Arc<dyn Fold>,
    pub pages: Pages,
    pub memory: Arc<Memory>,
    pub settings: Arc<FrontendSettings>,
    pub roster: Arc<Roster>,
    pub tasks: Tasks,
}

/// What runs for the feeds.
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Places for readers whose pages are read before they ask for them.
    ahead: Arc<Semaphore>,
    /// Places for states that are being made: each takes room that is not counted yet.
    states: Semaphore,
}

/// For how many readers pages are read ahead at the same time.
const AHEAD_MAX: usize = 8;
/// How many states are made at the same time.
const STATES_MAX: usize = 2;
/// How many pages are read ahead of a reader.
const PAGES_AHEAD: usize = 8;

impl Default for Tasks {
    fn default() -> Self {
        let ahead = Arc::new(Semaphore::new(AHEAD_MAX));
        let states = Semaphore::new(STATES_MAX);
        Self { tracker: TaskTracker::new(), stop: CancellationToken::new(), ahead, states }
    }
}

impl Shared {
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
    shared: Arc<Shared>,
    partition: PartitionKey,
    token: Token,
    ring: RwLock<Ring>,
    ring_bytes: Mutex<RingBytes>,
    /// The last event; `None` until the log was reached for the first time.
    head: watch::Sender<Option<EventId>>,
    waiters: Mutex<HashMap<DraftKey, Vec<Waiter>>>,
    watchers: AtomicUsize,
    /// Asks the task to compare itself with the log now.
    nudge: Notify,
    runs: Mutex<broadcast::Runs>,
    snapshot: tokio::sync::Mutex<Option<(Instant, Option<SnapshotInfo>)>>,
    warm: tokio::sync::Mutex<state_cache::Warm>,
}

/// What a ring holds, as it is told and as it is counted.
struct RingBytes {
    share: metrics::Share,
    hold: Hold,
}

impl RingBytes {
    fn set(&mut self, bytes: usize) {
        self.share.set(bytes);
        self.hold.set(bytes);
    }
}

/// A connection that waits for a draft's commit.
struct Waiter {
    connection: u64,
    inbox: mpsc::Sender<Arc<Entry>>,
}

/// Some events behind a position, and the position that a reader has then.
pub(crate) struct Stretch {
    /// The events.
    pub entries: Vec<Arc<Entry>>,
    /// Where it ends: the last event, or further on where an event cannot be read.
    pub end: EventId,
}

impl Stretch {
    /// Where it ends, with the ordinal of the last event if that is there.
    pub(crate) fn end_place(&self) -> Place {
        let last = self.entries.last().filter(|last| last.id == self.end);
        Place { after: self.end, ordinal: last.map(|last| last.ordinal) }
    }
}

impl Feed {
    fn new(shared: Arc<Shared>, partition: PartitionKey) -> Self {
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
            nudge: Notify::new(),
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
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// At most `max` events after a place, up to `upto`, which must be at most the head: from the ring, or if the
    /// place has left it, from the log. Never skips one: if the log lacks events there, that is
    /// [`LogError::Malformed`].
    pub(crate) async fn read(&self, place: Place, upto: EventId, max: usize) -> Result<Stretch, LogError> {
        let position = place.after;
        let read = self.ring().read(position, max);
        let (mut entries, mut end) = match read {
            RingRead::Events(entries) if entries.len() < max => (entries, upto),
            RingRead::Events(entries) => {
                let end = entries.last().map_or(upto, |entry| entry.id);
                (entries, end)
            }
            RingRead::Left => {
                metrics::hot().ring_misses.increment(1);
                // Boxed: few connections at a time are here, and all would keep the room.
                let page = Box::pin(self.shared.pages.page(&self.token, place)).await?;
                let page = page.ok_or_else(|| LogError::Unavailable {
                    what: "reading a page of the log",
                    why: format!("no event after {position} yet, though {upto} is known"),
                })?;
                let behind = page.behind(position);
                let entries: Vec<_> = behind.iter().take(max).cloned().collect();
                let came = page.end().ordinal.unwrap_or(u64::MAX);
                // Only such as will be full: others are not kept.
                let left =
                    self.ordinal().saturating_sub(came) as usize / self.shared.settings.page_events_max;
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
        Ok(Stretch { entries, end })
    }

    /// One event, if it is in the ring.
    pub(crate) fn recent(&self, id: EventId) -> Option<Arc<Entry>> {
        self.ring().get(id)
    }

    /// Has `inbox` told of the commit of a draft.
    pub(crate) fn look_out(&self, key: DraftKey, connection: u64, inbox: &mpsc::Sender<Arc<Entry>>) {
        let mut waiters = lock(&self.waiters);
        let of_key = waiters.entry(key).or_default();
        if of_key.iter().all(|waiter| waiter.connection != connection) {
            of_key.push(Waiter { connection, inbox: inbox.clone() });
        }
    }

    /// Takes back [`Feed::look_out`].
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

    fn ring(&self) -> std::sync::RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets half of the recent events go; who needs them reads them from the log.
    fn let_half_of_the_ring_go(&self) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        let bytes_max = ring.bytes() / 2;
        ring.keep(bytes_max);
        lock(&self.ring_bytes).set(ring.bytes());
    }

    fn has_watchers(&self) -> bool {
        self.watchers.load(Ordering::Acquire) > 0
    }
}

/// A hole in the log: events were there and are not, or ordinals were given twice.
pub(crate) fn report_hole(token: &Token, before: EventId, id: EventId, expected: u64, found: u64) {
    metrics::count(metrics::HOLES);
    error!(partition = %token, %before, event = %id, expected, found, "the log has a hole: the ordinals of two successive events do not follow");
}

/// The partition's last events are gone from the log. Everybody who was shown them is sent away.
fn went_back(feed: &Feed, last: EventId) {
    metrics::count(metrics::WENT_BACK);
    let head = feed.ring().head();
    error!(partition = %feed.partition, %head, %last, "events are gone from the log: the partition ended with an event that is no longer there");
    let connections = feed
        .shared
        .roster
        .dismiss(|_, partition| (*partition == feed.partition).then_some(Dismissal::LogWentBack));
    tracing::warn!(partition = %feed.partition, connections, "connections that were shown what is gone are closed");
}

/// An event that is no event.
pub(crate) fn report_unreadable(token: &Token, id: EventId, why: &serde_json::Error) {
    metrics::count(metrics::UNREADABLE);
    error!(partition = %token, event = %id, %why, "skipping an unreadable event in the log");
}
