//! A client of many partitions over one connection. It checks what must hold of each partition: events come once and
//! in order, none before `subscribed` or after `unsubscribed`, an answer before the broadcast, one answer to a draft.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use super::socket::{Gone, Socket};

/// A client of many partitions.
pub struct Many {
    pub socket: Socket,
    /// What it has of each partition that it is or was subscribed to.
    pub of: BTreeMap<String, Seen>,
    /// The answer to each draft, by partition and draft id.
    pub answers: HashMap<(String, String), Value>,
    /// What was submitted, by request id: partition and draft id.
    asked: HashMap<String, (String, String)>,
    /// The `error`s that it was told.
    pub errors: Vec<Value>,
}

/// What a client has of a partition.
#[derive(Debug, Default)]
pub struct Seen {
    /// The last `subscribed`.
    pub subscribed: Value,
    /// The last `unsubscribed`.
    pub unsubscribed: Value,
    pub is_open: bool,
    /// The last event, or that of the state that it began with.
    pub last: u64,
    /// The events that came, over all its connections.
    pub events: Vec<Value>,
    /// The accepted events that have not come as broadcasts.
    pub accepted: BTreeSet<u64>,
}

impl Many {
    /// Connects with these partitions, each a name or `{ partition, lastEventId }`.
    pub async fn connect(url: &str, id: &str, partitions: Value) -> Self {
        Self::connect_with(url, json!({ "clientId": id, "version": "test", "partitions": partitions })).await
    }

    pub async fn connect_with(url: &str, connect: Value) -> Self {
        let mut socket = Socket::open(url).await.unwrap();
        let id = socket.send("connect", connect.clone()).await.unwrap();
        let message = socket.expect("connected").await;
        assert_eq!(message["replyTo"], id);
        let name = |one: &Value| one.get("partition").unwrap_or(one).clone();
        let names: Vec<Value> = connect["partitions"].as_array().unwrap().iter().map(name).collect();
        assert_eq!(message["payload"]["partitions"], json!(names), "{message}");
        let (of, answers, asked, errors) = Default::default();
        Self { socket, of, answers, asked, errors }
    }

    /// Comes back over another connection, with what it has of each partition that was open; and submits again what
    /// was not answered, with `event` for each.
    pub async fn come_back(&mut self, url: &str, id: &str) {
        let open = self.of.iter_mut().filter(|(_, seen)| seen.is_open);
        let partitions: Vec<Value> = open
            .map(|(partition, seen)| {
                seen.is_open = false;
                json!({ "partition": partition, "lastEventId": seen.last })
            })
            .collect();
        let fresh = Self::connect(url, id, json!(partitions)).await;
        self.socket = fresh.socket;
        self.asked.clear();
    }

    pub async fn send(&mut self, kind: &str, payload: Value) -> String {
        self.socket.send(kind, payload).await.unwrap()
    }

    /// Submits a `set` of `target` in a partition.
    pub async fn submit(&mut self, partition: &str, draft: &str, value: Value) {
        self.try_submit(partition, draft, value).await.unwrap();
    }

    pub async fn try_submit(&mut self, partition: &str, draft: &str, value: Value) -> Result<(), Gone> {
        let event =
            json!({ "type": "set", "partition": partition, "payload": { "target": draft, "value": value } });
        let id = self.socket.send("submit_event", json!({ "draftId": draft, "event": event })).await?;
        self.answers.remove(&(partition.to_owned(), draft.to_owned()));
        self.asked.insert(id, (partition.to_owned(), draft.to_owned()));
        Ok(())
    }

    /// Submits, and waits for the answer.
    pub async fn commit(&mut self, partition: &str, draft: &str, value: Value) -> Value {
        self.submit(partition, draft, value).await;
        let answer = self.answer(partition, draft).await;
        assert_eq!(answer["type"], "event_accepted", "{answer}");
        answer
    }

    /// The answer to a draft, once it has come.
    pub async fn answer(&mut self, partition: &str, draft: &str) -> Value {
        let of = (partition.to_owned(), draft.to_owned());
        loop {
            if let Some(answer) = self.answers.get(&of) {
                return answer.clone();
            }
            self.step().await.unwrap();
        }
    }

    /// Waits until a partition is subscribed to.
    pub async fn subscribed(&mut self, partition: &str) -> Value {
        while !self.of.get(partition).is_some_and(|seen| seen.is_open) {
            self.step().await.unwrap();
        }
        self.of[partition].subscribed.clone()
    }

    /// Subscribes, and waits for the answer.
    pub async fn subscribe(&mut self, partition: &str, last_event_id: Option<u64>) -> Value {
        let id =
            self.send("subscribe", json!({ "partition": partition, "lastEventId": last_event_id })).await;
        let answer = self.subscribed(partition).await;
        assert_eq!(answer["replyTo"], id, "{answer}");
        answer
    }

    /// Waits until an event of a partition has come.
    pub async fn seen(&mut self, partition: &str, event_id: u64) {
        while self.of.get(partition).is_none_or(|seen| seen.last < event_id) {
            self.step().await.unwrap();
        }
    }

    /// The next error.
    pub async fn error(&mut self, code: &str) -> Value {
        let had = self.errors.len();
        while self.errors.len() == had {
            self.step().await.unwrap();
        }
        let error = self.errors[had].clone();
        assert_eq!(error["payload"]["code"], code, "{error}");
        error
    }

    /// Takes one message in.
    pub async fn step(&mut self) -> Result<Value, Gone> {
        let message = self.socket.receive().await?;
        self.take(&message);
        Ok(message)
    }

    fn take(&mut self, message: &Value) {
        let payload = &message["payload"];
        let name = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{message}")).to_owned();
        match message["type"].as_str().unwrap() {
            "subscribed" => {
                let seen = self.of.entry(name(&payload["partition"])).or_default();
                assert!(!seen.is_open, "subscribed twice: {message}");
                (seen.is_open, seen.subscribed) = (true, message.clone());
                if payload.get("initialState").is_some() {
                    seen.last = payload["currentEventIndex"].as_u64().unwrap();
                    seen.accepted.clear();
                }
            }
            "unsubscribed" => {
                let seen = self.of.entry(name(&payload["partition"])).or_default();
                (seen.is_open, seen.unsubscribed) = (false, message.clone());
            }
            "broadcast" => {
                let (event, id) = (&payload["event"], payload["eventId"].as_u64().unwrap());
                self.take_event(&name(&event["partition"]), id, event);
            }
            "sync_response" => {
                let partition = name(&payload["partition"]);
                for event in payload["events"].as_array().unwrap() {
                    let id = event["eventId"].as_u64().unwrap();
                    if id > self.of[&partition].last {
                        self.take_event(&partition, id, event);
                    }
                }
            }
            kind @ ("event_accepted" | "event_rejected") => {
                let asked = self.asked.remove(message["replyTo"].as_str().unwrap());
                let of = asked.unwrap_or_else(|| panic!("nobody asked for {message}"));
                assert_eq!(payload["draftId"], of.1, "{message}");
                if kind == "event_accepted" {
                    let (event, id) = (&payload["event"], payload["eventId"].as_u64().unwrap());
                    assert_eq!(event["partition"], of.0, "{message}");
                    let seen = self.of.entry(of.0.clone()).or_default();
                    if id > seen.last {
                        seen.accepted.insert(id);
                    }
                }
                assert!(self.answers.insert(of, message.clone()).is_none(), "answered twice: {message}");
            }
            "error" => self.errors.push(message.clone()),
            "heartbeat" | "token_refreshed" | "state_part" => {}
            _ => panic!("not expected: {message}"),
        }
    }

    fn take_event(&mut self, partition: &str, id: u64, event: &Value) {
        let seen = self.of.get_mut(partition).unwrap_or_else(|| panic!("of no partition of ours: {event}"));
        assert!(seen.is_open, "an event of a partition that is not subscribed to: {event}");
        assert!(id > seen.last, "event {id} of {partition} came after {}", seen.last);
        assert_eq!((&event["eventId"], &event["partition"]), (&json!(id), &json!(partition)));
        seen.last = id;
        seen.accepted.remove(&id);
        seen.events.push(event.clone());
    }

    /// The ids of the events of a partition that came.
    pub fn ids(&self, partition: &str) -> Vec<u64> {
        self.of[partition].events.iter().map(|event| event["eventId"].as_u64().unwrap()).collect()
    }
}
