//! `insieme-backend log`

use std::io::{ErrorKind, Write};

use anyhow::{Context, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{NatsArgs, connect};
use crate::config::Config;
use crate::event::{EventId, PartitionKey};
use crate::log::StoredEvent;

/// Print a partition's committed events as they lie in the log, one JSON object a line, oldest first.
#[derive(Debug, Args)]
pub(super) struct ShowLog {
    #[command(flatten)]
    pub(super) nats: NatsArgs,
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
    pub(super) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let token = PartitionKey::new(self.partition.as_str())?.token();
        let Some(log) = connect::connect_to_streams(&config, "log", &shutdown).await? else {
            bail!("stopped before NATS was there");
        };
        let Some(head) = log.head(&token).await? else { return Ok(()) };
        let mut replay = log.replay(&token, EventId(self.after), head.id).await?;
        let mut out = std::io::BufWriter::new(std::io::stdout());
        let mut left = self.limit.unwrap_or(usize::MAX);
        while left > 0
            && !shutdown.is_cancelled()
            && let Some(stored) = replay.next().await?
        {
            left -= 1;
            if is_gone(out.write_all(&line(&stored)))? {
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

/// The record as it is stored, with its id in front. A payload stands as its client wrote it, so there may
/// be line breaks between its parts; inside strings JSON has none.
fn line(stored: &StoredEvent) -> Vec<u8> {
    let mut line = format!("{{\"eventId\":{},", stored.id).into_bytes();
    let record = stored.body.strip_prefix(b"{").unwrap_or(&stored.body);
    line.extend(record.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_its_client_wrote() {
        let body = "{\"type\":\"set\",\"payload\":{\n  \"target\": \"a\\nb\"\r\n}}".into();
        let line = String::from_utf8(line(&StoredEvent { id: EventId(7), body })).unwrap();
        assert_eq!(line.trim_end_matches('\n').lines().count(), 1);
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["eventId"], 7);
        assert_eq!(event["payload"]["target"], "a\nb");
    }
}
