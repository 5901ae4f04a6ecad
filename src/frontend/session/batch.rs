//! A batch: several drafts that a client sent as one unit of work, answered together.
//!
//! While a batch waits for its answer its connection reads no further frame, so nothing that comes later can
//! overtake it.

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::socket::End;
use crate::event::{EventId, EventRecord, FieldError, Reason};
use crate::fault;
use crate::frontend::entry::Entry;
use crate::frontend::metrics;
use crate::frontend::pending::{self, Done, Taken};
use crate::protocol::{
    BadRequest, Checked, CloseCode, ErrorCode, ItemContext, ItemResult, Notice, SubmitBatch, SubmitItem,
};

/// A batch that is not answered yet.
pub(super) struct Batch {
    /// The request's id, if it has one.
    request: Option<String>,
    /// The items' ids, in order.
    ids: Vec<String>,
    /// What became of the first of them; the ones that went to a validator.
    ends: Vec<Option<ItemEnd>>,
    /// Why the one behind those did not go.
    refused: Option<(&'static str, String)>,
}

enum ItemEnd {
    Committed { event_id: EventId, timestamp: u64 },
    Rejected { reason: &'static str, errors: Vec<FieldError> },
    NotProcessed,
}

impl Session {
    /// Takes a batch in, or says why not.
    pub(super) async fn submit_batch(&mut self, id: Option<String>, batch: SubmitBatch) -> Result<(), End> {
        if self.leaves() {
            return Err(unavailable("this frontend is going away; reconnect", CloseCode::GoingAway));
        }
        let items_max = self.hub.settings.pending_drafts_max;
        if batch.items.len() > items_max {
            let message =
                format!("a batch has at most {items_max} events, this one has {}", batch.items.len());
            return self.frames.refuse(&mut self.socket, BadRequest { reply_to: id, message }).await;
        }
        metrics::hot().submitted.increment(batch.items.len() as u64);
        let context = ItemContext {
            client_id: self.identity.client_id.as_str(),
            user_id: self.identity.user_id.as_deref(),
            project_id: self.feed.partition().as_str(),
        };
        let Checked { drafts, refused, ids } = SubmitItem::check(batch.items, &context);
        let ends = drafts.iter().map(|_| None).collect();
        let batch_ids = &ids;
        for (place, draft) in drafts.into_iter().enumerate() {
            match self.pending.submit(draft, place.to_string(), Instant::now()) {
                Taken::Queued(key) => {
                    self.look_out(key);
                    self.begin_trace(key, batch_ids.get(place).map_or("", String::as_str));
                }
                // The same event twice in one batch is one event.
                Taken::Attached => {}
                Taken::Full => {
                    return Err(unavailable(
                        "too many events are not answered yet",
                        CloseCode::TryAgainLater,
                    ));
                }
            }
        }
        self.batch = Some(Batch { request: id, ids, ends, refused });
        self.answer_batch().await
    }

    /// Takes note of how an item ended, and answers the batch if it was the last.
    pub(super) async fn item_done(&mut self, done: Done, entry: Option<&Arc<Entry>>) -> Result<(), End> {
        let dialect = self.socket.dialect();
        let Some(batch) = &mut self.batch else { return Ok(()) };
        for place in done.asked.iter().filter_map(|place| place.parse::<usize>().ok()) {
            let end = match (&done.end, entry) {
                (pending::End::Accepted, Some(entry)) => {
                    metrics::hot().accepted.increment(1);
                    // The submitter has its answer; it gets no broadcast of its own event.
                    if entry.id > self.position && !fault::broken("own_broadcast") {
                        self.own = self.own.split_off(&self.position);
                        self.own.insert(entry.id);
                    }
                    let timestamp = EventRecord::parse(&entry.body).map_or(0, |record| record.timestamp);
                    ItemEnd::Committed { event_id: entry.id, timestamp }
                }
                (pending::End::Rejected(Reason::Unavailable, _) | pending::End::Forgotten, _)
                | (pending::End::Accepted, None) => {
                    return Err(unavailable("the log cannot be reached just now", CloseCode::TryAgainLater));
                }
                (pending::End::Rejected(reason, errors), _) => {
                    metrics::count_by(metrics::REJECTED, "code", reason.as_str());
                    ItemEnd::Rejected { reason: dialect.reason_name(*reason), errors: errors.clone() }
                }
                (pending::End::NotProcessed, _) => ItemEnd::NotProcessed,
            };
            if let Some(slot) = batch.ends.get_mut(place) {
                *slot = Some(end);
            }
        }
        self.answer_batch().await
    }

    /// Answers the batch if every item's end is known.
    async fn answer_batch(&mut self) -> Result<(), End> {
        let Some(batch) = self.batch.take_if(|batch| batch.ends.iter().all(Option::is_some)) else {
            return Ok(());
        };
        let refusal = batch.refused.as_ref().map(|(_, message)| {
            [FieldError { field: String::new(), message: message.clone(), code: "BAD_ITEM".to_owned() }]
        });
        let mut blocked_by: Option<&str> = None;
        let mut items = Vec::with_capacity(batch.ids.len());
        let (mut told, mut untold) = (Vec::new(), Vec::new());
        for (place, id) in batch.ids.iter().enumerate() {
            let item = match (batch.ends.get(place).and_then(Option::as_ref), blocked_by) {
                (Some(ItemEnd::Committed { event_id, timestamp }), None) => {
                    told.push(*event_id);
                    ItemResult::Committed { id, event_id: *event_id, timestamp: *timestamp }
                }
                // In the log by another way than this batch: earlier in it, or through another connection.
                (Some(ItemEnd::Committed { event_id, .. }), Some(blocked_by)) => {
                    untold.push(*event_id);
                    ItemResult::NotProcessed { id, blocked_by }
                }
                (Some(ItemEnd::Rejected { reason, errors }), None) => {
                    blocked_by = Some(id);
                    ItemResult::Rejected { id, reason, errors }
                }
                (None, None) => {
                    blocked_by = Some(id);
                    let reason = batch.refused.as_ref().map_or("validation_failed", |(reason, _)| reason);
                    ItemResult::Rejected { id, reason, errors: refusal.as_ref().map_or(&[], |one| one) }
                }
                (_, blocked_by) => ItemResult::NotProcessed { id, blocked_by: blocked_by.unwrap_or(id) },
            };
            items.push(item);
        }
        // What the answer does not tell of is broadcast like anybody's.
        for event_id in untold.into_iter().filter(|id| !told.contains(id)) {
            self.own.remove(&event_id);
        }
        self.socket.send(batch.request.as_deref(), &Notice::BatchResult { items: &items }).await
    }
}

fn unavailable(why: &'static str, close: CloseCode) -> End {
    End::Close(ErrorCode::Unavailable, why.into(), close)
}
