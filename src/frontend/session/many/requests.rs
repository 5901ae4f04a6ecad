//! What a client asks of a connection that names its partitions.

use std::sync::Arc;
use std::time::Instant;

use super::subscription::{Ends, Subscription, Work};
use super::{SUBSCRIPTION_BYTES, Session, unsubscribe};
use crate::app::NoEntry;
use crate::event::{EventId, FieldError, PartitionKey, Reason};
use crate::faults;
use crate::frontend::metrics;
use crate::frontend::session::frames::Refusal;
use crate::frontend::session::handshake::{Refused, StartFrom, join};
use crate::frontend::session::lane::Lane;
use crate::frontend::session::socket::End;
use crate::protocol::{ErrorCode, Frame, PARTITIONS_MAX, Request, Submit, Subscribe, Sync};

/// Why a partition is not subscribed to though the connection has fewer than it may.
const NO_ROOM: &str = "this client's subscriptions and unanswered drafts take what it may hold; unsubscribe from a partition first";

impl Session {
    /// Takes a frame.
    pub(super) async fn frame(&mut self, looked: Result<Frame, Refusal>) -> Result<(), End> {
        let Some(Frame { id, request }) = self.line.understood(looked).await? else { return Ok(()) };
        match request {
            Request::Subscribe(wanted) => self.subscribe(id, wanted).await,
            Request::Unsubscribe { partition } => self.unsubscribe(id, &partition).await,
            Request::Submit(submit) => self.submit(id.unwrap_or_default(), *submit).await,
            Request::Sync(sync) => self.sync(id, sync).await,
            Request::RefreshToken { token } => self.refresh(id.as_deref(), &token).await,
            other => self.line.answer(id, other).await,
        }
    }

    fn find(&mut self, partition: &PartitionKey) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|one| one.partition() == partition)
    }

    async fn subscribe(&mut self, id: Option<String>, wanted: Subscribe) -> Result<(), End> {
        let id_of = id.as_deref();
        if let Some(one) = self.find(&wanted.partition) {
            let why = match one.ends {
                None => "this partition is subscribed to already",
                Some(_) => "this partition is being unsubscribed: its last drafts are not answered yet",
            };
            return self.line.error(id_of, ErrorCode::BadRequest, why).await;
        }
        if self.line.leaves() {
            let why = "this frontend is going away; reconnect";
            return self.line.error(id_of, ErrorCode::Unavailable, why).await;
        }
        if !self.line.identity.may_enter(wanted.partition.as_str()) {
            let why = "the token does not permit this partition";
            return self.line.error(id_of, ErrorCode::Forbidden, why).await;
        }
        if self.subscriptions.len() >= PARTITIONS_MAX {
            let why =
                format!("a connection has at most {PARTITIONS_MAX} partitions; unsubscribe from one first");
            return self.line.error(id_of, ErrorCode::Forbidden, &why).await;
        }
        if let Err(wait) = self.allowance.take(Instant::now()) {
            let (code, why) = (ErrorCode::RateLimited, "more subscriptions than allowed");
            return self.line.socket.error(id_of, code, why, Some(wait)).await;
        }
        self.open(id, wanted);
        self.tell_subscriptions();
        Ok(())
    }

    /// Begins a subscription, which is answered as soon as the partition is joined.
    pub(super) fn open(&mut self, id: Option<String>, wanted: Subscribe) {
        let Subscribe { partition, last_event_id } = wanted;
        let (line, seats) = (&self.line, Arc::clone(&self.seats));
        let (shared, identity) = (Arc::clone(&line.shared), Arc::clone(&line.identity));
        let number = faults::connection_number(shared.number(), line.connection as u16);
        let watched = shared.feeds.watch(&partition);
        let feed = Arc::clone(&watched);
        let lane = Lane::new(line, number, watched, EventId::NONE, None);
        let from = StartFrom { last_event_id, live: false };
        let has_room = line.account.has_room_to_keep(SUBSCRIPTION_BYTES);
        let joining = async move {
            if !has_room {
                return Err(Refused(ErrorCode::Unavailable, NO_ROOM.to_owned()));
            }
            shared.admit(&identity, feed.partition()).await?;
            join(&shared, number, from, &identity, &feed, Some(&seats)).await
        };
        let work = Work::Joining(id, Box::pin(joining));
        self.subscriptions.push(Subscription::new(lane, work, &self.task));
        self.hold.set(self.subscriptions.len() * SUBSCRIPTION_BYTES);
    }

    async fn unsubscribe(&mut self, id: Option<String>, partition: &PartitionKey) -> Result<(), End> {
        match self.find(partition) {
            Some(one) if one.ends.is_none() => {
                one.end(Ends::Answered(id));
                Ok(())
            }
            _ => {
                let why = "this partition is not subscribed to";
                self.line.error(id.as_deref(), ErrorCode::BadRequest, why).await
            }
        }
    }

    async fn submit(&mut self, id: String, submit: Submit) -> Result<(), End> {
        let (partition, bytes) = match &submit.draft {
            Ok((partition, draft)) => (partition.clone(), draft.json_bytes()),
            Err(error) => {
                metrics::hot().submitted.increment(1);
                let errors = [error.clone()];
                return self
                    .line
                    .reject(&id, &submit.draft_id, Reason::ValidationFailed, &errors, None)
                    .await;
            }
        };
        let Some(partition) = partition else {
            metrics::hot().submitted.increment(1);
            let why = "must be named: this connection names its partitions";
            let errors = [FieldError::new("event.partition", "SCHEMA_ERROR", why)];
            return self.line.reject(&id, &submit.draft_id, Reason::ValidationFailed, &errors, None).await;
        };
        let Self { line, subscriptions, .. } = self;
        let subscribed = subscriptions.iter_mut().find(|one| *one.partition() == partition);
        let Some(one) = subscribed.filter(|one| one.ends.is_none()) else {
            metrics::hot().submitted.increment(1);
            let errors = [FieldError::new("event.partition", "FORBIDDEN", "is not subscribed to")];
            return line.reject(&id, &submit.draft_id, Reason::Forbidden, &errors, None).await;
        };
        // One whose drafts are not decided leaves the others room.
        let held = 2 * one.lane.pending.bytes();
        if held > 0 && held + 2 * bytes > (line.account.left() + held) / 2 {
            metrics::hot().submitted.increment(1);
            return line.reject(&id, &submit.draft_id, Reason::Unavailable, &[], None).await;
        }
        one.end_cycle();
        let taken = one.lane.submit(line, id, submit).await;
        one.touch();
        taken
    }

    async fn sync(&mut self, id: Option<String>, sync: Sync) -> Result<(), End> {
        let Self { line, subscriptions, seats, .. } = self;
        let Some(partition) = &sync.partition else {
            let why = "`partition` is missing: this connection names its partitions";
            return line.error(id.as_deref(), ErrorCode::BadRequest, why).await;
        };
        let subscribed = subscriptions.iter_mut().find(|one| one.partition() == partition);
        let Some(one) = subscribed.filter(|one| one.ends.is_none()) else {
            let why = "`partition` is not subscribed to";
            return line.error(id.as_deref(), ErrorCode::Forbidden, why).await;
        };
        let busy = match one.work {
            Some(Work::Joining(..)) => Some("`subscribed` has not come yet"),
            Some(Work::Syncing(..)) => Some("a sync of this partition is being answered"),
            Some(Work::Reading(..)) | None => None,
        };
        let busy = busy.or(one.lane.sending.is_some().then_some("a state of this partition is being sent"));
        if let Some(why) = busy {
            return line.error(id.as_deref(), ErrorCode::Unavailable, why).await;
        }
        one.ends_cycle = false;
        let doing = one.lane.begin_sync(line, sync, Some(Arc::clone(seats)));
        one.work = Some(Work::Syncing(id, Box::pin(doing)));
        one.touch();
        Ok(())
    }

    /// Goes on under a fresh token. What it does not permit any more is unsubscribed.
    async fn refresh(&mut self, id: Option<&str>, token: &str) -> Result<(), End> {
        let Some(fresh) = self.line.fresh_identity(id, None, token).await? else { return Ok(()) };
        let shared = Arc::clone(&self.line.shared);
        let partitions: Vec<PartitionKey> =
            self.subscriptions.iter().map(|one| one.partition().clone()).collect();
        let mut kept = Vec::with_capacity(partitions.len());
        for partition in &partitions {
            let may_enter = fresh.may_enter(partition.as_str());
            match shared.admit(&fresh, partition).await {
                // Who cannot be answered now goes on under the token that he has, and asks again.
                Err(no @ NoEntry::Unavailable) if may_enter => {
                    return self.line.error(id, ErrorCode::Unavailable, &no.to_string()).await;
                }
                admitted => kept.push(may_enter && admitted.is_ok()),
            }
        }
        self.line.continue_as(id, fresh).await?;
        let Self { line, subscriptions, .. } = self;
        for (one, is_kept) in subscriptions.iter_mut().zip(kept) {
            if is_kept {
                continue;
            }
            let is_told = one.ends.is_some();
            for done in one.lane.pending.give_up() {
                one.lane.answer_draft(line, done, None).await?;
            }
            if !is_told {
                let why = "the fresh token does not permit this partition";
                unsubscribe(line, one, ErrorCode::Forbidden, why).await?;
            }
        }
        Ok(())
    }
}

impl Subscription {
    /// Another message than the next `sync` came: the cycle of pages ends.
    fn end_cycle(&mut self) {
        self.ends_cycle = matches!(self.work, Some(Work::Syncing(..)));
        self.lane.cycle = None;
    }
}
