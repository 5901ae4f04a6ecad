//! The committer: all commits of a validator go through here, so that those that wait can go together.
//!
//! A single publish is quickest for one event; an atomic batch costs more to begin with and next to nothing
//! per event, because it is one fsync however many are in it. Where the two break even depends on the disk
//! and on NATS's sync setting, so the committer measures both and takes what should be through first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};

use super::costs::{BatchLimit, CommitCosts};
use crate::event::{EventId, Token};
use crate::log::{BATCH_EVENTS_MAX, CommitError, CommitPart, PlacedTrace};
use crate::validator::log_backend::LogBackend;
use crate::validator::metrics;
use crate::validator::settings::ValidatorSettings;

type CommitResult = Result<EventId, CommitError>;

struct Request {
    part: CommitPart,
    traces: Vec<PlacedTrace>,
    reply: oneshot::Sender<CommitResult>,
}

impl Request {
    fn bytes(&self) -> usize {
        self.part.bodies.iter().map(Bytes::len).sum()
    }
}

/// The handle that partitions commit through. Cheap to clone; when the last one is gone, the committer
/// ends.
#[derive(Clone)]
pub(crate) struct Committer {
    requests: mpsc::Sender<Request>,
    /// How many more events than one may be committed one by one before a batch would be quicker, as last
    /// measured; 0 while others wait.
    singles_worthwhile: Arc<AtomicUsize>,
    /// What [`BatchLimit`] gives just now.
    room: Arc<AtomicUsize>,
}

/// Requests that wait to be looked at. Each partition has at most one commit under way, so this bounds
/// only how many wait in the channel rather than in their partition.
const REQUESTS_MAX: usize = 1024;

impl Committer {
    /// Makes a committer, and the future that does its work until the last handle is gone.
    pub(crate) fn new<P: LogBackend>(
        log: P,
        settings: &ValidatorSettings,
    ) -> (Self, impl Future<Output = ()> + use<P>) {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let singles_worthwhile = Arc::new(AtomicUsize::new(CommitCosts::default().break_even()));
        let room = Arc::new(AtomicUsize::new(settings.batch_bytes_max));
        let worker = Worker {
            singles_worthwhile: singles_worthwhile.clone(),
            room_now: room.clone(),
            log,
            waiting: VecDeque::new(),
            singles: 0,
            batches: 0,
            singles_max: settings.singles_in_flight_max.max(1),
            batches_max: settings.batches_in_flight_max.max(1),
            room: BatchLimit::new(settings.batch_bytes_max),
            costs: CommitCosts::default(),
        };
        (Self { requests, singles_worthwhile, room }, worker.run(receiver))
    }

    /// Whether so many events of one partition are better committed one by one than as one batch.
    pub(crate) fn favours_singles(&self, events: usize) -> bool {
        events <= self.singles_worthwhile.load(Ordering::Relaxed)
    }

    /// How many bytes an atomic batch may hold just now: `batch_bytes_max`, or what NATS takes.
    pub(crate) fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }

    /// Commits events of one partition behind `expected`: all of them, atomically, or none. Gives the
    /// first one's id. At most one call per partition may be under way.
    /// `traces` go along, by the places of `bodies`, in order.
    pub(crate) async fn commit(
        &self,
        token: Token,
        expected: EventId,
        bodies: Vec<Bytes>,
        traces: Vec<PlacedTrace>,
    ) -> CommitResult {
        let (reply, answer) = oneshot::channel();
        let request = Request { part: CommitPart { token, expected, bodies }, traces, reply };
        let gone = || CommitError::NotStored("the validator is stopping".to_owned());
        self.requests.send(request).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

enum Done {
    Single { took: Duration, beside: usize, stored: bool },
    Batch { took: Duration, retry: Vec<Request>, fate: BatchResult },
}

/// What became of an atomic batch.
enum BatchResult {
    Stored,
    /// NATS did not store it, for want of room, say; the bytes that were in it.
    Refused(usize),
    /// A partition has moved on, or nobody knows.
    Other,
}

struct Worker<P> {
    log: P,
    waiting: VecDeque<Request>,
    singles: usize,
    batches: usize,
    singles_max: usize,
    batches_max: usize,
    room: BatchLimit,
    costs: CommitCosts,
    singles_worthwhile: Arc<AtomicUsize>,
    room_now: Arc<AtomicUsize>,
}

impl<P: LogBackend> Worker<P> {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut under_way: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
        let mut open = true;
        while open || !under_way.is_empty() || !self.waiting.is_empty() {
            tokio::select! {
                biased;
                Some(done) = under_way.next(), if !under_way.is_empty() => match done {
                    Done::Single { took, beside, stored } => {
                        self.singles -= 1;
                        if stored {
                            self.room.stored();
                        }
                        self.costs.single_took(took, beside);
                    }
                    Done::Batch { took, retry, fate } => {
                        self.batches -= 1;
                        match fate {
                            BatchResult::Stored => self.room.stored(),
                            BatchResult::Refused(bytes) => self.room.refused(bytes),
                            BatchResult::Other => {}
                        }
                        self.costs.batch_took(took);
                        // Each alone, so that the one partition that has moved on stops nobody else.
                        for request in retry {
                            self.batches += 1;
                            under_way.push(send_batch(self.log.clone(), vec![request]));
                        }
                    }
                },
                request = requests.recv(), if open => match request {
                    Some(request) => {
                        self.waiting.push_back(request);
                        while let Ok(request) = requests.try_recv() {
                            self.waiting.push_back(request);
                        }
                    }
                    None => open = false,
                },
            }
            while let Some(job) = self.dispatch() {
                under_way.push(job);
            }
            let busy = self.singles + self.waiting.len() + if self.batches > 0 { usize::MAX / 2 } else { 0 };
            self.singles_worthwhile.store(self.costs.break_even().saturating_sub(busy), Ordering::Relaxed);
            self.room_now.store(self.room.now(), Ordering::Relaxed);
        }
    }

    /// The next publish, if one may go now.
    fn dispatch(&mut self) -> Option<BoxFuture<'static, Done>> {
        let first = self.waiting.front()?;
        let may_be_single = first.part.bodies.len() == 1 && self.singles < self.singles_max;
        if may_be_single
            && (self.room.is_too_small_for(first.bytes())
                || self.costs.favour_singles(self.waiting.len(), self.singles))
        {
            let request = self.waiting.pop_front()?;
            self.singles += 1;
            return Some(Box::pin(send_single(self.log.clone(), request, self.singles)));
        }
        if self.batches >= self.batches_max {
            return None;
        }
        let (mut events, mut bytes, mut group) = (0, 0, Vec::new());
        while let Some(request) = self.waiting.front() {
            events += request.part.bodies.len();
            bytes += request.bytes();
            if !group.is_empty() && (events > BATCH_EVENTS_MAX || bytes > self.room.now()) {
                break;
            }
            group.extend(self.waiting.pop_front());
        }
        self.batches += 1;
        Some(send_batch(self.log.clone(), group))
    }
}

async fn send_single<P: LogBackend>(log: P, request: Request, beside: usize) -> Done {
    let Request { part, traces, reply } = request;
    let timer = metrics::commit_started(1);
    let body = part.bodies.into_iter().next().unwrap_or_default();
    let result =
        log.commit_one(&part.token, part.expected, body, traces.first().map(|(_, trace)| trace)).await;
    let took = metrics::commit_ended(timer, result.as_ref().err());
    let stored = result.is_ok();
    answer(reply, result);
    Done::Single { took, beside, stored }
}

fn send_batch<P: LogBackend>(log: P, group: Vec<Request>) -> BoxFuture<'static, Done> {
    Box::pin(async move {
        let (mut parts, mut traces, mut replies) = (Vec::new(), Vec::new(), Vec::new());
        let bytes = group.iter().map(Request::bytes).sum();
        for request in group {
            parts.push(request.part);
            traces.push(request.traces);
            replies.push(request.reply);
        }
        let timer = metrics::commit_started(parts.iter().map(|part| part.bodies.len()).sum());
        let result = log.commit_batch(&parts, &traces).await;
        let took = metrics::commit_ended(timer, result.as_ref().err());
        match result {
            Ok(firsts) => {
                for (reply, first) in replies.into_iter().zip(firsts) {
                    answer(reply, Ok(first));
                }
                Done::Batch { took, retry: Vec::new(), fate: BatchResult::Stored }
            }
            // Nothing was stored, because of one of several: each goes again by itself.
            Err(CommitError::Conflict) if parts.len() > 1 => {
                let retry = parts.into_iter().zip(traces).zip(replies);
                let retry = retry.map(|((part, traces), reply)| Request { part, traces, reply });
                Done::Batch { took, retry: retry.collect(), fate: BatchResult::Other }
            }
            Err(error) => {
                for reply in replies {
                    answer(reply, Err(error.clone()));
                }
                let fate = match error {
                    CommitError::NotStored(_) => BatchResult::Refused(bytes),
                    CommitError::Conflict | CommitError::Unknown(_) => BatchResult::Other,
                };
                Done::Batch { took, retry: Vec::new(), fate }
            }
        }
    })
}

fn answer(reply: oneshot::Sender<CommitResult>, result: CommitResult) {
    if reply.send(result).is_err() {
        // The slot was given up meanwhile. Its next owner reads from the log what became of this.
        tracing::debug!("a commit ended after its partition's worker had gone");
    }
}
