//! `insieme-backend log`

use std::io::{ErrorKind, Write};

use anyhow::{Context, bail};
use clap::Args;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::common::{NatsArgs, say};
use super::connect;
use super::token::parse_time;
use crate::config::settings::Config;
use crate::event::{ClientId, EventFilter, EventId, PartitionKey, Token};
use crate::log::{Follow, Log, LogError, Replay, StoredEvent};
use crate::util::{hex, time};

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
    /// Print the last event's id and the SHA-256 of all these lines instead: it tells two logs apart whatever the events
    /// are, where `state --hash` knows only those of the built-in types.
    #[arg(long, conflicts_with = "follow")]
    hash: bool,
    /// Go on with the events that are committed from now on, until it is stopped.
    #[arg(long, conflicts_with = "until")]
    follow: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Which events are shown.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Only events of this client.
    #[arg(long, value_name = "ID", value_parser = parse_client)]
    pub(super) client: Option<ClientId>,
    /// Only events of this type.
    #[arg(long = "type", value_name = "TYPE")]
    pub(super) event_type: Option<String>,
    /// Only events committed at this time or later: Unix milliseconds, a date such as 2026-01-31T12:00:00Z, or how long
    /// ago, such as 90m.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(super) since: Option<u64>,
    /// Only events committed at this time or earlier, as in --since.
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub(super) until: Option<u64>,
}

fn parse_client(text: &str) -> Result<ClientId, String> {
    ClientId::new(text).map_err(|error| error.to_string())
}

/// A moment, in Unix milliseconds.
fn parse_moment(text: &str) -> Result<u64, String> {
    match parse_time(text) {
        Ok(ago) => Ok(time::now_ms().saturating_sub(ago.as_millis() as u64)),
        Err(_) => time::parse_ms(text).map_err(|why| format!("{why}, and not how long ago, such as 90m")),
    }
}

impl ShowLog {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let token = PartitionKey::new(self.partition.as_str())?.token();
        let log =
            connect::connect_to_streams(&config, "log", &shutdown).await?.ok_or_else(connect::stopped)?;
        let mut out = std::io::BufWriter::new(std::io::stdout());
        let FilterArgs { client, event_type, since: since_ms, until: until_ms } = self.filter;
        let filter = EventFilter { client, event_type, since_ms, until_ms };
        let Some(mut events) = Events::open(&log, &token, EventId(self.after), self.follow).await? else {
            bail!(
                "the log has no events of the partition {:?}; `insieme-backend admin partitions` lists those that it has",
                self.partition
            );
        };
        let mut left = self.limit.unwrap_or(usize::MAX);
        let (mut hash, mut last) = (Sha256::new(), EventId(self.after));
        while left > 0 {
            let stored = tokio::select! {
                stored = events.next() => stored?,
                () = shutdown.cancelled() => None,
            };
            let Some(stored) = stored else { break };
            if !filter.takes(&stored.body) {
                continue;
            }
            left -= 1;
            last = stored.id;
            if self.hash {
                hash.update(stored.to_line());
                continue;
            }
            let mut written = out.write_all(&stored.to_line());
            // Nobody knows how long the next one takes.
            if self.follow {
                written = written.and_then(|()| out.flush());
            }
            if is_gone(written)? {
                return Ok(());
            }
        }
        if self.hash {
            if shutdown.is_cancelled() {
                bail!("stopped before the end of the log, so there is no hash of all of it");
            }
            return say(&format!("{last} {}", hex::encode(&hash.finalize())));
        }
        is_gone(out.flush()).map(drop)
    }
}

/// The events that are read.
enum Events {
    /// Those that are there.
    History(Box<Replay>),
    /// Those that come, too.
    Follow(Box<Follow>),
}

impl Events {
    /// None if there is no event to read. A follower waits for the first one.
    async fn open(log: &Log, token: &Token, after: EventId, follow: bool) -> anyhow::Result<Option<Self>> {
        if follow {
            return Ok(Some(Self::Follow(Box::new(log.follow(token, after).await?))));
        }
        let head = log.head(token).await?;
        Ok(head.map(|head| Self::History(Box::new(log.replay(token, after, head.id)))))
    }

    async fn next(&mut self) -> Result<Option<StoredEvent>, LogError> {
        match self {
            Self::History(replay) => replay.next().await,
            Self::Follow(follow) => follow.next().await.map(Some),
        }
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
