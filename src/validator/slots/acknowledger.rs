//! The acknowledger: takes drafts that are decided off the queue, some at a time.
//!
//! Nobody waits for that: a draft that is not acknowledged comes again to the slot's next owner, who finds it
//! in the log, or in the slot's key among those that are decided. So those of some milliseconds go together, in one
//! write and with one wake-up of NATS, beside the commits rather than between them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::validator::log_backend::QueuedDraft;

/// So many are acknowledged without waiting for more.
const WAITING_MAX: usize = 1024;

/// Drafts that are to be acknowledged soon.
pub(crate) struct Acknowledger<D> {
    waiting: Mutex<Vec<D>>,
    first: Notify,
    after: Duration,
}

impl<D: QueuedDraft> Acknowledger<D> {
    /// One that waits so long for others to go along.
    pub(crate) fn new(after: Duration) -> Self {
        Self { waiting: Mutex::default(), first: Notify::new(), after }
    }

    /// Has a draft acknowledged soon.
    pub(crate) async fn settled(&self, draft: D) {
        let count = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.push(draft);
            waiting.len()
        };
        if count >= WAITING_MAX {
            self.flush().await;
        } else if count == 1 {
            self.first.notify_one();
        }
    }

    /// Acknowledges all that wait.
    pub(crate) async fn flush(&self) {
        let settled = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for draft in settled {
            if let Err(error) = draft.acknowledge().await {
                debug!(%error, "a draft was not acknowledged; it comes again and is found decided");
            }
        }
    }

    /// Works until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(self.first.notified()).await.is_some() {
            // Not cut short by `stop`: then the slots have flushed already.
            tokio::time::sleep(self.after).await;
            self.flush().await;
        }
        self.flush().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::event::{PartitionKey, Token};
    use crate::log::LogError;

    /// A draft that counts its acknowledgements.
    struct Counted(Arc<AtomicUsize>);

    impl QueuedDraft for Counted {
        type LogBackend = ();

        fn body(&self) -> &Bytes {
            unreachable!("an acknowledger reads no drafts")
        }
        fn partition(&self) -> Result<(Token, PartitionKey), LogError> {
            unreachable!("an acknowledger reads no drafts")
        }
        async fn acknowledge(&self) -> Result<(), LogError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        async fn confirm(&self, _: &()) -> Result<(), LogError> {
            unreachable!("rejections are confirmed where they are told")
        }
        fn sequence(&self) -> u64 {
            unreachable!("an acknowledger asks for no numbers")
        }
        fn stored_at_ms(&self) -> u64 {
            unreachable!("an acknowledger asks for no times")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn drafts_go_together_after_a_while() {
        let acknowledged = Arc::<AtomicUsize>::default();
        let count = || acknowledged.load(Ordering::Relaxed);
        let acknowledger = Arc::new(Acknowledger::new(Duration::from_millis(20)));
        let stop = CancellationToken::new();
        let (running, until) = (Arc::clone(&acknowledger), stop.clone());
        let running = tokio::spawn(async move { running.run(until).await });
        for _ in 0..3 {
            acknowledger.settled(Counted(acknowledged.clone())).await;
        }
        tokio::time::sleep(Duration::from_millis(19)).await;
        assert_eq!(count(), 0);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(count(), 3);
        acknowledger.settled(Counted(acknowledged.clone())).await;
        stop.cancel();
        running.await.unwrap();
        assert_eq!(count(), 4, "none is left when it ends");
    }

    #[tokio::test]
    async fn as_many_as_may_wait_go_at_once() {
        let acknowledged = Arc::<AtomicUsize>::default();
        let acknowledger = Acknowledger::new(Duration::from_secs(3600));
        for _ in 0..=WAITING_MAX {
            acknowledger.settled(Counted(acknowledged.clone())).await;
        }
        assert_eq!(acknowledged.load(Ordering::Relaxed), WAITING_MAX);
    }
}
