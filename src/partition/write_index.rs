//! A snapshot's draft index as it is written: in objects of bounded size, of which only the last one changes.

use super::index::{IndexSummary, index_drafts_max, index_entry, report_incomplete_index};
use super::load::{EVENTS_PER_TURN, LoadError, parse};
use crate::event::{EventId, Token};
use crate::faults;
use crate::log::{Log, LogError, SnapshotPart};
use crate::state::{IndexEntry, IndexPart};

/// One of the objects of a draft index. Each has the drafts of a stretch of the partition's events, and all but the last
/// one have as many as an object may have, and stay as they are.
#[derive(Debug, Default)]
pub struct IndexObject {
    /// Its place among them.
    pub number: u32,
    /// The last event in the object before it.
    pub after: EventId,
    /// How many drafts are in those before it.
    before: u64,
    /// Its drafts.
    pub index: IndexPart,
}

impl IndexObject {
    /// How many drafts the index has up to its end.
    pub fn drafts(&self) -> u64 {
        self.before + self.index.entries.len() as u64
    }

    fn next(&self, index: IndexPart) -> Self {
        Self { number: self.number + 1, after: self.index.event_id, before: self.drafts(), index }
    }
}

impl Log {
    /// Loads the end of the draft index as of event `upto` of a partition, to be written: that event is the partition's
    /// `ordinal`th. `entries` are those of all events after `known_from` up to there; the others are read from the log.
    /// Gives the objects that are new or longer than they were, in order; none if nothing is new.
    ///
    /// The index has a draft for every event. One that was written with fewer is made again from the log. Objects with
    /// the first `usable` drafts are taken for what is said of them.
    pub async fn load_index(
        &self,
        token: &Token,
        upto: EventId,
        ordinal: u64,
        known_from: EventId,
        entries: Vec<IndexEntry>,
        usable: u64,
    ) -> Result<Vec<IndexObject>, LoadError> {
        let mut last = self.last_of_index(token, usable).await?;
        if last.index.event_id >= upto {
            return Ok(Vec::new());
        }
        let (event_id, drafts) = (last.index.event_id, last.drafts());
        self.extend_index(token, &mut last.index, upto, known_from, entries.clone()).await?;
        if last.drafts() != ordinal && !faults::broken("believe_indexes") {
            report_incomplete_index(token, IndexSummary { event_id, drafts, is_full: false }, None);
            last = IndexObject::default();
            self.extend_index(token, &mut last.index, upto, known_from, entries).await?;
        }
        let drafts = last.drafts();
        if drafts != ordinal && !faults::broken("believe_indexes") {
            let why = format!("the log has {drafts} events up to this one, which says it is the {ordinal}th");
            return Err(LoadError::Broken { event: upto, why });
        }
        let mut objects = Vec::new();
        while let Some(rest) = last.index.split_off(index_drafts_max()) {
            let next = last.next(rest);
            objects.push(std::mem::replace(&mut last, next));
        }
        objects.push(last);
        Ok(objects)
    }

    /// The object of a draft index that is not full yet.
    async fn last_of_index(&self, token: &Token, usable: u64) -> Result<IndexObject, LogError> {
        let mut last = IndexObject::default();
        loop {
            let info = self.snapshot_info(token, SnapshotPart::Index(last.number)).await?;
            let Some(info) = info.filter(|info| info.after == last.after) else { return Ok(last) };
            let is_full = info.ordinal.saturating_sub(last.before) >= index_drafts_max() as u64;
            let full = if is_full && info.ordinal <= usable {
                // Not read: it stays as it is.
                IndexPart { event_id: info.event_id, entries: Vec::new() }
            } else {
                match self.index_object(token, last.number, last.after).await? {
                    Some(index) if index.entries.len() >= index_drafts_max() => index,
                    Some(index) => return Ok(IndexObject { index, ..last }),
                    None => return Ok(last),
                }
            };
            let before =
                if full.entries.is_empty() { info.ordinal } else { last.before + full.entries.len() as u64 };
            let (number, after) = (last.number + 1, full.event_id);
            last = IndexObject {
                number,
                after,
                before,
                index: IndexPart { event_id: after, entries: Vec::new() },
            };
        }
    }

    /// Enters the drafts of all events after the index's own up to `upto`.
    async fn extend_index(
        &self,
        token: &Token,
        index: &mut IndexPart,
        upto: EventId,
        known_from: EventId,
        entries: Vec<IndexEntry>,
    ) -> Result<(), LoadError> {
        let mut new = Vec::new();
        let mut replay = self.replay(token, index.event_id, known_from);
        while let Some(stored) = replay.next().await? {
            new.push(index_entry(&parse(&stored)?));
            if new.len().is_multiple_of(EVENTS_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        new.extend(entries);
        index.extend(upto, new);
        Ok(())
    }
}
