//! A snapshot's draft index as it is read.

use crate::event::{CommittedEvent, EventId, Token};
use crate::log::{Log, LogError, SnapshotPart, metrics, snapshot_bytes_max};
use crate::state::{IndexEntry, IndexPart};

/// The most drafts of one object of a draft index: as many as are read back.
pub(super) fn index_drafts_max() -> usize {
    IndexPart::drafts_in(snapshot_bytes_max())
}

/// A draft index without its entries.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct IndexSummary {
    pub event_id: EventId,
    pub drafts: u64,
    /// Whether its last object is full, so that it may go on in another one.
    pub is_full: bool,
}

impl IndexSummary {
    pub(super) fn of(index: &IndexPart) -> Self {
        let drafts = index.entries.len();
        Self { event_id: index.event_id, drafts: drafts as u64, is_full: drafts >= index_drafts_max() }
    }
}

impl Log {
    /// The object of a draft index that goes on after event `after`; `None` if there is none, or none that can be used.
    pub(super) async fn index_object(
        &self,
        token: &Token,
        number: u32,
        after: EventId,
    ) -> Result<Option<IndexPart>, LogError> {
        let part = SnapshotPart::Index(number);
        let info = self.snapshot_info(token, part).await?;
        if info.is_none_or(|info| info.after != after) {
            return Ok(None);
        }
        let Some(bytes) = self.usable(token, part).await? else { return Ok(None) };
        let decoded = tokio::task::spawn_blocking(move || decode_index(Some(&bytes)));
        let index = decoded.await.map_err(|error| LogError::malformed("decoding a draft index", error))?;
        let goes_on = index.event_id > after && index.entries.iter().all(|(_, id, _)| *id > after);
        Ok(goes_on.then_some(index))
    }
}

/// An index that lacks drafts, or has some too many: an older version read the log with a hole, or it was damaged.
/// What it lacks could be committed a second time, so the log is read instead.
pub(super) fn report_incomplete_index(token: &Token, index: IndexSummary, events: Option<u64>) {
    metrics::incomplete_index();
    let IndexSummary { event_id, drafts, .. } = index;
    tracing::error!(
        %token, %event_id, drafts, events,
        "the snapshot's draft index does not have a draft for every event; making it again from the log"
    );
}

/// A draft index; an empty one where there is none, or none that can be used: the log has it all.
pub(super) fn decode_index(bytes: Option<&[u8]>) -> IndexPart {
    bytes
        .map(IndexPart::decode)
        .transpose()
        .unwrap_or_else(|error| {
            tracing::error!(%error, "a snapshot's draft index cannot be used; reading the log instead");
            None
        })
        .unwrap_or_default()
}

/// What the index has of an event.
pub(super) fn index_entry(event: &CommittedEvent<'_>) -> IndexEntry {
    (event.record.draft_key(), event.id, event.record.content_hash)
}
