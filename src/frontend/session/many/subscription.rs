//! One partition of a connection that names its partitions: its lane, and what is being done for it meanwhile.
//!
//! Whatever may take long, such as joining or reading the log, is a future of its own here. The other partitions of the
//! connection do not wait for it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::sync::watch;

use super::bell::Bell;
use crate::event::{EventId, PartitionKey};
use crate::frontend::feed::partition::EventBatch;
use crate::frontend::session::handshake::{Attached, Refused};
use crate::frontend::session::lane::Lane;
use crate::frontend::session::outcomes::{self, Outcome};
use crate::frontend::session::publishing::Progress;
use crate::frontend::session::sync::Synced;
use crate::log::LogError;

type Doing<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Head = watch::Receiver<Option<EventId>>;

/// A partition of a connection.
pub(super) struct Subscription {
    pub lane: Lane,
    /// What is being done for it; until that is done, it is sent no events.
    pub work: Option<Work>,
    /// It is subscribed to no longer, and ends when its drafts are answered.
    pub ends: Option<Ends>,
    /// Whether there may be something to be written.
    pub is_dirty: bool,
    /// Whether the cycle of pages that is being read for ends with this page.
    pub ends_cycle: bool,
    bell: Bell,
    next_head: Doing<Head>,
}

/// What is being done for a subscription.
pub(super) enum Work {
    /// It is subscribed to, for the request of this id.
    Joining(Option<String>, Doing<Result<Attached, Refused>>),
    /// The log is read up to a head.
    Reading(EventId, Doing<Result<EventBatch, LogError>>),
    /// A `sync` is read for, for the request of this id.
    Syncing(Option<String>, Doing<Synced>),
}

/// How a subscription ends.
pub(super) enum Ends {
    /// With an answer to the request of this id.
    Answered(Option<String>),
    /// Its client was told already.
    Told,
}

/// What happened to a subscription.
pub(super) enum Event {
    Attached(Option<String>, Box<Result<Attached, Refused>>),
    Read(EventId, Result<EventBatch, LogError>),
    Synced(Option<String>, Synced),
    Progress(Progress),
    Outcome(Outcome),
}

impl Subscription {
    pub(super) fn new(lane: Lane, work: Work, task: &Arc<AtomicWaker>) -> Self {
        let next_head = next_head(lane.feed.head());
        Self {
            lane,
            work: Some(work),
            ends: None,
            is_dirty: true,
            ends_cycle: false,
            bell: Bell::new(task),
            next_head,
        }
    }

    /// The partition.
    pub(super) fn partition(&self) -> &PartitionKey {
        self.lane.feed.partition()
    }

    /// It was changed: there may be something to write, and something else to wait for.
    pub(super) fn touch(&mut self) {
        self.is_dirty = true;
        self.bell.ring();
    }

    /// There may be something else to wait for.
    pub(super) fn ring(&self) {
        self.bell.ring();
    }

    /// Sends no more events, whatever is being done.
    pub(super) fn end(&mut self, ends: Ends) {
        self.work = None;
        self.lane.cycle = None;
        self.lane.sending = None;
        self.ends = Some(ends);
        self.touch();
    }

    /// What happened, if its bell has rung and something did.
    pub(super) fn poll(&mut self) -> Poll<Event> {
        if !self.bell.answer() {
            return Poll::Pending;
        }
        let Self { lane, work, is_dirty, bell, next_head: head, .. } = self;
        let mut context = bell.context();
        let event = poll_work(work, &mut context)
            .or_else(|| match lane.publishing.poll(&mut context) {
                Poll::Ready(progress) => Some(Event::Progress(progress)),
                Poll::Pending => None,
            })
            .or_else(|| match outcomes::poll(&mut lane.outcomes, &mut context) {
                Poll::Ready(outcome) => Some(Event::Outcome(outcome)),
                Poll::Pending => None,
            });
        while let Poll::Ready(receiver) = head.as_mut().poll(&mut context) {
            *head = next_head(receiver);
            *is_dirty = true;
        }
        match event {
            Some(event) => {
                // There may be more.
                bell.ring();
                Poll::Ready(event)
            }
            None => Poll::Pending,
        }
    }
}

fn poll_work(work: &mut Option<Work>, context: &mut Context<'_>) -> Option<Event> {
    let event = match work.as_mut()? {
        Work::Joining(id, doing) => match doing.as_mut().poll(context) {
            Poll::Ready(joined) => Event::Attached(id.take(), Box::new(joined)),
            Poll::Pending => return None,
        },
        Work::Reading(head, doing) => match doing.as_mut().poll(context) {
            Poll::Ready(read) => Event::Read(*head, read),
            Poll::Pending => return None,
        },
        Work::Syncing(id, doing) => match doing.as_mut().poll(context) {
            Poll::Ready(synced) => Event::Synced(id.take(), synced),
            Poll::Pending => return None,
        },
    };
    *work = None;
    Some(event)
}

/// Waits until the head is another than this receiver has seen. The receiver is its own, so that one is waiting
/// whatever else is done with the lane.
fn next_head(mut head: Head) -> Doing<Head> {
    Box::pin(async move {
        match head.changed().await {
            Ok(()) => {
                head.mark_unchanged();
                head
            }
            // The feed is watched for as long as the subscription lasts.
            Err(_) => std::future::pending().await,
        }
    })
}
