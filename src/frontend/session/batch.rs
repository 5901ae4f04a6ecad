//! Batches: several drafts that a client sent as one unit of work, answered together.
//!
//! A client may send further batches before one is answered; they are answered in the order they came. Whatever
//! else it sends meanwhile waits, with all that comes behind it, so nothing that comes later overtakes a batch.

use std::sync::Arc;

use tokio::time::Instant;

use super::batches::{Batch, ItemEnd};
use super::frames::Refusal;
use super::lane::Lane;
use super::line::Line;
use super::socket::End;
use crate::event::{FieldError, Reason};
use crate::faults;
use crate::frontend::feed::event::Entry;
use crate::frontend::metrics;
use crate::outbox;
use crate::outbox::{Asked, Done, Taken};
use crate::protocol::{
    Checked, CloseCode, ErrorCode, Frame, ItemContext, ItemRefusal, ItemResult, Notice, Request, SubmitBatch,
    SubmitItem,
};

impl Lane {
    /// Whether a frame has to wait until what came before it is answered: it is no batch, or there is no room.
    pub(crate) fn must_wait(&self, line: &Line, looked: &Result<Frame, Refusal>) -> bool {
        // One state at a time.
        let is_sync = matches!(looked, Ok(Frame { request: Request::Sync(_), .. }));
        if self.sending.is_some() && is_sync {
            return true;
        }
        if self.batches.is_empty() {
            return false;
        }
        let Ok(Frame { request: Request::SubmitBatch(batch), .. }) = looked else { return true };
        let room = line.shared.settings.pending_drafts_max;
        let items = batch.items.len().min(room);
        line.leaves() || self.pending.len() + items > room || self.batches.waiting.len() >= room
    }

    /// Takes a batch in, or says why not.
    pub(crate) async fn submit_batch(
        &mut self,
        line: &mut Line,
        id: Option<String>,
        batch: SubmitBatch,
    ) -> Result<(), End> {
        if line.leaves() {
            return Err(unavailable("this frontend is going away; reconnect", CloseCode::GoingAway));
        }
        metrics::hot().submitted.increment(batch.items.len() as u64);
        let context = ItemContext {
            client_id: line.identity.client_id.as_str(),
            user_id: line.identity.user_id.as_deref(),
            any_user: line.shared.auth.takes_anyone(),
            project_id: self.feed.partition().as_str(),
            items_max: line.shared.settings.pending_drafts_max,
        };
        let Checked { mut drafts, refused, ids } = SubmitItem::check(batch.items, &context);
        let error_of = |refused: ItemRefusal| FieldError::new(refused.field, refused.code, refused.message);
        let mut refused = refused.map(|refused| (refused.reason, error_of(refused)));
        let too_large = |(place, draft)| Some((place, self.too_large(line, draft)?));
        if let Some((place, error)) = drafts.iter().enumerate().find_map(too_large) {
            drafts.truncate(place);
            refused = Some((Reason::ValidationFailed.as_str(), error));
        }
        let bytes_max = self.drafts_bytes_max(line);
        let all = drafts.iter().scan(0, |bytes: &mut usize, draft| {
            *bytes += draft.json_bytes();
            Some(*bytes)
        });
        if let Some(place) = all.skip(1).position(|bytes| bytes > bytes_max) {
            // The first always goes: by itself it is not too large.
            drafts.truncate(place + 1);
            let message = format!(
                "with this event the batch takes more than {bytes_max} bytes, and the log takes no more at a time; \
                 send fewer events at once"
            );
            let error = FieldError::new("", "TOO_MANY_ITEMS", message);
            refused = Some((Reason::ValidationFailed.as_str(), error));
        }
        let ends = drafts.iter().map(|_| None).collect();
        let batch = self.batches.next();
        self.pending.begin_unit();
        for (place, draft) in drafts.into_iter().enumerate() {
            let draft_id = draft.draft_id.clone();
            match self.pending.submit(draft, Asked::Item { batch, place }, Instant::now().into_std()) {
                Taken::Queued(key) => {
                    self.watch_draft(line, key);
                    self.begin_trace(line, key, &draft_id);
                }
                // The same event twice in one batch is one event.
                Taken::Attached => {}
                Taken::Full => {
                    let why = "too many events are not answered yet";
                    return Err(unavailable(why, CloseCode::TryAgainLater));
                }
            }
        }
        self.batches.waiting.push_back(Batch { request: id, ids, ends, refused });
        self.answer_batches(line).await
    }

    /// Takes note of how an item ended, and answers what can be answered then.
    pub(crate) async fn item_done(
        &mut self,
        line: &mut Line,
        done: Done,
        entry: Option<&Arc<Entry>>,
    ) -> Result<(), End> {
        let dialect = line.socket.dialect();
        for asked in &done.asked {
            let Asked::Item { batch, place } = *asked else { continue };
            let end = match (&done.end, entry) {
                (outbox::End::Accepted, Some(entry)) => {
                    metrics::hot().accepted.increment(1);
                    // The submitter has its answer; it gets no broadcast of its own event.
                    if entry.id > self.position && !faults::broken("own_broadcast") {
                        while self.own_events.first_key_value().is_some_and(|(id, _)| *id <= self.position) {
                            self.own_events.pop_first();
                        }
                        self.own_events.entry(entry.id).or_insert(false);
                    }
                    ItemEnd::Committed { event_id: entry.id, timestamp: entry.timestamp_ms }
                }
                // Nobody has decided it. Where a validator says why it cannot be decided, such as that the
                // partition is stopped, that is the item's end: its client would come back for ever.
                (outbox::End::Rejected(Reason::Unavailable, errors), _) if errors.is_empty() => {
                    return Err(unavailable("the log is unreachable", CloseCode::TryAgainLater));
                }
                (outbox::End::Forgotten, _) | (outbox::End::Accepted, None) => {
                    metrics::count(metrics::FORGOTTEN);
                    let why = line.outcome_unknown("events");
                    return Err(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::TryAgainLater));
                }
                (outbox::End::Rejected(reason, errors), _) => {
                    metrics::count_by(metrics::REJECTED, "reason", reason.as_str());
                    ItemEnd::Rejected { reason: dialect.reason_name(*reason), errors: errors.clone() }
                }
                (outbox::End::NotProcessed, _) => ItemEnd::NotProcessed,
            };
            if let Some(slot) = self.batches.get_mut(batch).and_then(|batch| batch.ends.get_mut(place)) {
                *slot = Some(end);
            }
        }
        self.answer_batches(line).await
    }

    /// Answers the first batches, as far as every item's end is known.
    async fn answer_batches(&mut self, line: &mut Line) -> Result<(), End> {
        while let Some(batch) = self.batches.pop_done() {
            self.answer_batch(line, &batch).await?;
        }
        Ok(())
    }

    async fn answer_batch(&mut self, line: &mut Line, batch: &Batch) -> Result<(), End> {
        let refusal = batch.refused.as_ref().map_or(&[][..], |(_, error)| std::slice::from_ref(error));
        let Some(items) = batch.results(refusal) else {
            let why = "another connection's copy of these events came in between; send them again";
            return Err(unavailable(why, CloseCode::TryAgainLater));
        };
        for (item, end) in items.iter().zip(&batch.ends) {
            let Some(ItemEnd::Committed { event_id, .. }) = end else { continue };
            match (item, self.own_events.get_mut(event_id)) {
                (ItemResult::Committed { .. }, Some(is_told)) => *is_told = true,
                // What no answer tells of is broadcast like anybody's.
                (_, Some(false)) if !self.batches.have(*event_id) => drop(self.own_events.remove(event_id)),
                _ => {}
            }
        }
        line.socket.send(batch.request.as_deref(), &Notice::BatchResult { items: &items }).await
    }
}

fn unavailable(why: &'static str, close: CloseCode) -> End {
    End::Close(ErrorCode::Unavailable, why.into(), close)
}
