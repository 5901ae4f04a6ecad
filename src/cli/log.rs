//! `insieme-backend log`

use std::io::{ErrorKind, Write};

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{NatsArgs, connect};
use crate::config::Config;
use crate::event::{EventId, PartitionKey};

/// Print a partition's committed events as they lie in the log, one JSON object a line, oldest first.
#[derive(Debug, Args)]
pub(crate) struct ShowLog {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// The partition.
    #[arg(value_name = "PARTITION")]
    partition: String,
    /// Only events after this one.
    #[arg(long, value_name = "EVENT_ID", default_value_t = 0)]
    after: u64,
    /// At most so many events.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
}

impl ShowLog {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let token = PartitionKey::new(self.partition.as_str())?.token();
        let log =
            connect::connect_to_streams(&config, "log", &shutdown).await?.ok_or_else(connect::stopped)?;
        let Some(head) = log.head(&token).await? else { return Ok(()) };
        let mut replay = log.replay(&token, EventId(self.after), head.id);
        let mut out = std::io::BufWriter::new(std::io::stdout());
        let mut left = self.limit.unwrap_or(usize::MAX);
        while left > 0
            && !shutdown.is_cancelled()
            && let Some(stored) = replay.next().await?
        {
            left -= 1;
            if is_gone(out.write_all(&stored.to_line()))? {
                return Ok(());
            }
        }
        is_gone(out.flush()).map(drop)
    }
}

/// Whether the reader has gone, as `head` does when it has seen enough.
fn is_gone(written: std::io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(error).context("writing to standard output"),
    }
}
