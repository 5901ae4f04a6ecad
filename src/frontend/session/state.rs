//! A connection after its handshake: what it owns.

use super::batches::Batches;
use super::publishing::Publishing;
use super::sync_cursor::Cycle;
use crate::auth::Identity;
use crate::event::{DraftKey, EventId};
use crate::frontend::admission::connection_limits::Admission;
use crate::frontend::admission::memory::Account;
use crate::frontend::admission::memory::Hold;
use crate::frontend::admission::registry::Registration;
use crate::frontend::feed::Watched;
use crate::frontend::feed::page_cache::Place;
use crate::frontend::metrics;
use crate::frontend::session::frames::{FrameReader, Refusal};
use crate::frontend::session::outcomes::Outcomes;
use crate::frontend::session::sending::Sending;
use crate::frontend::session::socket::Socket;
use crate::frontend::shared::FrontendShared;
use crate::log::ConnectionState;
use crate::outbox::Pending;
use crate::protocol::Frame;
use crate::telemetry::traces::Span;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// What an upgrade request holds for the session.
pub(crate) struct CameWith {
    /// A token.
    pub token: Option<String>,
    /// What it names as its user agent.
    pub user_agent: Option<String>,
}

/// A connection that has been greeted.
pub(crate) struct Session {
    pub(crate) shared: Arc<FrontendShared>,
    pub(crate) connection: u64,
    pub(crate) socket: Socket,
    pub(crate) frames: FrameReader,
    pub(crate) identity: Arc<Identity>,
    /// When the identity ends.
    pub(crate) expires: Option<Instant>,
    pub(crate) feed: Watched,
    pub(crate) head: watch::Receiver<Option<EventId>>,
    pub(crate) log_state: watch::Receiver<ConnectionState>,
    pub(crate) epoch: u64,
    /// The last event that was sent, or that the client had when it came.
    pub(crate) position: EventId,
    /// A position that it had, with the ordinal of the event there: what is sent next must be the next one.
    pub(crate) counted: Place,
    /// When the log can be tried again, if a read of it failed.
    pub(crate) read_after: Option<Instant>,
    pub(crate) cycle: Option<Cycle>,
    pub(crate) batches: Batches,
    /// A frame that waits until the batches before it are answered. Nothing is read behind it.
    pub(crate) held: Option<Box<Result<Frame, Refusal>>>,
    /// The length of that frame.
    pub(crate) held_bytes: usize,
    /// A state that is being sent in parts. No event behind it is sent before it is.
    pub(crate) sending: Option<Sending>,
    /// What this connection makes the process hold.
    pub(crate) account: Arc<Account>,
    pub(crate) hold: Hold,
    /// Until when nothing is read, since its client was answered with so much.
    pub(crate) answered_until: Option<Instant>,
    /// Events ahead of the position that are not to be sent, because a batch's answer tells of them; and
    /// whether it has. Until then nothing behind them is sent either, since the answer may not tell of them.
    pub(crate) own_events: BTreeMap<EventId, bool>,
    pub(crate) pending: Pending,
    pub(crate) pending_share: metrics::Share,
    /// 1 while there is more than one event to be written.
    pub(crate) behind_share: metrics::Share,
    /// The traces of those of its drafts that are traced.
    pub(crate) traces: HashMap<DraftKey, Span>,
    /// Since when it catches up with the head as it was at the greeting.
    pub(crate) catching_up: Option<Instant>,
    /// How far the log was, at some time since the connection began; `None` until that is needed and known.
    pub(crate) log_end_at_connect: Option<EventId>,
    pub(crate) publishing: Publishing,
    pub(crate) outcomes: Option<Box<Outcomes>>,
    pub(crate) decode: Instant,
    pub(crate) looks_without_life: u32,
    pub(crate) leaving: Option<Leaving>,
    /// The client has left: until when what it sent before is handed in.
    pub(crate) departed: Option<Instant>,
    pub(crate) listed: Registration,
    pub(crate) _admission: Admission,
}

/// A connection that is to end because its frontend goes away.
pub(crate) struct Leaving {
    /// When it takes no more drafts, and ends as soon as it owes no answer.
    pub(crate) from: Instant,
    /// When it ends whatever it owes.
    pub(crate) by: Instant,
}
