//! A client as a real one behaves: it holds every draft until it is answered, remembers the last event it
//! saw, comes back with both after a break, and folds what it was sent. On the way it checks what must
//! hold of every connection: events come once and in order, an answer before the broadcast, one answer to
//! a submission.

use std::collections::HashMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Patience;
use super::model::Replica;
use super::socket::{Gone, Socket};

/// A draft that waits for its answer.
#[derive(Debug, Clone)]
struct Draft {
    id: String,
    event: Value,
    base: Option<u64>,
    /// How often it has been sent.
    sent: u32,
}

/// What became of a draft.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Accepted { event_id: u64, event: Value },
    Rejected { reason: String, errors: Vec<Value> },
}

impl Answer {
    pub fn is_accepted(&self) -> bool {
        matches!(self, Answer::Accepted { .. })
    }
}

/// A client, connected or between two connections.
pub struct Client {
    pub id: String,
    pub partition: String,
    /// The payload of the last `connected`.
    pub connected: Value,
    /// The committed events it was sent, over all its connections.
    pub events: Vec<Value>,
    /// The id of the last of them, or of the state it began with.
    pub last_event_id: u64,
    /// What they fold to.
    pub replica: Replica,
    /// Every answer, by draft id.
    pub answers: HashMap<String, Answer>,
    /// How often it has connected.
    pub connections: u32,
    url: String,
    socket: Option<Socket>,
    unanswered: Vec<Draft>,
    drafts_made: u64,
    steadfast: bool,
    /// What it shows to be let in, where it has one.
    token: Option<String>,
    /// When the last page of a sync came that has pages left, if nothing was sent since.
    last_page: Option<Instant>,
    /// Where the connection goes on after a page that has more: what follows may have been broadcast before.
    goes_on_after: Option<u64>,
}

/// The server ends a cycle of pages a second after a page that nobody goes on with. It counts from its own sending, so
/// its broadcasts may come here a little earlier.
const CYCLE_LASTS: Duration = Duration::from_millis(900);

/// A client that is about to connect for the first time.
pub struct Connecting {
    url: String,
    id: String,
    partition: String,
    steadfast: bool,
    token: Option<String>,
}

impl Connecting {
    pub fn token(mut self, token: String) -> Self {
        self.token = Some(token);
        self
    }

    pub fn partition(mut self, partition: &str) -> Self {
        self.partition = partition.to_owned();
        self
    }

    /// Comes back by itself whenever its connection breaks.
    pub fn steadfast(mut self) -> Self {
        self.steadfast = true;
        self
    }
}

impl IntoFuture for Connecting {
    type Output = Client;
    type IntoFuture = Pin<Box<dyn Future<Output = Client> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut client = Client {
                id: self.id,
                partition: self.partition,
                connected: Value::Null,
                events: Vec::new(),
                last_event_id: 0,
                replica: Replica::default(),
                answers: HashMap::new(),
                connections: 0,
                url: self.url,
                socket: None,
                unanswered: Vec::new(),
                drafts_made: 0,
                steadfast: self.steadfast,
                token: self.token,
                last_page: None,
                goes_on_after: None,
            };
            client
                .try_connect(None)
                .await
                .unwrap_or_else(|error| panic!("{} connecting: {error}", client.id));
            client.last_event_id = client.connected["currentEventIndex"].as_u64().unwrap();
            client.replica = Replica::from(client.connected["initialState"].clone());
            client
        })
    }
}

impl Client {
    pub fn of(url: &str, id: &str) -> Connecting {
        Connecting {
            url: url.to_owned(),
            id: id.to_owned(),
            partition: "default".to_owned(),
            steadfast: false,
            token: None,
        }
    }

    /// Opens a socket and says `connect`; an `Err` says why there is no connection.
    async fn try_connect(&mut self, last_event_id: Option<u64>) -> Result<(), String> {
        let mut socket = Socket::open(&self.url).await?;
        let mut payload = json!({ "clientId": self.id, "version": "test", "partition": self.partition });
        if let Some(id) = last_event_id {
            payload["lastEventId"] = id.into();
        }
        if let Some(token) = &self.token {
            payload["token"] = token.as_str().into();
        }
        let id = socket.send("connect", payload).await.map_err(|gone| format!("{gone:?}"))?;
        let message = socket.receive().await.map_err(|gone| format!("{gone:?}"))?;
        if message["type"] != "connected" {
            return Err(message.to_string());
        }
        assert_eq!(message["replyTo"], id);
        self.connected = message["payload"].clone();
        if let Some(state) = socket.state_in_parts(&self.connected).await {
            self.connected["initialState"] = state;
        }
        let has_state = self.connected.get("initialState").is_some();
        assert_eq!(has_state, last_event_id.is_none(), "{message}");
        self.connections += 1;
        (self.last_page, self.goes_on_after) = (None, None);
        self.socket = Some(socket);
        Ok(())
    }

    /// Goes to another frontend from the next connection on.
    pub fn move_to(&mut self, url: &str) {
        self.url = url.to_owned();
    }

    /// Drops the connection without a word.
    pub fn drop_connection(&mut self) {
        self.socket = None;
    }

    /// Connects again from the last event seen, and submits what was not answered under the same draft ids.
    /// Tries until it gets through.
    pub async fn reconnect(&mut self) {
        let patience = Patience::new();
        while let Err(error) = self.try_reconnect().await {
            self.socket = None;
            let Self { id, url, .. } = &self;
            patience.wait_for(&format!("{id} to get through to {url}; the last time: {error}")).await;
        }
    }

    /// One try of [`Client::reconnect`]; an `Err` says why there is no connection.
    pub async fn try_reconnect(&mut self) -> Result<(), String> {
        self.try_connect(Some(self.last_event_id)).await?;
        for index in 0..self.unanswered.len() {
            self.send_draft(index).await.map_err(|gone| format!("{gone:?}"))?;
        }
        Ok(())
    }

    async fn send_draft(&mut self, index: usize) -> Result<(), Gone> {
        // Whatever is sent and asks for no page ends a cycle.
        self.last_page = None;
        let draft = &mut self.unanswered[index];
        draft.sent += 1;
        let mut payload = json!({ "draftId": draft.id, "event": draft.event });
        if let Some(base) = draft.base {
            payload["baseEventId"] = base.into();
        }
        self.socket.as_mut().ok_or(Gone { code: None })?.send("submit_event", payload).await.map(drop)
    }

    /// Submits an event and gives its draft id. Does not wait.
    pub async fn submit(&mut self, kind: &str, payload: Value) -> String {
        self.submit_event(json!({ "type": kind, "payload": payload }), None).await
    }

    /// Submits an event that was made with the state at `base` in view.
    pub async fn submit_on(&mut self, base: u64, kind: &str, payload: Value) -> String {
        self.submit_event(json!({ "type": kind, "payload": payload }), Some(base)).await
    }

    async fn submit_event(&mut self, event: Value, base: Option<u64>) -> String {
        self.drafts_made += 1;
        let id = format!("draft-{}", self.drafts_made);
        self.submit_as(&id, event, base).await;
        id
    }

    /// Submits an event under a draft id of the caller's choice.
    pub async fn submit_as(&mut self, draft_id: &str, event: Value, base: Option<u64>) {
        // The same id again asks again.
        self.answers.remove(draft_id);
        let draft = Draft { id: draft_id.to_owned(), event, base, sent: 0 };
        self.unanswered.push(draft);
        if self.send_draft(self.unanswered.len() - 1).await.is_err() {
            self.broken(Gone { code: None }).await;
        }
    }

    /// Like [`Client::submit_as`], but says that this draft was sent before, by an earlier life of this
    /// client or elsewhere, so that its commit may lie behind what was broadcast already.
    pub async fn submit_again(&mut self, draft_id: &str, event: Value) {
        self.answers.remove(draft_id);
        let draft = Draft { id: draft_id.to_owned(), event, base: None, sent: 1 };
        self.unanswered.push(draft);
        if self.send_draft(self.unanswered.len() - 1).await.is_err() {
            self.broken(Gone { code: None }).await;
        }
    }

    /// Submits and waits: the committed event.
    pub async fn commit(&mut self, kind: &str, payload: Value) -> Value {
        let draft = self.submit(kind, payload).await;
        self.expect_accepted(&draft).await
    }

    /// Waits for the answer to a draft.
    pub async fn answer(&mut self, draft_id: &str) -> Answer {
        while !self.answers.contains_key(draft_id) {
            self.step().await;
        }
        self.answers[draft_id].clone()
    }

    /// Waits for the answer to a draft; `None` when nobody can say what became of it.
    pub async fn answer_or_unavailable(&mut self, draft_id: &str) -> Option<Answer> {
        while !self.answers.contains_key(draft_id) {
            let message = self.socket().receive().await.unwrap_or_else(|gone| panic!("{gone:?}"));
            let payload = &message["payload"];
            if message["type"] == "error" && payload["details"]["draftId"] == draft_id {
                assert_eq!(payload["code"], "unavailable", "{message}");
                self.answered(&payload["details"]);
                return None;
            }
            self.take(&message).await;
        }
        Some(self.answers[draft_id].clone())
    }

    /// The draft must be accepted; gives the event as committed.
    pub async fn expect_accepted(&mut self, draft_id: &str) -> Value {
        match self.answer(draft_id).await {
            Answer::Accepted { event, .. } => event,
            Answer::Rejected { reason, errors } => {
                panic!("{draft_id} of {} was to be accepted: {reason} {errors:?}", self.id)
            }
        }
    }

    /// The draft must be rejected for this reason; gives the errors.
    pub async fn expect_rejected(&mut self, draft_id: &str, reason: &str) -> Vec<Value> {
        match self.answer(draft_id).await {
            Answer::Rejected { reason: given, errors } => {
                assert_eq!(given, reason, "{draft_id} of {}: {errors:?}", self.id);
                errors
            }
            Answer::Accepted { event, .. } => panic!("{draft_id} of {} was accepted: {event}", self.id),
        }
    }

    /// Waits until every draft is answered.
    pub async fn settle(&mut self) {
        while !self.unanswered.is_empty() {
            self.step().await;
        }
    }

    /// Waits until at most `count` drafts are unanswered.
    pub async fn settle_to(&mut self, count: usize) {
        while self.unanswered.len() > count {
            self.step().await;
        }
    }

    /// Waits until it has seen the event.
    pub async fn caught_up(&mut self, event_id: u64) {
        while self.last_event_id < event_id {
            self.step().await;
        }
    }

    /// Asks for a page of history; what else comes in between is taken as always.
    pub async fn sync(&mut self, payload: Value) -> Value {
        let request = self.send("sync", payload).await;
        loop {
            let message = self.step().await;
            if message["replyTo"] == request.as_str() {
                assert_eq!(message["type"], "sync_response", "{message}");
                return message["payload"].clone();
            }
        }
    }

    /// Sends any message and gives its id.
    pub async fn send(&mut self, kind: &str, payload: Value) -> String {
        if kind != "sync" {
            self.last_page = None;
        }
        self.socket().send(kind, payload).await.unwrap()
    }

    /// The connection of now.
    pub fn socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("the client is not connected")
    }

    /// Takes the next message, coming back first if the connection is broken and the client steadfast.
    pub async fn step(&mut self) -> Value {
        loop {
            let received = match &mut self.socket {
                Some(socket) => socket.receive().await,
                None => Err(Gone { code: None }),
            };
            match received {
                Ok(message) => {
                    self.take(&message).await;
                    return message;
                }
                Err(gone) => self.broken(gone).await,
            }
        }
    }

    /// Takes what has come already.
    pub async fn drain(&mut self) {
        while let Some(received) = self.socket.as_mut().and_then(Socket::try_receive) {
            match received {
                Ok(message) => self.take(&message).await,
                Err(gone) => self.broken(gone).await,
            }
        }
    }

    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    async fn broken(&mut self, gone: Gone) {
        assert!(self.steadfast, "the connection of {} is gone: {gone:?}", self.id);
        self.reconnect().await;
    }

    async fn take(&mut self, message: &Value) {
        let payload = &message["payload"];
        match message["type"].as_str().unwrap() {
            "broadcast" => {
                let in_cycle = self.last_page.is_some_and(|at| at.elapsed() < CYCLE_LASTS);
                assert!(!in_cycle, "{}: a broadcast overtook the pages of a sync: {payload}", self.id);
                let event_id = payload["eventId"].as_u64().unwrap();
                if event_id <= self.last_event_id && self.goes_on_after.is_some_and(|at| at < event_id) {
                    self.check_event(event_id, &payload["event"]);
                } else {
                    self.take_event(event_id, &payload["event"]);
                }
                self.goes_on_after = self.goes_on_after.map(|at| at.max(event_id));
            }
            "sync_response" => self.take_page(payload),
            "error" if payload["code"] == "unavailable" && payload["details"]["draftId"].is_string() => {
                // Nobody can say what became of it: the same draft again finds out.
                assert!(self.steadfast, "{}: {payload}", self.id);
                let draft = self.answered(&payload["details"]);
                self.send_again(draft).await;
            }
            "event_accepted" => {
                let draft = self.answered(payload);
                let event_id = payload["eventId"].as_u64().unwrap();
                let event = payload["event"].clone();
                self.check_event(event_id, &event);
                assert_eq!(event["type"], draft.event["type"]);
                assert_eq!(event["payload"], draft.event["payload"]);
                assert_eq!(event["clientId"], self.id.as_str());
                if draft.sent == 1 {
                    assert!(
                        event_id > self.last_event_id,
                        "{}: the broadcast of event {event_id} came before its acceptance",
                        self.id
                    );
                }
                self.answers.insert(draft.id, Answer::Accepted { event_id, event });
            }
            "event_rejected" => {
                let reason = payload["reason"].as_str().unwrap().to_owned();
                let errors = payload["errors"].as_array().unwrap().clone();
                for error in &errors {
                    for field in ["field", "message", "code"] {
                        assert!(error[field].is_string(), "{error} has no {field}");
                    }
                }
                let draft = self.answered(payload);
                if reason == "unavailable" && self.steadfast {
                    // Not stored, and safe to send again: a real client does.
                    self.send_again(draft).await;
                    return;
                }
                self.answers.insert(draft.id, Answer::Rejected { reason, errors });
            }
            _ => {}
        }
    }

    /// Takes the draft that an answer is for out of the unanswered ones.
    fn answered(&mut self, payload: &Value) -> Draft {
        let id = payload["draftId"].as_str().unwrap();
        let at = self.unanswered.iter().position(|draft| draft.id == id);
        let at =
            at.unwrap_or_else(|| panic!("{} got an answer that it does not wait for: {payload}", self.id));
        self.unanswered.remove(at)
    }

    async fn send_again(&mut self, draft: Draft) {
        self.unanswered.push(draft);
        if self.send_draft(self.unanswered.len() - 1).await.is_err() {
            self.socket = None;
        }
    }

    /// A connection sees one sequence: what a page brought is not broadcast any more.
    fn take_page(&mut self, payload: &Value) {
        if let Some(snapshot) = payload.get("snapshot") {
            let event_id = snapshot["eventIndex"].as_u64().unwrap();
            if event_id > self.last_event_id {
                self.last_event_id = event_id;
                self.replica = Replica::from(snapshot["state"].clone());
            }
        }
        for event in payload["events"].as_array().unwrap() {
            let event_id = event["eventId"].as_u64().unwrap();
            if event_id > self.last_event_id {
                self.take_event(event_id, event);
            }
        }
        let has_more = payload["hasMore"].as_bool().unwrap();
        self.last_page = has_more.then(Instant::now);
        let last = payload["events"].as_array().unwrap().last();
        self.goes_on_after = last.filter(|_| has_more).map(|event| event["eventId"].as_u64().unwrap());
    }

    fn take_event(&mut self, event_id: u64, event: &Value) {
        self.check_event(event_id, event);
        assert!(
            event_id > self.last_event_id,
            "{}: event {event_id} came after event {}",
            self.id,
            self.last_event_id
        );
        self.last_event_id = event_id;
        self.replica.fold(event).unwrap_or_else(|error| panic!("event {event_id} does not fold: {error}"));
        self.events.push(event.clone());
    }

    fn check_event(&self, event_id: u64, event: &Value) {
        assert_eq!(event["eventId"], event_id);
        assert_eq!(event["id"], format!("evt-{event_id}"));
        assert_eq!(event["partition"], self.partition.as_str());
        assert!(event["timestamp"].is_u64() && event["clientId"].is_string(), "{event}");
    }

    /// The ids of the events seen.
    pub fn event_ids(&self) -> Vec<u64> {
        self.events.iter().map(|event| event["eventId"].as_u64().unwrap()).collect()
    }
}
