//! A connection's dealings with one partition: a position in its log, and the drafts that are not answered yet.
//!
//! Nothing is queued for it: it writes what lies between its position and the head. What is at hand in memory is
//! written at once; what must be read from the log, its owner reads as it sees fit.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::batches::Batches;
use super::line::Line;
use super::outcomes::Outcomes;
use super::publishing::Publishing;
use super::sending::Sending;
use super::socket::End;
use super::sync_cursor::Cycle;
use crate::event::{DraftKey, EventId};
use crate::frontend::feed::Watched;
use crate::frontend::feed::event::Entry;
use crate::frontend::feed::page_cache::Place;
use crate::frontend::feed::partition::EventBatch;
use crate::frontend::metrics;
use crate::log::LogError;
use crate::outbox::Pending;
use crate::telemetry::traces::Span;

/// A connection's dealings with a partition.
pub(crate) struct Lane {
    /// By which validators and the feed know it.
    pub number: u64,
    pub feed: Watched,
    pub head: watch::Receiver<Option<EventId>>,
    /// The last event that was sent, or that the client had when it came.
    pub position: EventId,
    /// A position that it had, with the ordinal of the event there: what is sent next must be the next one.
    pub counted: Place,
    /// When the log can be tried again, if a read of it failed.
    read_after: Option<Instant>,
    pub cycle: Option<Cycle>,
    pub batches: Batches,
    /// A state that is being sent in parts. No event behind it is sent before it is.
    pub sending: Option<Sending>,
    /// Events ahead of the position that are not to be sent, because a batch's answer tells of them; and
    /// whether it has. Until then nothing behind them is sent either, since the answer may not tell of them.
    pub own_events: BTreeMap<EventId, bool>,
    pub pending: Pending,
    pending_share: metrics::Share,
    /// 1 while there is more than one event to be written.
    behind_share: metrics::Share,
    /// The traces of those of its drafts that are traced.
    pub traces: HashMap<DraftKey, Span>,
    /// Since when it catches up with the head as it was at the greeting.
    catching_up: Option<Instant>,
    /// How far the log was, at some time since it began; `None` until that is needed and known.
    pub log_end_at_connect: Option<EventId>,
    pub publishing: Publishing,
    pub outcomes: Option<Box<Outcomes>>,
}

/// What came of writing what is at hand.
pub(crate) enum Written {
    /// There is no more to write just now.
    All,
    /// There is more, which can be written at once.
    More,
    /// What is next must be read from the log, up to this head.
    FromLog(EventId),
}

/// The pause after a read of the log that failed.
const READ_PAUSE: Duration = Duration::from_millis(100);

impl Lane {
    /// A lane of a connection of this line that is at `position` in a partition.
    pub(crate) fn new(
        line: &Line,
        number: u64,
        feed: Watched,
        position: EventId,
        sending: Option<Sending>,
    ) -> Self {
        let client = line.identity.client_id.clone();
        let catching_up = (position < feed.head_now()).then(Instant::now);
        Self {
            number,
            head: feed.head(),
            feed,
            position,
            counted: Place { after: position, ordinal: (position == EventId::NONE).then_some(0) },
            read_after: None,
            cycle: None,
            batches: Batches::default(),
            sending,
            own_events: BTreeMap::new(),
            pending: Pending::new(&line.shared.settings, client, line.shared.log.message_bytes_max()),
            pending_share: metrics::Share::of(&metrics::hot().pending),
            behind_share: metrics::Share::of(&metrics::hot().behind),
            traces: HashMap::new(),
            catching_up,
            log_end_at_connect: None,
            publishing: Publishing::default(),
            outcomes: None,
        }
    }

    /// Begins at a position, with a state to be sent first if there is one.
    pub(crate) fn begin_at(&mut self, position: EventId, sending: Option<Sending>) {
        self.position = position;
        self.counted = Place { after: position, ordinal: (position == EventId::NONE).then_some(0) };
        self.catching_up = (position < self.feed.head_now()).then(Instant::now);
        self.sending = sending;
    }

    /// Writes what lies between the position and the head, as far as it is at hand, as much as is written in one turn.
    pub(crate) async fn write_at_hand(&mut self, line: &mut Line) -> Result<Written, End> {
        // The head first, the acceptances then: whatever is at most at this head was told to the inbox
        // before.
        let head = self.head.borrow_and_update().unwrap_or(EventId::NONE);
        self.drain_committed(line).await?;
        self.read_after = self.read_after.filter(|at| *at > Instant::now());
        if self.send_part(line).await? {
            return Ok(Written::More);
        }
        if self.position >= head {
            self.mark_caught_up();
            return Ok(Written::All);
        }
        if self.cycle.is_some() || self.read_after.is_some() {
            return Ok(Written::All);
        }
        // As long as none of them is to be kept from it, a connection is written what all others are.
        if !self.own_events.is_empty() {
            return Ok(Written::FromLog(head));
        }
        let turn_max = line.shared.settings.frames_per_turn_max;
        let Some(run) = self.feed.run(self.position, head, turn_max, line.socket.dialect()) else {
            return Ok(Written::FromLog(head));
        };
        self.counted = Place { after: run.end, ordinal: run.end_ordinal };
        self.behind_share.set(usize::from(run.end < head));
        if run.frames > 0 {
            line.socket.send_encoded(run.wire, run.frames).await?;
        }
        count_broadcasts(run.frames as u64, run.bytes as u64);
        Ok(if self.written_to(run.end, head, run.received_at) { Written::More } else { Written::All })
    }

    /// Reads what is next from the log.
    pub(crate) fn read(
        &self,
        line: &Line,
        head: EventId,
    ) -> impl Future<Output = Result<EventBatch, LogError>> + Send + 'static {
        let (feed, place) = (Arc::clone(&self.feed), self.place_of(self.position));
        let turn_max = line.shared.settings.frames_per_turn_max;
        async move { feed.read(place, head, turn_max).await }
    }

    /// What is next could not be read just now; it is tried again after a pause.
    pub(crate) fn not_read(&mut self, error: &LogError) {
        warn!(%error, partition = %self.feed.partition(), position = %self.position, "failed to read the log; retrying");
        self.read_after = Some(Instant::now() + READ_PAUSE);
    }

    /// Writes what was read up to a head. Tells whether there is more that can be written at once.
    pub(crate) async fn write_stretch(
        &mut self,
        line: &mut Line,
        stretch: EventBatch,
        head: EventId,
    ) -> Result<bool, End> {
        if stretch.entries.len() > 1 {
            self.behind_share.set(1);
        }
        let (mut bytes, mut broadcasts) = (0, 0);
        for entry in &stretch.entries {
            match self.own_events.get(&entry.id) {
                Some(false) => {
                    count_broadcasts(broadcasts, bytes);
                    return Ok(false);
                }
                Some(true) => {
                    self.move_to(entry);
                    self.own_events.remove(&entry.id);
                    continue;
                }
                None => self.move_to(entry),
            }
            let frame = entry.encoded(line.socket.dialect()).frame.clone();
            bytes += frame.len() as u64;
            broadcasts += 1;
            line.socket.send_encoded(frame, 1).await?;
        }
        count_broadcasts(broadcasts, bytes);
        Ok(self.written_to(stretch.end, head, stretch.entries.first().map(|entry| entry.received_at)))
    }

    /// A position with the ordinal of the event there, if that is known.
    pub(crate) fn place_of(&self, position: EventId) -> Place {
        let unknown = Place { after: position, ordinal: None };
        if self.counted.after == position { self.counted } else { unknown }
    }

    fn move_to(&mut self, entry: &Entry) {
        self.position = entry.id;
        self.counted = Place { after: entry.id, ordinal: Some(entry.ordinal) };
    }

    /// All up to `end` is written, of which the first event came here at `received_at`. Tells whether it ends before the
    /// head.
    fn written_to(&mut self, end: EventId, head: EventId, received_at: Option<std::time::Instant>) -> bool {
        // Of those that are written together the first has waited longest. What was read again from the log
        // for a connection that catches up has not been waited for.
        if let Some(received_at) = received_at.filter(|_| self.catching_up.is_none()) {
            metrics::hot().broadcast.record(received_at.elapsed());
        }
        self.position = self.position.max(end);
        if self.position < head {
            return true;
        }
        self.mark_caught_up();
        false
    }

    /// It has been written all there is.
    fn mark_caught_up(&mut self) {
        self.behind_share.set(0);
        if let Some(since) = self.catching_up.take() {
            metrics::duration(metrics::CATCH_UP_SECONDS, since.elapsed().as_secs_f64());
        }
    }

    /// What has come already goes together; it is only sent off before all of it was read if it fills a submission.
    pub(crate) fn publish_if_full(&mut self, line: &Line) {
        if self.pending.has_full_submission() {
            self.publish_next(line);
        }
    }

    /// Says how many drafts wait.
    pub(crate) fn tell_pending(&mut self) {
        self.pending_share.set(self.pending.len());
    }

    /// Gives up what is not needed while nothing happens.
    pub(crate) fn rest(&mut self) {
        if self.pending.is_empty() {
            self.outcomes = None;
        }
    }

    /// Whether something is to be published, and nothing is being published.
    pub(crate) fn has_next(&self) -> bool {
        self.publishing.is_idle() && self.pending.has_next(Instant::now().into_std())
    }

    /// Does what was to be done until now.
    pub(crate) async fn time_passed(&mut self, line: &mut Line, now: Instant) -> Result<(), End> {
        if self.cycle.as_ref().is_some_and(|cycle| cycle.idle_at <= now) {
            self.cycle = None;
        }
        self.read_after = self.read_after.filter(|at| *at > now);
        for done in self.pending.tick(now.into_std()) {
            self.answer_draft(line, done, None).await?;
        }
        Ok(())
    }

    /// When it has something to do at the latest.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let idle = self.cycle.as_ref().map(|cycle| cycle.idle_at);
        let drafts = self.pending.wake_at().map(Instant::from_std);
        [idle, drafts, self.read_after].into_iter().flatten().min()
    }
}

fn count_broadcasts(count: u64, bytes: u64) {
    metrics::hot().broadcasts.increment(count);
    metrics::hot().broadcast_bytes.increment(bytes);
}
