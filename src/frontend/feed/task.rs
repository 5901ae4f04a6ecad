//! The task of a feed: live events in, gaps filled from the log, head moved.

use crate::frontend::admission::registry::DisconnectReason;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::event::Entry;
use super::partition::Feed;
use super::report::{report_hole, report_unreadable};
use crate::event::EventId;
use crate::faults;
use crate::frontend::metrics;
use crate::log::{LiveEvent, LiveFeed, LogError, StoredEvent};
use crate::telemetry::traces::{Span, TraceParent};
use crate::util::backoff::{Backoff, chance, scattered};
use crate::util::sync::lock;

/// The most live events that are taken in before the head is moved.
const LIVE_EVENTS_PER_TURN: usize = 256;
const RETRY: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Takes the feed out of the registry if nobody watches it; tells whether it did.
type Retire<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// Runs a feed until it is stopped, or has had no watcher for a while.
pub(crate) async fn run(feed: &Arc<Feed>, retire: Retire<'_>, stop: &CancellationToken) {
    let mut pause = Backoff::new(RETRY, RETRY_MAX);
    loop {
        let followed = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            followed = follow(feed, retire) => followed,
        };
        match followed {
            Ok(()) => return,
            // What went wrong is that the log could not be reached; from the start again.
            Err(error) => {
                warn!(partition = %feed.partition, %error, "a feed lost the log; trying again");
                if !feed.has_watchers() && retire() {
                    return;
                }
            }
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = sleep(scattered(pause.next())) => {}
        }
    }
}

/// Follows the log. Ends well when nobody watches any more.
async fn follow(feed: &Arc<Feed>, retire: Retire<'_>) -> Result<(), LogError> {
    let settings = &feed.shared.settings;
    let mut state = feed.shared.log.state();
    state.mark_unchanged();
    let mut epoch = state.borrow().epoch;
    // The subscription first, then the head: what comes in between is seen twice rather than never.
    let mut live = feed.shared.log.live(&feed.token).await?;
    open(feed).await?;
    let mut checks = Checks::new(settings.gap_check_ms);
    let idle = Duration::from_millis(settings.feed_idle_ms);
    let mut idle_since = None;
    loop {
        let idle = if feed.shared.is_crowded() { Duration::ZERO } else { idle };
        let idle_until = idle_since.map(|since: Instant| since + idle);
        tokio::select! {
            // Live events last: the others are rare, and must not wait for a pause between events.
            biased;
            changed = state.changed() => {
                if changed.is_err() {
                    return Err(LogError::Unavailable { what: "following live events", why: "the connection ended".into() });
                }
                let now = *state.borrow_and_update();
                if now.epoch != epoch {
                    epoch = now.epoch;
                    checks.at = Instant::now();
                }
            }
            () = feed.request_check.notified() => {
                if feed.has_watchers() { checks.at = Instant::now() }
            }
            () = sleep_until(checks.at) => {
                checks.run(feed).await?;
                feed.forget_runs();
                forget_state(feed).await;
            }
            () = sleep_until(idle_until.unwrap_or(checks.at)), if idle_until.is_some() => {
                if retire() {
                    debug!(partition = %feed.partition, "no watchers left; feed ended");
                    return Ok(());
                }
            }
            event = live.next() => {
                let Some(event) = event else {
                    return Err(LogError::Unavailable { what: "following live events", why: "the subscription ended".into() });
                };
                take_in(feed, &mut live, event).await?;
            }
        }
        idle_since = if feed.has_watchers() { None } else { idle_since.or(Some(Instant::now())) };
    }
}

/// When the feed is compared with the log, and what the comparisons before said.
struct Checks {
    at: Instant,
    backoff: Backoff,
    /// Since when the log has ended before the feed does.
    behind_since: Option<Instant>,
}

impl Checks {
    fn new(every_ms: u64) -> Self {
        Self {
            at: Instant::now() + jittered(every_ms),
            backoff: Backoff::new(RETRY, RETRY_MAX),
            behind_since: None,
        }
    }

    /// Compares, and sets the time of the next comparison.
    async fn run(&mut self, feed: &Feed) -> Result<(), LogError> {
        let settings = &feed.shared.settings;
        match compare(feed).await {
            Ok(FeedStatus::InStep) => {
                *self = Self::new(settings.gap_check_ms);
                return Ok(());
            }
            Ok(FeedStatus::LogIsBehind(last)) => {
                let since = *self.behind_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= Duration::from_millis(settings.head_gone_ms) {
                    self.behind_since = None;
                    reset(feed, last).await?;
                }
            }
            Err(error) => {
                debug!(partition = %feed.partition, %error, "failed to compare with the log; retrying")
            }
        }
        self.at = Instant::now() + scattered(self.backoff.next());
        Ok(())
    }
}

/// Finds the head at the start, or what was missed since the last time.
async fn open(feed: &Feed) -> Result<(), LogError> {
    if feed.head.borrow().is_some() {
        return compare(feed).await.map(drop);
    }
    let head = feed.shared.log.head(&feed.token).await?;
    begin(feed, head);
    Ok(())
}

/// The last events that the feed has are gone from the log: it begins anew with what there is, and without those
/// who were shown more.
async fn reset(feed: &Feed, last: EventId) -> Result<(), LogError> {
    let head = feed.shared.log.head(&feed.token).await?;
    if head.as_ref().is_some_and(|head| head.id >= feed.ring().head()) {
        return Ok(());
    }
    report_truncation(feed, last);
    feed.shared.pages.forget(&feed.token);
    feed.warm.lock().await.forget_idle(Duration::ZERO);
    begin(feed, head);
    Ok(())
}

/// Begins with an event as the head, and nothing before it at hand.
fn begin(feed: &Feed, head: Option<StoredEvent>) {
    let (head, ordinal) = match head {
        None => (EventId::NONE, Some(0)),
        Some(stored) => {
            let id = stored.id;
            match Entry::parse(stored) {
                Ok(entry) => (id, Some(entry.ordinal)),
                Err(error) => {
                    report_unreadable(&feed.token, id, &error);
                    (id, None)
                }
            }
        }
    };
    let settings = &feed.shared.settings;
    *feed.ring.write().unwrap_or_else(PoisonError::into_inner) =
        super::ring::Ring::new(head, ordinal, settings.ring_events_max, settings.ring_bytes_max);
    feed.forget_runs();
    info!(partition = %feed.partition, %head, ordinal = feed.ordinal(), "feed started");
    feed.head.send_replace(Some(head));
}

/// Takes in a live event, and those that are here already behind it.
async fn take_in(feed: &Feed, live: &mut LiveFeed, first: LiveEvent) -> Result<(), LogError> {
    let mut next = Some(first);
    let mut taken = 0;
    // They end when the head has moved.
    let mut spans = Vec::new();
    while let Some(LiveEvent { event, previous, trace }) = next.take() {
        spans.extend(trace.and_then(|trace| broadcast_span(feed, event.id, &trace)));
        let head = feed.ring().head();
        if event.id > head {
            let id = event.id;
            let follows = previous == head || faults::broken("believe_live");
            if !follows || append(feed, event).is_err() {
                // What was taken in so far need not wait for the log.
                publish(feed);
                fill(feed, id).await?;
            }
        }
        taken += 1;
        if taken < LIVE_EVENTS_PER_TURN {
            next = live.try_next();
        }
    }
    publish(feed);
    Ok(())
}

/// The span of a traced event's broadcast by this frontend: its way through the feed.
fn broadcast_span(feed: &Feed, id: EventId, trace: &str) -> Option<Span> {
    let mut span = TraceParent::parse(trace)?.span("broadcast", std::time::SystemTime::now())?;
    span.set("insieme.partition", feed.partition.as_str().to_owned());
    span.set("insieme.event", id.0 as i64);
    span.set("insieme.watchers", feed.watchers.load(Ordering::Relaxed) as i64);
    Some(span)
}

/// How the feed and the log stand to each other.
enum FeedStatus {
    /// The feed has what the log has.
    InStep,
    /// The log ends before the feed does, at this event: a replica that lags, or events that are gone.
    LogIsBehind(EventId),
}

/// Compares with the log, whatever the live events said.
async fn compare(feed: &Feed) -> Result<FeedStatus, LogError> {
    if faults::broken("never_compare") {
        return Ok(FeedStatus::InStep);
    }
    let had = feed.ring().head();
    let last = feed.shared.log.head(&feed.token).await?.map_or(EventId::NONE, |last| last.id);
    if last < had {
        return Ok(FeedStatus::LogIsBehind(last));
    }
    if last > feed.ring().head() {
        fill(feed, last).await?;
    }
    Ok(FeedStatus::InStep)
}

/// Reads from the log what is missing up to `upto`, an event of the partition.
async fn fill(feed: &Feed, upto: EventId) -> Result<(), LogError> {
    let settings = &feed.shared.settings;
    metrics::count(metrics::GAPS);
    let mut pause = Backoff::new(RETRY, RETRY_MAX);
    let mut tries = 0;
    let mut doubted = None;
    loop {
        let head = feed.ring().head();
        if head >= upto {
            return Ok(());
        }
        let page = feed.shared.log.page(&feed.token, head, settings.page_events_max, settings.page_bytes_max);
        match page.await {
            Ok(events) if !events.is_empty() => {
                metrics::add(metrics::GAP_EVENTS, events.len() as u64);
                for event in events {
                    let Err(hole) = append(feed, event) else { continue };
                    // Damage of the log only if a second, whole read shows it again.
                    if doubted == Some(hole.after.id) {
                        begin_after(feed, *hole);
                    } else {
                        doubted = Some(hole.after.id);
                        break;
                    }
                }
                publish(feed);
                tries = 0;
            }
            // A replica that does not have it yet.
            Ok(_) => tries += 1,
            Err(error) if error.is_retryable() => {
                debug!(partition = %feed.partition, %error, "cannot fill a gap yet");
                tries += 1;
            }
            Err(error) => return Err(error),
        }
        if tries > 0 {
            if tries % 10 == 0 {
                warn!(partition = %feed.partition, %head, %upto, tries, "a gap cannot be filled yet");
            }
            sleep(scattered(pause.next())).await;
        }
    }
}

/// Events that are missing.
struct Hole {
    /// The event after them.
    after: Arc<Entry>,
    /// The ordinal that it should have.
    expected: u64,
}

/// Appends the event after the head: to the ring, and to the inboxes of those whose draft it was. Events that are
/// missing before it are an error, and it is not taken.
fn append(feed: &Feed, stored: StoredEvent) -> Result<(), Box<Hole>> {
    let id = stored.id;
    feed.shared.log.observe(id);
    let entry = match Entry::parse(stored) {
        Ok(entry) => Arc::new(entry),
        Err(error) => {
            report_unreadable(&feed.token, id, &error);
            feed.ring.write().unwrap_or_else(PoisonError::into_inner).skip(id);
            return Ok(());
        }
    };
    let hole = feed.ring().is_hole_before(&entry);
    if let Some(expected) = hole {
        return Err(Box::new(Hole { after: entry, expected }));
    }
    tell_waiters(feed, &entry);
    metrics::hot().seen.record(metrics::since_ms(entry.timestamp_ms));
    let mut ring = feed.ring.write().unwrap_or_else(PoisonError::into_inner);
    if entry.is_mark {
        ring.pass(id, entry.ordinal);
    } else {
        ring.push(entry);
    }
    lock(&feed.ring_bytes).set(ring.bytes());
    Ok(())
}

/// The log is damaged. Begins after the hole; a connection that is before it is not shown what comes after.
fn begin_after(feed: &Feed, hole: Hole) {
    let Hole { after, expected } = hole;
    report_hole(&feed.token, feed.ring().head(), after.id, expected, after.ordinal);
    tell_waiters(feed, &after);
    let mut ring = feed.ring.write().unwrap_or_else(PoisonError::into_inner);
    ring.restart(after);
    lock(&feed.ring_bytes).set(ring.bytes());
}

/// Tells those who wait for a draft that it is committed.
fn tell_waiters(feed: &Feed, entry: &Arc<Entry>) {
    let waiting = lock(&feed.waiters);
    let Some(waiters) = waiting.get(&entry.draft_key) else { return };
    for waiter in waiters {
        // An inbox holds one notice for every draft of its connection; a full one is a defect that the
        // republishing of unanswered drafts heals.
        if let Err(TrySendError::Full(_)) = waiter.inbox.try_send(entry.clone()) {
            metrics::count(metrics::INBOX_FULL);
        }
    }
}

/// Moves the head to where the ring ends.
fn publish(feed: &Feed) {
    let head = feed.ring().head();
    feed.head.send_if_modified(|published| {
        let moved = *published != Some(head);
        *published = Some(head);
        moved
    });
}

/// Drops the warm state when nobody has asked for it in a while.
async fn forget_state(feed: &Feed) {
    if let Ok(mut warm) = feed.warm.try_lock() {
        warm.forget_idle(Duration::from_millis(feed.shared.settings.state_idle_ms));
    }
}

/// A time between three quarters and five quarters of `ms`.
fn jittered(ms: u64) -> Duration {
    Duration::from_millis(ms * 3 / 4).saturating_add(Duration::from_millis(ms / 2).mul_f64(chance()))
}

/// The partition's last events are gone from the log. Everybody who was shown them is sent away.
pub(crate) fn report_truncation(feed: &Feed, last: EventId) {
    metrics::count(metrics::WENT_BACK);
    let head = feed.ring().head();
    tracing::error!(partition = %feed.partition, %head, %last, "events are gone from the log: the partition ended with an event that is no longer there");
    let connections = feed.shared.registry.disconnect(|_, partitions| {
        partitions.contains(&feed.partition).then_some(DisconnectReason::LogWentBack)
    });
    tracing::warn!(partition = %feed.partition, connections, "connections that were shown what is gone are closed");
}
