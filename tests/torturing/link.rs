//! What a client speaks over: a connection of its own, or its line of one that several clients share, each for a
//! partition of its own.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::client::LEFT;
use super::wire::Wire;
use crate::harness::socket::now_ms;

/// Where a client's messages go and come from.
pub enum Link {
    Own(Box<Wire>),
    Line(Line),
}

impl Link {
    /// The port of this end.
    pub fn port(&self) -> u16 {
        match self {
            Link::Own(wire) => wire.port(),
            Link::Line(line) => line.port,
        }
    }

    pub async fn send(&mut self, text: String) -> Result<(), String> {
        match self {
            Link::Own(wire) => wire.send(text).await,
            Link::Line(line) => line.order(Order::Send(text)).await,
        }
    }

    /// The next message; an error when the connection is over. Cancel safe.
    pub async fn next(&mut self) -> Result<Value, String> {
        match self {
            Link::Own(wire) => wire.next().await,
            Link::Line(line) => line.next().await,
        }
    }

    /// What the server says at the end; see [`Wire::end_of`].
    pub async fn end_of(&mut self, sign: String) -> String {
        match self {
            Link::Own(wire) => wire.end_of(sign).await,
            Link::Line(_) => sign,
        }
    }

    /// Ends the connection, with a goodbye.
    pub async fn close(&mut self) {
        if let Link::Own(wire) = self {
            wire.close().await;
        }
    }

    /// Takes note that the server has nothing more to do with this line, so that the others can go on without it.
    pub fn is_done(&mut self) {
        if let Link::Line(line) = self {
            line.is_done = true;
        }
    }
}

/// A client's part of a connection that is shared. Dropped before it is done, it takes the connection with it: the
/// server would still take its partition for subscribed to.
pub struct Line {
    port: u16,
    orders: UnboundedSender<Order>,
    messages: UnboundedReceiver<Result<Value, String>>,
    is_done: bool,
}

impl Line {
    async fn order(&mut self, order: Order) -> Result<(), String> {
        if self.orders.send(order).is_ok() {
            return Ok(());
        }
        // It is over, and what it said last is why.
        loop {
            self.next().await?;
        }
    }

    async fn next(&mut self) -> Result<Value, String> {
        self.messages.recv().await.unwrap_or_else(|| Err("the shared connection is over".to_owned()))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.is_done {
            drop(self.orders.send(Order::Close));
        }
    }
}

enum Order {
    Join(String, UnboundedSender<Result<Value, String>>),
    Send(String),
    Close,
}

/// A connection that several clients share under one client id, made again by the first of them that needs it.
pub struct Trunk {
    client_id: String,
    open: tokio::sync::Mutex<Option<Open>>,
    /// Messages about partitions that were left.
    strays: Arc<Mutex<Vec<String>>>,
}

struct Open {
    frontend: usize,
    port: u16,
    orders: UnboundedSender<Order>,
}

impl Trunk {
    pub fn new(client_id: String) -> Self {
        Self { client_id, open: tokio::sync::Mutex::new(None), strays: Arc::default() }
    }

    /// A line for a partition, and the frontend that it goes to: this one if there is no connection yet.
    pub async fn line(&self, frontend: usize, port: u16, partition: &str) -> Result<(Line, usize), String> {
        let mut open = self.open.lock().await;
        let joined = open.as_ref().and_then(|open| Some((join(open, partition)?, open.frontend)));
        if let Some(line) = joined {
            return Ok(line);
        }
        let mut wire = Wire::open(port).await?;
        let payload = json!({ "clientId": self.client_id, "version": "torture", "partitions": [] });
        let connect = json!({ "id": "c", "type": "connect", "timestamp": now_ms(), "payload": payload });
        wire.send(connect.to_string()).await?;
        let said = wire.next().await?;
        if said["type"] != "connected" {
            return Err(said.to_string());
        }
        let (orders, taken) = unbounded_channel();
        let made = open.insert(Open { frontend, port: wire.port(), orders });
        tokio::spawn(carry(wire, taken, self.strays.clone()));
        let line = join(made, partition).ok_or("the shared connection is over at once")?;
        Ok((line, frontend))
    }

    /// What came about partitions after they were left.
    pub fn take_strays(&self) -> Vec<String> {
        std::mem::take(&mut *self.strays.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn join(open: &Open, partition: &str) -> Option<Line> {
    let (sender, messages) = unbounded_channel();
    open.orders.send(Order::Join(partition.to_owned(), sender)).ok()?;
    Some(Line { port: open.port, orders: open.orders.clone(), messages, is_done: false })
}

/// Carries messages between the server and the lines until the connection is over, or nobody is left.
async fn carry(mut wire: Wire, mut orders: UnboundedReceiver<Order>, strays: Arc<Mutex<Vec<String>>>) {
    let mut lines: HashMap<String, UnboundedSender<Result<Value, String>>> = HashMap::new();
    let mut left: HashSet<String> = HashSet::new();
    let why = loop {
        let message = tokio::select! {
            order = orders.recv() => {
                match order {
                    Some(Order::Join(partition, line)) => {
                        left.remove(&partition);
                        lines.insert(partition, line);
                        continue;
                    }
                    Some(Order::Send(text)) => match wire.send(text).await {
                        Ok(()) => continue,
                        Err(why) => break why,
                    },
                    Some(Order::Close) | None => {
                        wire.close().await;
                        break LEFT.to_owned();
                    }
                }
            }
            message = wire.next() => message,
        };
        let message = match message {
            Ok(message) => message,
            Err(why) => break why,
        };
        let Some(partition) = partition_of(&message) else {
            // About the connection: everybody's.
            for line in lines.values() {
                drop(line.send(Ok(message.clone())));
            }
            continue;
        };
        if message["type"] == "unsubscribed" {
            left.insert(partition.to_owned());
            if let Some(line) = lines.remove(partition) {
                drop(line.send(Ok(message)));
            }
            continue;
        }
        match lines.get(partition) {
            // A client that has ended hears nothing more.
            Some(line) => drop(line.send(Ok(message))),
            None if left.contains(partition) => {
                let mut strays = strays.lock().unwrap_or_else(PoisonError::into_inner);
                strays.push(format!("came after `unsubscribed`: {message}"));
            }
            None => {}
        }
    };
    orders.close();
    for line in lines.values() {
        drop(line.send(Err(why.clone())));
    }
}

/// Which line a message is for: the requests of each have ids that begin with its partition.
fn partition_of(message: &Value) -> Option<&str> {
    let payload = &message["payload"];
    let asked =
        message["replyTo"].as_str().and_then(|id| id.rsplit_once(':')).map(|(partition, _)| partition);
    asked
        .or_else(|| payload["partition"].as_str())
        .or_else(|| payload["event"]["partition"].as_str())
        .or_else(|| payload["details"]["partition"].as_str())
}
