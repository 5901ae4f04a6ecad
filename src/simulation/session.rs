//! A connection at a frontend, without its socket: the frontend's real [`Pending`] on the simulated servers.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::event::{
    Answer, ClientId, Draft, DraftKey, EventId, EventRecord, PartitionKey, ReplyTo, Submission, Submitter,
};
use crate::frontend::FrontendSettings;
use crate::outbox::{Asked, Done, End, Pending, Published};
use crate::simulation::net::Link;
use crate::simulation::port::SLOTS;
use crate::simulation::world::{Mutation, Queued};

/// How a draft ended, as its client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Accepted(EventId),
    Rejected(String),
    /// It is to be sent again.
    Again,
}

pub(crate) struct Connection {
    pub link: Link,
    pub frontend: String,
    pub number: u64,
    pub client: ClientId,
    pub partition: PartitionKey,
    pub answer_wait_ms: u64,
}

type Publishing = Pin<Box<dyn Future<Output = Published> + Send>>;

struct Session {
    connection: Connection,
    pending: Pending,
    /// What the feed has seen of the log.
    position: EventId,
    ids: BTreeMap<DraftKey, EventId>,
    publishing: Option<Publishing>,
    told: mpsc::UnboundedSender<(String, Told)>,
}

/// Serves a connection until its client has gone.
pub(crate) async fn serve(
    connection: Connection,
    mut drafts: mpsc::UnboundedReceiver<Draft>,
    told: mpsc::UnboundedSender<(String, Told)>,
) {
    let settings =
        FrontendSettings { answer_wait_ms: connection.answer_wait_ms, ..FrontendSettings::default() };
    let (answer_to, mut answers) = mpsc::unbounded_channel::<Answer>();
    let address = (connection.frontend.clone(), connection.number);
    let link = connection.link.clone();
    let world = link.world.clone();
    world.change(|servers| servers.answers.insert(address.clone(), answer_to));
    let token = connection.partition.token();
    let position = world.look(|servers| servers.head(&token));
    let pending = Pending::new(&settings, connection.client.clone(), 1 << 20);
    let mut session = Session { connection, pending, position, ids: BTreeMap::new(), publishing: None, told };
    let mut reconnects = link.reconnects();
    let mut feed_at: Option<Instant> = None;
    loop {
        link.awake().await;
        let now = Instant::now();
        if feed_at.is_some_and(|at| at <= now) && !link.is_cut() {
            feed_at = None;
            session.read();
        }
        session.publish();
        let wake = session.pending.wake_at().map(Instant::from_std);
        let seen = session.position;
        let waiting_for_feed = feed_at.filter(|_| !link.is_cut());
        tokio::select! {
            biased;
            published = poll(&mut session.publishing) => {
                session.publishing = None;
                let done = session.pending.published(published, Instant::now().into_std());
                session.tell_all(done);
            }
            Some(answer) = answers.recv() => session.answered(answer),
            draft = drafts.recv() => match draft {
                // That it is taken, attached or refused for want of room: there is always room here.
                Some(draft) => {
                    let asked = session.begin();
                    session.pending.submit(draft, asked, now.into_std());
                }
                None => break,
            },
            known = link.reconnected(reconnects) => {
                reconnects = known;
                session.pending.republish();
            }
            () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {
                let done = session.pending.tick(Instant::now().into_std());
                session.tell_all(done);
            }
            () = sleep_until(waiting_for_feed.unwrap_or(now)), if waiting_for_feed.is_some() => {}
            () = world.until(|servers| (servers.head(&token) > seen).then_some(())), if feed_at.is_none() => {
                feed_at = Some(Instant::now() + world.delay());
            }
        }
    }
    world.change(|servers| servers.answers.remove(&address));
}

async fn poll(publishing: &mut Option<Publishing>) -> Published {
    match publishing {
        Some(publishing) => publishing.await,
        None => std::future::pending().await,
    }
}

impl Session {
    /// Every other client sends units of work of several drafts.
    fn begin(&mut self) -> Asked {
        let Connection { link, number, .. } = &self.connection;
        let sends_batches = number % 2 == 1;
        if !sends_batches || link.world.happens(2) {
            self.pending.begin_unit();
        }
        if sends_batches { Asked::Item { batch: 0, place: 0 } } else { Asked::Request(String::new()) }
    }

    /// Reads what is new in the log, and tells of what is in it.
    fn read(&mut self) {
        let token = self.connection.partition.token();
        let world = self.connection.link.world.clone();
        let new: Vec<_> = world.look(|servers| {
            servers.events(&token, self.position).map(|(id, body)| (id, body.clone())).collect()
        });
        for (id, body) in new {
            self.position = id;
            let Ok(record) = EventRecord::parse(&body) else { continue };
            let key = record.draft_key();
            self.ids.insert(key, id);
            while let Some(done) = self.pending.committed(key, |_| true) {
                self.tell(done);
            }
        }
    }

    fn answered(&mut self, mut answer: Answer) {
        let world = self.connection.link.world.clone();
        if world.look(|servers| servers.is_broken(Mutation::AnyAttempt)) {
            // As it would be if `Pending` did not look at the attempt: one of these is the latest.
            for attempt in 1..=answer.attempt + 10 {
                answer.attempt = attempt;
                let (done, _) = self.pending.answer(answer.clone());
                self.tell_all(done);
            }
            return;
        }
        let (done, committed) = self.pending.answer(answer);
        self.tell_all(done);
        for one in committed {
            // What the feed has not seen yet it will tell of itself.
            if one.event_id <= self.position
                && let Some(done) = self.pending.resolve(one)
            {
                self.ids.insert(done.key, one.event_id);
                self.tell(done);
            }
        }
    }

    /// The time by NATS's clock.
    fn nats_ms(&self) -> u64 {
        let world = &self.connection.link.world;
        // Where the time of an earlier copy is over at once, its last moment counts for nothing.
        let speed =
            if world.look(|servers| servers.is_broken(Mutation::NoLastMoment)) { 1_000_000 } else { 1 };
        world.now_ms() * speed
    }

    fn publish(&mut self) {
        if self.publishing.is_some() {
            return;
        }
        let now = Instant::now().into_std();
        let Some(publish) = self.pending.next(now, self.position, self.nats_ms()) else {
            return;
        };
        let Connection { link, frontend, number, client, partition, .. } = &self.connection;
        let broken = |mutation| link.world.look(|servers| servers.is_broken(mutation));
        let submission = Submission {
            partition: partition.clone(),
            submitter: Submitter {
                client_id: client.clone(),
                user_id: None,
                permissions: vec!["*".to_owned()],
                roles: Vec::new(),
                claims: None,
            },
            reply_to: ReplyTo {
                frontend: frontend.clone(),
                connection: *number,
                submission: publish.number,
                attempt: publish.attempt,
                since: if broken(Mutation::NoSince) { EventId(u64::MAX) } else { publish.since },
                publish: publish.publish,
                storable_until: Some(publish.storable_until).filter(|_| !broken(Mutation::NoLastMoment)),
            },
            units: publish.units.clone(),
            drafts: publish.drafts.iter().map(|draft| draft.as_ref().clone()).collect(),
        };
        link.world.tell(|| {
            let drafts: Vec<_> = submission.drafts.iter().map(|draft| draft.draft_id.as_str()).collect();
            let ReplyTo { submission, attempt, publish, .. } = &submission.reply_to;
            format!("{frontend}/{number} publishes {submission}.{attempt} (#{publish}): {drafts:?}")
        });
        let body = serde_json::to_vec(&submission).expect("a submission is JSON");
        let (slot, token) = (partition.slot(SLOTS), partition.token());
        let full = link.world.happens(link.world.weather().full_one_in);
        let clock_off = link.world.roll(|rng| rng.below(2_000)) as u64;
        let link = link.clone();
        self.publishing = Some(Box::pin(async move {
            let publish = move |servers: &mut crate::simulation::world::Servers| {
                if !full {
                    servers.publish_draft(Queued { slot, token, body: body.into(), clock_off });
                }
            };
            match link.ask(publish).await {
                Ok(()) if full => Published::NotStored,
                Ok(()) => Published::Stored,
                Err(_) => Published::Unknown,
            }
        }));
    }

    fn tell_all(&mut self, done: Vec<Done>) {
        for done in done {
            self.tell(done);
        }
    }

    fn tell(&mut self, done: Done) {
        let told = match done.end {
            End::Accepted => Told::Accepted(self.ids.get(&done.key).copied().unwrap_or(EventId::NONE)),
            End::Rejected(crate::event::Reason::Unavailable, _) | End::Forgotten | End::NotProcessed => {
                Told::Again
            }
            End::Rejected(_, errors) => {
                Told::Rejected(errors.first().map(|error| error.code.clone()).unwrap_or_default())
            }
        };
        let Connection { link, frontend, number, .. } = &self.connection;
        link.world.tell(|| format!("{frontend}/{number} tells {}: {told:?}", done.draft.draft_id));
        // The client may have gone; then it asks somebody else.
        drop(self.told.send((done.draft.draft_id.clone(), told)));
    }
}
