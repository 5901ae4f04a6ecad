//! `insieme-backend import`

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::common::{NatsArgs, say};
use super::{connect, startup};
use crate::config::settings::Config;
use crate::moving::{Ids, Import as Importing, MoveError, Step};

/// Read the events of an export into a backend that has none, under the ids that they have.
///
/// All of the file is checked first: that it is whole, and that every event folds. An import that was ended in the
/// middle is continued by the same command. Stop frontends and validators first; with --map they may run.
#[derive(Debug, Args)]
pub(crate) struct Import {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// Into a backend that has events of other partitions: give the events the next ids, and write into this file
    /// which id became which, one JSON object a line.
    #[arg(long, value_name = "MAP")]
    map: Option<PathBuf>,
    /// The file that `export` wrote.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

impl Import {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log =
            connect::connect_to_streams(&config, "import", &shutdown).await?.ok_or_else(connect::stopped)?;
        let rules = config.rules.load()?;
        let ids = self.map.map_or(Ids::Kept, Ids::Mapped);
        let import = Importing { log: &log, rules: &rules, fold: startup::folds(&log)?, ids };
        let (started, mut told, mut storing) = (Instant::now(), Instant::now(), None);
        let progress = |step: Step| {
            if matches!(step, Step::Storing(..)) && storing.is_none() {
                storing = Some(Instant::now());
            }
            if shutdown.is_cancelled() {
                return Err(MoveError::Stopped);
            }
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                let text = match step {
                    Step::Checking(events) => format!("checked {events} events"),
                    Step::Comparing(events) => format!("{events} events are in the log already"),
                    Step::Storing(events, all) => format!("stored {events} of {all} events"),
                };
                // Progress that nobody reads is no reason to stop.
                drop(writeln!(std::io::stderr(), "{text}"));
            }
            Ok(())
        };
        let done = import.run(&self.file, progress).await;
        let done = done.with_context(|| format!("importing {}", self.file.display()))?;
        let seconds = storing.map_or(0.0, |since: Instant| since.elapsed().as_secs_f64());
        say(&format!(
            "imported {} events, {} to {}: {} were there already, {} were stored in {seconds:.1} s ({:.1} s with all \
             checks)",
            done.file.events,
            done.file.first,
            done.file.last,
            done.present,
            done.stored,
            started.elapsed().as_secs_f64()
        ))
    }
}
