//! `sync`: ranges of the log on request, page by page, with the broadcasts held back meanwhile.
//!
//! A cycle is a run of pages up to an end that is fixed with the first. In the classic dialect a client may know
//! nothing of pages: a cycle that it does not go on with ends by itself, and the rest comes as broadcasts, from the end
//! of the last page on.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::warn;

use super::ahead;
use super::lane::Lane;
use super::line::Line;
use super::sending::{Sending, form_of};
use super::socket::End;
use super::sync_cursor::Cycle;
use crate::event::EventId;
use crate::faults;
use crate::frontend::feed::event::Entry;
use crate::frontend::feed::page_cache::Place;
use crate::frontend::feed::partition::Feed;
use crate::frontend::feed::{SerializedState, StateText};
use crate::frontend::shared::FrontendShared;
use crate::log::LogError;
use crate::protocol::{CloseCode, Dialect, ErrorCode, Notice, Request, Snapshot, Sync};

/// How long a classic client may take to ask for the next page.
const CLASSIC_IDLE: Duration = Duration::from_secs(1);

/// What came of reading for a `sync`.
pub(crate) enum Synced {
    Page(Box<Page>),
    /// It begins after the partition's last event, and the log does not have what the client has seen.
    Beyond {
        since: EventId,
        head: EventId,
    },
    /// It begins after what this frontend knows.
    Lags,
    /// The log cannot be read just now.
    Unread(LogError),
}

/// A page as it was read.
pub(crate) struct Page {
    state: Option<Arc<SerializedState>>,
    /// Until the state is sent, no other takes its seat.
    seat: Option<OwnedSemaphorePermit>,
    since: EventId,
    upto: EventId,
    entries: Vec<Arc<Entry>>,
    bytes: usize,
    last: EventId,
    place: Place,
}

/// What is to be read for a `sync`.
struct Reading {
    shared: Arc<FrontendShared>,
    feed: Arc<Feed>,
    dialect: Dialect,
    position: EventId,
    counted: Place,
    cycle: Option<Cycle>,
    sync: Sync,
    seats: Option<Arc<Semaphore>>,
}

impl Reading {
    async fn read(self) -> Synced {
        if let Some(since) = self.sync.since.filter(|since| *since > self.feed.head_now()) {
            let head = ahead::head_after(&self.feed, since).await;
            if since > head {
                return match ahead::is_lost(&self.shared, &self.feed, since).await {
                    Ok(true) => Synced::Beyond { since, head },
                    Ok(false) => Synced::Lags,
                    Err(error) => {
                        warn!(%error, %since, "cannot determine whether an event that a client has seen is lost");
                        Synced::Lags
                    }
                };
            }
        }
        match self.page().await {
            Ok(page) => Synced::Page(Box::new(page)),
            Err(error) => Synced::Unread(error),
        }
    }

    /// The end of the cycle that a request for what comes after `since` goes on with.
    fn continues(&self, since: EventId) -> Option<EventId> {
        // In the v1 dialect a cycle lasts until its last page, whatever is asked for.
        let lasts = self.dialect == Dialect::V1;
        self.cycle.filter(|cycle| lasts || cycle.next == since).map(|cycle| cycle.upto)
    }

    async fn page(&self) -> Result<Page, LogError> {
        let (settings, sync) = (&self.shared.settings, &self.sync);
        let wants_state = self.dialect == Dialect::Classic && (sync.snapshot || sync.since.is_none());
        let seat = match &self.seats {
            Some(seats) if wants_state => Arc::clone(seats).acquire_owned().await.ok(),
            _ => None,
        };
        let state = if wants_state { Some(self.feed.state(self.position).await?) } else { None };
        let since = match (sync.since, &state) {
            (Some(since), _) => since,
            (None, Some(state)) => state.event_id,
            (None, None) => EventId::NONE,
        };
        // A state is read from the log, and may be ahead of the feed. A page that ends before it would have the connection
        // go back to there, and be sent events a second time that the state has.
        let told = state.as_ref().map_or(EventId::NONE, |state| state.event_id).max(self.position);
        let known = ahead::head_after(&self.feed, told).await;
        if known < told {
            let why = ahead::LAGS.to_owned();
            return Err(LogError::Unavailable { what: "answering a sync", why });
        }
        let upto = self.continues(since).unwrap_or(known);
        let limit = sync.limit.unwrap_or(settings.sync_events_default as u64);
        let limit = limit.clamp(1, settings.sync_events_max as u64) as usize;
        // A page without a state has the state's room too.
        let room = if state.is_none() { settings.state_frame_bytes_max } else { 0 };
        let bytes_max = settings.sync_bytes_max + room;
        let (mut entries, mut bytes, mut last) = (Vec::new(), 0, since);
        let unknown = Place { after: since, ordinal: None };
        let mut place = if self.counted.after == since { self.counted } else { unknown };
        while last < upto && entries.len() < limit && bytes < bytes_max {
            let stretch = self.feed.read(place, upto, limit - entries.len()).await?;
            last = last.max(stretch.end);
            place = stretch.end_place();
            for entry in stretch.entries {
                bytes += entry.body.len();
                if bytes > bytes_max && !entries.is_empty() {
                    last = entries.last().map_or(last, |entry: &Arc<Entry>| entry.id);
                    break;
                }
                entries.push(entry);
            }
        }
        Ok(Page { state, seat, since, upto, entries, bytes, last, place })
    }
}

impl Lane {
    /// Answers with a page.
    pub(crate) async fn sync(&mut self, line: &mut Line, id: Option<&str>, sync: Sync) -> Result<(), End> {
        if sync.partition.as_ref().is_some_and(|partition| partition != self.feed.partition()) {
            return line.error(id, ErrorCode::Forbidden, "`partition` is not the connection's").await;
        }
        let synced = self.begin_sync(line, sync, None).await;
        self.end_sync(line, id, synced).await
    }

    /// Reads what a `sync` asks for. A state takes one of the `seats`, if there are any.
    pub(crate) fn begin_sync(
        &self,
        line: &Line,
        sync: Sync,
        seats: Option<Arc<Semaphore>>,
    ) -> impl Future<Output = Synced> + Send + 'static {
        let reading = Reading {
            shared: Arc::clone(&line.shared),
            feed: Arc::clone(&self.feed),
            dialect: line.socket.dialect(),
            position: self.position,
            counted: self.counted,
            cycle: self.cycle,
            sync,
            seats,
        };
        reading.read()
    }

    /// Answers with what was read.
    pub(crate) async fn end_sync(
        &mut self,
        line: &mut Line,
        id: Option<&str>,
        synced: Synced,
    ) -> Result<(), End> {
        match synced {
            Synced::Page(page) => self.send_page(line, id, *page).await,
            Synced::Beyond { since, head } => self.sync_beyond(line, id, since, head).await,
            Synced::Lags => line.error(id, ErrorCode::Unavailable, ahead::LAGS).await,
            Synced::Unread(error) => {
                warn!(%error, "failed to answer a sync");
                line.error(id, ErrorCode::Unavailable, "the log is unreadable now; retry").await
            }
        }
    }

    /// Ends a classic cycle, unless this request goes on with it.
    pub(crate) fn end_cycle_unless_continued(&mut self, dialect: Dialect, request: &Request) {
        let Some(cycle) = &self.cycle else { return };
        let goes_on =
            matches!(request, Request::Sync(sync) if sync.since == Some(cycle.next) && !sync.snapshot);
        if dialect == Dialect::Classic && !goes_on {
            self.cycle = None;
        }
    }

    async fn send_page(&mut self, line: &mut Line, id: Option<&str>, page: Page) -> Result<(), End> {
        let Page { state, seat, since, upto, entries, bytes, last, place } = page;
        // Whatever is on the page was told to the inbox before.
        self.drain_committed(line).await?;
        let dialect = line.socket.dialect();
        let events: Vec<&str> = entries.iter().map(|entry| entry.encoded(dialect).event()).collect();
        let has_more = last < upto;
        let end = if has_more { last } else { since.max(upto) };
        let notice = Notice::SyncPage {
            partition: self.feed.partition().as_str(),
            snapshot: state
                .as_deref()
                .map(|state| Snapshot { state: form_of(state), event_id: state.event_id }),
            events: &events,
            next: end,
            head: upto,
            has_more,
            of_many: line.names_partitions,
        };
        let sent = line.socket.send(id, &notice).await;
        if place.after == last {
            self.counted = place;
        }
        line.answered_with(bytes + state.as_ref().map_or(0, |state| state.bytes));
        self.sending = state.and_then(|state| Sending::of(state, id.map(str::to_owned), seat));
        let idle = Duration::from_millis(line.shared.settings.sync_idle_ms_max);
        let idle = if dialect == Dialect::Classic { idle.min(CLASSIC_IDLE) } else { idle };
        self.cycle = has_more.then(|| Cycle { upto, next: last, idle_at: Instant::now() + idle });
        self.position = match dialect {
            // What comes next is what comes after this page, though it may have come before as a broadcast.
            Dialect::Classic if faults::broken("skip_unpaged") => upto,
            Dialect::Classic => end,
            // Its own events are told it by their results alone, so it is not sent anything twice.
            Dialect::V1 => self.position.max(end),
        };
        sent
    }
}

impl Lane {
    /// Sends the next part of a state, if one is being sent. Between parts all else goes on but the events behind it.
    pub(crate) async fn send_part(&mut self, line: &mut Line) -> Result<bool, End> {
        let Some(Sending { state, reply_to, sent, .. }) = &mut self.sending else { return Ok(false) };
        let StateText::Parts(parts) = &state.text else { return Ok(false) };
        let Some(text) = parts.get(*sent) else {
            self.sending = None;
            return Ok(false);
        };
        *sent += 1;
        let notice = Notice::StatePart {
            partition: self.feed.partition().as_str(),
            event_id: state.event_id,
            part: *sent,
            parts: parts.len(),
            text,
        };
        line.socket.send(reply_to.as_deref(), &notice).await?;
        Ok(true)
    }
}

impl Lane {
    /// Answers a `sync` that begins after the partition's last event.
    pub(crate) async fn sync_beyond(
        &mut self,
        line: &mut Line,
        id: Option<&str>,
        seen: EventId,
        head: EventId,
    ) -> Result<(), End> {
        let client = line.identity.client_id.as_str();
        match line.socket.dialect() {
            Dialect::Classic => {
                let message = ahead::beyond("sinceEventId", seen, head);
                line.error(id, ErrorCode::CursorBeyondLog, &message).await
            }
            Dialect::V1 => {
                let message = ahead::beyond("sinceCommittedId", seen, head);
                warn!(client, %seen, %head, "stopped a client that has seen events which the log does not have");
                line.shared.reconnects.stopped(&line.identity.client_id);
                let code = ErrorCode::CursorBeyondLog;
                Err(line.socket.error_and_close(id, code, &message, CloseCode::Policy).await)
            }
        }
    }
}
