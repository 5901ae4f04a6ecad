//! The validator's [`LogBackend`] on the simulated servers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::net::{Link, Lost};
use super::world::{Mutation, Pulled, ReadKey, Servers};
use crate::event::{Answer, ContentHash, Decided, DraftKey, EventId, PartitionKey, Slot, Token};
use crate::log::{
    CommitError, CommitPart, ConnectionState, LogError, OwnedSlot, OwnershipView, PlacedTrace, SlotKey,
    SnapshotInfo, StoredEvent,
};
use crate::partition::{LoadError, Loaded, apply, parse};
use crate::state::{Fold, IndexPart, PartitionState};
use crate::validator::log_backend::{LogBackend, OwnershipFeed, QueuedDraft, SlotDrafts};

pub(crate) const SLOTS: u16 = 2;

#[derive(Clone)]
pub(crate) struct SimulatedLog(pub Link);

pub(crate) struct SimulatedDraft {
    link: Link,
    slot: Slot,
    consumer: u64,
    sequence: u64,
    token: Token,
    body: Bytes,
    stored_at_ms: u64,
}

pub(crate) struct SimulatedConsumer {
    queue: String,
    drafts: mpsc::UnboundedReceiver<Result<SimulatedDraft, LogError>>,
}

pub(crate) struct SimulatedChanges {
    link: Link,
    seen: u64,
}

pub(super) fn lost(what: &'static str) -> impl FnOnce(Lost) -> LogError {
    move |Lost| LogError::Unavailable { what, why: "no answer".to_owned() }
}

fn unknown(lost: Lost) -> CommitError {
    CommitError::Unknown(self::lost("committing")(lost))
}

/// What a read of a partition gives: its events, at a server that lacks the last so many of the log.
pub(super) fn read(servers: &Servers, token: &Token, after: EventId, lacks: usize) -> Vec<StoredEvent> {
    let last = EventId(servers.log.len().saturating_sub(lacks) as u64);
    let all = servers.events(token, after).take_while(|(id, _)| *id <= last);
    all.map(|(id, body)| StoredEvent { id, body: body.clone() }).collect()
}

impl LogBackend for SimulatedLog {
    type Draft = SimulatedDraft;
    type Consumer = SimulatedConsumer;
    type Changes = SimulatedChanges;

    fn slots(&self) -> u16 {
        SLOTS
    }

    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.0.connection()
    }

    fn now_ms(&self) -> u64 {
        self.0.world.now_ms()
    }

    fn message_bytes_max(&self) -> usize {
        1 << 20
    }

    async fn commit_one(
        &self,
        token: &Token,
        expected: EventId,
        body: Bytes,
        _: Option<&String>,
    ) -> Result<EventId, CommitError> {
        let part = CommitPart { token: token.clone(), expected, bodies: vec![body] };
        Ok(self.commit_batch(&[part], &[]).await?[0])
    }

    async fn commit_batch(
        &self,
        parts: &[CommitPart],
        _: &[Vec<PlacedTrace>],
    ) -> Result<Vec<EventId>, CommitError> {
        let parts: Vec<_> =
            parts.iter().map(|part| (part.token.clone(), part.expected, part.bodies.clone())).collect();
        let world = self.0.world.clone();
        if world.happens(world.weather().refused_twice_one_in) {
            // One server refuses it, and the one that leads stores it.
            let later = Duration::from_millis(world.roll(|rng| rng.below(3_000)) as u64);
            self.0.ask(|_| ()).await.map_err(unknown)?;
            tokio::spawn(async move {
                sleep(later).await;
                world.change(|servers| servers.commit(&parts));
            });
            return Err(CommitError::Conflict);
        }
        self.0.ask(move |servers| servers.commit(&parts)).await.map_err(unknown)?.ok_or(CommitError::Conflict)
    }

    async fn load_partition(&self, token: &Token, fold: &Arc<dyn Fold>) -> Result<Loaded, LoadError> {
        let (key, lacks) = (token.clone(), self.0.world.lacks());
        let (events, forgets) = self
            .0
            .ask(move |servers| {
                (read(servers, &key, EventId::NONE, lacks), servers.is_broken(Mutation::ForgottenIndex))
            })
            .await
            .map_err(lost("loading"))?;
        // By way of a snapshot somewhere on the way, whose two parts are not of the same moment.
        let at = self.0.world.roll(|rng| (rng.below(events.len() + 1), rng.below(events.len() + 1)));
        let (state_at, index_at) = (at.0.max(at.1), at.0.min(at.1));
        let broken = |error: crate::state::SnapshotError| LoadError::Broken {
            event: EventId::NONE,
            why: error.to_string(),
        };
        let mut state = PartitionState::new();
        let mut index = IndexPart::default();
        for (n, stored) in events[..state_at].iter().enumerate() {
            apply(fold.as_ref(), &mut state, stored)?;
            if n < index_at {
                let event = parse(stored)?;
                let record = &event.record;
                index.extend(event.id, [(record.draft_key(), event.id, record.content_hash)]);
            }
        }
        let part = state.to_state_part().map_err(broken)?;
        let mut after = PartitionState::replay_from(&part, &index);
        if forgets {
            index.entries.clear();
            after = part.event_id;
        }
        if state.ordinal() > 0 {
            state = PartitionState::from_snapshot(&part, &index).map_err(broken)?;
        }
        for stored in events.iter().filter(|stored| stored.id > after) {
            let event = parse(stored)?;
            state
                .replay(fold.as_ref(), &event, stored.body.len())
                .map_err(|error| LoadError::Broken { event: stored.id, why: error.to_string() })?;
        }
        // As if so many others had been committed since that these are long past.
        if self.0.world.roll(|rng| rng.below(2)) == 0 {
            state.settle_drafts();
        }
        Ok(Loaded { state, snapshot: SnapshotInfo::default(), indexed: 0 })
    }

    async fn catch_up(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        state: &mut PartitionState,
    ) -> Result<u64, LoadError> {
        let (key, after, lacks) = (token.clone(), state.head(), self.0.world.lacks());
        let events = self
            .0
            .ask(move |servers| read(servers, &key, after, lacks))
            .await
            .map_err(lost("catching up"))?;
        for stored in &events {
            apply(fold.as_ref(), state, stored)?;
        }
        Ok(events.len() as u64)
    }

    async fn extend_history(
        &self,
        token: &Token,
        fold: &Arc<dyn Fold>,
        state: &mut PartitionState,
        from: EventId,
    ) -> Result<usize, LoadError> {
        let (key, floor) = (token.clone(), state.touch_floor());
        let mut events =
            self.0.ask(move |servers| read(servers, &key, from, 0)).await.map_err(lost("extending"))?;
        events.retain(|stored| stored.id <= floor);
        for stored in &events {
            if !state.add_older_touch(fold.as_ref(), from, &parse(stored)?) {
                break;
            }
        }
        Ok(events.len())
    }

    async fn find_draft(
        &self,
        token: &Token,
        key: &DraftKey,
        candidates: &[EventId],
    ) -> Result<Option<(EventId, ContentHash)>, LoadError> {
        let (token, lacks) = (token.clone(), self.0.world.lacks());
        let (events, unsought) = self
            .0
            .ask(move |servers| {
                (read(servers, &token, EventId::NONE, lacks), servers.is_broken(Mutation::UnsoughtDraft))
            })
            .await
            .map_err(lost("looking for a draft"))?;
        if unsought {
            return Ok(None);
        }
        // An event that the state includes is in the log.
        if !candidates.iter().all(|id| events.iter().any(|stored| stored.id == *id)) {
            return Err(lost("looking for a draft")(Lost).into());
        }
        for stored in events.iter().filter(|stored| candidates.contains(&stored.id)) {
            let record = parse(stored)?.record;
            if record.draft_key() == *key {
                return Ok(Some((stored.id, record.content_hash)));
            }
        }
        Ok(None)
    }

    async fn answer(&self, frontend: &str, answer: &Answer) -> Result<(), LogError> {
        self.0.awake().await;
        let (to, answer) = (frontend.to_owned(), answer.clone());
        // Nobody waits for it to have arrived.
        drop(self.0.send(move |servers| {
            if let Some(inbox) = servers.answers.get(&to) {
                drop(inbox.send(answer));
            }
        }));
        Ok(())
    }

    async fn slot_consumer(&self, slot: Slot, revision: u64) -> Result<SimulatedConsumer, LogError> {
        let queue = self
            .0
            .ask(move |servers| servers.make_consumer(slot, revision))
            .await
            .map_err(lost("making a consumer"))?;
        self.0.world.tell(|| format!("{} takes drafts of slot {slot}, held since {revision}", self.0.name));
        let (deliver, delivered) = mpsc::unbounded_channel();
        let link = self.0.clone();
        tokio::spawn(async move {
            loop {
                let next = link.world.until(|servers| servers.pull(slot, revision).transpose());
                let next = tokio::select! {
                    biased;
                    () = deliver.closed() => return,
                    next = next => next,
                };
                sleep(link.world.delay()).await;
                link.reachable().await;
                let gone = next.is_err();
                let next = next
                    .map(|Pulled { sequence, token, body, stored_at_ms }| SimulatedDraft {
                        link: link.clone(),
                        slot,
                        consumer: revision,
                        sequence,
                        token,
                        body,
                        stored_at_ms,
                    })
                    .map_err(|()| LogError::Unavailable {
                        what: "taking a draft",
                        why: "the consumer is gone".to_owned(),
                    });
                if deliver.send(next).is_err() || gone {
                    return;
                }
            }
        });
        Ok(SimulatedConsumer { queue, drafts: delivered })
    }

    async fn open_queue(&self) -> Result<(), LogError> {
        Ok(())
    }

    async fn announce(&self, validator: &str) -> Result<(), LogError> {
        let (key, id) = (format!("validator.{validator}"), validator.to_owned());
        self.0
            .ask(move |servers| servers.set_key(&key, None, Some(&id), None))
            .await
            .map_err(lost("announcing"))?;
        Ok(())
    }

    async fn withdraw(&self, validator: &str) -> Result<(), LogError> {
        let key = format!("validator.{validator}");
        self.0
            .ask(move |servers| servers.set_key(&key, None, None, None))
            .await
            .map_err(lost("withdrawing"))?;
        Ok(())
    }

    async fn ownership(&self) -> Result<OwnershipView, LogError> {
        let keys = self.0.ask(Servers::keys).await.map_err(lost("reading ownership"))?;
        let mut view = OwnershipView::default();
        let heeded = self.0.world.look(|servers| !servers.is_broken(Mutation::NoFloor));
        for ReadKey { name, revision, value, decided } in keys {
            match name.split_once('.') {
                Some(("validator", id)) if value.is_some() => drop(view.validators.insert(id.to_owned())),
                Some(("slot", number)) => {
                    let slot = Slot(number.parse().expect("a slot's key ends in its number"));
                    let decided = if heeded { decided } else { Decided::default() };
                    view.keys.insert(slot, SlotKey { revision, decided });
                    view.owners.extend(value.map(|owner| (slot, owner)));
                }
                _ => {}
            }
        }
        view.owners.retain(|_, owner| view.validators.contains(owner));
        Ok(view)
    }

    async fn take_slot(
        &self,
        slot: Slot,
        validator: &str,
        known: Option<&SlotKey>,
    ) -> Result<Option<OwnedSlot>, LogError> {
        let SlotKey { revision, decided } = known.cloned().unwrap_or_default();
        let taken = self.set_slot(slot, revision, Some(validator), decided).await?;
        self.0.world.tell(|| match taken {
            Some(revision) => format!("{validator} takes slot {slot}, at {revision}"),
            None => format!("{validator} is too late for slot {slot}"),
        });
        Ok(taken.map(|revision| OwnedSlot::taken(slot, revision)))
    }

    async fn write_slot(
        &self,
        held: OwnedSlot,
        validator: &str,
        decided: &Decided,
    ) -> Result<Option<OwnedSlot>, LogError> {
        let (validator, decided) = (validator.to_owned(), decided.clone());
        let refused = self.0.world.happens(self.0.world.weather().refused_twice_one_in);
        let write = move |servers: &mut Servers| {
            servers.write_slot(held.slot, (held.since, held.revision()), &validator, decided)
        };
        let written = self.0.ask(write).await.map_err(lost("writing a slot's key"))?;
        if written.is_none() || refused {
            self.0
                .world
                .tell(|| format!("{} has lost slot {}, held since {}", self.0.name, held.slot, held.since));
        }
        // One server refuses it, and the one that leads stores it.
        let written = written.filter(|_| !refused);
        Ok(written.map(|revision| held.written_at(revision)))
    }

    async fn release_slot(&self, held: OwnedSlot, decided: &Decided) -> Result<(), LogError> {
        let released = self.set_slot(held.slot, held.revision(), None, decided.clone()).await?;
        self.0.world.tell(|| {
            let (name, slot, since) = (&self.0.name, held.slot, held.since);
            format!("{name} gives up slot {slot}, held since {since}: {}", released.is_some())
        });
        Ok(())
    }

    fn keeps_slots(&self) -> bool {
        true
    }

    async fn ownership_changes(&self) -> Result<SimulatedChanges, LogError> {
        let seen = self.0.world.look(|servers| servers.comings_and_goings);
        Ok(SimulatedChanges { link: self.0.clone(), seen })
    }
}

impl SimulatedLog {
    async fn set_slot(
        &self,
        slot: Slot,
        expected: u64,
        owner: Option<&str>,
        decided: Decided,
    ) -> Result<Option<u64>, LogError> {
        let owner = owner.map(str::to_owned);
        let set = move |servers: &mut Servers| {
            servers.set_key(&format!("slot.{slot}"), Some(expected), owner.as_deref(), Some(decided))
        };
        self.0.ask(set).await.map_err(lost("setting a slot's owner"))
    }
}

impl QueuedDraft for SimulatedDraft {
    type LogBackend = SimulatedLog;

    fn body(&self) -> &Bytes {
        &self.body
    }

    fn partition(&self) -> Result<(Token, PartitionKey), LogError> {
        Token::parse(self.token.as_str()).map_err(|error| LogError::Malformed {
            what: "reading a draft's subject",
            why: error.to_string(),
        })
    }

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn stored_at_ms(&self) -> u64 {
        self.stored_at_ms
    }

    async fn acknowledge(&self) -> Result<(), LogError> {
        self.link.awake().await;
        let (slot, consumer, sequence) = (self.slot, self.consumer, self.sequence);
        let later = self.link.world.removed_after();
        // Nobody waits for that to have happened.
        drop(self.link.send(move |servers| servers.acknowledge(slot, consumer, sequence, later)));
        Ok(())
    }

    async fn confirm(&self, _: &SimulatedLog) -> Result<(), LogError> {
        const WHAT: &str = "confirming a rejection";
        let (slot, consumer, sequence) = (self.slot, self.consumer, self.sequence);
        let later = self.link.world.removed_after();
        let confirmed =
            self.link.ask(move |servers| servers.acknowledge(slot, consumer, sequence, later)).await;
        match confirmed.map_err(lost(WHAT))? {
            true => Ok(()),
            false => Err(LogError::Unavailable { what: WHAT, why: "no responders".to_owned() }),
        }
    }
}

impl SlotDrafts for SimulatedConsumer {
    type Draft = SimulatedDraft;

    fn queue(&self) -> &str {
        &self.queue
    }

    async fn next(&mut self) -> Result<SimulatedDraft, LogError> {
        let gone = || LogError::Unavailable { what: "taking a draft", why: "the consumer ended".to_owned() };
        self.drafts.recv().await.unwrap_or_else(|| Err(gone()))
    }
}

impl OwnershipFeed for SimulatedChanges {
    async fn next(&mut self, _: &BTreeSet<String>) -> Option<()> {
        let (link, seen) = (self.link.clone(), self.seen);
        let now =
            link.world.until(|servers| Some(servers.comings_and_goings).filter(|now| *now != seen)).await;
        link.reachable().await;
        self.seen = now;
        Some(())
    }
}
