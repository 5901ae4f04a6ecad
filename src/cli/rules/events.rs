//! The events that rules are tried on: those of the log, or of a file.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::app::AppEvent;
use crate::event::{ClientId, ContentHash, EventId, EventRecord, PartitionKey, Token, V1Fields};
use crate::log::{Log, Replay};

/// How many events are read at a time.
pub(super) const BATCH_EVENTS: usize = 256;
/// How many partitions the log is asked for at a time.
const PARTITIONS_AT_A_TIME: usize = 500;

/// An event with its place.
pub(super) struct Placed {
    pub id: EventId,
    pub event: AppEvent,
}

/// Some events of one partition, in order.
pub(super) enum Stretch {
    File(std::vec::IntoIter<Placed>),
    Log(Box<Replay>),
    Empty,
}

impl Stretch {
    /// The next ones; none at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Vec<Placed>> {
        let mut events = Vec::new();
        match self {
            Self::Empty => {}
            Self::File(left) => events.extend(left.take(BATCH_EVENTS)),
            Self::Log(replay) => {
                while events.len() < BATCH_EVENTS
                    && let Some(stored) = replay.next().await?
                {
                    let record = EventRecord::parse(&stored.body).with_context(|| {
                        format!("event {} is no event: `insieme-backend inspect` shows more", stored.id)
                    })?;
                    events.extend(AppEvent::of(&record).map(|event| Placed { id: stored.id, event }));
                }
            }
        }
        Ok(events)
    }
}

/// Where the events come from.
pub(super) enum Source {
    /// By partition.
    File(BTreeMap<String, Vec<Placed>>),
    Log {
        log: Box<Log>,
        only: Vec<PartitionKey>,
    },
}

impl Source {
    /// The partitions behind `after`, some at a time; none at the end.
    pub(super) async fn partitions(&self, after: Option<&PartitionKey>) -> anyhow::Result<Vec<PartitionKey>> {
        match self {
            Self::File(events) if after.is_none() => {
                events.keys().map(|name| Ok(PartitionKey::new(name.as_str())?)).collect()
            }
            Self::Log { only, .. } if !only.is_empty() && after.is_none() => Ok(only.clone()),
            Self::Log { log, only } if only.is_empty() => {
                let after: Option<Token> = after.map(PartitionKey::token);
                let page = log.partitions(after.as_ref(), PARTITIONS_AT_A_TIME).await?;
                Ok(page.partitions.into_iter().map(|found| found.partition).collect())
            }
            Self::File(_) | Self::Log { .. } => Ok(Vec::new()),
        }
    }

    /// The events of a partition.
    pub(super) async fn events(&mut self, partition: &PartitionKey) -> anyhow::Result<Stretch> {
        match self {
            Self::File(events) => {
                Ok(Stretch::File(events.remove(partition.as_str()).unwrap_or_default().into_iter()))
            }
            Self::Log { log, .. } => {
                let token = partition.token();
                Ok(match log.head(&token).await? {
                    Some(head) => Stretch::Log(Box::new(log.replay(&token, EventId::NONE, head.id))),
                    None => Stretch::Empty,
                })
            }
        }
    }
}

/// A line of a file of events: what `insieme-backend log` prints, or as little of it as its writer likes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(default)]
    event_id: Option<u64>,
    #[serde(rename = "type")]
    event_type: String,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default)]
    partition: Option<String>,
    #[serde(default)]
    timestamp: Option<u64>,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    user_id: Option<String>,
    #[serde(default)]
    draft_id: Option<String>,
    #[serde(default)]
    v1: Option<V1Fields>,
    #[serde(default)]
    is_mark: bool,
}

/// Reads events from a file, one JSON object a line.
pub(super) fn read(file: &Path) -> anyhow::Result<Source> {
    let reader = std::fs::File::open(file).with_context(|| format!("opening {}", file.display()))?;
    let mut events: BTreeMap<String, Vec<Placed>> = BTreeMap::new();
    let mut number = 0;
    for line in std::io::BufReader::new(reader).lines() {
        number += 1;
        let line = line.with_context(|| format!("reading {}", file.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let (partition, placed) =
            parse(&line, number).with_context(|| format!("{}:{number}", file.display()))?;
        let of_partition = events.entry(partition).or_default();
        if let (Some(before), Some(placed)) = (of_partition.last(), &placed)
            && before.id >= placed.id
        {
            bail!(
                "{}:{number}: event {} does not stand behind event {}",
                file.display(),
                placed.id,
                before.id
            );
        }
        of_partition.extend(placed);
    }
    Ok(Source::File(events))
}

fn parse(line: &str, number: u64) -> anyhow::Result<(String, Option<Placed>)> {
    let line: Line<'_> =
        serde_json::from_str(line).context("not an event: it takes `type` and `payload` at least")?;
    let id = EventId(line.event_id.unwrap_or(number));
    let partition = PartitionKey::new(line.partition.as_deref().unwrap_or("default"))?;
    let record = EventRecord {
        event_type: line.event_type.into(),
        payload: line.payload,
        partition: partition.clone(),
        timestamp: line.timestamp.unwrap_or(number),
        client_id: ClientId::new(line.client_id.as_deref().unwrap_or("client-1"))?,
        user_id: line.user_id,
        draft_id: line.draft_id.unwrap_or_else(|| format!("draft-{number}")).into(),
        content_hash: ContentHash(0),
        ordinal: 0,
        v1: line.v1,
        rules: None,
        is_mark: line.is_mark,
    };
    Ok((partition.as_str().to_owned(), AppEvent::of(&record).map(|event| Placed { id, event })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> anyhow::Result<Source> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("events.jsonl");
        std::fs::write(&file, text).unwrap();
        read(&file)
    }

    #[tokio::test]
    async fn a_line_says_as_much_as_its_writer_likes() {
        let mut source = written(concat!(
            "{\"type\":\"a\",\"payload\":1}\n\n",
            "{\"eventId\":7,\"type\":\"b\",\"payload\":{\"x\":1.50},\"partition\":\"p\",\"timestamp\":9,\"clientId\":\"c\",",
            "\"draftId\":\"d\",\"contentHash\":\"00\",\"ordinal\":1}\n",
            "{\"eventId\":8,\"type\":\"mark\",\"payload\":null,\"partition\":\"p\",\"isMark\":true}\n",
        ))
        .unwrap();
        let partitions = source.partitions(None).await.unwrap();
        assert_eq!(partitions.iter().map(PartitionKey::as_str).collect::<Vec<_>>(), ["default", "p"]);
        assert!(source.partitions(partitions.last()).await.unwrap().is_empty());
        let mut of_p = source.events(&partitions[1]).await.unwrap();
        let events = of_p.next().await.unwrap();
        assert_eq!((events.len(), events[0].id), (1, EventId(7)));
        assert_eq!(events[0].event.payload.get(), "{\"x\":1.50}");
        assert_eq!((events[0].event.event.server_ts, events[0].event.event.id.as_str()), (9, "d"));
        assert!(of_p.next().await.unwrap().is_empty());
    }

    #[test]
    fn a_line_that_is_no_event_is_named() {
        for text in ["{}", "x", "{\"type\":\"a\"}"] {
            let error = written(text).err().unwrap();
            assert!(format!("{error:#}").contains("events.jsonl:1"), "{error:#}");
        }
        let backwards =
            "{\"eventId\":2,\"type\":\"a\",\"payload\":1}\n{\"eventId\":2,\"type\":\"a\",\"payload\":1}\n";
        assert!(written(backwards).err().unwrap().to_string().contains(":2: event 2 does not stand behind"));
    }
}
