//! The greeting: from the upgrade to `connected`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tracing::{Span, info, warn};

use super::frames::FrameReader;
use super::let_in::{LetIn, let_in};
use super::sending::{Sending, form_of};
use super::socket::{End, Socket};
use super::state::CameWith;
use super::{ahead, token};
use crate::app::NoEntry;
use crate::auth::{Asked, AuthError, Identity, Occasion};
use crate::event::{AtomicGroups, EventId, PartitionKey, ReplyTo, Submission};
use crate::frontend::admission::connection_limits::{Admission, Entrance};
use crate::frontend::admission::memory::Account;
use crate::frontend::admission::registry::{ClientInfo, DisconnectReason, Disconnects, Registration};
use crate::frontend::feed::partition::Feed;
use crate::frontend::feed::{SerializedState, Watched};
use crate::frontend::metrics;
use crate::frontend::shared::FrontendShared;
use crate::protocol::{BadRequest, CloseCode, Dialect, ErrorCode, Notice, Request, Subscribe};

/// What a greeting leaves behind.
pub(crate) struct Handshake {
    pub admission: Admission,
    pub frames: FrameReader,
    pub identity: Arc<Identity>,
    pub listed: Registration,
    pub account: Arc<Account>,
    pub opening: Opening,
}

/// With what a connection begins.
pub(crate) enum Opening {
    /// One partition, at a position in it; and a state that is to be sent in parts.
    One { feed: Watched, position: EventId, sending: Option<Sending> },
    /// The partitions that it names, and the id of its `connect`.
    Many { id: Option<String>, partitions: Vec<Subscribe> },
}

impl Default for Opening {
    fn default() -> Self {
        Self::Many { id: None, partitions: Vec::new() }
    }
}

/// Why a `connect` was refused though the connection stays.
pub(crate) struct Refused(pub ErrorCode, pub String);

impl From<NoEntry> for Refused {
    fn from(no: NoEntry) -> Self {
        let code = match no {
            NoEntry::Refused | NoEntry::Failed => ErrorCode::Forbidden,
            NoEntry::Unavailable => ErrorCode::Unavailable,
        };
        Self(code, no.to_string())
    }
}

/// Waits for `connect` and answers it.
pub(crate) async fn handshake(
    shared: &Arc<FrontendShared>,
    connection: u64,
    socket: &mut Socket,
    mut frames: FrameReader,
    entrance: Entrance,
    came_with: CameWith,
) -> Result<(Handshake, Disconnects), End> {
    let by = tokio::time::Instant::now() + Duration::from_millis(shared.settings.connect_timeout_ms);
    let gave_way = || {
        metrics::count_by(metrics::GAVE_WAY, "stage", "connect");
        let why = "others needed the place of a connection that sent no `connect`";
        End::Close(ErrorCode::Unavailable, why.into(), CloseCode::TryAgainLater)
    };
    loop {
        tokio::select! {
            biased;
            flushed = socket.flush() => flushed?,
            // Not even one that does not read what it was told.
            () = entrance.given_way() => return Err(gave_way()),
        }
        let (id, connect) = tokio::select! {
            biased;
            () = shared.drain.cancelled() => {
                let why = "this frontend is going away; reconnect";
                return Err(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::GoingAway));
            }
            () = tokio::time::sleep_until(by) => {
                let why = "no `connect` in time";
                return Err(End::Close(ErrorCode::BadRequest, why.into(), CloseCode::Policy));
            }
            incoming = socket.next() => {
                let Some(frame) = frames.take(socket, &incoming?).await? else { continue };
                let Request::Connect(connect) = frame.request else {
                    let message = "`connect` must come first".to_owned();
                    frames.refuse(socket, BadRequest { reply_to: frame.id, message }).await?;
                    continue;
                };
                (frame.id, connect)
            }
            // After what has come: nobody gives way whose `connect` is here.
            () = entrance.given_way() => return Err(gave_way()),
        };
        Span::current().record("client", connect.client_id.as_str());
        let partitions: Vec<PartitionKey> = match &connect.partitions {
            Some(named) => named.iter().map(|wanted| wanted.partition.clone()).collect(),
            None => {
                Span::current().record("partition", connect.partition.as_str());
                vec![connect.partition.clone()]
            }
        };
        let token = connect.token.as_deref().or(came_with.token.as_deref());
        let rules = shared.entry.activation();
        let asked = Asked {
            occasion: Occasion::Connect,
            client_id: &connect.client_id,
            partition: connect.partitions.is_none().then_some(&connect.partition),
        };
        let identity = match shared.auth.authenticate(asked, token).await {
            Ok(identity) => Arc::new(identity),
            Err(AuthError::Refused(why)) => {
                let (code, why) = (ErrorCode::AuthFailed, why.to_string());
                return Err(socket.error_and_close(id.as_deref(), code, &why, CloseCode::Policy).await);
            }
            Err(error @ AuthError::Unavailable(_)) => {
                let refused = Refused(ErrorCode::Unavailable, error.to_string());
                refuse(socket, id.as_deref(), refused).await?;
                continue;
            }
        };
        if !identity.may_read() {
            let why = "the token does not permit `read`";
            refuse(socket, id.as_deref(), Refused(ErrorCode::Forbidden, why.into())).await?;
            continue;
        }
        if let Some(other) = partitions.iter().find(|partition| !identity.may_enter(partition.as_str())) {
            let why = match &connect.partitions {
                Some(_) => format!("the token does not permit partition {:?}", other.as_str()),
                None => "the token does not permit this partition".to_owned(),
            };
            refuse(socket, id.as_deref(), Refused(ErrorCode::Forbidden, why)).await?;
            continue;
        }
        if socket.dialect() == Dialect::V1
            && let Err(wait) = shared.reconnects.connect(&identity.client_id)
        {
            let (code, why) = (ErrorCode::RateLimited, "this client id connects too often");
            socket.error(id.as_deref(), code, why, Some(wait)).await?;
            return Err(End::Told(CloseCode::Policy));
        }
        // A connection that names its partitions is told of each as it is opened.
        if connect.partitions.is_none()
            && let Err(no) = shared.admit(&identity, &connect.partition).await
        {
            refuse(socket, id.as_deref(), no.into()).await?;
            continue;
        }
        let info = ClientInfo { about: connect.about.clone(), user_agent: came_with.user_agent.clone() };
        let dialect = socket.dialect().name();
        let known = let_in(shared, connection, &entrance, &identity, partitions, dialect, info)?;
        let LetIn { admission, listed, mut dismissals, account } = known;
        // Whoever asks the others again finds it from here on.
        if shared.entry.activation() != rules {
            return Err(token::end_of(DisconnectReason::OtherRules));
        }
        socket.count_on(&account);
        if let Some(partitions) = connect.partitions {
            let names: Vec<&str> = partitions.iter().map(|wanted| wanted.partition.as_str()).collect();
            let notice = Notice::ConnectedToMany {
                server_id: &shared.settings.id,
                partitions: &names,
                heartbeat_interval_ms: shared.settings.heartbeat_interval_ms,
            };
            socket.send(id.as_deref(), &notice).await?;
            frames.reset_errors();
            socket.allow(shared.settings.frame_bytes_max);
            info!(partitions = partitions.len(), "connected");
            let opening = Opening::Many { id, partitions };
            return Ok((Handshake { admission, frames, identity, listed, account, opening }, dismissals));
        }
        let feed = shared.feeds.watch(&connect.partition);
        let from = StartFrom { last_event_id: connect.last_event_id, live: connect.live };
        let joined = tokio::select! {
            biased;
            why = dismissals.next() => return Err(token::end_of(why)),
            joined = join(shared, connection, from, &identity, &feed, None) => joined,
        };
        match joined {
            Ok(Attached { head, since_snapshot, state, position, .. }) => {
                let notice = Notice::Connected {
                    server_id: &shared.settings.id,
                    client_id: connect.client_id.as_str(),
                    partition: connect.partition.as_str(),
                    head,
                    since_snapshot,
                    initial_state: state.as_deref().map(form_of),
                    heartbeat_interval_ms: shared.settings.heartbeat_interval_ms,
                };
                socket.send(id.as_deref(), &notice).await?;
                frames.reset_errors();
                socket.allow(shared.settings.frame_bytes_max);
                info!(%position, "connected");
                if let Some(state) = &state {
                    shared.outflow.take(&identity.client_id, state.bytes);
                }
                let sending = state.and_then(|state| Sending::of(state, id, None));
                let opening = Opening::One { feed, position, sending };
                return Ok((Handshake { admission, frames, identity, listed, account, opening }, dismissals));
            }
            Err(refused) => {
                drop(admission);
                refuse(socket, id.as_deref(), refused).await?;
            }
        }
    }
}

async fn refuse(socket: &mut Socket, id: Option<&str>, refused: Refused) -> Result<(), End> {
    let Refused(code, message) = refused;
    // In the v1 dialect whoever is refused here has no second try.
    if socket.dialect() == Dialect::V1 {
        let close = match code {
            ErrorCode::Unavailable => CloseCode::TryAgainLater,
            _ => CloseCode::Policy,
        };
        return Err(socket.error_and_close(id, code, &message, close).await);
    }
    socket.error(id, code, &message, None).await
}

/// Where a client goes on from.
#[derive(Clone, Copy)]
pub(crate) struct StartFrom {
    /// The last event that it has, if it has any.
    pub last_event_id: Option<EventId>,
    /// Whether it begins at the head and wants no state.
    pub live: bool,
}

/// Where in a partition's log a connection begins, and what it is told of that.
pub(crate) struct Attached {
    pub head: EventId,
    pub since_snapshot: u64,
    /// The state at the head, where the client has nothing yet.
    pub state: Option<Arc<SerializedState>>,
    /// Until the state is sent, no other takes its seat.
    pub seat: Option<OwnedSemaphorePermit>,
    pub position: EventId,
}

/// Finds the place in a partition's log where the connection begins. A state takes one of the `seats`, if there are
/// any. Cancel safe.
pub(crate) async fn join(
    shared: &FrontendShared,
    number: u64,
    from: StartFrom,
    identity: &Identity,
    feed: &Feed,
    seats: Option<&Arc<Semaphore>>,
) -> Result<Attached, Refused> {
    let unavailable = |why: &str| Err(Refused(ErrorCode::Unavailable, why.to_owned()));
    let settings = &shared.settings;
    let mut head = feed.head();
    let feed_wait = Duration::from_millis(settings.feed_wait_ms);
    let Some(mut now) = wait_for(&mut head, feed_wait, |_| true).await else {
        return unavailable("the log is unreachable");
    };
    if now == EventId::NONE
        && settings.open_empty_partitions
        && ask_to_open(shared, number, identity, feed).await
    {
        let wait = Duration::from_millis(settings.open_wait_ms);
        let Some(opened) = wait_for(&mut head, wait, |head| head > EventId::NONE).await else {
            return unavailable("the partition has no initial state yet");
        };
        now = opened;
    }
    if from.live {
        return Ok(Attached { head: now, since_snapshot: 0, state: None, seat: None, position: now });
    }
    let Some(last) = from.last_event_id else {
        let seat = match seats {
            Some(seats) => Arc::clone(seats).acquire_owned().await.ok(),
            None => None,
        };
        // Who was told much a moment ago waits for its turn.
        if let Some(from) = shared.outflow.not_before(&identity.client_id) {
            tokio::time::sleep_until(from.into()).await;
        }
        let state = match feed.state(EventId::NONE).await {
            Ok(state) => state,
            Err(error) => {
                warn!(%error, "cannot make the state for a connecting client");
                return unavailable("the partition's state is unreadable now; retry");
            }
        };
        let since_snapshot = feed.since_snapshot(state.ordinal).await;
        let head = state.event_id;
        return Ok(Attached { head, since_snapshot, position: head, state: Some(state), seat });
    };
    let now = ahead::head_after(feed, last).await;
    if last > now {
        match ahead::is_lost(shared, feed, last).await {
            Ok(true) => {}
            Ok(false) => return unavailable(ahead::LAGS),
            Err(error) => {
                warn!(%error, %last, "cannot determine whether an event that a client has seen is lost");
                return unavailable(ahead::LAGS);
            }
        }
        let message = ahead::beyond("lastEventId", last, now);
        return Err(Refused(ErrorCode::CursorBeyondLog, message));
    }
    let since_snapshot = feed.since_snapshot(feed.ordinal()).await;
    Ok(Attached { head: now, since_snapshot, state: None, seat: None, position: last })
}

/// The head, once there is one that `is_it`.
async fn wait_for(
    head: &mut watch::Receiver<Option<EventId>>,
    wait: Duration,
    is_it: impl Fn(EventId) -> bool,
) -> Option<EventId> {
    let found = timeout(wait, head.wait_for(|head| head.is_some_and(&is_it))).await;
    found.ok()?.ok().and_then(|head| *head)
}

/// Asks the partition's validator to commit the initial state. False when that could not be asked.
async fn ask_to_open(shared: &FrontendShared, number: u64, identity: &Identity, feed: &Feed) -> bool {
    let submission: Submission = Submission {
        partition: feed.partition().clone(),
        submitter: identity.submitter(),
        reply_to: ReplyTo {
            frontend: shared.settings.id.clone(),
            connection: number,
            submission: 0,
            attempt: 1,
            since: EventId::NONE,
            publish: 0,
            storable_until: None,
        },
        units: AtomicGroups::default(),
        drafts: Vec::new(),
    };
    let Ok(body) = serde_json::to_vec(&submission) else { return false };
    match shared.log.publish_draft(feed.partition(), feed.token(), body.into()).await {
        Ok(()) => true,
        Err(error) => {
            warn!(%error, "cannot ask for a partition to be opened");
            false
        }
    }
}
