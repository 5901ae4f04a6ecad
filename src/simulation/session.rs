//! A client's end of a connection, in either dialect: what it sends and is told, frame by frame.

use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};

use super::history::{History, Stream};
use super::world::World;
use crate::event::{EventId, PartitionKey};

/// How a draft ended, as its client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Accepted(EventId),
    Rejected(String),
    /// It is to be sent again.
    Again,
}

/// A draft: its id, and the event as the model takes it.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub id: String,
    pub event: Value,
}

/// Which dialect a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Classic,
    /// Drafts that are sent together are a batch.
    V1,
}

/// Who connects, and from where on it wants to be shown the log.
pub(crate) struct Guest {
    pub client: String,
    pub partition: PartitionKey,
    pub dialect: Dialect,
    pub since: u64,
    /// The connection's name in the story.
    pub name: String,
}

/// How many latencies there are, in milliseconds from 1 on. Successive connections have different ones: tokio wakes those
/// that wait for one thing in no order, and what they are told at the same moment reaches their clients in order.
const LATENCIES: u64 = 37;

type Pipe = WebSocketStream<DuplexStream>;

/// Talks over a connection until either side ends it.
pub(crate) async fn talk(
    pipe: DuplexStream,
    guest: Guest,
    world: World,
    history: History,
    mut letters: mpsc::UnboundedReceiver<Vec<Letter>>,
    told: mpsc::UnboundedSender<(String, Told)>,
) {
    let mut pipe = WebSocketStream::from_raw_socket(pipe, Role::Client, None).await;
    let number = history.open_stream(Stream {
        connection: guest.name.clone(),
        client: guest.client.clone(),
        partition: guest.partition.clone(),
        from: None,
        shows_own: guest.dialect == Dialect::Classic,
        ids: Vec::new(),
    });
    let mut talk = Talk { guest, world, history, stream: number, sent: 0, connected: false, told };
    if pipe.send(talk.connect()).await.is_err() {
        return;
    }
    let latency = Duration::from_millis(1 + number as u64 % LATENCIES);
    loop {
        tokio::select! {
            biased;
            message = pipe.next() => {
                sleep(latency).await;
                if !talk.hear(message) {
                    return;
                }
                // What came with it.
                while let Some(message) = pipe.next().now_or_never() {
                    if !talk.hear(message) {
                        return;
                    }
                }
            }
            letters = letters.recv(), if talk.connected => match letters {
                Some(letters) if talk.send(&mut pipe, &letters).await => {}
                _ => return,
            },
        }
    }
}

struct Talk {
    guest: Guest,
    world: World,
    history: History,
    /// Which of the history's streams it is.
    stream: usize,
    sent: u64,
    connected: bool,
    told: mpsc::UnboundedSender<(String, Told)>,
}

impl Talk {
    fn frame(&mut self, kind: &str, payload: &Value) -> Message {
        self.sent += 1;
        let frame = match self.guest.dialect {
            Dialect::Classic => json!({ "id": format!("m{}", self.sent), "type": kind, "payload": payload }),
            Dialect::V1 => json!({
                "type": kind, "protocolVersion": "1.0", "msgId": format!("m{}", self.sent),
                "payload": payload,
            }),
        };
        Message::text(frame.to_string())
    }

    fn connect(&mut self) -> Message {
        let Guest { client, partition, since, .. } = &self.guest;
        let payload = match self.guest.dialect {
            Dialect::Classic => {
                json!({ "clientId": client, "version": "1", "partition": partition, "lastEventId": since })
            }
            Dialect::V1 => json!({ "token": "any", "clientId": client, "projectId": partition }),
        };
        self.frame("connect", &payload)
    }

    /// Sends drafts; false if nobody takes them any more.
    async fn send(&mut self, pipe: &mut Pipe, letters: &[Letter]) -> bool {
        let frames: Vec<Message> = match self.guest.dialect {
            Dialect::Classic => letters
                .iter()
                .map(|Letter { id, event }| {
                    let event = match event["type"].as_str() {
                        Some("note") => {
                            json!({ "type": "event", "payload": { "schema": "note", "data": event["payload"] } })
                        }
                        _ => event.clone(),
                    };
                    self.frame("submit_event", &json!({ "draftId": id, "event": event }))
                })
                .collect(),
            Dialect::V1 => {
                let events: Vec<Value> = letters
                    .iter()
                    .map(|Letter { id, event }| {
                        json!({
                            "id": id, "projectId": self.guest.partition, "partition": "doc", "schemaVersion": 1,
                            "type": event["type"], "payload": event["payload"],
                            "meta": { "clientId": self.guest.client, "clientTs": 1 },
                        })
                    })
                    .collect();
                vec![self.frame("submit_events", &json!({ "events": events }))]
            }
        };
        for frame in frames {
            if pipe.send(frame).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Takes what came; false if that was all.
    fn hear(&mut self, came: Option<Result<Message, tungstenite::Error>>) -> bool {
        match came {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(message) => self.take(&message),
                Err(error) => {
                    self.history.find(format!("a frontend says {text}: {error}"));
                    false
                }
            },
            Some(Ok(Message::Close(_)) | Err(_)) | None => false,
            Some(Ok(_)) => true,
        }
    }

    /// Takes a message; false if the connection is of no use.
    fn take(&mut self, message: &Value) -> bool {
        let payload = &message["payload"];
        match message["type"].as_str().unwrap_or_default() {
            "connected" => {
                self.connected = true;
                let from = match self.guest.dialect {
                    Dialect::Classic => self.guest.since,
                    Dialect::V1 => number(&payload["projectLastCommittedId"]),
                };
                self.history.stream(self.stream, |stream| stream.from = Some(from));
            }
            "broadcast" => self.shown(number(&payload["eventId"])),
            "event_broadcast" => self.shown(number(&payload["committedId"])),
            "event_accepted" => {
                self.tell(&payload["draftId"], Told::Accepted(EventId(number(&payload["eventId"]))));
            }
            "event_rejected" if payload["reason"] == "unavailable" => {
                self.tell(&payload["draftId"], Told::Again);
            }
            "event_rejected" => self.tell(&payload["draftId"], rejected(payload)),
            "error" if payload["details"]["draftId"].is_string() => {
                self.tell(&payload["details"]["draftId"], Told::Again);
            }
            "submit_events_result" => {
                for result in payload["results"].as_array().into_iter().flatten() {
                    let told = match result["status"].as_str() {
                        Some("committed") => Told::Accepted(EventId(number(&result["committedId"]))),
                        Some("rejected") => rejected(result),
                        _ => Told::Again,
                    };
                    self.tell(&result["id"], told);
                }
            }
            // It cannot be had just now, or the frontend is to close it.
            "error" => return false,
            _ => self.history.find(format!("{} was told what nobody expects: {message}", self.guest.name)),
        }
        true
    }

    fn shown(&self, id: u64) {
        self.history.stream(self.stream, |stream| stream.ids.push(id));
    }

    fn tell(&self, id: &Value, told: Told) {
        let id = id.as_str().unwrap_or_default().to_owned();
        self.world.tell(|| format!("{} tells {id}: {told:?}", self.guest.name));
        // The client may have gone; then it asks somebody else.
        drop(self.told.send((id, told)));
    }
}

fn rejected(told: &Value) -> Told {
    Told::Rejected(told["errors"][0]["code"].as_str().unwrap_or_default().to_owned())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}
