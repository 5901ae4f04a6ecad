//! A client that behaves as a real one: it holds every draft until it is answered, comes back with back-off
//! and jitter, on another frontend as like as not, submits under the same ids what was not answered, catches
//! up, and writes all of it down.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::alarm::{self, Alarm};
use super::history::{Accounts, Connection, Dialect, Draft, Entry, History, Manner};
use super::judge::Rule;
use super::link::{Link, Trunk};
use super::wire::{NOT_JSON, SILENCE_MAX, Wire};
use super::workload;
use crate::harness::model::Replica;
use crate::harness::rng::Rng;
use crate::harness::socket::now_ms;
use crate::harness::v1::envelope;

/// What all clients of a round are to do.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Write, read, come and go.
    Work,
    /// Write nothing more; wait until everything is answered.
    Settle,
    /// Wait until all up to the partition's last event is known, and end.
    CatchUp(Arc<HashMap<String, u64>>),
    /// End as it is.
    GiveUp,
}

/// What a client is.
pub struct Spec {
    /// Its name in reports, and the beginning of its drafts' ids.
    pub client: String,
    pub client_id: String,
    pub dialect: Dialect,
    pub manner: Manner,
    pub partition: String,
    /// The connection that it shares with clients of other partitions; none has its own. Classic only.
    pub trunk: Option<Arc<Trunk>>,
    pub seed: u64,
    /// What it has seen when it begins, in order; a client of the long partition does not begin at its first event.
    pub position: u64,
    /// Drafts of earlier rounds with the events that they are, to be sent once more now and then.
    pub old: Arc<Vec<(Draft, u64)>>,
    /// The most events that it asks for in a page.
    pub page_max: usize,
    /// The frontends' ports.
    pub frontends: Vec<u16>,
    /// The mean time between two things that it does.
    pub pace: Duration,
    /// The most drafts that it lets wait for answers.
    pub window: usize,
    pub accounts: Arc<Accounts>,
    /// How many clients have everything answered.
    pub settled: Arc<AtomicUsize>,
}

/// Why a connection is over that its client wanted no more.
pub const LEFT: &str = "left by itself";

/// How many times the mean time between two actions a client that only reads waits between two pages: its pages are
/// large, and to read them is the work of this process too.
const READER_PAUSES: u32 = 8;

/// How often a connection may be told of an event by a broadcast, beside once for each page that it asks for: after a
/// cycle of pages that is given up, and to a client that does not page, what came before is told again.
const BROADCASTS_MAX: u32 = 2;
/// The most that is noted of one connection. None of a round's comes near it.
const ENTRIES_MAX: usize = 200_000;
/// The most defects that a client tells of, and the length of each: one may show an event twice.
const DEFECTS_MAX: usize = 50;
const DEFECT_BYTES_MAX: usize = 4_000;

const BACKOFF_MS: u64 = 20;
const BACKOFF_MS_MAX: u64 = 1_000;

struct Player {
    spec: Spec,
    rng: Rng,
    phase: watch::Receiver<Phase>,
    history: History,
    /// Drafts without an answer, in the order in which they are to be decided; v1 batches by message id.
    open: VecDeque<usize>,
    batches: VecDeque<(String, Vec<usize>)>,
    accepted: BTreeMap<usize, u64>,
    /// The last event seen in order.
    position: u64,
    cycle: Option<u64>,
    asked: bool,
    messages: u64,
    counted: bool,
    /// Drafts that were sent once, and only on this connection.
    first_here: Vec<usize>,
    /// What was broadcast on this connection, and how often.
    broadcast_here: HashMap<u64, u32>,
    /// How many pages were asked for on it.
    asked_here: u32,
}

/// Plays until the phase says to end; gives all that happened.
pub async fn play(spec: Spec, phase: watch::Receiver<Phase>) -> History {
    let history = History {
        client: spec.client.clone(),
        client_id: spec.client_id.clone(),
        manner: spec.manner,
        dialect: spec.dialect,
        partition: spec.partition.clone(),
        is_shared: spec.trunk.is_some(),
        drafts: spec.old.iter().map(|(draft, _)| draft.clone()).collect(),
        connections: Vec::new(),
        defects: Vec::new(),
        reached: 0,
    };
    let rng = Rng::new(spec.seed);
    let (position, accepted) = (spec.position, spec.old.iter().map(|(_, id)| *id).enumerate().collect());
    let player = Player {
        spec,
        rng,
        phase,
        history,
        open: VecDeque::new(),
        batches: VecDeque::new(),
        accepted,
        position,
        cycle: None,
        asked: false,
        messages: 0,
        counted: false,
        first_here: Vec::new(),
        broadcast_here: HashMap::new(),
        asked_here: 0,
    };
    player.run().await
}

/// Why a connection is left.
enum Leave {
    Broken(String),
    /// All is done.
    Done,
}

impl From<String> for Leave {
    fn from(why: String) -> Self {
        Leave::Broken(why)
    }
}

impl Player {
    async fn run(mut self) -> History {
        let mut failures = 0;
        loop {
            let frontend = self.rng.below(self.spec.frontends.len());
            self.history.connections.push(Connection { frontend, port: 0, entries: Vec::new() });
            self.cycle = None;
            self.asked = false;
            self.first_here.clear();
            self.broadcast_here.clear();
            self.asked_here = 0;
            let ended = match self.connect(frontend).await {
                Ok(wire) => {
                    failures = 0;
                    self.talk(wire).await
                }
                Err(why) => {
                    self.note(Entry::Refused(why.clone()));
                    failures += 1;
                    Err(Leave::Broken(why))
                }
            };
            match ended {
                Ok(()) | Err(Leave::Done) => break,
                Err(Leave::Broken(why)) => {
                    if why.starts_with(NOT_JSON) {
                        self.defect(why.clone());
                    }
                    self.note(Entry::Gone(why));
                }
            }
            if matches!(*self.phase.borrow(), Phase::GiveUp) {
                break;
            }
            let full = (BACKOFF_MS << failures.min(6)).min(BACKOFF_MS_MAX);
            let pause = Duration::from_millis(full / 2 + self.rng.below(full as usize) as u64);
            tokio::select! {
                () = sleep(pause) => {}
                _ = self.phase.wait_for(|phase| matches!(phase, Phase::GiveUp)) => break,
            }
        }
        let strays = self.spec.trunk.as_ref().map_or_else(Vec::new, |trunk| trunk.take_strays());
        strays.into_iter().for_each(|stray| self.defect(stray));
        self.history.reached = self.position;
        self.history
    }

    fn note(&mut self, entry: Entry) {
        let connection = self.history.connections.last_mut().expect("an entry without a connection");
        connection.entries.push((now_ms(), entry));
    }

    fn defect(&mut self, what: String) {
        self.defect_of(what, None);
    }

    fn defect_of(&mut self, mut what: String, about: Option<(usize, u64)>) {
        if self.history.defects.len() < DEFECTS_MAX {
            what.truncate(what.floor_char_boundary(DEFECT_BYTES_MAX));
            self.history.defects.push((what, about));
        }
    }

    /// The connection is told more than can be right. That is a finding by itself, and nobody has to wait for the rest.
    fn too_much(&mut self, what: &str, id: Option<u64>) -> Leave {
        let number = self.history.connections.len() - 1;
        let what = format!("{}#{number}: {what}", self.spec.client);
        alarm::raise(Alarm { rule: Rule::Stream, what, client: Some(self.spec.client.clone()), id });
        Leave::Done
    }

    async fn connect(&mut self, frontend: usize) -> Result<Link, String> {
        let port = self.spec.frontends[frontend];
        let made = self.history.connections.last_mut().expect("it was begun");
        let mut wire = match &self.spec.trunk {
            None => Link::Own(Box::new(Wire::open(port).await?)),
            Some(trunk) => {
                let (line, frontend) = trunk.line(frontend, port, &self.spec.partition).await?;
                made.frontend = frontend;
                Link::Line(line)
            }
        };
        made.port = wire.port();
        let client = &self.spec.client_id;
        let partition = &self.spec.partition;
        // Now and then a classic client has forgotten all it knew.
        let since = (self.position > 0 && !self.rng.one_in(8)).then_some(self.position);
        let since = since.filter(|_| self.spec.manner != Manner::Literal);
        let text = match self.spec.dialect {
            Dialect::Classic if self.spec.trunk.is_some() => {
                self.classic("subscribe", json!({ "partition": partition, "lastEventId": since }))
            }
            Dialect::Classic => {
                let mut payload = json!({ "clientId": client, "version": "torture", "partition": partition });
                if let Some(since) = since {
                    payload["lastEventId"] = since.into();
                }
                self.classic("connect", payload)
            }
            Dialect::V1 => {
                let payload = json!({ "token": "any", "clientId": client, "projectId": partition });
                self.messages += 1;
                envelope("connect", &format!("c{}", self.messages), &payload)
            }
        };
        wire.send(text).await?;
        let message = wire.next().await?;
        let wanted = if self.spec.trunk.is_some() { "subscribed" } else { "connected" };
        if message["type"] != wanted {
            // What was refused is not subscribed to.
            wire.is_done();
            return Err(message.to_string());
        }
        let payload = &message["payload"];
        match self.spec.dialect {
            Dialect::V1 => {
                let head = number(&payload["projectLastCommittedId"]);
                self.spec.accounts.heard_of(head);
                self.note(Entry::Connected { since: None, head, state: None });
            }
            Dialect::Classic => {
                let head = number(&payload["currentEventIndex"]);
                self.spec.accounts.heard_of(head);
                let state = payload.get("initialState").map(hash);
                // A literal client asks for what it missed.
                if since.is_none() && (self.spec.manner != Manner::Literal || self.position == 0) {
                    self.position = head;
                }
                self.note(Entry::Connected { since, head, state });
            }
        }
        Ok(wire)
    }

    async fn talk(&mut self, mut wire: Link) -> Result<(), Leave> {
        self.send_again(&mut wire).await?;
        if self.spec.dialect == Dialect::V1 || self.spec.manner == Manner::Literal {
            self.ask_for_page(&mut wire, self.position).await?;
        }
        let mut act_at = self.next_time();
        loop {
            if self.is_done() {
                wire.is_done();
                return Err(Leave::Done);
            }
            tokio::select! {
                message = wire.next() => {
                    let message = message?;
                    self.take(&mut wire, message).await?;
                }
                () = tokio::time::sleep_until(act_at) => {
                    self.act(&mut wire).await?;
                    act_at = self.next_time();
                }
                Ok(()) = self.phase.changed() => {}
            }
        }
    }

    fn next_time(&mut self) -> Instant {
        let mean = self.spec.pace.as_micros() as usize;
        Instant::now() + Duration::from_micros(self.rng.below(2 * mean + 1) as u64)
    }

    /// Whether there is nothing more to do; says once when everything is answered.
    fn is_done(&mut self) -> bool {
        let phase = self.phase.borrow().clone();
        let settled = self.open.is_empty() && self.batches.is_empty();
        if settled && !self.counted && matches!(phase, Phase::Settle) {
            self.counted = true;
            self.spec.settled.fetch_add(1, Ordering::AcqRel);
        }
        match phase {
            Phase::Work | Phase::Settle => false,
            Phase::CatchUp(heads) => {
                settled && self.position >= heads.get(&self.spec.partition).copied().unwrap_or(0)
            }
            Phase::GiveUp => true,
        }
    }

    async fn act(&mut self, wire: &mut Link) -> Result<(), Leave> {
        let phase = self.phase.borrow().clone();
        match phase {
            Phase::Work => {}
            // In v1 only a page tells that all is known, and inside a cycle nothing else does.
            Phase::CatchUp(_) if !self.asked && self.spec.manner != Manner::Literal => {
                return Ok(self.ask_for_page(wire, self.position).await?);
            }
            _ => return Ok(()),
        }
        match self.spec.manner {
            Manner::Reads if self.rng.one_in(60) => return Err(Leave::Broken(LEFT.to_owned())),
            Manner::Reads if self.asked => return Ok(()),
            Manner::Reads => {
                let since = self.rng.below(1 + self.position as usize) as u64;
                return Ok(self.ask_for_page(wire, since).await?);
            }
            // Away for a while, so that there is something to miss.
            Manner::Literal if self.rng.one_in(40) => {
                wire.close().await;
                sleep(self.spec.pace * self.rng.below(60) as u32).await;
                return Err(Leave::Broken(LEFT.to_owned()));
            }
            Manner::Pages | Manner::Literal => {}
        }
        let waiting = self.open.len() + self.batches.iter().map(|(_, drafts)| drafts.len()).sum::<usize>();
        match self.rng.below(1000) {
            0..4 if self.spec.trunk.is_some() && self.rng.one_in(2) => {}
            0..4 => return Err(Leave::Broken(LEFT.to_owned())),
            4..44 if self.spec.trunk.is_some() && !self.asked && waiting == 0 => {
                return self.unsubscribe(wire).await;
            }
            4..44 if !self.asked && self.spec.manner == Manner::Pages => {
                self.ask_for_page(wire, self.position).await?;
            }
            44..70 => self.submit_again(wire).await?,
            _ if waiting < self.spec.window => {
                let count = if self.rng.one_in(2) { 1 } else { 1 + self.rng.below(5) };
                let drafts: Vec<usize> = (0..count).map(|_| self.make()).collect();
                self.submit(wire, drafts).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Leaves the partition, and the connection to the others. Everything is answered: the same port would not tell the
    /// judge for which of two subscriptions a draft was committed that was sent over both.
    async fn unsubscribe(&mut self, wire: &mut Link) -> Result<(), Leave> {
        let text = self.classic("unsubscribe", json!({ "partition": self.spec.partition }));
        wire.send(text).await?;
        loop {
            let message = wire.next().await?;
            if message["type"] == "unsubscribed" {
                wire.is_done();
                return Err(Leave::Broken(LEFT.to_owned()));
            }
            Box::pin(self.take(wire, message)).await?;
        }
    }

    fn make(&mut self) -> usize {
        let place = self.history.drafts.len();
        let id = format!("{}-{place}", self.spec.client);
        let (kind, payload) = workload::event(&mut self.rng, &id, self.spec.dialect);
        let (event, base) = match self.spec.dialect {
            Dialect::Classic => {
                let base = (self.position > 0 && self.rng.one_in(4)).then_some(self.position);
                let mut event = json!({ "type": kind, "payload": payload });
                if self.spec.trunk.is_some() {
                    event["partition"] = self.spec.partition.as_str().into();
                }
                (event, base)
            }
            Dialect::V1 => {
                let event = json!({
                    "id": id, "projectId": self.spec.partition, "partition": "doc", "type": kind,
                    "schemaVersion": 1, "payload": payload,
                    "meta": { "clientId": self.spec.client_id, "clientTs": place },
                });
                (event, None)
            }
        };
        self.history.drafts.push(Draft::new(id, event, base));
        place
    }

    /// Sends a draft once more that was accepted already, as it was or with other content.
    async fn submit_again(&mut self, wire: &mut Link) -> Result<(), String> {
        if self.accepted.is_empty() {
            return Ok(());
        }
        // One of the last, or any.
        let among = if self.rng.one_in(2) { self.accepted.len().min(40) } else { self.accepted.len() };
        let nth = self.accepted.len() - 1 - self.rng.below(among);
        let place = *self.accepted.keys().nth(nth).expect("counted");
        let mut draft = self.history.drafts[place].clone();
        // One answer at a time for one id.
        let mut under_way = self.open.iter().chain(self.batches.iter().flat_map(|(_, drafts)| drafts));
        if under_way.any(|place| self.history.drafts[*place].id == draft.id) {
            return Ok(());
        }
        if self.rng.one_in(3) {
            draft.event["payload"]["value"] = json!({ "altered": self.history.drafts.len() });
            draft.altered = true;
            self.history.drafts.push(draft);
            return self.submit(wire, vec![self.history.drafts.len() - 1]).await;
        }
        self.submit(wire, vec![place]).await
    }

    async fn submit(&mut self, wire: &mut Link, drafts: Vec<usize>) -> Result<(), String> {
        self.first_here.extend(drafts.iter().filter(|place| !self.accepted.contains_key(place)));
        match self.spec.dialect {
            Dialect::Classic => {
                for draft in drafts {
                    self.open.push_back(draft);
                    self.send_draft(wire, draft).await?;
                }
            }
            Dialect::V1 => {
                self.messages += 1;
                let id = format!("m{}", self.messages);
                self.batches.push_back((id.clone(), drafts.clone()));
                self.send_batch(wire, &id, drafts).await?;
            }
        }
        Ok(())
    }

    async fn send_again(&mut self, wire: &mut Link) -> Result<(), String> {
        for draft in self.open.clone() {
            self.send_draft(wire, draft).await?;
        }
        for (id, drafts) in self.batches.clone() {
            self.send_batch(wire, &id, drafts).await?;
        }
        Ok(())
    }

    async fn send_draft(&mut self, wire: &mut Link, place: usize) -> Result<(), String> {
        let draft = &self.history.drafts[place];
        let mut payload = json!({ "draftId": draft.id, "event": draft.event });
        if let Some(base) = draft.base {
            payload["baseEventId"] = base.into();
        }
        let text = self.classic("submit_event", payload);
        self.note(Entry::Submitted { drafts: vec![place], known: self.spec.accounts.known() });
        wire.send(text).await
    }

    async fn send_batch(&mut self, wire: &mut Link, id: &str, drafts: Vec<usize>) -> Result<(), String> {
        let events: Vec<&Value> = drafts.iter().map(|place| &self.history.drafts[*place].event).collect();
        let text = envelope("submit_events", id, &json!({ "events": events }));
        self.note(Entry::Submitted { drafts, known: self.spec.accounts.known() });
        wire.send(text).await
    }

    async fn ask_for_page(&mut self, wire: &mut Link, since: u64) -> Result<(), String> {
        let limit = 1 + self.rng.below(self.spec.page_max) as u64;
        self.asked = true;
        self.asked_here += 1;
        let text = match self.spec.dialect {
            Dialect::Classic if self.spec.manner == Manner::Literal => {
                self.classic("sync", json!({ "sinceEventId": since }))
            }
            Dialect::Classic => {
                let mut payload = json!({ "sinceEventId": since, "limit": limit });
                if self.spec.trunk.is_some() {
                    payload["partition"] = self.spec.partition.as_str().into();
                }
                self.classic("sync", payload)
            }
            Dialect::V1 => {
                self.messages += 1;
                let payload =
                    json!({ "projectId": self.spec.partition, "sinceCommittedId": since, "limit": limit });
                envelope("sync", &format!("s{}", self.messages), &payload)
            }
        };
        self.note(Entry::SyncAsked { since, limit });
        wire.send(text).await
    }

    fn classic(&mut self, kind: &str, payload: Value) -> String {
        self.messages += 1;
        // Answers on a shared connection find their client by the partition before the colon.
        let line = self.spec.trunk.as_ref().map_or("", |_| &self.spec.partition);
        let id = format!("{line}:m{}", self.messages);
        json!({ "id": id, "type": kind, "timestamp": now_ms(), "payload": payload }).to_string()
    }

    async fn take(&mut self, wire: &mut Link, message: Value) -> Result<(), Leave> {
        if self.history.connections.last().is_some_and(|connection| connection.entries.len() >= ENTRIES_MAX) {
            return Err(self.too_much("it is told more than a whole round has to tell", None));
        }
        let payload = &message["payload"];
        match (self.spec.dialect, message["type"].as_str().unwrap_or_default()) {
            (Dialect::Classic, "broadcast") => {
                let id = number(&payload["eventId"]);
                self.broadcast(id, payload["event"].clone())?;
                self.position = self.position.max(id);
            }
            (Dialect::V1, "event_broadcast") => {
                self.broadcast(number(&payload["committedId"]), payload.clone())?;
            }
            (Dialect::Classic, "event_accepted") => {
                let id = number(&payload["eventId"]);
                if let Some(draft) = self.answered(payload) {
                    self.account(id, payload["event"].clone());
                    if self.first_here.contains(&draft) && self.broadcast_here.contains_key(&id) {
                        let what =
                            format!("draft {draft} was broadcast as event {id} before it was accepted");
                        self.defect_of(what, Some((draft, id)));
                    }
                    self.accept(draft, id);
                }
            }
            (Dialect::Classic, "event_rejected") => {
                let reason = text(&payload["reason"]);
                if let Some(draft) = self.answered(payload) {
                    if reason == "unavailable" {
                        self.put_off(wire, draft, true).await?;
                    } else {
                        let code = text(&payload["errors"][0]["code"]);
                        self.note(Entry::Rejected { draft, reason, code });
                    }
                }
            }
            (Dialect::Classic, "error") if payload["code"] == "unavailable" => {
                if !payload["details"]["draftId"].is_string() {
                    // A page that cannot be had just now.
                    self.asked = false;
                    self.cycle = None;
                    // What a frontend says that goes away answers nothing.
                    if self.spec.manner == Manner::Literal && message["replyTo"].is_string() {
                        return Err(Leave::Broken("no answer to the one `sync`".to_owned()));
                    }
                } else if let Some(draft) = self.answered(&payload["details"]) {
                    self.put_off(wire, draft, false).await?;
                }
            }
            // The server ended the partition, and not the connection.
            (Dialect::Classic, "unsubscribed") if self.spec.trunk.is_some() => {
                wire.is_done();
                return Err(Leave::Broken(message.to_string()));
            }
            (Dialect::Classic, "sync_response") => self.classic_page(wire, payload).await?,
            (Dialect::V1, "sync_response") => self.v1_page(wire, payload).await?,
            (Dialect::V1, "submit_events_result") => self.results(&message),
            (Dialect::V1, "error") if payload["code"] == "server_error" => {
                let why = wire.end_of(message.to_string()).await;
                return Err(Leave::Broken(why));
            }
            _ => {
                self.defect(format!("an unexpected message: {message}"));
                return Err(Leave::Broken(message.to_string()));
            }
        }
        Ok(())
    }

    fn broadcast(&mut self, id: u64, event: Value) -> Result<(), Leave> {
        self.account(id, event);
        self.note(Entry::Broadcast { id });
        let told = self.broadcast_here.entry(id).or_default();
        *told += 1;
        if *told <= BROADCASTS_MAX + self.asked_here {
            return Ok(());
        }
        let what = format!("event {id} was broadcast {told} times, and again and again");
        Err(self.too_much(&what, Some(id)))
    }

    fn account(&mut self, id: u64, event: Value) {
        if let Err(why) = self.spec.accounts.take(self.spec.dialect, id, event) {
            self.defect(why);
        }
    }

    fn accept(&mut self, draft: usize, id: u64) {
        self.accepted.insert(draft, id);
        self.first_here.retain(|first| *first != draft);
        self.spec.accounts.heard_of(id);
        self.note(Entry::Accepted { draft, id });
    }

    /// Takes the draft that an answer is for out of the open ones.
    fn answered(&mut self, payload: &Value) -> Option<usize> {
        let id = payload["draftId"].as_str().unwrap_or_default();
        let Some(at) = self.open.iter().position(|place| self.history.drafts[*place].id == id) else {
            self.defect(format!("an answer that nobody waits for: {payload}"));
            return None;
        };
        self.open.remove(at)
    }

    /// Sends a draft again that was surely not stored, or of which the server could not say what became of it.
    async fn put_off(&mut self, wire: &mut Link, draft: usize, sure: bool) -> Result<(), String> {
        self.note(Entry::Unavailable { draft, sure });
        self.history.drafts[draft].requeued = true;
        self.first_here.retain(|first| *first != draft);
        self.open.push_back(draft);
        // Not at once: the log is unreachable.
        sleep(Duration::from_millis(20 + self.rng.below(100) as u64)).await;
        self.send_draft(wire, draft).await
    }

    async fn classic_page(&mut self, wire: &mut Link, payload: &Value) -> Result<(), String> {
        let since = self.last_asked();
        let (mut ids, mut last) = (Vec::new(), since);
        let snapshot = payload.get("snapshot").map(|snapshot| {
            last = number(&snapshot["eventIndex"]);
            (last, hash(&snapshot["state"]))
        });
        for event in payload["events"].as_array().into_iter().flatten() {
            last = number(&event["eventId"]);
            self.account(last, event.clone());
            ids.push(last);
        }
        let upto = number(&payload["currentEventIndex"]);
        let more = payload["hasMore"] == true;
        let next = if more { last } else { last.max(upto) };
        self.note(Entry::Page { since, ids, next, upto, more, snapshot });
        if self.spec.manner == Manner::Literal {
            // It applies what it is given, and what follows is broadcast: from here on, whatever came before.
            self.position = next;
            return Ok(());
        }
        self.position = self.position.max(next);
        self.paged(wire, next, more).await
    }

    async fn v1_page(&mut self, wire: &mut Link, payload: &Value) -> Result<(), String> {
        let since = self.last_asked();
        let mut ids = Vec::new();
        for event in payload["events"].as_array().into_iter().flatten() {
            let id = number(&event["committedId"]);
            self.account(id, event.clone());
            ids.push(id);
        }
        let (next, upto) = (number(&payload["nextSinceCommittedId"]), number(&payload["syncToCommittedId"]));
        let more = payload["hasMore"] == true;
        self.note(Entry::Page { since, ids, next, upto, more, snapshot: None });
        self.position = self.position.max(next);
        self.paged(wire, next, more).await
    }

    async fn paged(&mut self, wire: &mut Link, next: u64, more: bool) -> Result<(), String> {
        self.asked = false;
        self.cycle = more.then_some(next);
        if more && self.spec.manner == Manner::Reads {
            sleep(self.spec.pace * READER_PAUSES).await;
        }
        if more { self.ask_for_page(wire, next).await } else { Ok(()) }
    }

    fn last_asked(&mut self) -> u64 {
        let entries = self.history.connections.last().into_iter().flat_map(|connection| &connection.entries);
        let asked = entries.rev().find_map(|(_, entry)| match entry {
            Entry::SyncAsked { since, .. } => Some(*since),
            _ => None,
        });
        asked.unwrap_or_else(|| {
            self.defect("a page that nobody asked for".to_owned());
            0
        })
    }

    fn results(&mut self, message: &Value) {
        let Some((id, drafts)) = self.batches.pop_front() else {
            return self.defect(format!("results that nobody waits for: {message}"));
        };
        let results = message["payload"]["results"].as_array().cloned().unwrap_or_default();
        if message["msgId"] != id.as_str() || results.len() != drafts.len() {
            self.defect(format!(
                "results that do not fit request {id} of {} events: {message}",
                drafts.len()
            ));
        }
        let mut blocked = false;
        for (draft, result) in drafts.into_iter().zip(results) {
            if result["id"] != self.history.drafts[draft].id.as_str() {
                self.defect(format!("a result in another's place: {message}"));
            }
            match (result["status"].as_str().unwrap_or_default(), blocked) {
                ("committed", false) => self.accept(draft, number(&result["committedId"])),
                ("rejected", false) => {
                    blocked = true;
                    let code = text(&result["errors"][0]["code"]);
                    self.note(Entry::Rejected { draft, reason: text(&result["reason"]), code });
                }
                ("not_processed", true) => self.note(Entry::NotProcessed { draft }),
                _ => self.defect(format!("{result} has no place in {message}")),
            }
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn hash(state: &Value) -> String {
    Replica { state: state.clone() }.hash()
}

/// The state of a partition as a client gets it that connects for the first time.
pub async fn newcomer(port: u16, partition: &str) -> Result<(u64, String), String> {
    let mut wire = Wire::open(port).await?;
    let payload = json!({ "clientId": "newcomer", "version": "torture", "partition": partition });
    let message = json!({ "id": "n", "type": "connect", "timestamp": now_ms(), "payload": payload });
    wire.send(message.to_string()).await?;
    let said = timeout(SILENCE_MAX, wire.next()).await.map_err(|_| "no answer to `connect`")??;
    if said["type"] != "connected" {
        return Err(said.to_string());
    }
    Ok((number(&said["payload"]["currentEventIndex"]), hash(&said["payload"]["initialState"])))
}
