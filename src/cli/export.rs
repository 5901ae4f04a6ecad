//! `insieme-backend export`

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::common::NatsArgs;
use super::connect;
use crate::config::settings::Config;
use crate::event::PartitionKey;
use crate::log::Log;
use crate::moving::{Exported, export};

/// Write the committed events into a file of JSON lines, which `import` reads.
///
/// Everything may go on running: the events up to the last one of now are exported. The last line proves that the
/// file is whole.
#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// Only this partition. May be given many times.
    #[arg(long = "partition", value_name = "PARTITION")]
    partitions: Vec<String>,
    /// The file; it must not exist. `-` is standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Export {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let only: Vec<PartitionKey> =
            self.partitions.iter().map(|name| PartitionKey::new(name.as_str())).collect::<Result<_, _>>()?;
        let log =
            connect::connect_to_streams(&config, "export", &shutdown).await?.ok_or_else(connect::stopped)?;
        let done = tokio::select! {
            done = write(&log, &only, &self.file) => done?,
            () = shutdown.cancelled() => bail!("stopped; what is in {} is no export", self.file.display()),
        };
        let Exported { events, last, sha256 } = done;
        writeln!(std::io::stderr(), "exported {events} events up to {last}, SHA-256 {sha256}")
            .context("writing to standard error")
    }
}

async fn write(log: &Log, only: &[PartitionKey], path: &Path) -> anyhow::Result<Exported> {
    if path == Path::new("-") {
        return Ok(export(log, only, BufWriter::new(std::io::stdout())).await?);
    }
    let what = || format!("{} is no whole export", path.display());
    let file = OpenOptions::new().write(true).create_new(true).open(path);
    let file = file.with_context(|| format!("creating {}", path.display()))?;
    let done = export(log, only, BufWriter::new(&file)).await.with_context(what)?;
    file.sync_all().with_context(what)?;
    Ok(done)
}
