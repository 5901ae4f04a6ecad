//! The batches of a connection that are not answered yet, with each item's outcome.

use crate::event::EventId;
use crate::event::FieldError;
use crate::protocol::ItemResult;
use serde_json::value::RawValue;
use std::collections::VecDeque;

/// The batches of a connection that are not answered yet.
#[derive(Default)]
pub(crate) struct Batches {
    /// In the order they came.
    pub(crate) waiting: VecDeque<Batch>,
    /// How many were answered before: the number of the first that waits.
    pub(crate) answered: u64,
}

impl Batches {
    /// Whether all are answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number of the next one.
    pub(crate) fn next(&self) -> u64 {
        self.answered + self.waiting.len() as u64
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Batch> {
        let index = number.checked_sub(self.answered)?;
        self.waiting.get_mut(usize::try_from(index).ok()?)
    }

    /// The first, if the end of each of its items is known.
    pub(crate) fn pop_done(&mut self) -> Option<Batch> {
        let done = self.waiting.front()?.ends.iter().all(Option::is_some);
        self.answered += u64::from(done);
        if done { self.waiting.pop_front() } else { None }
    }

    /// Whether one that waits has an item that is this event.
    pub(crate) fn have(&self, event_id: EventId) -> bool {
        let ends = self.waiting.iter().flat_map(|batch| &batch.ends);
        ends.flatten().any(|end| matches!(end, ItemEnd::Committed { event_id: id, .. } if *id == event_id))
    }
}

/// A batch that is not answered yet.
pub(crate) struct Batch {
    /// The request's id, if it has one.
    pub(crate) request: Option<String>,
    /// The items' ids, in order, as the client wrote them.
    pub(crate) ids: Vec<Box<RawValue>>,
    /// What became of the first of them; the ones that went to a validator.
    pub(crate) ends: Vec<Option<ItemEnd>>,
    /// Why the one behind those did not go.
    pub(crate) refused: Option<(&'static str, FieldError)>,
}

pub(crate) enum ItemEnd {
    Committed { event_id: EventId, timestamp: u64 },
    Rejected { reason: &'static str, errors: Vec<FieldError> },
    NotProcessed,
}

impl Batch {
    /// What to answer, an entry per item. Nothing if they are not the ends of a unit of work: one was not
    /// processed though nothing before it was rejected. That can be when an earlier connection's copy of the item
    /// that a validator had rejected was committed after all, and its event was here before the answer.
    pub(crate) fn results<'a>(&'a self, refusal: &'a [FieldError]) -> Option<Vec<ItemResult<'a>>> {
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
