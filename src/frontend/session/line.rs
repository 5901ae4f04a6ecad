//! What all partitions of a connection share: its socket, who it is, what it may hold, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;

use super::frames::{FrameReader, Refusal};
use super::handshake::Handshake;
use super::socket::{End, Socket, unsupported_version};
use super::token;
use crate::auth::Identity;
use crate::event::{FieldError, Reason};
use crate::frontend::admission::connection_limits::Admission;
use crate::frontend::admission::memory;
use crate::frontend::admission::memory::{Account, Hold};
use crate::frontend::admission::registry::Registration;
use crate::frontend::metrics;
use crate::frontend::shared::FrontendShared;
use crate::log::ConnectionState;
use crate::protocol::{BadRequest, CloseCode, ErrorCode, Frame, Notice, Request};
use crate::util::backoff::chance;

/// A connection, as far as it is not about a partition.
pub(crate) struct Line {
    pub shared: Arc<FrontendShared>,
    pub connection: u64,
    /// Whether its client names a partition in what it asks, since there may be many.
    pub names_partitions: bool,
    pub socket: Socket,
    pub frames: FrameReader,
    pub identity: Arc<Identity>,
    /// When the identity ends.
    pub expires: Option<Instant>,
    /// What this connection makes the process hold.
    pub account: Arc<Account>,
    hold: Hold,
    /// A frame that waits until what came before it is answered. Nothing is read behind it.
    pub held: Option<Box<Result<Frame, Refusal>>>,
    /// The length of that frame.
    pub held_bytes: usize,
    /// Until when nothing is read, since its client was answered with so much.
    pub answered_until: Option<Instant>,
    pub log_state: watch::Receiver<ConnectionState>,
    epoch: u64,
    look_at: Instant,
    looks_without_life: u32,
    pub leaving: Option<Leaving>,
    /// The client has left: until when what it sent before is handed in.
    pub departed: Option<Instant>,
    pub listed: Registration,
    _admission: Admission,
}

/// A connection that is to end because its frontend goes away.
pub(crate) struct Leaving {
    /// When it takes no more drafts, and ends as soon as it owes no answer.
    from: Instant,
    /// When it ends whatever it owes.
    by: Instant,
}

/// How long the drafts of a client that has left are tried to be handed in. Each but the first submission waits for the
/// answers to the one before.
const HAND_IN_MAX: Duration = Duration::from_secs(10);
/// How many looks for a sign of life may go by without one.
const LOOKS_WITHOUT_LIFE_MAX: u32 = 2;

impl Line {
    pub(crate) fn new(
        shared: Arc<FrontendShared>,
        connection: u64,
        socket: Socket,
        greeted: Handshake,
    ) -> Self {
        let Handshake { admission, frames, identity, listed, account, .. } = greeted;
        let mut log_state = shared.log.state();
        let epoch = log_state.borrow_and_update().epoch;
        let look_at = Instant::now() + Duration::from_millis(shared.settings.heartbeat_interval_ms);
        Self {
            connection,
            names_partitions: false,
            socket,
            frames,
            expires: token::ends_at(&identity),
            identity,
            hold: account.hold(),
            account,
            held: None,
            held_bytes: 0,
            answered_until: None,
            log_state,
            epoch,
            look_at,
            looks_without_life: 0,
            leaving: None,
            departed: None,
            listed,
            _admission: admission,
            shared,
        }
    }

    pub(crate) async fn error(
        &mut self,
        reply_to: Option<&str>,
        code: ErrorCode,
        message: &str,
    ) -> Result<(), End> {
        if self.socket.dialect().closes_on(code) {
            return Err(self.socket.error_and_close(reply_to, code, message, CloseCode::TryAgainLater).await);
        }
        self.socket.error(reply_to, code, message, None).await
    }

    /// What a frame asks for, if it was understood.
    pub(crate) async fn understood(&mut self, looked: Result<Frame, Refusal>) -> Result<Option<Frame>, End> {
        match looked {
            Ok(frame) => {
                if !matches!(frame.request, Request::Connect(_)) {
                    self.frames.reset_errors();
                }
                Ok(Some(frame))
            }
            Err(refusal) => self.frames.answer(&mut self.socket, refusal).await.map(|()| None),
        }
    }

    /// Answers what is asked of no partition.
    pub(crate) async fn answer(&mut self, id: Option<String>, request: Request) -> Result<(), End> {
        match request {
            Request::Heartbeat => self.socket.send(id.as_deref(), &Notice::Heartbeat).await,
            Request::UnsupportedVersion => Err(unsupported_version(&mut self.socket, id.as_deref()).await),
            // All others are asked of a partition, or of whom has one.
            _ => {
                let message = "this connection is connected already".to_owned();
                self.frames.refuse(&mut self.socket, BadRequest { reply_to: id, message }).await
            }
        }
    }

    /// Answers a draft that is not taken.
    pub(crate) async fn reject(
        &mut self,
        id: &str,
        draft_id: &str,
        reason: Reason,
        errors: &[FieldError],
        retry_after_ms: Option<u64>,
    ) -> Result<(), End> {
        metrics::count_by(metrics::REJECTED, "reason", reason.as_str());
        debug!(draft = draft_id, reason = reason.as_str(), "draft refused");
        let retry_after_ms = retry_after_ms.or_else(|| self.retry_after_ms(reason));
        let notice = Notice::Rejected { draft_id, reason, errors, retry_after_ms };
        self.socket.send(reply_to(id), &notice).await
    }

    /// When to send a draft again that was rejected for this reason, where only time can help.
    pub(crate) fn retry_after_ms(&self, reason: Reason) -> Option<u64> {
        matches!(reason, Reason::Unavailable | Reason::RateLimited).then(|| self.socket.retry_after_ms())
    }

    /// What is told of drafts whose outcome is not known in time.
    pub(crate) fn outcome_unknown(&self, what: &str) -> String {
        match self.shared.answers.silent_for() {
            Some(silent) => format!(
                "outcome unknown: no validator has decided anything for {} s; resubmit the {what} with the same id",
                silent.as_secs()
            ),
            None => format!("outcome unknown: timed out; resubmit the {what} with the same id"),
        }
    }

    /// The client was answered with so many bytes.
    pub(crate) fn answered_with(&mut self, bytes: usize) {
        let client = &self.identity.client_id;
        self.shared.outflow.take(client, bytes);
        self.answered_until = self.shared.outflow.not_before(client).map(Instant::from_std);
    }

    /// Says what the connection holds, of which the drafts that wait have so many bytes, and whether it may be read
    /// from. If not, when that is to be looked at again.
    pub(crate) fn may_read(&mut self, drafts_bytes: usize) -> Result<(), Instant> {
        // Each draft as it came, and once more in what is published of it.
        self.hold.set(2 * (drafts_bytes + self.held_bytes));
        let now = Instant::now();
        self.answered_until = self.answered_until.filter(|until| *until > now);
        let may_read = match self.answered_until {
            Some(until) => Err(until),
            None if self.account.is_full() => Err(now + memory::LOOK_EVERY),
            None => Ok(()),
        };
        if may_read.is_err() {
            // It cannot give one that is seen.
            self.looks_without_life = 0;
        }
        may_read
    }

    /// Something came from the client.
    pub(crate) fn heard(&mut self) {
        self.looks_without_life = 0;
        self.listed.heard();
    }

    /// Looks for a sign of life when it is time to. Tells whether it was.
    pub(crate) async fn look_for_life(&mut self) -> Result<bool, End> {
        let now = Instant::now();
        if self.look_at > now {
            return Ok(false);
        }
        if self.looks_without_life >= LOOKS_WITHOUT_LIFE_MAX {
            let why = "no sign of life from the client";
            return Err(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway));
        }
        self.looks_without_life += 1;
        self.look_at = now + Duration::from_millis(self.shared.settings.heartbeat_interval_ms);
        self.socket.ping().await?;
        Ok(true)
    }

    /// Whether the connection to NATS was lost meanwhile.
    pub(crate) fn lost_log(&mut self) -> bool {
        let epoch = self.log_state.borrow_and_update().epoch;
        std::mem::replace(&mut self.epoch, epoch) != epoch
    }

    /// When it has something to do that is not about a partition.
    pub(crate) fn wake_at(&self) -> Instant {
        let leave =
            self.leaving.as_ref().map(|leaving| if self.leaves() { leaving.by } else { leaving.from });
        [self.expires, leave, self.departed].into_iter().flatten().fold(self.look_at, Instant::min)
    }

    /// The client has closed the connection, or it broke. What was read before is handed in: pages send their last
    /// drafts when they are left.
    pub(crate) async fn depart(&mut self, is_handed_in: bool) -> Result<(), End> {
        if is_handed_in {
            return Err(End::Gone);
        }
        self.departed = Some(Instant::now() + HAND_IN_MAX);
        self.socket.depart(Duration::from_millis(self.shared.settings.close_linger_ms)).await;
        Ok(())
    }

    /// Ends a connection whose client has left, once all that it sent is in the queue, or not in time.
    pub(crate) fn end_if_handed_in(&self, is_handed_in: impl FnOnce() -> bool) -> Result<(), End> {
        match self.departed {
            Some(by) if is_handed_in() || by <= Instant::now() => Err(End::Gone),
            _ => Ok(()),
        }
    }

    /// The frontend goes away. When to leave: each connection at a time of its own, so that not all come to other
    /// frontends at once.
    pub(crate) fn begin_to_leave(&mut self) {
        let now = Instant::now();
        let patience = Duration::from_millis(self.shared.settings.drain_ms_max);
        self.leaving = Some(Leaving { from: now + leave_after(&self.shared), by: now + patience });
    }

    /// Whether its time to leave has come.
    pub(crate) fn leaves(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.from <= Instant::now())
    }

    /// Leaves, when the frontend goes away and nothing is left to answer, or not in time.
    pub(crate) fn leave_if_done(&self, is_done: impl FnOnce() -> bool) -> Result<(), End> {
        match &self.leaving {
            Some(leaving) if self.leaves() && (is_done() || leaving.by <= Instant::now()) => {
                let why = "this frontend is going away; reconnect";
                Err(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway))
            }
            _ => Ok(()),
        }
    }
}

/// How long a connection of a frontend that goes away stays.
pub(crate) fn leave_after(shared: &FrontendShared) -> Duration {
    let settings = &shared.settings;
    let patience = Duration::from_millis(settings.drain_ms_max);
    let spread = match settings.drain_connections_per_second {
        0 => Duration::ZERO,
        rate => Duration::from_secs(shared.limits.connections() as u64) / rate,
    };
    spread.min(patience / 2).mul_f64(chance())
}

/// What an answer replies to. A message without an id is kept as one whose id is empty.
pub(crate) fn reply_to(id: &str) -> Option<&str> {
    (!id.is_empty()).then_some(id)
}
