//! `insieme-backend accept-log`

use anyhow::{Context, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::common::{NatsArgs, say};
use super::connect;
use crate::config::settings::Config;
use crate::log::HighWaterMark;

/// Say that the log is meant to be as it is now, after events were purged or deleted, or an older copy restored.
///
/// Frontends and validators do not serve a log that has lost what was in it. Stop them all, restore what can be
/// restored, look at what this prints; then run it with --yes, and start them again. Clients that have seen events
/// which are gone have to begin anew; while new events are given the ids of the lost ones, nobody can tell them from
/// each other. Snapshots of what is gone are deleted.
#[derive(Debug, Args)]
pub(crate) struct AcceptLog {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// Do it; without this, only what would be accepted is printed.
    #[arg(long)]
    yes: bool,
}

impl AcceptLog {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = connect::connect(&config, "accept-log", &shutdown).await?.ok_or_else(connect::stopped)?;
        let (before, now, damages) = log.compare_with_mark().await.context("looking at the log")?;
        say(&format!("known:   {}", before.map_or_else(|| "nothing".to_owned(), shown)))?;
        let Some(now) = now else {
            bail!(
                "there is no log to accept; restore it, or make an empty one with `insieme-backend bootstrap`"
            );
        };
        say(&format!("the log: {}", shown(now)))?;
        for damage in &damages {
            say(&format!("damage:  {damage}"))?;
        }
        match (damages.is_empty(), self.yes) {
            (true, _) => say("nothing is wrong; nothing done"),
            (false, false) => bail!("nothing done; with --yes the log is accepted as it is"),
            (false, true) => {
                let deleted = log.accept(before, now).await.context("accepting the log")?;
                say(&format!("accepted; {deleted} snapshots of what is gone were deleted"))
            }
        }
    }
}

fn shown(mark: HighWaterMark) -> String {
    let HighWaterMark { created_ns, first, last, deleted } = mark;
    let made_ms = created_ns / 1_000_000;
    format!("events {first} to {last}, {deleted} missing in between, in a stream made at {made_ms} (Unix ms)")
}
