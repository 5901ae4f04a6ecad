//! `insieme-backend backup` and `insieme-backend restore`

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::common::{NatsArgs, say};
use super::connect;
use crate::config::settings::Config;
use crate::log::BackedUp;

/// Back the log up, with snapshots and revocations, into a new folder.
///
/// Everything may go on running. What was reported accepted before this began is in the backup.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// The folder; it must not exist.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Restore the log from a backup, into a NATS that has none.
///
/// Every event gets the id that it had. Stop frontends and validators first; `bootstrap` makes what else they need.
/// Events that were committed after the backup are not in it: clients that have seen them have to begin anew.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// The folder that `backup` made.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl Backup {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = connect::connect(&config, "backup", &shutdown).await?.ok_or_else(connect::stopped)?;
        let done = tokio::select! {
            done = log.back_up(&self.folder) => done,
            () = shutdown.cancelled() => bail!("stopped; what is in {} is no backup", self.folder.display()),
        };
        let done = done.with_context(|| {
            format!("no backup was made; the files in {} are no backup", self.folder.display())
        });
        tell("backed up", &done?)
    }
}

impl Restore {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = connect::connect(&config, "restore", &shutdown).await?.ok_or_else(connect::stopped)?;
        tell("restored", &log.restore(&self.folder).await.context("the backup was not restored")?)
    }
}

fn tell(what: &str, streams: &[BackedUp]) -> anyhow::Result<()> {
    for BackedUp { stream, messages, first, last, bytes } in streams {
        say(&format!("{what} {stream}: {messages} messages, {first} to {last}, {bytes} bytes"))?;
    }
    Ok(())
}
