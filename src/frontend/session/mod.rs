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
pub(crate) mod handshake;
pub(crate) mod lane;
pub(crate) mod let_in;
pub(crate) mod line;
mod many;
pub(crate) mod outcomes;
pub(crate) mod publishing;
mod refresh;
pub(crate) mod sending;
pub(crate) mod socket;
pub(crate) mod state;
pub(crate) mod submissions;
pub(crate) mod sync;
pub(crate) mod sync_cursor;
pub(crate) mod token;
pub(crate) mod told;
mod too_large;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use tracing::{debug, info};

use self::ahead::missing_events;
use self::frames::{FrameReader, Refusal};
use self::handshake::Opening;
use self::lane::{Lane, Written};
use self::line::Line;
use self::outcomes::Outcome;
use self::socket::{End, Socket};
use self::state::CameWith;
use super::admission::connection_limits::Entrance;
use super::admission::registry::Disconnects;
use super::metrics;
use super::net::Stream;
use super::websocket::WebSocket;
use crate::app::NoEntry;
use crate::frontend::shared::FrontendShared;
use crate::log::LogError;
use crate::protocol::{CloseCode, ErrorCode, Frame, Request};

/// A connection that has been greeted, and is for one partition.
struct Session {
    line: Line,
    lane: Lane,
}

/// A connection that has been greeted.
enum Begun {
    /// It is for one partition.
    One(Box<Session>),
    /// It names its partitions.
    Many(Box<many::Session>),
}

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
    let begun = Box::pin(begin(shared, connection, socket, entrance, came_with)).await;
    let was_in = begun.is_ok();
    let (socket, end) = match begun {
        Ok((session, dismissals)) => Box::pin(serve_events(session, dismissals)).await,
        Err(ended) => *ended,
    };
    if let End::Close(ErrorCode::ServerError, why, _) = &end {
        tracing::error!(%why, "a defect closes a connection");
    }
    let closed = Box::pin(socket.close(end, linger)).await;
    if was_in {
        info!(closed, "connection ended");
    } else {
        debug!(closed, "connection ended");
    }
}

/// Greets a connection; gives its session, or why there is none.
async fn begin(
    shared: Arc<FrontendShared>,
    connection: u64,
    mut socket: Socket,
    entrance: Entrance,
    came_with: CameWith,
) -> Result<(Begun, Disconnects), Box<(Socket, End)>> {
    let frames = FrameReader::new(&shared.settings);
    match handshake::handshake(&shared, connection, &mut socket, frames, entrance, came_with).await {
        Ok((mut greeted, dismissals)) => {
            let opening = std::mem::take(&mut greeted.opening);
            let mut line = Line::new(shared, connection, socket, greeted);
            let begun = match opening {
                Opening::One { feed, position, sending } => {
                    let lane = Lane::new(&line, connection, feed, position, sending);
                    Begun::One(Box::new(Session { line, lane }))
                }
                Opening::Many { id, partitions } => {
                    line.names_partitions = true;
                    Begun::Many(Box::new(many::Session::new(line, id, partitions)))
                }
            };
            Ok((begun, dismissals))
        }
        Err(end) => Err(Box::new((socket, end))),
    }
}

/// Serves a connection that has been greeted.
async fn serve_events(mut begun: Begun, mut dismissals: Disconnects) -> (Socket, End) {
    // Beside whatever the connection waits for, be it a client that does not read.
    let account = match &begun {
        Begun::One(session) => session.line.account.clone(),
        Begun::Many(session) => session.account(),
    };
    let end = tokio::select! {
        biased;
        why = dismissals.next() => token::end_of(why),
        () = account.gives_way() => {
            let why = "the frontend has no memory left, and this connection holds most of it";
            End::Close(ErrorCode::Unavailable, why.into(), CloseCode::TryAgainLater)
        }
        end = begun.run() => end,
    };
    (begun.end(), end)
}

impl Begun {
    async fn run(&mut self) -> End {
        match self {
            Begun::One(session) => session.run().await,
            // Boxed, so that the many connections of one partition keep no room for it.
            Begun::Many(session) => Box::pin(session.run()).await,
        }
    }

    /// Looks out for no draft any more, and gives the socket back.
    fn end(self) -> Socket {
        match self {
            Begun::One(session) => {
                session.lane.forget_drafts();
                session.line.socket
            }
            Begun::Many(session) => session.end(),
        }
    }
}

impl Session {
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
        let Self { line, lane } = self;
        line.check_identity()?;
        line.end_if_handed_in(|| lane.pending.is_handed_in())?;
        let behind = line.departed.is_none() && write_events(line, lane).await?;
        lane.publish_if_full(line);
        line.socket.flush().await?;
        lane.tell_pending();
        line.leave_if_done(|| lane.pending.is_empty())?;
        let may_read = line.may_read(lane.pending.bytes());
        let wake = lane.wake_at().into_iter().chain(may_read.err()).fold(line.wake_at(), Instant::min);
        if timer.deadline() != wake {
            timer.as_mut().reset(wake);
        }
        tokio::select! {
            biased;
            () = line.shared.drain.cancelled(), if line.leaving.is_none() => {
                line.begin_to_leave();
                Ok(())
            }
            progress = lane.publishing.done() => Box::pin(lane.progress(line, progress)).await,
            outcome = outcomes::next(&mut lane.outcomes) => match outcome {
                Outcome::Committed(entry) => Box::pin(lane.committed(line, &entry)).await,
                Outcome::Answered(answer) => Box::pin(lane.answered(line, *answer)).await,
            },
            () = std::future::ready(()), if line.held.as_ref().is_some_and(|held| !lane.must_wait(line, held)) => {
                let Some(held) = line.held.take() else { return Ok(()) };
                line.held_bytes = 0;
                Box::pin(self.frame(*held)).await
            }
            incoming = line.socket.next(), if line.held.is_none() && may_read.is_ok() && line.departed.is_none() => {
                line.heard();
                let incoming = match incoming {
                    Err(End::Gone) => {
                        lane.cycle = None;
                        return Box::pin(line.depart(lane.pending.is_handed_in())).await;
                    }
                    incoming => incoming?,
                };
                let Some(looked) = line.frames.decode(&mut line.socket, &incoming) else { return Ok(()) };
                if lane.must_wait(line, &looked) {
                    line.held = Some(Box::new(looked));
                    line.held_bytes = incoming.bytes();
                    return Ok(());
                }
                Box::pin(self.frame(looked)).await
            }
            () = std::future::ready(()), if lane.has_next() => {
                lane.publish_next(line);
                Ok(())
            }
            Ok(()) = line.log_state.changed() => {
                if line.lost_log() {
                    lane.pending.republish();
                }
                Ok(())
            }
            () = timer.as_mut() => Box::pin(self.time_passed()).await,
            Ok(()) = lane.head.changed(), if lane.cycle.is_none() && line.departed.is_none() => Ok(()),
            () = std::future::ready(()), if behind => Ok(()),
        }
    }

    /// Takes a frame.
    async fn frame(&mut self, looked: Result<Frame, Refusal>) -> Result<(), End> {
        let Self { line, lane } = self;
        let Some(Frame { id, request }) = line.understood(looked).await? else { return Ok(()) };
        lane.end_cycle_unless_continued(line.socket.dialect(), &request);
        match request {
            Request::Submit(submit) => lane.submit(line, id.unwrap_or_default(), *submit).await,
            Request::SubmitBatch(batch) => lane.submit_batch(line, id, batch).await,
            Request::Sync(sync) => lane.sync(line, id.as_deref(), sync).await,
            Request::RefreshToken { token } => {
                let partition = Some(lane.feed.partition());
                let Some(fresh) = line.fresh_identity(id.as_deref(), partition, &token).await? else {
                    return Ok(());
                };
                if !fresh.may_enter(lane.feed.partition().as_str()) {
                    return Err(line.not_permitted(id.as_deref()).await);
                }
                match line.shared.admit(&fresh, lane.feed.partition()).await {
                    Ok(()) => {}
                    // He goes on under the token that he has, and asks again.
                    Err(no @ NoEntry::Unavailable) => {
                        return line.error(id.as_deref(), ErrorCode::Unavailable, &no.to_string()).await;
                    }
                    Err(_) => return Err(line.not_permitted(id.as_deref()).await),
                }
                line.continue_as(id.as_deref(), fresh).await
            }
            Request::Subscribe(_) | Request::Unsubscribe { .. } => {
                let why = "this connection is for one partition; name `partitions` in `connect` to have more";
                line.error(id.as_deref(), ErrorCode::Forbidden, why).await
            }
            other => line.answer(id, other).await,
        }
    }

    async fn time_passed(&mut self) -> Result<(), End> {
        if self.line.look_for_life().await? {
            self.lane.rest();
        }
        self.lane.time_passed(&mut self.line, Instant::now()).await
    }
}

/// Writes what lies between the position and the head, as much as is written in one turn. Tells whether there is more
/// that can be written at once.
async fn write_events(line: &mut Line, lane: &mut Lane) -> Result<bool, End> {
    let head = match lane.write_at_hand(line).await? {
        Written::All => return Ok(false),
        Written::More => return Ok(true),
        Written::FromLog(head) => head,
    };
    match lane.read(line, head).await {
        Ok(stretch) => lane.write_stretch(line, stretch, head).await,
        Err(LogError::Malformed { .. }) => Err(missing_events(lane.position)),
        Err(error) => {
            lane.not_read(&error);
            Ok(false)
        }
    }
}
