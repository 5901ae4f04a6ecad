//! Which slots this validator holds: announces itself, takes what rendezvous hashing gives it, renews what
//! it has, and hands over what should be another's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use futures_util::{FutureExt, StreamExt};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::port::{ChangesPort, Port};
use super::rendezvous::holder;
use super::slot::{self, SlotEnd};
use super::{Shared, metrics};
use crate::event::Slot;
use crate::fault;
use crate::log::{LogError, OwnedSlot, OwnershipView};

/// How many slots are taken, renewed or released at the same time.
const SLOTS_AT_ONCE: usize = 16;

struct Held {
    owned: OwnedSlot,
    renewed: Instant,
    stop: CancellationToken,
}

/// The slots of this validator, and the workers on them.
pub(super) struct Slots<P: Port> {
    shared: Arc<Shared<P>>,
    held: BTreeMap<Slot, Held>,
    workers: JoinSet<(Slot, u64, SlotEnd)>,
    worker_slots: BTreeMap<Id, Slot>,
    view: OwnershipView,
    announced: Option<Instant>,
}

impl<P: Port> Slots<P> {
    pub(super) fn new(shared: Arc<Shared<P>>) -> Self {
        Self {
            shared,
            held: BTreeMap::new(),
            workers: JoinSet::new(),
            worker_slots: BTreeMap::new(),
            view: OwnershipView::default(),
            announced: None,
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
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), LogError> {
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
                    self.worker_ended(ended).await;
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
                        self.take_all_anew();
                    }
                }
            }
        }
        self.leave().await;
        Ok(())
    }

    /// After a reconnect: a draft that was on its way on the old connection, and never arrived, counts as delivered.
    /// The consumer would keep it back until a later owner takes the slot, and that one could accept it, when
    /// the client was told long ago that a copy of it is rejected. A new consumer begins with what there is.
    fn take_all_anew(&mut self) {
        if fault::broken("keep_consumers") {
            return;
        }
        info!(slots = self.held.len(), "reconnected to NATS; taking the slots anew");
        for held in self.held.values() {
            held.stop.cancel();
        }
        self.announced = None;
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
        for (slot, held) in &mut self.held {
            if self.view.owners.get(slot) == Some(&me)
                && let Some(revision) = self.view.revisions.get(slot)
            {
                held.owned = held.owned.renewed_at(*revision);
            }
        }
        self.renew().await;
        for slot in (0..log.slots()).map(Slot) {
            let mine = holder(slot, &self.view.validators) == Some(me.as_str());
            if let Some(held) = self.held.get(&slot)
                && !mine
                && !held.stop.is_cancelled()
                && !fault::is_on(fault::NEVER_LOSE_SLOTS)
            {
                info!(%slot, "handing over");
                held.stop.cancel();
            }
        }
        let free: Vec<(Slot, Option<u64>)> = (0..log.slots())
            .map(Slot)
            .filter(|slot| holder(*slot, &self.view.validators) == Some(me.as_str()))
            .filter(|slot| !self.held.contains_key(slot))
            // A live owner hands over by itself; one that is gone does not.
            .filter(|slot| {
                self.view.owners.get(slot).is_none_or(|o| !self.view.validators.contains(o) || *o == me)
            })
            .map(|slot| (slot, self.view.revisions.get(&slot).copied()))
            .collect();
        let takes = free.into_iter().map(|(slot, revision)| {
            let (log, me) = (log.clone(), me.clone());
            async move { log.take_slot(slot, &me, revision).await }
        });
        let taken: Vec<_> =
            stream::iter(takes.collect::<Vec<_>>()).buffer_unordered(SLOTS_AT_ONCE).collect().await;
        for owned in taken {
            if let Some(owned) = owned? {
                self.start(owned);
            }
        }
        #[cfg(feature = "fault-points")]
        if fault::is_on(fault::NEVER_LOSE_SLOTS) {
            for slot in (0..log.slots()).map(Slot) {
                if !self.held.contains_key(&slot) {
                    self.start(OwnedSlot::pretend(slot, rand::random()));
                }
            }
        }
        Ok(())
    }

    async fn renew(&mut self) {
        let due = self.held.iter().filter(|(_, held)| self.is_due(held.renewed));
        let renewals = due.map(|(slot, held)| {
            let (slot, owned, shared) = (*slot, held.owned, self.shared.clone());
            async move { (slot, shared.log.renew_slot(owned, &shared.id).await) }
        });
        let renewals: Vec<_> =
            stream::iter(renewals.collect::<Vec<_>>()).buffer_unordered(SLOTS_AT_ONCE).collect().await;
        for (slot, renewed) in renewals {
            let Some(held) = self.held.get_mut(&slot) else { continue };
            match renewed {
                Ok(Some(owned)) => {
                    held.owned = owned;
                    held.renewed = Instant::now();
                }
                Ok(None) if fault::is_on(fault::NEVER_LOSE_SLOTS) => {}
                Ok(None) => {
                    warn!(%slot, "somebody else owns this slot now");
                    held.stop.cancel();
                }
                // Whether the hold lasts is not known. Going on is safe, and stopping would be slow.
                Err(error) => warn!(%slot, %error, "the slot could not be renewed"),
            }
        }
    }

    fn start(&mut self, owned: OwnedSlot) {
        let stop = CancellationToken::new();
        let (slot, since) = (owned.slot, owned.since);
        let (shared, worker_stop) = (self.shared.clone(), stop.clone());
        let task = self
            .workers
            .spawn(async move { (slot, since, slot::run(shared, slot, since, worker_stop).await) });
        self.worker_slots.insert(task.id(), slot);
        self.held.insert(slot, Held { owned, renewed: Instant::now(), stop });
        metrics::slots_owned(self.held.len());
    }

    async fn worker_ended(&mut self, ended: Result<(Id, (Slot, u64, SlotEnd)), JoinError>) {
        let (id, end) = match ended {
            Ok((id, (_, _, end))) => (id, end),
            Err(failed) => {
                error!(error = %failed, "a slot's worker died; the slot is taken anew");
                (failed.id(), SlotEnd::Lost(failed.to_string()))
            }
        };
        let Some(slot) = self.worker_slots.remove(&id) else { return };
        let Some(held) = self.held.remove(&slot) else { return };
        slot::report(slot, &end);
        metrics::slots_owned(self.held.len());
        // Under a new revision, so that the next worker's consumer has a new name.
        match self.shared.log.release_slot(held.owned).await {
            Ok(()) => {}
            Err(error) => warn!(%slot, %error, "the slot was not released; it expires by itself"),
        }
        #[cfg(feature = "fault-points")]
        if fault::is_on(fault::NEVER_LOSE_SLOTS) && !held.stop.is_cancelled() {
            let taken = OwnedSlot::pretend(slot, rand::random());
            self.start(taken);
        }
    }

    /// Gives everything up: finishes what is in flight, releases the slots, and says that we are gone.
    async fn leave(&mut self) {
        for held in self.held.values() {
            held.stop.cancel();
        }
        while let Some(ended) = self.workers.join_next_with_id().await {
            self.worker_ended(ended).await;
        }
        if let Err(error) = self.shared.log.withdraw(&self.shared.id).await {
            warn!(%error, "the validator could not say that it leaves; its slots expire by themselves");
        }
    }
}
