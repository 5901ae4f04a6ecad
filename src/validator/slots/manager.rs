//! Which slots this validator holds: announces itself, takes what rendezvous hashing gives it, and hands over what
//! should be another's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream;
use futures_util::{FutureExt, StreamExt};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::hold::Hold;
use super::rendezvous::holder;
use super::worker;
use super::worker::SlotEnd;
use crate::event::{Decided, Slot};
use crate::faults;
use crate::log::{LogError, OwnedSlot, OwnershipView, SlotKey};
use crate::validator::log_backend::{LogBackend, OwnershipFeed};
use crate::validator::metrics;
use crate::validator::shared::Shared;

/// How many slots are taken at the same time.
const SLOTS_AT_ONCE: usize = 16;

/// How long a validator that leaves waits for what is in flight and for the release of its slots, all in all. What
/// is not released by then, others take when the validator is no longer there.
const LEAVE_WAIT: Duration = Duration::from_secs(10);

/// Holds a slot and works on it until it is lost or to be given up; then releases it.
async fn work<P: LogBackend>(shared: Arc<Shared<P>>, hold: Arc<Hold<P>>, owned: OwnedSlot) -> SlotEnd {
    // A task of its own: the key is written while drafts are being decided.
    let keeper = AbortOnDropHandle::new(tokio::spawn(hold.clone().keep(owned)));
    let end = worker::run(shared.clone(), hold.clone()).await;
    hold.finish();
    match keeper.await {
        Ok(Some((owned, decided))) => {
            // Under a new revision, so that the next worker's consumer has a new name.
            if let Err(error) = shared.log.release_slot(owned, &decided).await {
                warn!(slot = %hold.slot, %error, "the slot was not released; it is taken when this validator is missed");
            }
        }
        Ok(None) => {}
        Err(failed) => error!(slot = %hold.slot, error = %failed, "who keeps a slot has died"),
    }
    end
}

/// The slots of this validator, and the workers on them.
pub(crate) struct SlotManager<P: LogBackend> {
    shared: Arc<Shared<P>>,
    held: BTreeMap<Slot, Arc<Hold<P>>>,
    workers: JoinSet<SlotEnd>,
    worker_slots: BTreeMap<Id, Slot>,
    view: OwnershipView,
    announced: Option<Instant>,
    /// Whether all slots are to be taken as soon as all are given up.
    takes_anew: bool,
}

impl<P: LogBackend> SlotManager<P> {
    pub(crate) fn new(shared: Arc<Shared<P>>) -> Self {
        Self {
            shared,
            held: BTreeMap::new(),
            workers: JoinSet::new(),
            worker_slots: BTreeMap::new(),
            view: OwnershipView::default(),
            announced: None,
            takes_anew: false,
        }
    }

    /// How often ownership is renewed.
    fn period(&self) -> Duration {
        self.shared.ownership_ttl / 3
    }

    /// Whether what was last said then has to be said again. Not at every change that is heard of: where many
    /// slots change hands, each change would have every slot written, and the changes would wait behind that.
    fn is_due(&self, since: Instant) -> bool {
        since.elapsed() >= self.period() / 2
    }

    /// Holds slots until `shutdown`; then gives all of them up, in order, and returns.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), LogError> {
        let period = self.period();
        let mut tick =
            tokio::time::interval_at(Instant::now() + period, period.max(Duration::from_millis(10)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.shared.log.ownership_changes().await?;
        let mut connection = self.shared.log.state();
        let mut reconnects = connection.borrow_and_update().reconnects;
        self.rebalance_or_report().await;
        loop {
            tokio::select! {
                biased;
                _ = shutdown.cancelled() => break,
                Some(ended) = self.workers.join_next_with_id(), if !self.workers.is_empty() => {
                    self.worker_ended(ended);
                    // Nobody tells of the slots that were given up at a reconnect: their keys are as they were.
                    let anew = self.takes_anew && self.held.is_empty();
                    if anew || faults::is_on(faults::NEVER_LOSE_SLOTS) {
                        self.takes_anew = false;
                        self.rebalance_or_report().await;
                    }
                }
                _ = tick.tick() => self.rebalance_or_report().await,
                change = changes.next(&self.view.validators) => match change {
                    Some(()) => {
                        // However many there are, one look tells what has come of all of them.
                        while let Some(Some(())) = changes.next(&self.view.validators).now_or_never() {}
                        self.rebalance_or_report().await;
                    }
                    None => return Err(LogError::Unavailable {
                        what: "watching slot ownership",
                        why: "the connection to NATS was closed".to_owned(),
                    }),
                },
                Ok(()) = connection.changed() => {
                    let now = connection.borrow_and_update().reconnects;
                    if now != reconnects {
                        reconnects = now;
                        self.restart_all().await;
                    }
                }
            }
        }
        self.leave().await;
        Ok(())
    }

    /// After a reconnect: a draft that was on its way on the old connection, and never arrived, counts as delivered.
    /// The consumer would keep it back until a later owner takes the slot, and that one could accept it, when
    /// the client was told long ago that a copy of it is rejected. A new consumer begins with what there is. And if NATS
    /// was restarted, what it had in memory is made again.
    async fn restart_all(&mut self) {
        if faults::broken("keep_consumers") {
            return;
        }
        info!(slots = self.held.len(), "reconnected to NATS; taking the slots again");
        for held in self.held.values() {
            held.abandon();
        }
        self.announced = None;
        self.takes_anew = true;
        if let Err(error) = self.shared.log.open_queue().await {
            warn!(%error, "failed to check whether NATS has lost the queue");
        }
    }

    async fn rebalance_or_report(&mut self) {
        if let Err(error) = self.rebalance().await {
            warn!(%error, "slot ownership is as it was; trying again");
        }
    }

    async fn rebalance(&mut self) -> Result<(), LogError> {
        let me = self.shared.id.clone();
        let log = self.shared.log.clone();
        if self.announced.is_none_or(|at| self.is_due(at)) {
            log.announce(&me).await?;
            self.announced = Some(Instant::now());
        }
        let mut view = log.ownership().await?;
        view.validators.insert(me.clone());
        self.view = view;
        let older = self.view.older.iter().any(|id| *id != me);
        self.shared.confirms.store(older || !log.keeps_slots(), Ordering::Relaxed);
        for slot in (0..log.slots()).map(Slot) {
            let mine = holder(slot, &self.view.validators) == Some(me.as_str());
            if let Some(held) = self.held.get(&slot)
                && !mine
                && !held.stop.is_cancelled()
                && !faults::is_on(faults::NEVER_LOSE_SLOTS)
            {
                info!(%slot, "handing over");
                held.stop.cancel();
            }
        }
        self.release_lost(&me).await?;
        let by_force = faults::is_on(faults::NEVER_LOSE_SLOTS);
        let free: Vec<(Slot, Option<SlotKey>)> = (0..log.slots())
            .map(Slot)
            .filter(|slot| by_force || holder(*slot, &self.view.validators) == Some(me.as_str()))
            .filter(|slot| !self.held.contains_key(slot))
            // A live owner hands over by itself.
            .filter(|slot| by_force || self.view.owners.get(slot).is_none_or(|owner| *owner == me))
            .map(|slot| (slot, self.view.keys.get(&slot).cloned()))
            .collect();
        let takes = free.into_iter().map(|(slot, known)| {
            let (log, me) = (log.clone(), me.clone());
            async move {
                let taken = log.take_slot(slot, &me, known.as_ref()).await?;
                Ok::<_, LogError>(taken.map(|owned| (owned, known.unwrap_or_default().decided)))
            }
        });
        let taken: Vec<_> =
            stream::iter(takes.collect::<Vec<_>>()).buffer_unordered(SLOTS_AT_ONCE).collect().await;
        let mut failed = Ok(());
        for owned in taken {
            match owned {
                Ok(Some((owned, decided))) => self.start(owned, decided),
                Ok(None) => {}
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    /// Releases what is in this validator's name, is not held and should be another's: a write of its key was carried
    /// out whose answer said otherwise, or did not come. Nobody else would take it while this validator is there.
    async fn release_lost(&self, me: &str) -> Result<(), LogError> {
        for (slot, owner) in &self.view.owners {
            let mine = holder(*slot, &self.view.validators) == Some(me);
            let Some(key) = self.view.keys.get(slot).filter(|_| owner == me && !mine) else { continue };
            if !self.held.contains_key(slot) {
                self.shared.log.release_slot(key.hold_on(*slot), &key.decided).await?;
            }
        }
        Ok(())
    }

    fn start(&mut self, owned: OwnedSlot, decided: Decided) {
        let slot = owned.slot;
        let hold = Hold::new(self.shared.clone(), owned, decided);
        self.held.insert(slot, hold.clone());
        let task = self.workers.spawn(work(self.shared.clone(), hold, owned));
        self.worker_slots.insert(task.id(), slot);
        metrics::slots_owned(self.held.len());
    }

    fn worker_ended(&mut self, ended: Result<(Id, SlotEnd), JoinError>) {
        let (id, end) = match ended {
            Ok((id, end)) => (id, end),
            Err(failed) => {
                error!(error = %failed, "a slot's worker died; taking the slot again");
                (failed.id(), SlotEnd::Lost(failed.to_string()))
            }
        };
        let Some(slot) = self.worker_slots.remove(&id) else { return };
        if self.held.remove(&slot).is_none() {
            return;
        }
        worker::report(slot, &end);
        metrics::slots_owned(self.held.len());
    }

    /// Gives everything up: finishes what is in flight, releases the slots, and says that we are gone.
    async fn leave(&mut self) {
        for held in self.held.values() {
            held.stop.cancel();
        }
        let left = timeout(LEAVE_WAIT, async {
            while let Some(ended) = self.workers.join_next_with_id().await {
                self.worker_ended(ended);
            }
            if let Err(error) = self.shared.log.withdraw(&self.shared.id).await {
                warn!(%error, "the validator could not say that it leaves; its slots are taken when it is missed");
            }
        });
        if left.await.is_err() {
            warn!(
                slots = self.held.len(),
                "these slots were not released in time; others take them when this validator's hold expires"
            );
        }
    }
}
