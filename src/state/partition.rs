//! The state of one partition as its validator (with everything) or a frontend (without index and touches)
//! holds it.

use std::collections::VecDeque;

use super::draft_index::{DraftIndex, DraftLookup};
use super::write_set::{ConflictCheck, WriteSets};
use super::{Accepted, AppState, Document, Fold, FoldError, IndexEntry, IndexPart, SnapshotError, StatePart};
use super::{TOUCHES_MAX, WriteSet};
use crate::event::{ClientId, CommittedEvent, ContentHash, DraftKey, EventId, RulesInForceId};

/// Why a committed event was not folded in. The state is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The event lies at or below the head.
    #[error("event {id} is not after the head, {head}")]
    NotAfterHead {
        /// The event.
        id: EventId,
        /// The state's head.
        head: EventId,
    },
    /// An event is missing before this one, or was deleted.
    #[error("event {id} is the partition's {found}th, expected the {expected}th: the log has a hole")]
    Hole {
        /// The event.
        id: EventId,
        /// Its ordinal.
        found: u64,
        /// The ordinal after the head's.
        expected: u64,
    },
    /// The event does not fold.
    #[error("event {id} does not fold: {source}")]
    Fold {
        /// The event.
        id: EventId,
        /// Why.
        source: FoldError,
    },
    /// Staged events are in the document: whoever sees other events committed in their place must drop
    /// this state and load it anew.
    #[error("event {0} cannot be applied while events are staged")]
    Staged(EventId),
}

/// The state of one partition, and how far into its log it reaches.
#[derive(Debug)]
pub struct PartitionState {
    /// Under the built-in rules; empty once an application's have the state.
    pub(super) doc: Document,
    pub(super) app: Option<App>,
    /// The application's rules that decided the last event that is no mark.
    pub(super) rules: Option<RulesInForceId>,
    head: EventId,
    pub(super) ordinal: u64,
    /// Whether there is an event that is no mark.
    pub(super) opened: bool,
    log_bytes: u64,
    last_timestamp: u64,
    /// What only a validator needs.
    memory: Option<Memory>,
    pub(super) staged: VecDeque<Staged>,
}

/// A state under an application's rules.
#[derive(Debug)]
pub(super) enum App {
    /// As a snapshot has it, under the version of the last event.
    Written(Vec<u8>),
    Live(Box<dyn AppState>),
}

#[derive(Debug)]
struct Memory {
    drafts: DraftIndex,
    touches: WriteSets,
}

#[derive(Debug)]
pub(super) struct Staged {
    pub key: DraftKey,
    pub content_hash: ContentHash,
    pub client: ClientId,
    pub touch: WriteSet,
    pub rules: Option<RulesInForceId>,
}

impl Default for PartitionState {
    fn default() -> Self {
        Self::new()
    }
}

impl PartitionState {
    /// An empty partition, as a validator holds it.
    pub fn new() -> Self {
        Self { memory: Some(Memory::new(EventId::NONE)), ..Self::follower() }
    }

    /// An empty partition, as a frontend holds it: without an index of drafts and without touches.
    pub fn follower() -> Self {
        Self {
            doc: Document::new(),
            app: None,
            rules: None,
            head: EventId::NONE,
            ordinal: 0,
            opened: false,
            log_bytes: 0,
            last_timestamp: 0,
            memory: None,
            staged: VecDeque::new(),
        }
    }

    /// Keeps the touches of at most `max` events instead of [`TOUCHES_MAX`]. For a state just made.
    pub fn with_touches_max(mut self, max: usize) -> Self {
        if let Some(memory) = &mut self.memory {
            memory.touches = WriteSets::new(max, self.head);
        }
        self
    }

    /// Whether it is a validator's, with the index of drafts.
    pub fn has_index(&self) -> bool {
        self.memory.is_some()
    }

    /// The last event that the state includes; [`EventId::NONE`] for an empty partition.
    pub fn head(&self) -> EventId {
        self.head
    }

    /// How many committed events the state includes.
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }

    /// Whether there is an event that is no mark: if not, the next one is the partition's first.
    pub fn is_opened(&self) -> bool {
        self.opened
    }

    /// The bytes of their records.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// The timestamp of the last one, in Unix milliseconds.
    pub fn last_timestamp(&self) -> u64 {
        self.last_timestamp
    }

    /// The document under the built-in rules, staged events included.
    pub fn document(&self) -> &Document {
        &self.doc
    }

    /// About how many bytes of memory the state takes.
    pub fn memory_bytes(&self) -> usize {
        let memory = self
            .memory
            .as_ref()
            .map_or(0, |memory| memory.drafts.memory_bytes() + memory.touches.memory_bytes());
        let app = match &self.app {
            None => 0,
            Some(App::Written(state)) => state.len(),
            Some(App::Live(live)) => live.memory_bytes(),
        };
        std::mem::size_of::<Self>() + self.doc.memory_bytes() + app + memory
    }

    /// Folds one committed event. `body_len` is the length of its record, in bytes.
    pub fn apply(
        &mut self,
        fold: &dyn Fold,
        event: &CommittedEvent<'_>,
        body_len: usize,
    ) -> Result<(), ApplyError> {
        let (id, record) = (event.id, &event.record);
        if !self.staged.is_empty() {
            return Err(ApplyError::Staged(id));
        }
        if id <= self.head {
            return Err(ApplyError::NotAfterHead { id, head: self.head });
        }
        let expected = self.ordinal + 1;
        if record.ordinal != expected {
            return Err(ApplyError::Hole { id, found: record.ordinal, expected });
        }
        let touch = if (record.rules.is_none() && self.app.is_none()) || record.is_mark {
            let folded = fold.fold(&record.event_type, record.payload, !self.opened, &mut self.doc);
            folded.map_err(|source| ApplyError::Fold { id, source })?
        } else {
            self.note(fold, id, record)?;
            WriteSet::Nothing
        };
        if let Some(memory) = &mut self.memory {
            memory.drafts.insert(record.draft_key(), id, record.content_hash);
            memory.touches.push(id, record.client_id.clone(), touch);
        }
        self.advance(id, record.timestamp, body_len);
        self.opened |= !record.is_mark;
        Ok(())
    }

    /// Enters an event that the document includes already into the index of drafts: what is between the
    /// two parts of a snapshot. Entering one twice changes nothing.
    fn index_only(&mut self, event: &CommittedEvent<'_>) {
        if let Some(memory) = &mut self.memory {
            memory.drafts.insert(event.record.draft_key(), event.id, event.record.content_hash);
        }
    }

    /// Enters more drafts of a snapshot's index.
    pub fn enter_drafts(&mut self, entries: &[IndexEntry]) {
        if let Some(memory) = &mut self.memory {
            entries.iter().for_each(|(key, id, hash)| memory.drafts.insert(*key, *id, *hash));
        }
    }

    /// Takes one event of a replay from [`replay_from`](Self::replay_from): into the index alone, or into
    /// the document too.
    pub fn replay(
        &mut self,
        fold: &dyn Fold,
        event: &CommittedEvent<'_>,
        body_len: usize,
    ) -> Result<(), ApplyError> {
        if event.id <= self.head {
            self.index_only(event);
            return Ok(());
        }
        self.apply(fold, event, body_len)
    }

    /// Folds an accepted draft that is about to be committed, before its event id is known. On an error
    /// the state is as it was.
    ///
    /// There is no way back: when the commit fails because another event came first, drop the state and
    /// load it anew.
    pub fn stage(&mut self, fold: &dyn Fold, accepted: Accepted) -> Result<(), FoldError> {
        let Accepted { key, content_hash, client, event_type, payload, touch, ordinal } = accepted;
        let found = self.ordinal + self.staged.len() as u64;
        if ordinal != found + 1 {
            return Err(FoldError::Stale { accepted: ordinal.saturating_sub(1), found });
        }
        let first = !self.opened && self.staged.is_empty();
        fold.fold_parsed(&event_type, payload, first, &mut self.doc)?;
        self.staged.push_back(Staged { key, content_hash, client, touch, rules: None });
        Ok(())
    }

    /// The first staged events, as many as there are `body_lens`, were committed: the first of them as
    /// `first`, the others right behind it without gaps.
    pub fn confirm(&mut self, first: EventId, timestamp: u64, body_lens: &[usize]) {
        for (id, body_len) in (first.0..).map(EventId).zip(body_lens) {
            let Some(staged) = self.staged.pop_front() else { return };
            if let Some(memory) = &mut self.memory {
                memory.drafts.insert(staged.key, id, staged.content_hash);
                memory.touches.push(id, staged.client, staged.touch);
            }
            self.advance(id, timestamp, *body_len);
            self.opened = true;
            self.rules = staged.rules;
        }
    }

    /// A mark was committed.
    pub fn confirm_mark(&mut self, key: DraftKey, id: EventId, timestamp: u64, body_len: usize) {
        if let Some(memory) = &mut self.memory {
            memory.drafts.insert(key, id, ContentHash(0));
            memory.touches.push(id, ClientId::server(), WriteSet::Nothing);
        }
        self.advance(id, timestamp, body_len);
    }

    /// Forgets which drafts are committed: one of the ways in which a test breaks the product.
    #[cfg(feature = "fault-points")]
    pub fn forget_drafts(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.drafts = DraftIndex::default();
        }
    }

    /// How many events are staged.
    pub fn staged(&self) -> usize {
        self.staged.len()
    }

    /// The commit of a draft, if it was committed. A follower knows of none.
    pub fn lookup(&self, key: &DraftKey) -> DraftLookup {
        self.memory.as_ref().map_or(DraftLookup::NotFound, |memory| memory.drafts.lookup(key))
    }

    /// The events one of which may be a draft that is [`DraftLookup::Maybe`] committed. Whoever has looked at them in
    /// the log calls [`resolve_lookup`](Self::resolve_lookup).
    pub fn draft_candidates(&self, key: &DraftKey) -> Vec<EventId> {
        self.memory.as_ref().map_or_else(Vec::new, |memory| memory.drafts.candidates(key).collect())
    }

    /// Takes what the log says of a draft: the event that it is committed as, if it is.
    pub fn resolve_lookup(&mut self, key: DraftKey, found: Option<(EventId, ContentHash)>) {
        if let Some(memory) = &mut self.memory {
            memory.drafts.tell(key, found);
        }
    }

    /// Forgets what was told of drafts, which are decided now.
    pub fn forget_told_drafts(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.drafts.forget_told();
        }
    }

    /// Keeps of all drafts only what it keeps of old ones.
    #[cfg(all(test, feature = "fault-points"))]
    pub(crate) fn settle_drafts(&mut self) {
        if let Some(memory) = &mut self.memory {
            memory.drafts.settle();
        }
    }

    /// Whether a draft under this key is staged.
    pub fn is_staged(&self, key: &DraftKey) -> bool {
        self.staged.iter().any(|staged| staged.key == *key)
    }

    /// Whether a staged event of someone else changes the same.
    pub fn is_touched_by_staged(&self, client: &ClientId, touch: &WriteSet) -> bool {
        self.staged.iter().any(|staged| staged.client != *client && staged.touch.overlaps(touch))
    }

    /// The event up to which touches are not known: a draft based on an earlier one cannot be checked for
    /// conflicts before [`add_older_touch`](Self::add_older_touch) was told of the events in between.
    pub fn touch_floor(&self) -> EventId {
        self.memory.as_ref().map_or(self.head, |memory| memory.touches.floor())
    }

    /// Takes an event at or below [`touch_floor`](Self::touch_floor), read again from the log, in its
    /// order, beginning with the first after `from`. Says whether it wants the next one; when
    /// it no longer does, decide again:
    ///
    /// ```text
    /// Decision::NeedHistory { from } => {
    ///     let mut events = log.events_after(&partition, from);
    ///     while let Some(event) = events.next().await? {
    ///         if !state.add_older_touch(&fold, from, &event) { break; }
    ///     }
    ///     // and decide again
    /// }
    /// ```
    ///
    /// If the base lies too many events back, that is known from the first event, and nothing more is read.
    pub fn add_older_touch(&mut self, fold: &dyn Fold, from: EventId, event: &CommittedEvent<'_>) -> bool {
        let Some(memory) = &mut self.memory else { return false };
        let record = &event.record;
        let floor_ordinal = self.ordinal - memory.touches.len() as u64;
        let touch = fold.touch(&record.event_type, record.payload);
        let at = (event.id, record.ordinal);
        memory.touches.add_older(from, floor_ordinal, at, record.client_id.clone(), touch)
    }

    /// What the known touches say of a draft by `client`, based on `base`, that touches `touch`.
    pub(crate) fn touched_since(&self, base: EventId, client: &ClientId, touch: &WriteSet) -> ConflictCheck {
        match &self.memory {
            Some(memory) => memory.touches.since(base, client, touch),
            None => ConflictCheck::TooOld,
        }
    }

    /// The state's part of a snapshot as of the head. Not while events are staged.
    pub fn to_state_part(&self) -> Result<StatePart, SnapshotError> {
        if !self.staged.is_empty() {
            return Err(SnapshotError::Staged);
        }
        let state = self.canonical()?;
        Ok(StatePart {
            event_id: self.head,
            ordinal: self.ordinal,
            log_bytes: self.log_bytes,
            last_timestamp: self.last_timestamp,
            rules: self.rules,
            sha256: sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(&state)).into(),
            state,
        })
    }

    /// A frontend's state from a snapshot.
    pub fn from_state_part(part: &StatePart) -> Result<Self, SnapshotError> {
        let (doc, app) = match part.rules {
            None => (Document::parse(&part.state)?.ok_or(SnapshotError::NotAState)?, None),
            Some(_) => (Document::new(), Some(App::Written(part.state.clone()))),
        };
        Ok(Self {
            doc,
            app,
            rules: part.rules,
            head: part.event_id,
            ordinal: part.ordinal,
            // Of a partition that has nothing but marks no snapshot is written.
            opened: part.ordinal > 0,
            log_bytes: part.log_bytes,
            last_timestamp: part.last_timestamp,
            memory: None,
            staged: VecDeque::new(),
        })
    }

    /// A validator's state from both parts of a snapshot. It is complete only when every event after
    /// [`replay_from`](Self::replay_from) was handed to [`replay`](Self::replay).
    pub fn from_snapshot(state: &StatePart, index: &IndexPart) -> Result<Self, SnapshotError> {
        let drafts = DraftIndex::of_entries(&index.entries);
        let memory = Memory { drafts, ..Memory::new(state.event_id) };
        Ok(Self { memory: Some(memory), ..Self::from_state_part(state)? })
    }

    /// The event after which a replay must begin so that both the document and the index miss nothing.
    pub fn replay_from(state: &StatePart, index: &IndexPart) -> EventId {
        state.event_id.min(index.event_id)
    }

    fn advance(&mut self, id: EventId, timestamp: u64, body_len: usize) {
        self.head = id;
        self.ordinal += 1;
        self.log_bytes += body_len as u64;
        self.last_timestamp = timestamp;
    }
}

impl Memory {
    fn new(floor: EventId) -> Self {
        Self { drafts: DraftIndex::default(), touches: WriteSets::new(TOUCHES_MAX, floor) }
    }
}
