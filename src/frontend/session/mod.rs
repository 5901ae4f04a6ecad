//! A connection: one task that owns the socket, a position in its partition's log, and the drafts that it
//! has not answered yet.
//!
//! It greets (`handshake`), and then waits for whatever comes next: a frame, the outcome of a draft (`drafts`),
//! a new head, a time. Nothing is queued for it: it writes what lies between its position and the head, as
//! fast as its client reads. Writing is awaited, so a client that does not read is not read from either.

mod ahead;
pub(crate) mod batch;
pub(crate) mod batches;
pub(crate) mod frames;
mod handshake;
pub(crate) mod outcomes;
pub(crate) mod publishing;
pub(crate) mod sending;
pub(crate) mod socket;
pub(crate) mod state;
pub(crate) mod submissions;
pub(crate) mod sync;
pub(crate) mod sync_cursor;
mod token;
mod too_large;

use crate::frontend::session::ahead::missing_events;
use crate::frontend::session::socket::unsupported_version;
use crate::frontend::session::state::{CameWith, Leaving, Session};
use crate::frontend::shared::FrontendShared;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use tracing::{debug, warn};

use self::batches::Batches;
use self::frames::{FrameReader, Refusal};
use self::outcomes::Outcome;
use self::publishing::Publishing;
use self::socket::{End, Socket};
use super::admission::connection_limits::Entrance;
use super::admission::registry::Disconnects;
use super::feed::event::Entry;
use super::feed::page_cache::Place;
use super::metrics;
use super::net::Stream;
use super::websocket::WebSocket;
use crate::event::EventId;
use crate::log::LogError;
use crate::outbox::Pending;
use crate::protocol::{BadRequest, CloseCode, ErrorCode, Frame, Notice, Request};

/// Serves a connection until it ends.
pub(crate) async fn serve(
    shared: Arc<FrontendShared>,
    connection: u64,
    socket: WebSocket<Stream>,
    entrance: Entrance,
    came_with: CameWith,
) {
    let _counted = metrics::Counted::one(metrics::CONNECTIONS);
    metrics::count(metrics::OPENED);
    let linger = Duration::from_millis(shared.settings.close_linger_ms);
    let socket = Socket::new(socket, connection, &shared.settings);
    let (socket, end) = match Box::pin(begin(shared, connection, socket, entrance, came_with)).await {
        Ok((session, dismissals)) => Box::pin(serve_events(session, dismissals)).await,
        Err(ended) => *ended,
    };
    if let End::Close(ErrorCode::ServerError, why, _) = &end {
        tracing::error!(%why, "a defect closes a connection");
    }
    let closed = Box::pin(socket.close(end, linger)).await;
    debug!(closed, "connection ended");
}

/// Greets a connection; gives its session, or why there is none.
async fn begin(
    shared: Arc<FrontendShared>,
    connection: u64,
    mut socket: Socket,
    entrance: Entrance,
    came_with: CameWith,
) -> Result<(Box<Session>, Disconnects), Box<(Socket, End)>> {
    let frames = FrameReader::new(&shared.settings);
    match handshake::handshake(&shared, connection, &mut socket, frames, entrance, came_with).await {
        Ok((greeted, dismissals)) => {
            Ok((Box::new(Session::new(shared, connection, socket, greeted)), dismissals))
        }
        Err(end) => Err(Box::new((socket, end))),
    }
}

/// Serves a connection that has been greeted.
async fn serve_events(mut session: Box<Session>, mut dismissals: Disconnects) -> (Socket, End) {
    // Beside whatever the connection waits for, be it a client that does not read.
    let account = session.account.clone();
    let end = tokio::select! {
        biased;
        why = dismissals.next() => token::end_of(why),
        () = account.gives_way() => {
            let why = "the frontend has no memory left, and this connection holds most of it";
            End::Close(ErrorCode::Unavailable, why.into(), CloseCode::TryAgainLater)
        }
        end = session.run() => end,
    };
    session.forget_drafts();
    (session.socket, end)
}

impl Session {
    fn new(
        shared: Arc<FrontendShared>,
        connection: u64,
        socket: Socket,
        greeted: handshake::Handshake,
    ) -> Self {
        let handshake::Handshake { admission, frames, identity, listed, feed, position, account, sending } =
            greeted;
        let settings = &shared.settings;
        let mut log_state = shared.log.state();
        let epoch = log_state.borrow_and_update().epoch;
        let pending = Pending::new(settings, identity.client_id.clone(), shared.log.message_bytes_max());
        let catching_up = (position < feed.head_now()).then(Instant::now);
        let decode = Instant::now() + Duration::from_millis(settings.heartbeat_interval_ms);
        Self {
            connection,
            socket,
            frames,
            expires: token::ends_at(&identity),
            identity,
            head: feed.head(),
            feed,
            log_state,
            epoch,
            position,
            counted: Place { after: position, ordinal: (position == EventId::NONE).then_some(0) },
            read_after: None,
            cycle: None,
            batches: Batches::default(),
            held: None,
            held_bytes: 0,
            sending,
            hold: account.hold(),
            account,
            answered_until: None,
            own_events: BTreeMap::new(),
            pending,
            pending_share: metrics::Share::of(&metrics::hot().pending),
            behind_share: metrics::Share::of(&metrics::hot().behind),
            catching_up,
            traces: HashMap::new(),
            log_end_at_connect: None,
            publishing: Publishing::default(),
            outcomes: None,
            decode,
            looks_without_life: 0,
            leaving: None,
            departed: None,
            listed,
            _admission: admission,
            shared,
        }
    }

    async fn run(&mut self) -> End {
        let mut timer = Box::pin(sleep(Duration::ZERO));
        loop {
            if let Err(end) = self.turn(&mut timer).await {
                return end;
            }
        }
    }

    /// Does all that can be done now, and then waits for one thing to happen. What is done then is boxed: a
    /// connection that waits, as most do most of the time, does not keep room for it.
    async fn turn(&mut self, timer: &mut std::pin::Pin<Box<Sleep>>) -> Result<(), End> {
        self.check_identity()?;
        self.end_if_handed_in()?;
        let behind = self.departed.is_none() && self.write_events().await?;
        // What has come already goes together; it is only sent off before all of it was read if it fills a
        // submission.
        if self.pending.has_full_submission() {
            self.publish_next();
        }
        self.socket.flush().await?;
        self.pending_share.set(self.pending.len());
        self.leave_if_done()?;
        let may_read = self.may_read();
        if may_read.is_err() {
            // It cannot give one that is seen.
            self.looks_without_life = 0;
        }
        let wake = may_read.map_or_else(|at| at.min(self.wake_at()), |()| self.wake_at());
        if timer.deadline() != wake {
            timer.as_mut().reset(wake);
        }
        tokio::select! {
            biased;
            () = self.shared.drain.cancelled(), if self.leaving.is_none() => {
                self.leaving = Some(self.leaving());
                Ok(())
            }
            progress = self.publishing.done() => Box::pin(self.progress(progress)).await,
            outcome = outcomes::next(&mut self.outcomes) => match outcome {
                Outcome::Committed(entry) => Box::pin(self.committed(&entry)).await,
                Outcome::Answered(answer) => Box::pin(self.answered(*answer)).await,
            },
            () = std::future::ready(()), if self.held.as_ref().is_some_and(|held| !self.must_wait(held)) => {
                let Some(held) = self.held.take() else { return Ok(()) };
                self.held_bytes = 0;
                Box::pin(self.frame(*held)).await
            }
            incoming = self.socket.next(), if self.held.is_none() && may_read.is_ok() && self.departed.is_none() => {
                self.looks_without_life = 0;
                self.listed.heard();
                let incoming = match incoming {
                    Err(End::Gone) => return Box::pin(self.depart()).await,
                    incoming => incoming?,
                };
                let Some(looked) = self.frames.decode(&mut self.socket, &incoming) else { return Ok(()) };
                if self.must_wait(&looked) {
                    self.held = Some(Box::new(looked));
                    self.held_bytes = incoming.bytes();
                    return Ok(());
                }
                Box::pin(self.frame(looked)).await
            }
            () = std::future::ready(()), if self.publishing.is_idle() && self.pending.has_next(Instant::now().into_std()) => {
                self.publish_next();
                Ok(())
            }
            Ok(()) = self.log_state.changed() => {
                let epoch = self.log_state.borrow_and_update().epoch;
                if epoch != self.epoch {
                    self.epoch = epoch;
                    self.pending.republish();
                }
                Ok(())
            }
            () = timer.as_mut() => Box::pin(self.time_passed()).await,
            Ok(()) = self.head.changed(), if self.cycle.is_none() && self.departed.is_none() => Ok(()),
            () = std::future::ready(()), if behind => Ok(()),
        }
    }

    /// Writes what lies between the position and the head, as much as is written in one turn. Tells whether
    /// there is more that can be written at once.
    async fn write_events(&mut self) -> Result<bool, End> {
        // The head first, the acceptances then: whatever is at most at this head was told to the inbox
        // before.
        let head = self.head.borrow_and_update().unwrap_or(EventId::NONE);
        self.drain_committed().await?;
        self.read_after = self.read_after.filter(|at| *at > Instant::now());
        if self.send_part().await? {
            return Ok(true);
        }
        if self.position >= head {
            self.mark_caught_up();
            return Ok(false);
        }
        if self.cycle.is_some() || self.read_after.is_some() {
            return Ok(false);
        }
        let turn_max = self.shared.settings.frames_per_turn_max;
        // As long as none of them is to be kept from it, a connection is written what all others are.
        if self.own_events.is_empty()
            && let Some(run) = self.feed.run(self.position, head, turn_max, self.socket.dialect())
        {
            self.counted = Place { after: run.end, ordinal: run.end_ordinal };
            self.behind_share.set(usize::from(run.end < head));
            if run.frames > 0 {
                self.socket.send_encoded(run.wire, run.frames).await?;
            }
            count_broadcasts(run.frames as u64, run.bytes as u64);
            return Ok(self.written_to(run.end, head, run.received_at));
        }
        let stretch = match self.feed.read(self.place_of(self.position), head, turn_max).await {
            Ok(stretch) => stretch,
            Err(LogError::Malformed { .. }) => return Err(missing_events(self.position)),
            Err(error) => {
                warn!(%error, position = %self.position, "failed to read the log; retrying");
                self.read_after = Some(Instant::now() + READ_PAUSE);
                return Ok(false);
            }
        };
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
            let frame = entry.encoded(self.socket.dialect()).frame.clone();
            bytes += frame.len() as u64;
            broadcasts += 1;
            self.socket.send_encoded(frame, 1).await?;
        }
        count_broadcasts(broadcasts, bytes);
        Ok(self.written_to(stretch.end, head, stretch.entries.first().map(|entry| entry.received_at)))
    }

    /// A position with the ordinal of the event there, if that is known.
    fn place_of(&self, position: EventId) -> Place {
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

    /// Takes a frame.
    async fn frame(&mut self, looked: Result<Frame, Refusal>) -> Result<(), End> {
        let frame = match looked {
            Ok(frame) => frame,
            Err(refusal) => return self.frames.answer(&mut self.socket, refusal).await,
        };
        let id = frame.id;
        if !matches!(frame.request, Request::Connect(_)) {
            self.frames.reset_errors();
        }
        self.end_cycle_unless_continued(&frame.request);
        match frame.request {
            Request::Connect(_) => {
                let message = "this connection is connected already".to_owned();
                self.frames.refuse(&mut self.socket, BadRequest { reply_to: id, message }).await
            }
            Request::Submit(submit) => self.submit(id.unwrap_or_default(), *submit).await,
            Request::SubmitBatch(batch) => self.submit_batch(id, batch).await,
            Request::Sync(sync) => self.sync(id.as_deref(), sync).await,
            Request::Heartbeat => self.socket.send(id.as_deref(), &Notice::Heartbeat).await,
            Request::RefreshToken { token } => self.refresh(id.as_deref(), &token).await,
            Request::UnsupportedVersion => Err(unsupported_version(&mut self.socket, id.as_deref()).await),
        }
    }

    async fn error(&mut self, reply_to: Option<&str>, code: ErrorCode, message: &str) -> Result<(), End> {
        if self.socket.dialect().closes_on(code) {
            return Err(self.socket.error_and_close(reply_to, code, message, CloseCode::TryAgainLater).await);
        }
        self.socket.error(reply_to, code, message, None).await
    }

    async fn time_passed(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.decode <= now {
            if self.looks_without_life >= LOOKS_WITHOUT_LIFE_MAX {
                let why = "no sign of life from the client";
                return Err(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway));
            }
            self.looks_without_life += 1;
            if self.pending.is_empty() {
                self.outcomes = None;
            }
            self.decode = now + Duration::from_millis(self.shared.settings.heartbeat_interval_ms);
            self.socket.ping().await?;
        }
        if self.cycle.as_ref().is_some_and(|cycle| cycle.idle_at <= now) {
            self.cycle = None;
        }
        for done in self.pending.tick(now.into_std()) {
            self.answer_draft(done, None).await?;
        }
        Ok(())
    }

    fn wake_at(&self) -> Instant {
        let idle = self.cycle.as_ref().map(|cycle| cycle.idle_at);
        let drafts = self.pending.wake_at().map(Instant::from_std);
        let leave =
            self.leaving.as_ref().map(|leaving| if self.leaves() { leaving.by } else { leaving.from });
        [self.expires, idle, drafts, leave, self.read_after, self.departed]
            .into_iter()
            .flatten()
            .fold(self.decode, Instant::min)
    }

    /// The client has closed the connection, or it broke. What was read before is handed in: pages send their last
    /// drafts when they are left.
    async fn depart(&mut self) -> Result<(), End> {
        if self.pending.is_handed_in() {
            return Err(End::Gone);
        }
        self.departed = Some(Instant::now() + HAND_IN_MAX);
        self.cycle = None;
        self.socket.depart(Duration::from_millis(self.shared.settings.close_linger_ms)).await;
        Ok(())
    }

    /// Ends a connection whose client has left, once all that it sent is in the queue, or not in time.
    fn end_if_handed_in(&self) -> Result<(), End> {
        match self.departed {
            Some(by) if self.pending.is_handed_in() || by <= Instant::now() => Err(End::Gone),
            _ => Ok(()),
        }
    }

    /// When to leave: each connection at a time of its own, so that not all come to other frontends at once.
    fn leaving(&self) -> Leaving {
        let settings = &self.shared.settings;
        let patience = Duration::from_millis(settings.drain_ms_max);
        let spread = match settings.drain_connections_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs(self.shared.limits.connections() as u64) / rate,
        };
        let now = Instant::now();
        let from = now + spread.min(patience / 2).mul_f64(rand::random());
        Leaving { from, by: now + patience }
    }

    /// Whether its time to leave has come.
    fn leaves(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.from <= Instant::now())
    }

    /// Leaves, when the frontend goes away and nothing is left to answer, or not in time.
    fn leave_if_done(&self) -> Result<(), End> {
        match &self.leaving {
            Some(leaving) if self.leaves() && (self.pending.is_empty() || leaving.by <= Instant::now()) => {
                let why = "this frontend is going away; reconnect";
                Err(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway))
            }
            _ => Ok(()),
        }
    }
}

fn count_broadcasts(count: u64, bytes: u64) {
    metrics::hot().broadcasts.increment(count);
    metrics::hot().broadcast_bytes.increment(bytes);
}

/// How long the drafts of a client that has left are tried to be handed in. Each but the first submission waits for the
/// answers to the one before.
const HAND_IN_MAX: Duration = Duration::from_secs(10);
/// The pause after a read of the log that failed.
const READ_PAUSE: Duration = Duration::from_millis(100);
/// How many looks for a sign of life may go by without one.
const LOOKS_WITHOUT_LIFE_MAX: u32 = 2;
