//! A connection that names its partitions: one task that owns the socket, and for each partition a lane of its own.
//!
//! Whatever a partition waits for, be it the log or a validator, the others go on. Each turn writes at most one run of
//! events of each partition, beginning with another one each time: what one partition has to say waits for at most one
//! run of every other.

mod allowance;
mod bell;
mod requests;
mod subscription;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep};

use self::allowance::Allowance;
use self::subscription::{Ends, Event, Subscription, Work};
use super::handshake::{Attached, Refused};
use super::lane::Written;
use super::line::Line;
use super::outcomes::Outcome;
use super::sending::{Sending, form_of};
use super::socket::{End, Socket};
use crate::event::EventId;
use crate::frontend::admission::memory::{Account, Hold};
use crate::frontend::feed::partition::EventBatch;
use crate::log::LogError;
use crate::protocol::{Details, ErrorCode, Notice, Subscribe};

/// How many states one connection is told at the same time: each is kept until the last part of it is sent. Others
/// wait, so that one that is slow to read or to make does not hold up all.
const STATES_MAX: usize = 4;
/// What a subscription takes at most while nothing happens, in bytes: its lane, what it waits with, and its part in a
/// feed that nobody else watches.
const SUBSCRIPTION_BYTES: usize = 16 * 1024;

/// A connection that names its partitions.
pub(crate) struct Session {
    line: Line,
    subscriptions: Vec<Subscription>,
    allowance: Allowance,
    /// For the states that are being made or sent.
    seats: Arc<Semaphore>,
    /// What the subscriptions take.
    hold: Hold,
    /// Whose turn it is to be first.
    first: usize,
    task: Arc<AtomicWaker>,
}

impl Session {
    /// A connection that has been greeted, and begins with these partitions.
    pub(crate) fn new(line: Line, id: Option<String>, partitions: Vec<Subscribe>) -> Self {
        let mut session = Self {
            hold: line.account.hold(),
            line,
            subscriptions: Vec::with_capacity(partitions.len()),
            allowance: Allowance::less(partitions.len(), std::time::Instant::now()),
            seats: Arc::new(Semaphore::new(STATES_MAX)),
            first: 0,
            task: Arc::default(),
        };
        for wanted in partitions {
            session.open(id.clone(), wanted);
        }
        session
    }

    /// What the connection makes the process hold.
    pub(crate) fn account(&self) -> Arc<Account> {
        self.line.account.clone()
    }

    /// Looks out for no draft any more, and gives the socket back.
    pub(crate) fn end(self) -> Socket {
        for subscription in &self.subscriptions {
            subscription.lane.forget_drafts();
        }
        self.line.socket
    }

    pub(crate) async fn run(&mut self) -> End {
        let mut timer = Box::pin(sleep(std::time::Duration::ZERO));
        loop {
            if let Err(end) = self.turn(&mut timer).await {
                return end;
            }
        }
    }

    /// Does all that can be done now, and then waits for one thing to happen.
    async fn turn(&mut self, timer: &mut Pin<Box<Sleep>>) -> Result<(), End> {
        self.line.check_identity()?;
        let subscriptions = &self.subscriptions;
        self.line.end_if_handed_in(|| are_handed_in(subscriptions))?;
        let behind = self.write().await?;
        self.take_out_ended().await?;
        self.line.socket.flush().await?;
        let subscriptions = &self.subscriptions;
        self.line.leave_if_done(|| subscriptions.iter().all(|one| one.lane.pending.is_empty()))?;
        let drafts_bytes = subscriptions.iter().map(|one| one.lane.pending.bytes()).sum();
        let may_read = self.line.may_read(drafts_bytes);
        let wakes = self.subscriptions.iter().filter_map(|one| one.lane.wake_at());
        let wake = wakes.chain(may_read.err()).fold(self.line.wake_at(), Instant::min);
        if timer.deadline() != wake {
            timer.as_mut().reset(wake);
        }
        let Self { line, subscriptions, first, task, .. } = self;
        tokio::select! {
            biased;
            () = line.shared.drain.cancelled(), if line.leaving.is_none() => {
                line.begin_to_leave();
                Ok(())
            }
            happened = poll_fn(|context| poll(subscriptions, *first, task, context)) => match happened {
                Some((index, event)) => Box::pin(self.happened(index, event)).await,
                None => Ok(()),
            },
            incoming = line.socket.next(), if may_read.is_ok() && line.departed.is_none() => {
                line.heard();
                let incoming = match incoming {
                    Err(End::Gone) => return Box::pin(self.depart()).await,
                    incoming => incoming?,
                };
                let Some(looked) = line.frames.decode(&mut line.socket, &incoming) else { return Ok(()) };
                Box::pin(self.frame(looked)).await
            }
            () = std::future::ready(()), if subscriptions.iter().any(|one| one.lane.has_next()) => {
                for one in subscriptions.iter_mut().filter(|one| one.lane.has_next()) {
                    one.lane.publish_next(line);
                    one.ring();
                }
                Ok(())
            }
            Ok(()) = line.log_state.changed() => {
                if line.lost_log() {
                    subscriptions.iter_mut().for_each(|one| one.lane.pending.republish());
                }
                Ok(())
            }
            () = timer.as_mut() => Box::pin(self.time_passed()).await,
            () = std::future::ready(()), if behind => Ok(()),
        }
    }

    /// Writes of each partition what lies between its position and its head, as much as is written in one turn. Tells
    /// whether there is more that can be written at once.
    async fn write(&mut self) -> Result<bool, End> {
        let Self { line, subscriptions, first, .. } = self;
        let count = subscriptions.len();
        *first = (*first + 1) % count.max(1);
        let mut more = false;
        for place in 0..count {
            let one = &mut subscriptions[(*first + place) % count];
            if !std::mem::take(&mut one.is_dirty) {
                continue;
            }
            one.lane.publish_if_full(line);
            one.lane.tell_pending();
            one.ring();
            if line.departed.is_some() || one.work.is_some() || one.ends.is_some() {
                continue;
            }
            match one.lane.write_at_hand(line).await? {
                Written::All => {}
                Written::More => {
                    one.is_dirty = true;
                    more = true;
                }
                Written::FromLog(head) => {
                    one.work = Some(Work::Reading(head, Box::pin(one.lane.read(line, head))));
                }
            }
        }
        Ok(more)
    }

    /// What happened to a partition.
    async fn happened(&mut self, index: usize, event: Event) -> Result<(), End> {
        let Self { line, subscriptions, .. } = self;
        let Some(one) = subscriptions.get_mut(index) else { return Ok(()) };
        one.touch();
        match event {
            Event::Progress(progress) => one.lane.progress(line, progress).await,
            Event::Outcome(Outcome::Committed(entry)) => one.lane.committed(line, &entry).await,
            Event::Outcome(Outcome::Answered(answer)) => one.lane.answered(line, *answer).await,
            Event::Attached(id, joined) => joined_to(line, one, id, *joined).await,
            Event::Read(head, read) => read_to(line, one, head, read).await,
            Event::Synced(id, synced) => {
                one.lane.end_sync(line, id.as_deref(), synced).await?;
                if std::mem::take(&mut one.ends_cycle) {
                    one.lane.cycle = None;
                }
                Ok(())
            }
        }
    }

    /// Takes out the partitions that have ended.
    async fn take_out_ended(&mut self) -> Result<(), End> {
        let has_ended = |one: &Subscription| one.ends.is_some() && one.lane.pending.is_empty();
        let Self { line, subscriptions, .. } = self;
        if !subscriptions.iter().any(has_ended) {
            return Ok(());
        }
        let mut index = 0;
        while index < subscriptions.len() {
            if !has_ended(&subscriptions[index]) {
                index += 1;
                continue;
            }
            let one = subscriptions.remove(index);
            one.lane.forget_drafts();
            if let Some(Ends::Answered(id)) = &one.ends {
                let partition = one.partition().as_str();
                let notice = Notice::Unsubscribed { partition, last_event_id: one.lane.position, why: None };
                line.socket.send(id.as_deref(), &notice).await?;
            }
        }
        self.tell_subscriptions();
        Ok(())
    }

    /// Says which partitions there are, and what they take.
    fn tell_subscriptions(&mut self) {
        let partitions = self.subscriptions.iter().map(|one| one.partition().clone()).collect();
        self.line.listed.set_partitions(partitions);
        self.hold.set(self.subscriptions.len() * SUBSCRIPTION_BYTES);
    }

    async fn time_passed(&mut self) -> Result<(), End> {
        let Self { line, subscriptions, .. } = self;
        let (looked, now) = (line.look_for_life().await?, Instant::now());
        for one in subscriptions {
            if looked {
                one.lane.rest();
            }
            if one.lane.wake_at().is_some_and(|at| at <= now) {
                one.lane.time_passed(line, now).await?;
                one.touch();
            }
        }
        Ok(())
    }

    async fn depart(&mut self) -> Result<(), End> {
        for one in &mut self.subscriptions {
            one.work = None;
            one.lane.cycle = None;
        }
        self.line.depart(are_handed_in(&self.subscriptions)).await
    }
}

fn are_handed_in(subscriptions: &[Subscription]) -> bool {
    subscriptions.iter().all(|one| one.lane.pending.is_handed_in())
}

/// What happened to one of the partitions whose bell has rung, beginning with the one whose turn it is; `None` if
/// there is something to write.
fn poll(
    subscriptions: &mut [Subscription],
    first: usize,
    task: &AtomicWaker,
    context: &Context<'_>,
) -> Poll<Option<(usize, Event)>> {
    task.register(context.waker());
    let count = subscriptions.len();
    let mut is_dirty = false;
    for place in 0..count {
        let index = (first + place) % count;
        let one = &mut subscriptions[index];
        let was_dirty = one.is_dirty;
        if let Poll::Ready(event) = one.poll() {
            return Poll::Ready(Some((index, event)));
        }
        is_dirty |= one.is_dirty && !was_dirty;
    }
    if is_dirty { Poll::Ready(None) } else { Poll::Pending }
}

/// A partition was joined, or why not.
async fn joined_to(
    line: &mut Line,
    one: &mut Subscription,
    id: Option<String>,
    joined: Result<Attached, Refused>,
) -> Result<(), End> {
    let partition = one.partition().clone();
    match joined {
        Ok(Attached { head, since_snapshot, state, seat, position }) => {
            let initial_state = state.as_deref().map(form_of);
            let notice =
                Notice::Subscribed { partition: partition.as_str(), head, since_snapshot, initial_state };
            line.socket.send(id.as_deref(), &notice).await?;
            if let Some(state) = &state {
                line.shared.outflow.take(&line.identity.client_id, state.bytes);
            }
            let sending = state.and_then(|state| Sending::of(state, id, seat));
            one.lane.begin_at(position, sending);
            Ok(())
        }
        Err(Refused(code, message)) => {
            one.end(Ends::Told);
            let waits = code == ErrorCode::Unavailable;
            let retry_after_ms = waits.then(|| line.socket.retry_after_ms());
            let details = Details { retry_after_ms, partition: Some(partition.as_str()), draft_id: None };
            line.socket
                .send(id.as_deref(), &Notice::Error { code, message: &message, details: Some(details) })
                .await
        }
    }
}

/// A stretch of a partition's log was read up to a head, or why not.
async fn read_to(
    line: &mut Line,
    one: &mut Subscription,
    head: EventId,
    read: Result<EventBatch, LogError>,
) -> Result<(), End> {
    match read {
        Ok(stretch) => one.lane.write_stretch(line, stretch, head).await.map(drop),
        Err(LogError::Malformed { .. }) => {
            let why = "the log lacks events after `lastEventId`; subscribe without it";
            unsubscribe(line, one, ErrorCode::Unavailable, why).await
        }
        Err(error) => {
            one.lane.not_read(&error);
            Ok(())
        }
    }
}

/// Ends a subscription though its client did not ask for that. Its drafts are still answered.
async fn unsubscribe(line: &mut Line, one: &mut Subscription, code: ErrorCode, why: &str) -> Result<(), End> {
    one.end(Ends::Told);
    let (partition, last_event_id) = (one.partition().as_str(), one.lane.position);
    line.socket.send(None, &Notice::Unsubscribed { partition, last_event_id, why: Some((code, why)) }).await
}
