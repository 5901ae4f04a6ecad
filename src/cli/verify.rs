//! `insieme-backend verify`

use anyhow::bail;
use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::admin::escape_control;
use super::common::{NatsArgs, say};
use super::{connect, startup};
use crate::config::settings::Config;
use crate::event::{EventId, PartitionKey};
use crate::partition::Verified;
use crate::util::hex;

/// Fold the log again from the first event, and compare with every snapshot and draft index.
///
/// Everything may go on running. Prints a line for each partition. Fails if anything is wrong.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// The partitions. [default: all]
    #[arg(value_name = "PARTITION")]
    partitions: Vec<String>,
    /// Print one JSON object a partition.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log =
            connect::connect_to_streams(&config, "verify", &shutdown).await?.ok_or_else(connect::stopped)?;
        let fold = startup::folds(&log)?;
        let partitions = match self.partitions.is_empty() {
            true => log.partition_names().await?,
            false => self
                .partitions
                .iter()
                .map(|name| PartitionKey::new(name.as_str()))
                .collect::<Result<Vec<_>, _>>()?,
        };
        let (mut wrong, mut events) = (0, 0);
        for partition in &partitions {
            let token = partition.token();
            let mut found = tokio::select! {
                found = log.verify_partition(&token, &fold) => found?,
                () = shutdown.cancelled() => bail!("stopped before all was verified"),
            };
            if found.events == 0 && found.problems.is_empty() {
                found.problems.push((EventId::NONE, "the partition has no events".to_owned()));
            }
            wrong += usize::from(!found.problems.is_empty());
            events += found.events;
            if self.json {
                say(&to_json(partition, &found))?;
            } else {
                say(&to_text(partition, &found))?;
            }
        }
        let all = partitions.len();
        if wrong > 0 {
            bail!("{wrong} of {all} partitions are not right; {events} events were folded");
        }
        if !self.json {
            say(&format!("{all} partitions and {events} events are right"))?;
        }
        Ok(())
    }
}

fn to_json(partition: &PartitionKey, found: &Verified) -> String {
    let problems: Vec<_> =
        found.problems.iter().map(|(id, why)| json!({ "event": id.0, "why": why })).collect();
    json!({
        "partition": partition.as_str(),
        "events": found.events,
        "head": found.head.0,
        "stateHash": hex::encode(&found.sha256),
        "snapshot": found.snapshot.map(|id| id.0),
        "draftIndex": found.indexed.map(|id| id.0),
        "problems": problems,
    })
    .to_string()
}

fn to_text(partition: &PartitionKey, found: &Verified) -> String {
    let name = escape_control(partition.as_str());
    let at = |what: &str, id: Option<EventId>| {
        id.map_or_else(|| format!("no {what}"), |id| format!("{what} of event {id}"))
    };
    let Verified { events, head, .. } = found;
    let (snapshot, index) = (at("snapshot", found.snapshot), at("draft index", found.indexed));
    let mut text = format!("{name}: {events} events up to {head} fold; {snapshot}, {index} compared");
    for (id, why) in &found.problems {
        text.push_str(&format!("\n{name}: event {id}: {}", escape_control(why)));
    }
    text
}
