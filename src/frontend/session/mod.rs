//! A connection: one task that owns the socket, a position in its partition's log, and the drafts that it
//! has not answered yet.
//!
//! It greets (`greet`), and then waits for whatever comes next: a frame, the outcome of a draft (`drafts`),
//! a new head, a time. Nothing is queued for it: it writes what lies between its position and the head, as
//! fast as its client reads. Writing is awaited, so a client that does not read is not read from either.

mod ahead;
mod batch;
mod frames;
mod handshake;
mod outcomes;
mod sending;
mod socket;
mod submissions;
mod sync;
mod token;
mod too_large;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::batch::Batches;
use self::frames::{Frames, Refusal};
use self::outcomes::{Outcome, Outcomes};
use self::sending::Sending;
use self::socket::{End, Socket};
use self::submissions::Publishing;
use self::sync::Cycle;
use super::admission::connection_limits::{Admission, Entrance, Limits};
use super::admission::memory::{Account, Hold, Memory};
use super::admission::outflow::Outflow;
use super::admission::reconnects::Reconnects;
use super::admission::registry::{Dismissals, Listed, Roster};
use super::feed::event::Entry;
use super::feed::page_cache::Place;
use super::feed::{Feeds, Watched};
use super::log_tail::Latest;
use super::metrics;
use super::net::Stream;
use super::replies::AnswerDesk;
use super::settings::FrontendSettings;
use super::websocket::WebSocket;
use crate::auth::{Authenticator, Identity};
use crate::control::Keeper;
use crate::event::{DraftKey, EventId};
use crate::log::{ConnectionState, Log, LogError};
use crate::outbox::Pending;
use crate::protocol::{BadRequest, CloseCode, ErrorCode, Frame, Notice, Request};
use crate::telemetry::traces::Span;

/// What all sessions share.
pub(crate) struct Hub {
    pub settings: Arc<FrontendSettings>,
    pub log: Log,
    pub feeds: Arc<Feeds>,
    pub answers: Arc<AnswerDesk>,
    pub latest: Arc<Latest>,
    pub limits: Arc<Limits>,
    pub memory: Arc<Memory>,
    pub outflow: Arc<Outflow>,
    pub reconnects: Reconnects,
    pub roster: Arc<Roster>,
    /// Keeps what was revoked; `None` where no tokens are asked for.
    pub keeper: Option<Arc<Keeper>>,
    pub auth: Authenticator,
    /// Cancelled when the frontend is told to go away.
    pub closing: CancellationToken,
    /// Cancelled when it does.
    pub drain: CancellationToken,
}

impl Hub {
    /// Why nobody should be sent here just now; `None` if there is no reason.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if self.closing.is_cancelled() || self.drain.is_cancelled() {
            return Some("going away");
        }
        if !self.log.state().borrow().connected {
            return Some("NATS cannot be reached");
        }
        if !self.answers.is_alive() {
            return Some("no answers can be heard");
        }
        if self.answers.silent_for().is_some() {
            return Some("no validator decides: drafts have waited for seconds, and none was decided");
        }
        self.auth.unready()
    }
}

/// What an upgrade request holds for the session.
pub(super) struct CameWith {
    /// A token.
    pub token: Option<String>,
    /// What it names as its user agent.
    pub user_agent: Option<String>,
}

/// A connection that has been greeted.
struct Session {
    hub: Arc<Hub>,
    connection: u64,
    socket: Socket,
    frames: Frames,
    identity: Arc<Identity>,
    /// When the identity ends.
    expires: Option<Instant>,
    feed: Watched,
    head: watch::Receiver<Option<EventId>>,
    log_state: watch::Receiver<ConnectionState>,
    epoch: u64,
    /// The last event that was sent, or that the client had when it came.
    position: EventId,
    /// A position that it had, with the ordinal of the event there: what is sent next must be the next one.
    counted: Place,
    /// When the log can be tried again, if a read of it failed.
    read_after: Option<Instant>,
    cycle: Option<Cycle>,
    batches: Batches,
    /// A frame that waits until the batches before it are answered. Nothing is read behind it.
    held: Option<Box<Result<Frame, Refusal>>>,
    /// The length of that frame.
    held_bytes: usize,
    /// A state that is being sent in parts. No event behind it is sent before it is.
    sending: Option<Sending>,
    /// What this connection makes the process hold.
    account: Arc<Account>,
    hold: Hold,
    /// Until when nothing is read, since its client was answered with so much.
    answered_until: Option<Instant>,
    /// Events ahead of the position that are not to be sent, because a batch's answer tells of them; and
    /// whether it has. Until then nothing behind them is sent either, since the answer may not tell of them.
    own: BTreeMap<EventId, bool>,
    pending: Pending,
    pending_share: metrics::Share,
    /// 1 while there is more than one event to be written.
    behind_share: metrics::Share,
    /// The traces of those of its drafts that are traced.
    traces: HashMap<DraftKey, Span>,
    /// Since when it catches up with the head as it was at the greeting.
    catching_up: Option<Instant>,
    /// How far the log was, at some time since the connection began; `None` until that is needed and known.
    began_at: Option<EventId>,
    publishing: Publishing,
    outcomes: Option<Box<Outcomes>>,
    look_at: Instant,
    looks_without_life: u32,
    leaving: Option<Leaving>,
    /// The client has left: until when what it sent before is handed in.
    departed: Option<Instant>,
    listed: Listed,
    _admission: Admission,
}

/// A connection that is to end because its frontend goes away.
struct Leaving {
    /// When it takes no more drafts, and ends as soon as it owes no answer.
    from: Instant,
    /// When it ends whatever it owes.
    by: Instant,
}

/// The end of a connection that would be sent events with a gap: the log is damaged there.
fn missing_events(after: EventId) -> End {
    let why = format!("the log lacks events after {after}; connect without `lastEventId`");
    End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway)
}

/// Serves a connection until it ends.
pub(crate) async fn serve(
    hub: Arc<Hub>,
    connection: u64,
    socket: WebSocket<Stream>,
    entrance: Entrance,
    came_with: CameWith,
) {
    let _counted = metrics::Counted::one(metrics::CONNECTIONS);
    metrics::count(metrics::OPENED);
    let linger = Duration::from_millis(hub.settings.close_linger_ms);
    let socket = Socket::new(socket, connection, &hub.settings);
    let (socket, end) = match Box::pin(begin(hub, connection, socket, entrance, came_with)).await {
        Ok((session, dismissals)) => Box::pin(carry_on(session, dismissals)).await,
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
    hub: Arc<Hub>,
    connection: u64,
    mut socket: Socket,
    entrance: Entrance,
    came_with: CameWith,
) -> Result<(Box<Session>, Dismissals), Box<(Socket, End)>> {
    let frames = Frames::new(&hub.settings);
    match handshake::greet(&hub, connection, &mut socket, frames, entrance, came_with).await {
        Ok((greeted, dismissals)) => {
            Ok((Box::new(Session::new(hub, connection, socket, greeted)), dismissals))
        }
        Err(end) => Err(Box::new((socket, end))),
    }
}

/// Serves a connection that has been greeted.
async fn carry_on(mut session: Box<Session>, mut dismissals: Dismissals) -> (Socket, End) {
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
    fn new(hub: Arc<Hub>, connection: u64, socket: Socket, greeted: handshake::Greeted) -> Self {
        let handshake::Greeted { admission, frames, identity, listed, feed, position, account, sending } =
            greeted;
        let settings = &hub.settings;
        let mut log_state = hub.log.state();
        let epoch = log_state.borrow_and_update().epoch;
        let pending = Pending::new(settings, identity.client_id.clone(), hub.log.message_bytes_max());
        let catching_up = (position < feed.head_now()).then(Instant::now);
        let look_at = Instant::now() + Duration::from_millis(settings.heartbeat_interval_ms);
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
            own: BTreeMap::new(),
            pending,
            pending_share: metrics::Share::of(&metrics::hot().pending),
            behind_share: metrics::Share::of(&metrics::hot().behind),
            catching_up,
            traces: HashMap::new(),
            began_at: None,
            publishing: Publishing::default(),
            outcomes: None,
            look_at,
            looks_without_life: 0,
            leaving: None,
            departed: None,
            listed,
            _admission: admission,
            hub,
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
            () = self.hub.drain.cancelled(), if self.leaving.is_none() => {
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
                let Some(looked) = self.frames.look_at(&mut self.socket, &incoming) else { return Ok(()) };
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
            self.in_step();
            return Ok(false);
        }
        if self.cycle.is_some() || self.read_after.is_some() {
            return Ok(false);
        }
        let turn_max = self.hub.settings.frames_per_turn_max;
        // As long as none of them is to be kept from it, a connection is written what all others are.
        if self.own.is_empty()
            && let Some(run) = self.feed.run(self.position, head, turn_max, self.socket.dialect())
        {
            self.counted = Place { after: run.end, ordinal: run.end_ordinal };
            self.behind_share.set(usize::from(run.end < head));
            if run.frames > 0 {
                self.socket.send_encoded(run.wire, run.frames).await?;
            }
            count_broadcasts(run.frames as u64, run.bytes as u64);
            return Ok(self.written_to(run.end, head, run.came));
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
            match self.own.get(&entry.id) {
                Some(false) => {
                    count_broadcasts(broadcasts, bytes);
                    return Ok(false);
                }
                Some(true) => {
                    self.move_to(entry);
                    self.own.remove(&entry.id);
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
        Ok(self.written_to(stretch.end, head, stretch.entries.first().map(|entry| entry.came)))
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

    /// All up to `end` is written, of which the first event came here at `came`. Tells whether it ends before the
    /// head.
    fn written_to(&mut self, end: EventId, head: EventId, came: Option<std::time::Instant>) -> bool {
        // Of those that are written together the first has waited longest. What was read again from the log
        // for a connection that catches up has not been waited for.
        if let Some(came) = came.filter(|_| self.catching_up.is_none()) {
            metrics::hot().broadcast.record(came.elapsed());
        }
        self.position = self.position.max(end);
        if self.position < head {
            return true;
        }
        self.in_step();
        false
    }

    /// It has been written all there is.
    fn in_step(&mut self) {
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
            self.frames.good();
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
            return Err(self.socket.last_word(reply_to, code, message, CloseCode::TryAgainLater).await);
        }
        self.socket.error(reply_to, code, message, None).await
    }

    async fn time_passed(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if self.look_at <= now {
            if self.looks_without_life >= LOOKS_WITHOUT_LIFE_MAX {
                let why = "no sign of life from the client";
                return Err(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway));
            }
            self.looks_without_life += 1;
            if self.pending.is_empty() {
                self.outcomes = None;
            }
            self.look_at = now + Duration::from_millis(self.hub.settings.heartbeat_interval_ms);
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
            .fold(self.look_at, Instant::min)
    }

    /// The client has closed the connection, or it broke. What was read before is handed in: pages send their last
    /// drafts when they are left.
    async fn depart(&mut self) -> Result<(), End> {
        if self.pending.is_handed_in() {
            return Err(End::Gone);
        }
        self.departed = Some(Instant::now() + HAND_IN_MAX);
        self.cycle = None;
        self.socket.depart(Duration::from_millis(self.hub.settings.close_linger_ms)).await;
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
        let settings = &self.hub.settings;
        let patience = Duration::from_millis(settings.drain_ms_max);
        let spread = match settings.drain_connections_per_second {
            0 => Duration::ZERO,
            rate => Duration::from_secs(self.hub.limits.connections() as u64) / rate,
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

/// Says that this version of the dialect is not spoken here.
async fn unsupported_version(socket: &mut Socket, id: Option<&str>) -> End {
    let code = ErrorCode::ProtocolVersionUnsupported;
    socket.last_word(id, code, "Unsupported protocol version", CloseCode::Policy).await
}
