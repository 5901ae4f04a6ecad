//! The log as a frontend sees it, on the simulated servers. The frontend itself is the one that there is, but for its
//! listener: sessions, feeds, pages and the list of pending drafts.

use std::hash::Hash;

use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::net::Link;
use super::port::{SLOTS, lost, read};
use super::world::{Mutation, Queued, Servers};
use crate::event::{Answer, EventId, PartitionKey, Submission, Token};
use crate::log::stand_in::{Reply, StandIn};
use crate::log::{ConnectionState, LiveEvent, LogError, PublishError, StoredEvent};

pub(crate) struct FrontendLog(pub Link);

impl FrontendLog {
    /// Reads at the servers, over the process's connection; what is read gets how many of the last events are lacking.
    fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        of: impl Hash,
        read: impl FnOnce(&Servers, usize) -> T + Send + 'static,
    ) -> Reply<Result<T, LogError>> {
        let link = self.0.for_read((what, of));
        let lacks = link.world.lacks();
        Box::pin(async move { link.ask(move |servers| read(servers, lacks)).await.map_err(lost(what)) })
    }

    fn is_broken(&self, mutation: Mutation) -> bool {
        self.0.world.look(|servers| servers.is_broken(mutation))
    }
}

impl StandIn for FrontendLog {
    fn state(&self) -> watch::Receiver<ConnectionState> {
        self.0.connection()
    }

    fn now_ms(&self) -> u64 {
        // Where the time of an earlier copy is over at once, its last moment counts for nothing.
        let speed = if self.is_broken(Mutation::NoLastMoment) { 1_000_000 } else { 1 };
        self.0.world.now_ms() * speed
    }

    fn head(&self, token: &Token) -> Reply<Result<Option<StoredEvent>, LogError>> {
        let of = token.clone();
        let last = move |servers: &Servers, lacks| read(servers, &of, EventId::NONE, lacks).pop();
        self.read("reading a head", token.as_str(), last)
    }

    fn page(
        &self,
        token: &Token,
        after: EventId,
        events_max: usize,
    ) -> Reply<Result<(Vec<StoredEvent>, bool), LogError>> {
        let of = token.clone();
        self.read("reading a page", (token.as_str(), after.0), move |servers, lacks| {
            let mut events = read(servers, &of, after, lacks);
            let more = events.len() > events_max;
            events.truncate(events_max);
            (events, more)
        })
    }

    fn event(&self, id: EventId) -> Reply<Result<Option<(Token, StoredEvent)>, LogError>> {
        self.read("reading an event", id.0, move |servers, _| {
            let stored = servers.log.get((id.0 as usize).checked_sub(1)?)?;
            Some((stored.token.clone(), StoredEvent { id, body: stored.body.clone() }))
        })
    }

    fn last_of_all(&self) -> Reply<Result<EventId, LogError>> {
        self.read("asking how far the log is", (), |servers, _| EventId(servers.log.len() as u64))
    }

    /// Live events come in their order, some time later. What is on its way when the connection breaks is lost, and so
    /// are single ones now and then, of which nobody is told.
    fn live(&self, token: &Token) -> Reply<Result<UnboundedReceiver<LiveEvent>, LogError>> {
        let (link, token) = (self.0.clone(), token.clone());
        let of = token.clone();
        let subscribed =
            self.read("subscribing to live events", token.as_str(), move |servers, _| servers.head(&of));
        Box::pin(async move {
            let mut previous = subscribed.await?;
            let (tell, told) = unbounded_channel();
            tokio::spawn(async move {
                let world = link.world.clone();
                loop {
                    let after = previous;
                    let next = world.until(|servers| {
                        servers.events(&token, after).next().map(|(id, body)| (id, body.clone()))
                    });
                    let (id, body) = tokio::select! {
                        biased;
                        () = tell.closed() => return,
                        next = next => next,
                    };
                    sleep_until(Instant::now() + world.delay()).await;
                    previous = id;
                    if link.is_cut() || world.happens(world.weather().lost_one_in) {
                        continue;
                    }
                    link.awake().await;
                    let event = StoredEvent { id, body };
                    if tell.send(LiveEvent { event, previous: after, trace: None }).is_err() {
                        return;
                    }
                }
            });
            Ok(told)
        })
    }

    fn answers(&self, frontend: &str) -> UnboundedReceiver<Answer> {
        let (tell, mut told) = unbounded_channel();
        self.0.world.change(|servers| servers.answers.insert(frontend.to_owned(), tell));
        let ((hand_out, answers), link) = (unbounded_channel(), self.0.clone());
        tokio::spawn(async move {
            while let Some(answer) = told.recv().await {
                sleep_until(Instant::now() + link.world.delay()).await;
                if link.is_cut() {
                    continue;
                }
                link.awake().await;
                if hand_out.send(answer).is_err() {
                    return;
                }
            }
        });
        answers
    }

    fn publish_draft(
        &self,
        partition: &PartitionKey,
        token: &Token,
        body: Bytes,
    ) -> Reply<Result<(), PublishError>> {
        let mut submission: Submission = serde_json::from_slice(&body).expect("a submission is JSON");
        if self.is_broken(Mutation::NoSince) {
            submission.reply_to.since = EventId(u64::MAX);
        }
        if self.is_broken(Mutation::NoLastMoment) {
            submission.reply_to.storable_until = None;
        }
        let link = self.0.clone();
        link.world.tell(|| {
            let drafts: Vec<_> = submission.drafts.iter().map(|draft| draft.draft_id.as_str()).collect();
            let to = &submission.reply_to;
            let (connection, number, attempt) = (to.connection, to.submission, to.attempt);
            format!("{}/{connection} publishes {number}.{attempt} (#{}): {drafts:?}", to.frontend, to.publish)
        });
        let body = serde_json::to_vec(&submission).expect("a submission is JSON").into();
        let (slot, token) = (partition.slot(SLOTS), token.clone());
        let full = link.world.happens(link.world.weather().full_one_in);
        let clock_off = link.world.roll(|rng| rng.below(2_000)) as u64;
        Box::pin(async move {
            let publish = move |servers: &mut Servers| {
                if !full {
                    servers.publish_draft(Queued { slot, token, body, clock_off });
                }
            };
            match link.ask(publish).await {
                Ok(()) if full => Err(PublishError::Full),
                Ok(()) => Ok(()),
                Err(gone) => Err(PublishError::Unknown(lost("publishing a draft")(gone))),
            }
        })
    }
}
