//! The worker of one slot, for the time of one ownership: takes drafts off the queue, sorts them by
//! partition, and lets the partitions work side by side, each on its own drafts in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tracing::{debug, error, warn};

use super::floor::Arrival;
use super::hold::{Hold, NotHeld};
use crate::event::{Answer, PartitionKey, Reason, Slot, Submission, Token};
use crate::faults;
use crate::validator::log_backend::{LogBackend, QueuedDraft, SlotDrafts};
use crate::validator::metrics;
use crate::validator::round::decide::{PendingSubmission, rejection};
use crate::validator::round::{Partition, RoundError};
use crate::validator::shared::Shared;

/// How a slot's worker ended.
#[derive(Debug)]
pub(crate) enum SlotEnd {
    /// It was told to stop, and has finished what was in flight.
    Stopped,
    /// The slot's drafts are taken by somebody else, or cannot be reached.
    Lost(String),
}

/// A partition whose round is over, and how that went.
type RoundEnd = (PartitionKey, Token, Result<(), RoundError>);

/// The partitions of one slot that have work.
struct SlotWorker<P: LogBackend> {
    shared: Arc<Shared<P>>,
    hold: Arc<Hold<P>>,
    /// Drafts that wait behind a round of their partition that is under way.
    waiting: HashMap<PartitionKey, VecDeque<PendingSubmission<P::Draft>>>,
    rounds: FuturesUnordered<BoxFuture<'static, RoundEnd>>,
}

/// Works on a slot until told to stop or until the slot is lost.
pub(crate) async fn run<P: LogBackend>(shared: Arc<Shared<P>>, hold: Arc<Hold<P>>) -> SlotEnd {
    let stop = hold.stop.clone();
    // One that was lost while it waited must not evict whoever has it now.
    let Some(place) = stop.run_until_cancelled(shared.takeovers.acquire()).await else {
        return SlotEnd::Stopped;
    };
    let mut consumer = match shared.log.slot_consumer(hold.slot, hold.since).await {
        Ok(consumer) => consumer,
        Err(error) => {
            #[cfg(feature = "fault-points")]
            if faults::is_on(faults::NEVER_LOSE_SLOTS) {
                drop(place);
                // Not in step with who owns it: each would delete the consumer that the other waits for, for ever.
                tokio::time::sleep(std::time::Duration::from_millis(rand::random_range(0..500))).await;
            }
            return SlotEnd::Lost(error.to_string());
        }
    };
    drop(place);
    hold.begin(consumer.queue());
    metrics::takeover();
    let mut worker = SlotWorker { shared, hold, waiting: HashMap::new(), rounds: FuturesUnordered::new() };
    let end = worker.work(&mut consumer).await;
    // What is in flight is finished; what only waits comes again, in order, to the next owner.
    stop.cancel();
    while worker.rounds.next().await.is_some() {}
    worker.shared.acknowledger.flush().await;
    end
}

impl<P: LogBackend> SlotWorker<P> {
    async fn work(&mut self, consumer: &mut P::Consumer) -> SlotEnd {
        let stop = self.hold.stop.clone();
        loop {
            tokio::select! {
                biased;
                _ = stop.cancelled() => return SlotEnd::Stopped,
                Some((key, token, result)) = self.rounds.next(), if !self.rounds.is_empty() => match result {
                    Ok(()) => self.next_round(key, token),
                    Err(RoundError::Stopped) => return SlotEnd::Stopped,
                    Err(error @ (RoundError::SlotLost(_) | RoundError::NotHeld(_))) => {
                        return SlotEnd::Lost(error.to_string());
                    }
                },
                draft = consumer.next() => match draft {
                    Ok(message) => {
                        if let Err(error) = self.take(message).await {
                            return SlotEnd::Lost(error.to_string());
                        }
                    }
                    Err(error) => return SlotEnd::Lost(error.to_string()),
                },
            }
        }
    }

    async fn take(&mut self, message: P::Draft) -> Result<(), NotHeld> {
        let arrival = self.hold.floor().take(message.sequence());
        match arrival {
            Arrival::New => {}
            Arrival::Again => return Ok(()),
            Arrival::Decided => {
                metrics::passed_over();
                self.shared.acknowledger.settled(message).await;
                return Ok(());
            }
        }
        let (token, key) = match message.partition() {
            Ok(names) => names,
            Err(error) => return poison(&self.shared, &self.hold, message, &error.to_string()).await,
        };
        let submission: Submission = match serde_json::from_slice(message.body()) {
            Ok(submission) => submission,
            Err(error) => return poison(&self.shared, &self.hold, message, &error.to_string()).await,
        };
        if submission.partition != key {
            let why = format!("it names partition {:?}", submission.partition.as_str());
            return poison(&self.shared, &self.hold, message, &why).await;
        }
        if !submission.units.fit(submission.drafts.len()) {
            return poison(
                &self.shared,
                &self.hold,
                message,
                "its units of work are not those of its drafts",
            )
            .await;
        }
        let reply_to = &submission.reply_to;
        let overdue = reply_to.storable_until.is_some_and(|until| message.stored_at_ms() > until);
        if overdue && !faults::broken("storable_for_ever") {
            metrics::overdue();
            debug!(partition = %key, "a copy that was stored too late; a later one counts");
            return drop_copy(&self.shared, &self.hold, message).await;
        }
        if self.shared.is_stale(reply_to) {
            metrics::late();
            debug!(partition = %key, "a copy that a later one has overtaken; the later one counts");
            return drop_copy(&self.shared, &self.hold, message).await;
        }
        let traces = message.traces();
        let mut work = PendingSubmission::new(message, submission);
        if !traces.is_empty() {
            work.follow(traces);
        }
        match self.waiting.get_mut(&key) {
            Some(waiting) => waiting.push_back(work),
            None => {
                self.waiting.insert(key.clone(), VecDeque::new());
                self.start_round(key, token, VecDeque::from([work]));
            }
        }
        Ok(())
    }

    /// A round is over: the drafts that came meanwhile are the next one.
    fn next_round(&mut self, key: PartitionKey, token: Token) {
        match self.waiting.get_mut(&key) {
            Some(waiting) if !waiting.is_empty() => {
                let works = std::mem::take(waiting);
                self.start_round(key, token, works);
            }
            _ => drop(self.waiting.remove(&key)),
        }
    }

    fn start_round(&mut self, key: PartitionKey, token: Token, works: VecDeque<PendingSubmission<P::Draft>>) {
        let partition = Partition {
            key: key.clone(),
            token: token.clone(),
            hold: self.hold.clone(),
            shared: self.shared.clone(),
        };
        self.rounds.push(Box::pin(async move {
            let result = partition.run(works).await;
            (key, token, result)
        }));
    }
}

/// Takes a copy off the queue of which nobody hears.
async fn drop_copy<P: LogBackend>(
    shared: &Shared<P>,
    hold: &Hold<P>,
    message: P::Draft,
) -> Result<(), NotHeld> {
    hold.floor().settle(message.sequence());
    shared.acknowledger.settled(message).await;
    Ok(())
}

/// Takes a message that is no submission out of the way: answered if it says whom to, counted.
async fn poison<P: LogBackend>(
    shared: &Shared<P>,
    hold: &Hold<P>,
    message: P::Draft,
    why: &str,
) -> Result<(), NotHeld> {
    metrics::poisoned();
    error!(why, bytes = message.body().len(), "a draft that cannot be read; it is taken off the queue");
    hold.tell(std::iter::once(message.sequence())).await?;
    if let Ok(address) = serde_json::from_slice::<Address>(message.body()) {
        let reply_to = address.reply_to;
        let refusal = rejection(Reason::ValidationFailed, "", "UNREADABLE_DRAFT", why);
        let answer = Answer {
            connection: reply_to.connection,
            submission: reply_to.submission,
            attempt: reply_to.attempt,
            outcomes: vec![refusal; address.drafts.len()],
        };
        if let Err(error) = shared.log.answer(&reply_to.frontend, &answer).await {
            warn!(%error, "an answer was not sent; the frontend asks again");
        }
    }
    shared.acknowledger.settled(message).await;
    Ok(())
}

/// As much of a submission as is needed to answer it.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    reply_to: crate::event::ReplyTo,
    #[serde(default)]
    drafts: Vec<serde::de::IgnoredAny>,
}

impl std::fmt::Display for SlotEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Lost(why) => write!(f, "lost: {why}"),
        }
    }
}

/// Says how a worker ended.
pub(crate) fn report(slot: Slot, end: &SlotEnd) {
    match end {
        SlotEnd::Stopped => debug!(%slot, "slot given up"),
        SlotEnd::Lost(why) => warn!(%slot, why, "slot lost"),
    }
}
