//! A client of the v1 dialect as a real one behaves: it holds every batch until it is answered, keeps a
//! cursor, comes back with both after a break, and merges all that it is told by id. It shares no code with
//! the product. On the way it checks what must hold of every connection: results in the order asked, no
//! broadcast twice, none out of order, none inside a sync cycle, none of what it submitted there itself.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use serde_json::{Value, json};

use super::Patience;
use super::socket::{Gone, Socket};

/// A batch that waits for its result.
#[derive(Debug, Clone)]
struct Batch {
    msg_id: String,
    events: Vec<Value>,
}

/// What became of one item of one batch.
#[derive(Debug, Clone)]
pub struct Item {
    /// The event as it was submitted.
    pub event: Value,
    /// Its entry in the result.
    pub result: Value,
}

impl Item {
    pub fn status(&self) -> &str {
        self.result["status"].as_str().unwrap()
    }

    /// Where it was committed, if it was.
    pub fn committed_id(&self) -> Option<u64> {
        (self.status() == "committed").then(|| self.result["committedId"].as_u64().unwrap())
    }
}

/// What one connection was told.
#[derive(Debug, Default, Clone)]
pub struct Connection {
    /// The head that `connected` named: what is committed behind it is to be heard of.
    pub began_at: u64,
    /// Up to where the client knew all when it connected.
    pub knew_to: u64,
    /// The ids broadcast, in the order they came.
    pub broadcasts: Vec<u64>,
    /// Every committed id that it was told of: broadcasts, pages and results.
    pub seen: HashSet<u64>,
    /// The highest id that pages reached.
    paged_to: u64,
    in_cycle: bool,
    /// The ids of events that were submitted on this connection and never before it.
    first_sent: HashSet<String>,
    /// The committed ids that were answered.
    answered: HashSet<u64>,
    /// The ids of the events that were not answered when it ended.
    pub unanswered: HashSet<String>,
}

impl Connection {
    /// Up to where broadcasts and pages have come: nothing before that may be missing.
    pub fn covered_to(&self) -> u64 {
        self.broadcasts.last().copied().unwrap_or(0).max(self.paged_to)
    }
}

/// A client, connected or between two connections.
pub struct V1Client {
    pub id: String,
    pub project: String,
    /// What it shows to be let in.
    pub token: String,
    /// The committed events that it knows, by committed id.
    pub log: BTreeMap<u64, Value>,
    /// Up to where it surely knows all.
    pub cursor: u64,
    /// Every answered batch, in the order of the answers.
    pub batches: Vec<Vec<Item>>,
    /// Its connections; the last is that of now.
    pub connections: Vec<Connection>,
    /// How often the server closed a connection with `server_error`.
    pub turned_away: u32,
    url: String,
    socket: Option<Socket>,
    unanswered: VecDeque<Batch>,
    messages: u64,
    sent_ever: HashSet<String>,
    page: Option<Value>,
}

impl V1Client {
    /// Connects for the first time.
    pub async fn connect(url: &str, id: &str, project: &str) -> Self {
        let mut client = Self::new(url, id, project);
        client.reconnect().await;
        client
    }

    /// A client that is not connected yet.
    pub fn new(url: &str, id: &str, project: &str) -> Self {
        Self {
            id: id.to_owned(),
            project: project.to_owned(),
            token: "any".to_owned(),
            log: BTreeMap::new(),
            cursor: 0,
            batches: Vec::new(),
            connections: Vec::new(),
            turned_away: 0,
            url: url.to_owned(),
            socket: None,
            unanswered: VecDeque::new(),
            messages: 0,
            sent_ever: HashSet::new(),
            page: None,
        }
    }

    /// Goes to another frontend from the next connection on.
    pub fn move_to(&mut self, url: &str) {
        self.url = url.to_owned();
    }

    /// Drops the connection without a word.
    pub fn drop_connection(&mut self) {
        if self.socket.take().is_some() {
            let ids = self.unanswered.iter().flat_map(|batch| &batch.events).map(id_of).collect();
            self.now().unanswered = ids;
        }
    }

    pub fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    /// Connects, and submits what was not answered under the same ids. Tries until it gets through.
    pub async fn reconnect(&mut self) {
        let patience = Patience::new();
        while let Err(error) = self.try_connect().await {
            self.drop_connection();
            let Self { id, url, .. } = &self;
            patience.wait_for(&format!("{id} to get through to {url}; the last time: {error}")).await;
        }
    }

    async fn try_connect(&mut self) -> Result<(), String> {
        self.drop_connection();
        let mut socket = Socket::open(&self.url).await?;
        let payload = json!({ "token": self.token, "clientId": self.id, "projectId": self.project });
        let msg_id = self.next_id();
        let gone = |gone: Gone| format!("{gone:?}");
        socket.send_text(envelope("connect", &msg_id, &payload)).await.map_err(gone)?;
        let answer = socket.receive().await.map_err(gone)?;
        if answer["type"] != "connected" {
            return Err(answer.to_string());
        }
        assert_eq!(answer["msgId"], msg_id.as_str(), "{answer}");
        assert_eq!(answer["payload"]["clientId"], self.id.as_str());
        assert_eq!(answer["payload"]["projectId"], self.project.as_str());
        let began_at = answer["payload"]["projectLastCommittedId"].as_u64().unwrap();
        self.connections.push(Connection { began_at, knew_to: self.cursor, ..Connection::default() });
        self.socket = Some(socket);
        for batch in self.unanswered.clone() {
            self.send("submit_events", &batch.msg_id, &json!({ "events": batch.events }))
                .await
                .map_err(gone)?;
        }
        Ok(())
    }

    /// An event of this client's: its own choice of the fields that matter.
    pub fn event(&self, id: &str, kind: &str, payload: Value) -> Value {
        json!({
            "id": id, "projectId": self.project, "partition": "doc", "type": kind, "schemaVersion": 1,
            "payload": payload, "meta": { "clientId": self.id, "clientTs": 1 },
        })
    }

    /// Submits a batch and gives its message id. Does not wait.
    pub async fn submit(&mut self, events: Vec<Value>) -> String {
        let msg_id = self.next_id();
        for id in events.iter().map(id_of) {
            if self.sent_ever.insert(id.clone()) {
                self.now().first_sent.insert(id);
            }
        }
        self.unanswered.push_back(Batch { msg_id: msg_id.clone(), events: events.clone() });
        if self.send("submit_events", &msg_id, &json!({ "events": events })).await.is_err() {
            self.reconnect().await;
        }
        msg_id
    }

    /// Submits and waits for the results.
    pub async fn results(&mut self, events: Vec<Value>) -> Vec<Item> {
        self.submit(events).await;
        self.settle().await;
        self.batches.last().unwrap().clone()
    }

    /// Submits one event, which must be committed; gives its committed id.
    pub async fn commit(&mut self, event: Value) -> u64 {
        let item = self.results(vec![event]).await.remove(0);
        item.committed_id().unwrap_or_else(|| panic!("{} was to be committed: {}", item.event, item.result))
    }

    /// Whether something waits for its result.
    pub fn is_settled(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// Waits until every batch is answered.
    pub async fn settle(&mut self) {
        while !self.unanswered.is_empty() {
            self.step().await;
        }
    }

    /// Waits until this connection was told of an event.
    pub async fn told_of(&mut self, committed_id: u64) {
        while !self.connections.last().unwrap().seen.contains(&committed_id) {
            self.step().await;
        }
    }

    /// Asks for what comes after `since`, and waits for the page.
    pub async fn page_after(&mut self, since: u64, limit: u64) -> Value {
        let payload = json!({ "projectId": self.project, "sinceCommittedId": since, "limit": limit });
        loop {
            let msg_id = self.next_id();
            self.page = None;
            let connections = self.connections.len();
            if self.send("sync", &msg_id, &payload).await.is_err() {
                self.reconnect().await;
                continue;
            }
            // A break takes the request with it: it is made again.
            while connections == self.connections.len() {
                if let Some(page) = self.page.take_if(|page| page["msgId"] == msg_id.as_str()) {
                    return page["payload"].clone();
                }
                self.step().await;
            }
        }
    }

    /// One page from the cursor on; whether there is more.
    pub async fn page(&mut self, limit: u64) -> bool {
        let since = self.cursor;
        let page = self.page_after(since, limit).await;
        let events = page["events"].as_array().unwrap();
        let next = page["nextSinceCommittedId"].as_u64().unwrap();
        let more = page["hasMore"].as_bool().unwrap();
        let last = events.iter().map(committed_id).next_back();
        assert!(events.len() as u64 <= limit, "a page of {} where {limit} were asked for", events.len());
        assert!(next >= since && last.is_none_or(|last| last <= next), "after {since}: {page}");
        assert!(!more || last == Some(next), "after {since}: {page}");
        assert!(events.iter().all(|event| committed_id(event) > since), "after {since}: {page}");
        self.cursor = next;
        more
    }

    /// Pages until the end of the cycle.
    pub async fn sync(&mut self, limit: u64) {
        while self.page(limit).await {}
    }

    /// Takes what has come already.
    pub async fn drain(&mut self) {
        while let Some(received) = self.socket.as_mut().and_then(Socket::try_receive) {
            self.received(received).await;
        }
    }

    /// Takes the next message, coming back first if the connection is broken.
    pub async fn step(&mut self) {
        let received = match &mut self.socket {
            Some(socket) => socket.receive().await,
            None => Err(Gone { code: None }),
        };
        self.received(received).await;
    }

    /// The connection of now.
    pub fn socket(&mut self) -> &mut Socket {
        self.socket.as_mut().expect("the client is not connected")
    }

    async fn received(&mut self, received: Result<Value, Gone>) {
        match received {
            Ok(message) => self.take(message),
            Err(_) => self.reconnect().await,
        }
    }

    fn take(&mut self, message: Value) {
        assert_eq!(message["protocolVersion"], "1.0", "{message}");
        let payload = &message["payload"];
        match message["type"].as_str().unwrap() {
            "event_broadcast" => self.take_broadcast(payload),
            "sync_response" => {
                assert_eq!(payload["projectId"], self.project.as_str());
                for event in payload["events"].as_array().unwrap() {
                    self.take_event(event);
                }
                let upto = payload["syncToCommittedId"].as_u64().unwrap();
                let more = payload["hasMore"].as_bool().unwrap();
                let ids: Vec<u64> = payload["events"].as_array().unwrap().iter().map(committed_id).collect();
                assert!(ids.is_sorted_by(|a, b| a < b) && ids.iter().all(|id| *id <= upto), "{ids:?} {upto}");
                let reached = if more { ids.last().copied().unwrap_or(0) } else { upto };
                let now = self.now();
                now.in_cycle = more;
                now.paged_to = now.paged_to.max(reached);
                self.page = Some(message);
            }
            "submit_events_result" => self.take_result(&message),
            "error" if payload["code"] == "server_error" => {
                // Not just now: the connection is closed next, and a real client comes again.
                self.turned_away += 1;
            }
            _ => panic!("{} was sent {message}", self.id),
        }
    }

    fn take_broadcast(&mut self, event: &Value) {
        let (id, event_id) = (committed_id(event), id_of(event));
        self.take_event(event);
        let client = self.id.clone();
        let own = event["meta"]["clientId"] == client.as_str();
        let now = self.now();
        assert!(!now.in_cycle, "{client}: a broadcast overtook the pages of a sync: {event}");
        let before = now.broadcasts.last().copied().unwrap_or(now.began_at).max(now.paged_to);
        assert!(id > before, "{client}: event {id} was broadcast after {before}");
        assert!(!now.answered.contains(&id), "{client}: event {id} was answered and then broadcast");
        assert!(!(own && now.first_sent.contains(&event_id)), "{client}: its own event {id} came back");
        now.broadcasts.push(id);
    }

    fn take_result(&mut self, message: &Value) {
        let batch = self.unanswered.pop_front().expect("a result that nobody waits for");
        assert_eq!(message["msgId"], batch.msg_id.as_str(), "results come in the order of the requests");
        let results = message["payload"]["results"].as_array().unwrap();
        assert_eq!(results.len(), batch.events.len(), "an entry per item: {message}");
        let mut blocked_by: Option<&Value> = None;
        let mut items = Vec::new();
        for (event, result) in batch.events.iter().zip(results) {
            assert_eq!(result["id"], event["id"], "entries in the order of the items: {message}");
            match (result["status"].as_str().unwrap(), blocked_by) {
                ("committed", None) => {
                    let mut event = event.clone();
                    event["committedId"] = result["committedId"].clone();
                    event["serverTs"] = result["serverTs"].clone();
                    let id = committed_id(&event);
                    // Somebody else may have committed the same under this id first.
                    if let Some(known) = self.log.get(&id) {
                        event["meta"]["clientId"] = known["meta"]["clientId"].clone();
                    }
                    self.take_event(&event);
                    self.now().answered.insert(id);
                }
                ("rejected", None) => {
                    assert!(result["reason"].is_string() && result["errors"].is_array(), "{result}");
                    blocked_by = Some(&result["id"]);
                }
                ("not_processed", Some(by)) => {
                    assert_eq!(result["reason"], "prior_item_failed");
                    assert_eq!(&result["blockedById"], by, "{message}");
                }
                _ => panic!("{}: {result} has no place in {message}", self.id),
            }
            items.push(Item { event: event.clone(), result: result.clone() });
        }
        self.batches.push(items);
    }

    /// Whatever tells of an event says the same of it.
    fn take_event(&mut self, event: &Value) {
        let id = committed_id(event);
        self.now().seen.insert(id);
        let Some(known) = self.log.get_mut(&id) else {
            drop(self.log.insert(id, event.clone()));
            return;
        };
        // A result does not say who was first with the same event.
        let mut same = known.clone();
        same["meta"]["clientId"] = event["meta"]["clientId"].clone();
        assert_eq!(&same, event, "{}: two accounts of event {id}", self.id);
        *known = event.clone();
    }

    fn now(&mut self) -> &mut Connection {
        self.connections.last_mut().expect("never connected")
    }

    fn next_id(&mut self) -> String {
        self.messages += 1;
        format!("{}-m{}", self.id, self.messages)
    }

    async fn send(&mut self, kind: &str, msg_id: &str, payload: &Value) -> Result<(), Gone> {
        let socket = self.socket.as_mut().ok_or(Gone { code: None })?;
        socket.send_text(envelope(kind, msg_id, payload)).await
    }
}

/// A message of the v1 dialect.
pub fn envelope(kind: &str, msg_id: &str, payload: &Value) -> String {
    json!({ "type": kind, "protocolVersion": "1.0", "msgId": msg_id, "payload": payload }).to_string()
}

/// A record of the log as the v1 dialect shows it.
pub fn as_v1(record: &Value) -> Value {
    let id = record["eventId"].as_u64().unwrap();
    let mut event = json!({
        "projectId": record["partition"], "committedId": id, "type": record["type"],
        "payload": record["payload"], "serverTs": record["timestamp"],
    });
    let user = match record.get("v1") {
        Some(v1) => {
            event["id"] = record["draftId"].clone();
            event["partition"] = v1["label"].clone();
            event["schemaVersion"] = v1["schemaVersion"].clone();
            event["meta"] = v1["meta"].clone();
            v1.get("userId")
        }
        None => {
            event["id"] = format!("evt-{id}").into();
            event["partition"] = "default".into();
            event["schemaVersion"] = 1.into();
            event["meta"] = json!({ "clientId": record["clientId"], "clientTs": record["timestamp"] });
            record.get("userId")
        }
    };
    if let Some(user) = user {
        event["userId"] = user.clone();
    }
    event
}

/// A record of the log as the classic dialect shows it.
pub fn as_classic(record: &Value) -> Value {
    let id = record["eventId"].as_u64().unwrap();
    let mut event = json!({
        "type": record["type"], "payload": record["payload"], "partition": record["partition"],
        "id": format!("evt-{id}"), "eventId": id, "timestamp": record["timestamp"],
        "clientId": record["clientId"],
    });
    if let Some(user) = record.get("userId") {
        event["userId"] = user.clone();
    }
    event
}

/// What of a v1 event makes it the same event: all but who sent it, and what the commit adds.
pub fn content(event: &Value) -> Value {
    let mut content = event.clone();
    let fields = content.as_object_mut().unwrap();
    for field in ["committedId", "serverTs"] {
        fields.remove(field);
    }
    if let Some(meta) = fields.get_mut("meta").and_then(Value::as_object_mut) {
        meta.remove("clientId");
    }
    content
}

/// The items of all answered batches by event id.
pub fn by_id<'a>(items: impl IntoIterator<Item = &'a Item>) -> HashMap<String, Vec<&'a Item>> {
    let mut by_id: HashMap<String, Vec<&Item>> = HashMap::new();
    for item in items {
        by_id.entry(id_of(&item.event)).or_default().push(item);
    }
    by_id
}

pub fn committed_id(event: &Value) -> u64 {
    event["committedId"].as_u64().unwrap_or_else(|| panic!("no committed event: {event}"))
}

fn id_of(event: &Value) -> String {
    event["id"].as_str().unwrap().to_owned()
}
