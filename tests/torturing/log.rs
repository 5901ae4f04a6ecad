//! The truth: what stands in the streams, read by the harness itself.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::DeliverPolicy, consumer::pull};
use futures_util::{StreamExt, TryStreamExt};
use serde_json::Value;
use tokio::time::timeout;

use super::engine;

/// The log of one partition, by event id.
pub type PartitionLog = BTreeMap<u64, Value>;

/// Whether it is a mark: an event that says nothing and that no client is shown.
pub fn is_mark(record: &Value) -> bool {
    record["isMark"] == true
}

/// The last event that clients are shown; 0 if there is none.
pub fn head(log: &PartitionLog) -> u64 {
    log.iter().rev().find(|(_, record)| !is_mark(record)).map_or(0, |(id, _)| *id)
}

const READ_WAIT: Duration = Duration::from_secs(30);

pub struct Truth {
    js: jetstream::Context,
}

impl Truth {
    /// As the operator, who may all.
    pub async fn connect(url: &str) -> Result<Self, String> {
        let (user, password) = engine::login("operator");
        let options = async_nats::ConnectOptions::with_user_and_password(user, password);
        let client =
            options.connect(url.split(',').collect::<Vec<_>>()).await.map_err(|error| error.to_string())?;
        Ok(Self { js: jetstream::new(client) })
    }

    async fn stream(&self, name: &str) -> Result<jetstream::stream::Stream, String> {
        self.js.get_stream(name).await.map_err(|error| format!("stream {name}: {error}"))
    }

    /// Every event behind `after`, by partition; and the last id of all.
    pub async fn events(&self, after: u64) -> Result<(BTreeMap<String, PartitionLog>, u64), String> {
        let stream = self.stream("COMMITTED").await?;
        let last = stream.cached_info().state.last_sequence;
        let mut logs: BTreeMap<String, PartitionLog> = BTreeMap::new();
        if last <= after {
            return Ok((logs, last));
        }
        let consumer = stream
            .create_consumer(pull::OrderedConfig {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
                ..Default::default()
            })
            .await
            .map_err(|error| error.to_string())?;
        let mut messages = consumer.messages().await.map_err(|error| error.to_string())?;
        loop {
            let message = timeout(READ_WAIT, messages.next())
                .await
                .map_err(|_| "reading the log took too long")?
                .ok_or("the log ended early")?
                .map_err(|error| error.to_string())?;
            let info = message.info().map_err(|error| error.to_string())?;
            let (id, stored) = (info.stream_sequence, info.published);
            // NATS's client makes an ordered consumer again that it lost, and that begins with the first event.
            if id <= after {
                continue;
            }
            let mut record: Value = serde_json::from_slice(&message.payload)
                .map_err(|error| format!("event {id} is not JSON: {error}"))?;
            // As the product's `log` command shows it.
            record["eventId"] = id.into();
            record["storedAt"] = ((stored.unix_timestamp_nanos() / 1_000_000) as u64).into();
            let partition = message.subject.trim_start_matches("committed.").to_owned();
            logs.entry(partition).or_default().insert(id, record);
            if id >= last {
                return Ok((logs, last));
            }
        }
    }

    /// What is left to do: drafts in the queue, and consumers on the streams beyond what the slots need.
    pub async fn unrest(&self, slots: usize) -> Result<Option<String>, String> {
        let mut drafts = self.stream("DRAFTS").await?;
        let waiting = drafts.info().await.map_err(|error| error.to_string())?.state.messages;
        if waiting > 0 {
            return Ok(Some(format!("{waiting} drafts wait in the queue")));
        }
        let consumers: Vec<String> =
            drafts.consumer_names().try_collect().await.map_err(|error| error.to_string())?;
        if consumers.len() != slots {
            return Ok(Some(format!("{} consumers for {slots} slots: {consumers:?}", consumers.len())));
        }
        Ok(None)
    }

    /// Consumers on the log, which replays leave behind for a while.
    pub async fn readers(&self) -> Result<usize, String> {
        let log = self.stream("COMMITTED").await?;
        let names: Vec<String> =
            log.consumer_names().try_collect().await.map_err(|error| error.to_string())?;
        Ok(names.len())
    }
}
