//! `sync`: ranges of the log on request, page by page, with the broadcasts held back meanwhile.
//!
//! A cycle is a run of pages up to an end that is fixed with the first. In the classic dialect a client may know
//! nothing of pages: a cycle that it does not go on with ends by itself, and the rest comes as broadcasts, from the end
//! of the last page on.

use crate::frontend::admission::memory;
use crate::frontend::feed::StateText;
use crate::frontend::session::sync_cursor::Cycle;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::ahead;
use super::sending::{Sending, form_of};
use super::socket::End;
use super::state::Session;
use crate::event::EventId;
use crate::faults;
use crate::log::LogError;
use crate::protocol::{Dialect, ErrorCode, Notice, Request, Snapshot, Sync};

/// How long a classic client may take to ask for the next page.
const CLASSIC_IDLE: Duration = Duration::from_secs(1);

impl Session {
    /// Answers with a page.
    pub(crate) async fn sync(&mut self, id: Option<&str>, sync: Sync) -> Result<(), End> {
        if sync.partition.as_ref().is_some_and(|partition| partition != self.feed.partition()) {
            return self.error(id, ErrorCode::Forbidden, "`partition` is not the connection's").await;
        }
        if let Some(since) = sync.since.filter(|since| *since > self.feed.head_now()) {
            let head = ahead::head_after(&self.feed, since).await;
            if since > head {
                return match ahead::is_lost(&self.shared, &self.feed, since).await {
                    Ok(true) => self.sync_beyond(id, since, head).await,
                    Ok(false) => self.error(id, ErrorCode::Unavailable, ahead::LAGS).await,
                    Err(error) => {
                        warn!(%error, %since, "cannot determine whether an event that a client has seen is lost");
                        self.error(id, ErrorCode::Unavailable, ahead::LAGS).await
                    }
                };
            }
        }
        match self.sync_page(id, &sync).await {
            Ok(sent) => sent,
            Err(error) => {
                warn!(%error, "failed to answer a sync");
                self.error(id, ErrorCode::Unavailable, "the log is unreadable now; retry").await
            }
        }
    }

    /// Ends a classic cycle, unless this request goes on with it.
    pub(crate) fn end_cycle_unless_continued(&mut self, request: &Request) {
        let Some(cycle) = &self.cycle else { return };
        let goes_on =
            matches!(request, Request::Sync(sync) if sync.since == Some(cycle.next) && !sync.snapshot);
        if self.socket.dialect() == Dialect::Classic && !goes_on {
            self.cycle = None;
        }
    }

    /// The end of the cycle that a request for what comes after `since` goes on with.
    pub(crate) fn continues(&self, since: EventId) -> Option<EventId> {
        // In the v1 dialect a cycle lasts until its last page, whatever is asked for.
        let lasts = self.socket.dialect() == Dialect::V1;
        self.cycle.as_ref().filter(|cycle| lasts || cycle.next == since).map(|cycle| cycle.upto)
    }

    pub(crate) async fn sync_page(
        &mut self,
        id: Option<&str>,
        sync: &Sync,
    ) -> Result<Result<(), End>, LogError> {
        let settings = self.shared.settings.clone();
        let dialect = self.socket.dialect();
        let wants_state = dialect == Dialect::Classic && (sync.snapshot || sync.since.is_none());
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
        if let Err(end) = self.drain_committed().await {
            return Ok(Err(end));
        }
        let limit = sync.limit.unwrap_or(settings.sync_events_default as u64);
        let limit = limit.clamp(1, settings.sync_events_max as u64) as usize;
        // A page without a state has the state's room too.
        let room = if state.is_none() { settings.state_frame_bytes_max } else { 0 };
        let bytes_max = settings.sync_bytes_max + room;
        let (mut entries, mut bytes, mut last) = (Vec::new(), 0, since);
        let mut place = self.place_of(since);
        while last < upto && entries.len() < limit && bytes < bytes_max {
            let stretch = self.feed.read(place, upto, limit - entries.len()).await?;
            last = last.max(stretch.end);
            place = stretch.end_place();
            for entry in stretch.entries {
                bytes += entry.body.len();
                if bytes > bytes_max && !entries.is_empty() {
                    last = entries.last().map_or(last, |entry: &Arc<super::Entry>| entry.id);
                    break;
                }
                entries.push(entry);
            }
        }
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
        };
        let sent = self.socket.send(id, &notice).await;
        if place.after == last {
            self.counted = place;
        }
        self.answered_with(bytes + state.as_ref().map_or(0, |state| state.bytes));
        self.sending = state.and_then(|state| Sending::of(state, id.map(str::to_owned)));
        let idle = Duration::from_millis(settings.sync_idle_ms_max);
        let idle = if dialect == Dialect::Classic { idle.min(CLASSIC_IDLE) } else { idle };
        self.cycle = has_more.then(|| Cycle { upto, next: last, idle_at: Instant::now() + idle });
        self.position = match dialect {
            // What comes next is what comes after this page, though it may have come before as a broadcast.
            Dialect::Classic if faults::broken("skip_unpaged") => upto,
            Dialect::Classic => end,
            // Its own events are told it by their results alone, so it is not sent anything twice.
            Dialect::V1 => self.position.max(end),
        };
        Ok(sent)
    }
}

impl Session {
    /// Sends the next part of a state, if one is being sent. Between parts all else goes on but the events behind it.
    pub(crate) async fn send_part(&mut self) -> Result<bool, End> {
        let Some(Sending { state, reply_to, sent }) = &mut self.sending else { return Ok(false) };
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
        self.socket.send(reply_to.as_deref(), &notice).await?;
        Ok(true)
    }

    /// The client was answered with so many bytes.
    pub(crate) fn answered_with(&mut self, bytes: usize) {
        let client = &self.identity.client_id;
        self.shared.outflow.take(client, bytes);
        self.answered_until = self.shared.outflow.not_before(client).map(Instant::from_std);
    }

    /// Says what the connection holds, and whether it may be read from. If not, when that is to be looked at again.
    pub(crate) fn may_read(&mut self) -> Result<(), Instant> {
        // Each draft as it came, and once more in what is published of it.
        self.hold.set(2 * (self.pending.bytes() + self.held_bytes));
        let now = Instant::now();
        self.answered_until = self.answered_until.filter(|until| *until > now);
        match self.answered_until {
            Some(until) => Err(until),
            None if self.account.is_full() => Err(now + memory::LOOK_EVERY),
            None => Ok(()),
        }
    }
}
