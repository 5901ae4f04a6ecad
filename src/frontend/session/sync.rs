//! `sync`: stretches of the log on request, page by page, with the broadcasts held back meanwhile.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Session;
use super::sending::{Sending, form_of};
use super::socket::End;
use crate::event::EventId;
use crate::log::LogError;
use crate::protocol::{Dialect, ErrorCode, Notice, Snapshot, Sync};

/// A cycle of pages that is not through.
pub(super) struct Cycle {
    /// Where it ends: the head when it began.
    upto: EventId,
    /// Where the next page begins.
    next: EventId,
    /// When its client is taken to have lost interest.
    pub idle_at: Instant,
}

impl Session {
    /// Answers with a page.
    pub(super) async fn sync(&mut self, id: Option<&str>, sync: Sync) -> Result<(), End> {
        if sync.partition.as_ref().is_some_and(|partition| partition != self.feed.partition()) {
            return self.error(id, ErrorCode::Forbidden, "`partition` is not the connection's").await;
        }
        let answered = match self.starts_from_snapshot(&sync).await {
            true => self.sync_snapshot(id).await,
            false => self.sync_events(id, &sync).await,
        };
        match answered {
            Ok(sent) => sent,
            Err(error) => {
                warn!(%error, "cannot answer a sync just now");
                self.error(id, ErrorCode::Unavailable, "the log cannot be read just now").await
            }
        }
    }

    /// Whether the answer begins from a snapshot: the client has nothing, or so little that the events
    /// would be more bytes than the state.
    async fn starts_from_snapshot(&mut self, sync: &Sync) -> bool {
        let Some(since) = sync.since else { return true };
        if self.socket.dialect() == Dialect::V1 {
            return false;
        }
        if self.continues(since).is_some() {
            return false;
        }
        let Some(snapshot) = self.feed.snapshot_info().await else { return false };
        if since >= snapshot.event_id || snapshot.ordinal == 0 {
            return false;
        }
        let had = match since {
            EventId::NONE => 0,
            _ => self.feed.ordinal_at(since).await.unwrap_or(snapshot.ordinal),
        };
        let missing = u128::from(snapshot.ordinal.saturating_sub(had));
        missing * u128::from(snapshot.log_bytes) > u128::from(snapshot.bytes) * u128::from(snapshot.ordinal)
    }

    /// The cycle that a request for what comes after `since` goes on with.
    fn continues(&self, since: EventId) -> Option<EventId> {
        // In the v1 dialect a cycle lasts until its last page, whatever is asked for.
        let lasts = self.socket.dialect() == Dialect::V1;
        self.cycle.as_ref().filter(|cycle| lasts || cycle.next == since).map(|cycle| cycle.upto)
    }

    async fn sync_snapshot(&mut self, id: Option<&str>) -> Result<Result<(), End>, LogError> {
        // Not one that lacks what this client was sent already.
        let state = self.feed.state(self.position).await?;
        let notice = Notice::SyncPage {
            partition: self.feed.partition().as_str(),
            next: state.event_id,
            snapshot: Some(Snapshot { state: form_of(&state), event_id: state.event_id }),
            events: &[],
            head: state.event_id,
            has_more: false,
        };
        self.cycle = None;
        self.position = self.position.max(state.event_id);
        let sent = self.socket.send(id, &notice).await;
        self.answered_with(state.bytes);
        self.sending = Sending::of(state, id.map(str::to_owned));
        Ok(sent)
    }

    async fn sync_events(&mut self, id: Option<&str>, sync: &Sync) -> Result<Result<(), End>, LogError> {
        let settings = self.hub.settings.clone();
        let since = sync.since.unwrap_or(EventId::NONE);
        let upto = self.continues(since).unwrap_or_else(|| self.feed.head_now());
        if let Err(end) = self.drain_committed().await {
            return Ok(Err(end));
        }
        let limit = sync.limit.unwrap_or(settings.sync_events_default as u64);
        let limit = limit.clamp(1, settings.sync_events_max as u64) as usize;
        let (mut entries, mut bytes, mut last) = (Vec::new(), 0, since);
        let mut place = self.place_of(since);
        while last < upto && entries.len() < limit && bytes < settings.sync_bytes_max {
            let stretch = self.feed.read(place, upto, limit - entries.len()).await?;
            last = last.max(stretch.end);
            place = stretch.end_place();
            for entry in stretch.entries {
                bytes += entry.body.len();
                if bytes > settings.sync_bytes_max && !entries.is_empty() {
                    last = entries.last().map_or(last, |entry: &std::sync::Arc<super::Entry>| entry.id);
                    break;
                }
                entries.push(entry);
            }
        }
        let dialect = self.socket.dialect();
        let events: Vec<&str> = entries.iter().map(|entry| entry.encoded(dialect).event()).collect();
        let has_more = last < upto;
        let next = if has_more { last } else { since.max(upto) };
        let partition = self.feed.partition().as_str();
        let notice =
            Notice::SyncPage { partition, snapshot: None, events: &events, next, head: upto, has_more };
        let sent = self.socket.send(id, &notice).await;
        self.answered_with(bytes);
        let idle_at = Instant::now() + Duration::from_millis(settings.sync_idle_ms_max);
        if place.after == last {
            self.counted = place;
        }
        self.cycle = has_more.then_some(Cycle { upto, next: last, idle_at });
        if has_more {
            self.position = self.position.max(last);
        } else {
            self.position = self.position.max(upto);
        }
        Ok(sent)
    }
}
