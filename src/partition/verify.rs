//! Verification of a partition: its log folded from the first event, compared with its snapshots.
//!
//! Loading begins from a snapshot and believes it. This does not: it shows a snapshot that differs from what the log
//! gives, before anything is decided on it.

use std::sync::Arc;

use super::index::{index_drafts_max, index_entry};
use super::load::{EVENTS_PER_TURN, LoadError, app_error, parse, settle, settle_all};
use crate::event::{CommittedEvent, EventId, Token};
use crate::log::{Log, LogError, SnapshotPart, StoredEvent};
use crate::state::{Fold, IndexEntry, IndexPart, PartitionState, SnapshotError, StatePart};

/// The most problems of a partition that are told.
const PROBLEMS_MAX: usize = 20;

/// What a verification found.
#[derive(Debug, Default)]
pub struct Verified {
    /// How many events were folded.
    pub events: u64,
    /// The last of them.
    pub head: EventId,
    /// The hash of the state after it.
    pub sha256: [u8; 32],
    /// The event of the snapshot's state, if it is right.
    pub snapshot: Option<EventId>,
    /// The last event in the draft index, as far as that is right.
    pub indexed: Option<EventId>,
    /// What is wrong, by event.
    pub problems: Vec<(EventId, String)>,
}

impl Log {
    /// Folds a partition's log from its first event, and compares with the snapshot and the draft index. What is
    /// committed meanwhile is left out.
    pub async fn verify_partition(&self, token: &Token, fold: &Arc<dyn Fold>) -> Result<Verified, LoadError> {
        let found = self.verify_once(token, fold.as_ref()).await?;
        if found.problems.is_empty() {
            return Ok(found);
        }
        // What looks like damage is called so only when a second read shows it again.
        self.verify_once(token, fold.as_ref()).await
    }

    async fn verify_once(&self, token: &Token, fold: &dyn Fold) -> Result<Verified, LoadError> {
        let mut found = Verified::default();
        // The snapshots first, then the head: they are of no later event.
        let mut part = self.stored_part(token, SnapshotPart::State, StatePart::decode, &mut found).await?;
        let mut index = self.stored_index(token, 0, EventId::NONE, &mut found).await?;
        let head = self.leader_head(token).await?.map_or(EventId::NONE, |head| head.id);
        let mut state = PartitionState::follower();
        let mut replay = self.replay(token, EventId::NONE, head);
        loop {
            let stored = match replay.next().await {
                Ok(Some(stored)) => stored,
                Ok(None) => break,
                Err(LogError::Malformed { why, .. }) => {
                    found.problem(head, why);
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let event = match take(fold, &mut state, &stored) {
                Ok(event) => event,
                Err(LoadError::Broken { event, why }) => {
                    found.problem(event, why);
                    break;
                }
                Err(error) => return Err(error),
            };
            found.events += 1;
            found.head = stored.id;
            if let Some(part) = part.take_if(|part| part.event_id == stored.id) {
                found.compare(&part, &state)?;
            }
            if let Some(check) = &mut index
                && check.take(&event, &mut found)
            {
                index = match check.next_object() {
                    Some((number, after)) => self.stored_index(token, number, after, &mut found).await?,
                    None => None,
                };
            }
            // Folding is work for the processor: others get their turn.
            if found.events.is_multiple_of(EVENTS_PER_TURN as u64) {
                tokio::task::yield_now().await;
            }
        }
        settle_all(&state)?;
        let hash = tokio::task::block_in_place(|| state.hash());
        found.sha256 = hash.map_err(|error| app_error(&state, error))?;
        // Nothing is said of snapshots after an event that does not fold.
        if found.head == head {
            let left =
                [("snapshot", part.map(|part| part.event_id)), ("draft index", index.map(|left| left.upto))];
            for (what, id) in left.into_iter().filter_map(|(what, id)| Some((what, id?))) {
                let why = format!(
                    "there is a {what} of it, and the partition, which ends at {head}, has no such event"
                );
                found.problem(id, why);
            }
        }
        Ok(found)
    }

    /// A snapshot object, decoded. One that cannot be read is a problem.
    async fn stored_part<T: Send + 'static>(
        &self,
        token: &Token,
        part: SnapshotPart,
        decode: fn(&[u8]) -> Result<T, SnapshotError>,
        found: &mut Verified,
    ) -> Result<Option<T>, LogError> {
        let mut read = self.read_snapshot(token, part).await;
        // One that was replaced while it was read has no end.
        if matches!(read, Err(LogError::Unavailable { .. })) {
            read = self.read_snapshot(token, part).await;
        }
        let why = match read {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => {
                let decoded = tokio::task::spawn_blocking(move || decode(&bytes)).await;
                match decoded.map_err(|error| LogError::malformed("decoding a snapshot", error))? {
                    Ok(part) => return Ok(Some(part)),
                    Err(error) => error.to_string(),
                }
            }
            Err(LogError::Malformed { why, .. }) => why,
            Err(error) => return Err(error),
        };
        let what = match part {
            SnapshotPart::State => "snapshot",
            SnapshotPart::Index(_) => "draft index",
        };
        found.problem(EventId::NONE, format!("the {what} cannot be read: {why}"));
        Ok(None)
    }

    /// The object of the draft index that goes on after event `after`.
    async fn stored_index(
        &self,
        token: &Token,
        number: u32,
        after: EventId,
        found: &mut Verified,
    ) -> Result<Option<IndexCheck>, LogError> {
        let part = SnapshotPart::Index(number);
        // What does not go on from there is not loaded either.
        if self.snapshot_info(token, part).await?.is_some_and(|info| info.after != after) {
            return Ok(None);
        }
        let index = self.stored_part(token, part, IndexPart::decode, found).await?;
        Ok(index.filter(|index| index.event_id > after).map(|index| IndexCheck::of(number, index)))
    }
}

fn take<'a>(
    fold: &dyn Fold,
    state: &mut PartitionState,
    stored: &'a StoredEvent,
) -> Result<CommittedEvent<'a>, LoadError> {
    let event = parse(stored)?;
    let applied = state.apply(fold, &event, stored.body.len());
    applied.map_err(|error| LoadError::Broken { event: stored.id, why: error.to_string() })?;
    settle(state)?;
    Ok(event)
}

impl Verified {
    fn problem(&mut self, event: EventId, why: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push((event, why));
        }
    }

    /// Compares a snapshot with the state that the log gives at its event.
    fn compare(&mut self, part: &StatePart, state: &PartitionState) -> Result<(), LoadError> {
        settle_all(state)?;
        let is = tokio::task::block_in_place(|| state.to_state_part())
            .map_err(|error| LogError::malformed("writing a state", error))?;
        if part.sha256 != is.sha256 {
            self.problem(part.event_id, "the snapshot of it has another state than the log gives".to_owned());
        } else if *part != is {
            let told = |part: &StatePart| {
                let StatePart { ordinal, log_bytes, last_timestamp, rules, .. } = part;
                format!(
                    "{ordinal} events of {log_bytes} bytes, the last at {last_timestamp} ms, rules {rules:?}"
                )
            };
            self.problem(
                part.event_id,
                format!("the snapshot of it says {}; the log has {}", told(part), told(&is)),
            );
        } else {
            self.snapshot = Some(part.event_id);
        }
        Ok(())
    }
}

/// An object of the draft index that is compared with the events.
struct IndexCheck {
    number: u32,
    upto: EventId,
    is_full: bool,
    /// What is not compared yet, in the order of the events.
    left: std::vec::IntoIter<IndexEntry>,
}

impl IndexCheck {
    fn of(number: u32, index: IndexPart) -> Self {
        let IndexPart { event_id, mut entries } = index;
        entries.sort_unstable_by_key(|(_, id, _)| *id);
        let is_full = entries.len() >= index_drafts_max();
        Self { number, upto: event_id, is_full, left: entries.into_iter() }
    }

    /// Compares with the next event. Whether nothing of the object is left to compare, or the rest is of no use.
    fn take(&mut self, event: &CommittedEvent<'_>, found: &mut Verified) -> bool {
        let upto = self.upto;
        if self.left.next() != Some(index_entry(event)) {
            found.problem(event.id, format!("the draft index of event {upto} does not have its draft"));
            self.is_full = false;
            return true;
        }
        if event.id < upto {
            return false;
        }
        match self.left.len() {
            0 => found.indexed = Some(upto),
            more => found.problem(upto, format!("the draft index has {more} drafts that are no events")),
        }
        true
    }

    /// The number of the object after this one, and after which event it goes on.
    fn next_object(&self) -> Option<(u32, EventId)> {
        self.is_full.then_some((self.number + 1, self.upto))
    }
}
