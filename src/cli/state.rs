//! `insieme-backend state`

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::common::{NatsArgs, say};
use super::{connect, startup};
use crate::config::settings::Config;
use crate::event::{EventId, PartitionKey};
use crate::util::hex;

/// Print a partition's state, as the log gives it, in canonical form (RFC 8785).
#[derive(Debug, Args)]
pub(crate) struct State {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// The partition.
    #[arg(value_name = "PARTITION")]
    partition: String,
    /// The state as it was right after this event, instead of the last one.
    #[arg(long, value_name = "EVENT_ID")]
    at: Option<u64>,
    /// Print the last event's id and the state's SHA-256 instead.
    #[arg(long)]
    hash: bool,
}

impl State {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let token = PartitionKey::new(self.partition.as_str())?.token();
        let log =
            connect::connect_to_streams(&config, "state", &shutdown).await?.ok_or_else(connect::stopped)?;
        let fold = startup::folds(&log)?;
        let state = match self.at {
            None => log.load_partition(&token, &fold, false).await?.state,
            Some(id) => log
                .state_at(&token, &fold, EventId(id))
                .await
                .context("`insieme-backend log` lists the partition's events")?,
        };
        if self.hash {
            let hash = hex::encode(&tokio::task::block_in_place(|| state.hash())?);
            return say(&format!("{} {hash}", state.head()));
        }
        say(&String::from_utf8_lossy(&tokio::task::block_in_place(|| state.canonical())?))
    }
}
