//! Batches: several drafts that a client sent as one unit of work, answered together.
//!
//! A client may send further batches before one is answered; they are answered in the order they came. Whatever
//! else it sends meanwhile waits, with all that comes behind it, so nothing that comes later overtakes a batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;

use super::Session;
use super::frames::Refusal;
use super::socket::End;
use crate::event::{EventId, FieldError, Reason};
use crate::faults;
use crate::frontend::feed::event::Entry;
use crate::frontend::metrics;
use crate::outbox;
use crate::outbox::{Asked, Done, Taken};
use crate::protocol::{
    Checked, CloseCode, ErrorCode, Frame, ItemContext, ItemRefusal, ItemResult, Notice, Request, SubmitBatch,
    SubmitItem,
};

/// The batches of a connection that are not answered yet.
#[derive(Default)]
pub(crate) struct Batches {
    /// In the order they came.
    waiting: VecDeque<Batch>,
    /// How many were answered before: the number of the first that waits.
    answered: u64,
}

impl Batches {
    /// Whether all are answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number of the next one.
    fn next(&self) -> u64 {
        self.answered + self.waiting.len() as u64
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Batch> {
        let index = number.checked_sub(self.answered)?;
        self.waiting.get_mut(usize::try_from(index).ok()?)
    }

    /// The first, if the end of each of its items is known.
    fn pop_done(&mut self) -> Option<Batch> {
        let done = self.waiting.front()?.ends.iter().all(Option::is_some);
        self.answered += u64::from(done);
        if done { self.waiting.pop_front() } else { None }
    }

    /// Whether one that waits has an item that is this event.
    fn have(&self, event_id: EventId) -> bool {
        let ends = self.waiting.iter().flat_map(|batch| &batch.ends);
        ends.flatten().any(|end| matches!(end, ItemEnd::Committed { event_id: id, .. } if *id == event_id))
    }
}

/// A batch that is not answered yet.
struct Batch {
    /// The request's id, if it has one.
    request: Option<String>,
    /// The items' ids, in order, as the client wrote them.
    ids: Vec<Box<RawValue>>,
    /// What became of the first of them; the ones that went to a validator.
    ends: Vec<Option<ItemEnd>>,
    /// Why the one behind those did not go.
    refused: Option<(&'static str, FieldError)>,
}

enum ItemEnd {
    Committed { event_id: EventId, timestamp: u64 },
    Rejected { reason: &'static str, errors: Vec<FieldError> },
    NotProcessed,
}

impl Session {
    /// Whether a frame has to wait until what came before it is answered: it is no batch, or there is no room.
    pub(crate) fn must_wait(&self, looked: &Result<Frame, Refusal>) -> bool {
        // One state at a time.
        let is_sync = matches!(looked, Ok(Frame { request: Request::Sync(_), .. }));
        if self.sending.is_some() && is_sync {
            return true;
        }
        if self.batches.is_empty() {
            return false;
        }
        let Ok(Frame { request: Request::SubmitBatch(batch), .. }) = looked else { return true };
        let room = self.hub.settings.pending_drafts_max;
        let items = batch.items.len().min(room);
        self.leaves() || self.pending.len() + items > room || self.batches.waiting.len() >= room
    }

    /// Takes a batch in, or says why not.
    pub(crate) async fn submit_batch(&mut self, id: Option<String>, batch: SubmitBatch) -> Result<(), End> {
        if self.leaves() {
            return Err(unavailable("this frontend is going away; reconnect", CloseCode::GoingAway));
        }
        metrics::hot().submitted.increment(batch.items.len() as u64);
        let context = ItemContext {
            client_id: self.identity.client_id.as_str(),
            user_id: self.identity.user_id.as_deref(),
            any_user: self.hub.auth.takes_anyone(),
            project_id: self.feed.partition().as_str(),
            items_max: self.hub.settings.pending_drafts_max,
        };
        let Checked { mut drafts, refused, ids } = SubmitItem::check(batch.items, &context);
        let error_of = |refused: ItemRefusal| FieldError::new(refused.field, refused.code, refused.message);
        let mut refused = refused.map(|refused| (refused.reason, error_of(refused)));
        let too_large = |(place, draft)| Some((place, self.too_large(draft)?));
        if let Some((place, error)) = drafts.iter().enumerate().find_map(too_large) {
            drafts.truncate(place);
            refused = Some((Reason::ValidationFailed.as_str(), error));
        }
        let bytes_max = self.drafts_bytes_max();
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
            match self.pending.submit(draft, Asked::Item { batch, place }, Instant::now()) {
                Taken::Queued(key) => {
                    self.look_out(key);
                    self.begin_trace(key, &draft_id);
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
        self.answer_batches().await
    }

    /// Takes note of how an item ended, and answers what can be answered then.
    pub(crate) async fn item_done(&mut self, done: Done, entry: Option<&Arc<Entry>>) -> Result<(), End> {
        let dialect = self.socket.dialect();
        for asked in &done.asked {
            let Asked::Item { batch, place } = *asked else { continue };
            let end = match (&done.end, entry) {
                (outbox::End::Accepted, Some(entry)) => {
                    metrics::hot().accepted.increment(1);
                    // The submitter has its answer; it gets no broadcast of its own event.
                    if entry.id > self.position && !faults::broken("own_broadcast") {
                        while self.own.first_key_value().is_some_and(|(id, _)| *id <= self.position) {
                            self.own.pop_first();
                        }
                        self.own.entry(entry.id).or_insert(false);
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
                    let why = self.outcome_unknown("events");
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
        self.answer_batches().await
    }

    /// Answers the first batches, as far as every item's end is known.
    async fn answer_batches(&mut self) -> Result<(), End> {
        while let Some(batch) = self.batches.pop_done() {
            self.answer_batch(&batch).await?;
        }
        Ok(())
    }

    async fn answer_batch(&mut self, batch: &Batch) -> Result<(), End> {
        let refusal = batch.refused.as_ref().map_or(&[][..], |(_, error)| std::slice::from_ref(error));
        let Some(items) = batch.results(refusal) else {
            let why = "another connection's copy of these events came in between; send them again";
            return Err(unavailable(why, CloseCode::TryAgainLater));
        };
        for (item, end) in items.iter().zip(&batch.ends) {
            let Some(ItemEnd::Committed { event_id, .. }) = end else { continue };
            match (item, self.own.get_mut(event_id)) {
                (ItemResult::Committed { .. }, Some(is_told)) => *is_told = true,
                // What no answer tells of is broadcast like anybody's.
                (_, Some(false)) if !self.batches.have(*event_id) => drop(self.own.remove(event_id)),
                _ => {}
            }
        }
        self.socket.send(batch.request.as_deref(), &Notice::BatchResult { items: &items }).await
    }
}

impl Batch {
    /// What to answer, an entry per item. Nothing if they are not the ends of a unit of work: one was not
    /// processed though nothing before it was rejected. That can be when an earlier connection's copy of the item
    /// that a validator had rejected was committed after all, and its event was here before the answer.
    fn results<'a>(&'a self, refusal: &'a [FieldError]) -> Option<Vec<ItemResult<'a>>> {
        let mut blocked_by: Option<&RawValue> = None;
        let mut items = Vec::with_capacity(self.ids.len());
        for (place, id) in self.ids.iter().enumerate() {
            let item = match (self.ends.get(place).and_then(Option::as_ref), blocked_by) {
                (Some(ItemEnd::Committed { event_id, timestamp }), None) => {
                    ItemResult::Committed { id, event_id: *event_id, timestamp: *timestamp }
                }
                (Some(ItemEnd::Rejected { reason, errors }), None) => {
                    blocked_by = Some(id);
                    ItemResult::Rejected { id, reason, errors }
                }
                (None, None) => {
                    blocked_by = Some(id);
                    let reason = self.refused.as_ref().map_or("validation_failed", |(reason, _)| reason);
                    ItemResult::Rejected { id, reason, errors: refusal }
                }
                (Some(ItemEnd::NotProcessed), None) => return None,
                // One that is in the log came there by another way than this batch: earlier in it, or through
                // another connection.
                (_, Some(blocked_by)) => ItemResult::NotProcessed { id, blocked_by },
            };
            items.push(item);
        }
        Some(items)
    }
}

fn unavailable(why: &'static str, close: CloseCode) -> End {
    End::Close(ErrorCode::Unavailable, why.into(), close)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> Box<RawValue> {
        serde_json::value::to_raw_value(&format!("i{n}")).unwrap()
    }

    fn batch(ends: Vec<ItemEnd>) -> Batch {
        let ids = (1..=ends.len()).map(id).collect();
        Batch { request: None, ids, ends: ends.into_iter().map(Some).collect(), refused: None }
    }

    fn committed(n: u64) -> ItemEnd {
        ItemEnd::Committed { event_id: EventId(n), timestamp: n }
    }

    fn rejected() -> ItemEnd {
        ItemEnd::Rejected { reason: "validation_failed", errors: Vec::new() }
    }

    #[test]
    fn what_stands_behind_the_first_rejected_item_is_not_processed_even_if_it_is_in_the_log() {
        let batch = batch(vec![committed(1), rejected(), ItemEnd::NotProcessed, committed(9)]);
        let items = batch.results(&[]).unwrap();
        let is = |id: &RawValue, n| id.get() == self::id(n).get();
        assert!(matches!(items[0], ItemResult::Committed { id, event_id: EventId(1), .. } if is(id, 1)));
        assert!(matches!(items[1], ItemResult::Rejected { id, .. } if is(id, 2)));
        for (item, n) in items[2..].iter().zip(3..) {
            assert!(
                matches!(item, ItemResult::NotProcessed { id, blocked_by } if is(id, n) && is(blocked_by, 2))
            );
        }
    }

    /// Found by the torture test, seed 101, round 14.
    #[test]
    fn nothing_is_called_not_processed_behind_items_that_are_all_committed() {
        assert!(batch(vec![committed(1), ItemEnd::NotProcessed]).results(&[]).is_none());
    }

    #[test]
    fn batches_are_done_in_the_order_they_came() {
        let mut batches = Batches::default();
        let first = batches.next();
        batches.waiting.push_back(batch(vec![committed(1), committed(2)]));
        batches.get_mut(first).unwrap().ends[1] = None;
        let second = batches.next();
        batches.waiting.push_back(batch(vec![committed(3)]));
        assert!(batches.pop_done().is_none());
        assert!(batches.have(EventId(3)) && !batches.have(EventId(2)));
        batches.get_mut(first).unwrap().ends[1] = Some(rejected());
        assert_eq!(batches.pop_done().unwrap().ids.len(), 2);
        assert!(batches.get_mut(first).is_none() && batches.get_mut(second).is_some());
        assert_eq!(batches.pop_done().unwrap().ids.len(), 1);
        assert!(batches.is_empty() && batches.get_mut(second).is_none());
    }
}
