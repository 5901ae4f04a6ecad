//! A hold on a slot: the slot's key, which says who owns the slot and which of its drafts are decided.
//!
//! The key is written by compare-and-set at the revision that this hold has written last, by one task per hold.
//! A write that went through proves that nobody else had taken the slot until then, and no answer from NATS's
//! memory does. So whoever has read a state from the log has the key written before anything is decided on that
//! state, and whoever rejects a draft has it written before the client is told. All that wait at a time wait for
//! one write. Renewals are the same writes, and wait for no decision.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::floor::Floor;
use crate::event::{Decided, Slot};
use crate::faults;
use crate::log::OwnedSlot;
use crate::validator::log_backend::LogBackend;
use crate::validator::metrics;
use crate::validator::shared::Shared;

/// The pause after a write without an answer.
const RETRY: Duration = Duration::from_millis(100);

/// The slot is another's, or may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the slot is another's, or may be")]
pub(crate) struct NotHeld;

/// A hold on a slot, from its taking to its release.
pub(crate) struct Hold<P: LogBackend> {
    shared: Arc<Shared<P>>,
    /// The slot.
    pub slot: Slot,
    /// The key's revision when the slot was taken.
    pub since: u64,
    /// Cancelled when the slot is lost or to be given up.
    pub stop: CancellationToken,
    /// Cancelled when no more writes are asked for.
    done: CancellationToken,
    /// Cancelled when no more may be written.
    abandoned: CancellationToken,
    floor: Mutex<Floor>,
    /// What the owner before said, until the queue is known.
    before: Mutex<Decided>,
    /// Who waits for the next write; `None` when there will be none.
    waiting: Mutex<Option<Vec<oneshot::Sender<()>>>>,
    asked: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<P: LogBackend> Hold<P> {
    /// The hold that `owned` began; `before` is what its key says of decided drafts.
    pub(crate) fn new(shared: Arc<Shared<P>>, owned: OwnedSlot, before: Decided) -> Arc<Self> {
        Arc::new(Self {
            shared,
            slot: owned.slot,
            since: owned.since,
            stop: CancellationToken::new(),
            done: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            floor: Mutex::default(),
            before: Mutex::new(before),
            waiting: Mutex::new(Some(Vec::new())),
            asked: Notify::new(),
        })
    }

    /// The drafts come from this queue.
    pub(crate) fn begin(&self, queue: &str) {
        let before = lock(&self.before).clone();
        *self.floor() = Floor::new(before, queue);
    }

    pub(crate) fn floor(&self) -> MutexGuard<'_, Floor> {
        lock(&self.floor)
    }

    /// What the key is to say of decided drafts.
    fn decided(&self) -> Decided {
        let decided = self.floor().decided();
        // Before the first draft, and where nothing was told since, what the owner before said stands.
        if decided.upto == 0 { lock(&self.before).clone() } else { decided }
    }

    /// Makes sure that nobody else has taken the slot until now.
    pub(crate) async fn prove(&self) -> Result<(), NotHeld> {
        self.written().await
    }

    /// Has the key say that these drafts are decided. Only then may a client be told of their rejection; where it
    /// fails, nobody may.
    pub(crate) async fn tell(&self, sequences: impl Iterator<Item = u64>) -> Result<(), NotHeld> {
        if faults::broken("tell_unwritten") {
            return Ok(());
        }
        {
            let mut floor = self.floor();
            sequences.for_each(|sequence| floor.tell(sequence));
        }
        self.written().await
    }

    /// Waits for a write that begins after this call.
    async fn written(&self) -> Result<(), NotHeld> {
        let (written, answer) = oneshot::channel();
        lock(&self.waiting).as_mut().ok_or(NotHeld)?.push(written);
        self.asked.notify_one();
        answer.await.map_err(|_| NotHeld)
    }

    /// The hold is over, though its key may say otherwise: NATS may have lost the key, and another one of the same
    /// revision may be there.
    pub(crate) fn abandon(&self) {
        self.stop.cancel();
        self.abandoned.cancel();
    }

    /// No more writes are asked for.
    pub(crate) fn finish(&self) {
        self.done.cancel();
    }

    /// Writes the key: when it is asked for, and so often that the slot stays held. Ends when the slot is lost, or
    /// after [`finish`](Self::finish); then the slot can be released.
    pub(crate) async fn keep(self: Arc<Self>, mut owned: OwnedSlot) -> Option<(OwnedSlot, Decided)> {
        let period = self.shared.ownership_ttl / 3;
        loop {
            tokio::select! {
                biased;
                () = self.asked.notified() => {}
                () = self.abandoned.cancelled() => {}
                () = self.done.cancelled() => break,
                () = sleep(period) => {}
            }
            let asked = lock(&self.waiting).as_mut().map(std::mem::take).unwrap_or_default();
            match self.abandoned.run_until_cancelled(self.write(owned)).await.flatten() {
                Some(now) => {
                    owned = now;
                    answer(asked);
                }
                None => {
                    lock(&self.waiting).take();
                    self.stop.cancel();
                    return None;
                }
            }
        }
        lock(&self.waiting).take();
        Some((owned, self.decided()))
    }

    /// Writes the key. `None` when the slot is lost.
    async fn write(&self, owned: OwnedSlot) -> Option<OwnedSlot> {
        let timer = tokio::time::Instant::now();
        let decided = self.decided();
        loop {
            match self.shared.log.write_slot(owned, &self.shared.id, &decided).await {
                Ok(Some(now)) => {
                    metrics::slot_written(timer.elapsed());
                    return Some(now);
                }
                Ok(None) => {
                    warn!(slot = %self.slot, "somebody else owns this slot now, or an answer was lost");
                    return None;
                }
                // If it was written all the same, the next try fails, and the slot is taken anew.
                Err(error) => {
                    warn!(slot = %self.slot, %error, "failed to write the slot's key, or its outcome is unknown");
                    if self.stop.is_cancelled() {
                        return None;
                    }
                    sleep(RETRY).await;
                }
            }
        }
    }
}

fn answer(asked: Vec<oneshot::Sender<()>>) {
    for waiting in asked {
        if waiting.send(()).is_err() {
            debug!("who waited for a slot's key has gone");
        }
    }
}
