//! `insieme-backend rules check`

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::events::{self, Source};
use super::lints::lints;
use super::report::{Partition, differences};
use crate::app::{AppEvent, Broken, BuiltIn, Module, Rulebook};
use crate::cli::common::{NatsArgs, say};
use crate::cli::connect;
use crate::config::Override;
use crate::config::settings::Config;
use crate::event::PartitionKey;
use crate::util::hex;

/// How often it is said how far it has come.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Load rules, fold the whole log under them, and report what they refuse and what they make of it. Changes nothing.
///
/// Every event is decided as if it were submitted now, and folded. Fails if something is wrong with the rules: if they
/// do not load, fail on an event, remember anything outside of the state, or cannot migrate a state of the other rules.
/// That events of the log would be refused now is reported, and is no failure.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    nats: NatsArgs,
    /// The module's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Take the events from a file instead of the log: one JSON object a line, as `insieme-backend log` prints them,
    /// or with `type` and `payload` alone.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["partitions", "urls", "no_events"])]
    events: Option<PathBuf>,
    /// Only this partition. May be given several times.
    #[arg(long = "partition", value_name = "PARTITION")]
    partitions: Vec<String>,
    /// Load the module, and fold nothing.
    #[arg(long, conflicts_with = "partitions")]
    no_events: bool,
    /// Compare with the states under this module, instead of those under the built-in rules; if it is of an earlier
    /// version, migrate its states too.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn overrides(&self) -> Vec<Override> {
        self.nats.overrides()
    }

    pub(super) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let program = program()?;
        let load = |file: &PathBuf| -> anyhow::Result<Module> {
            tokio::task::block_in_place(|| Module::load(file, &program))
                .with_context(|| format!("{} is not loaded", file.display()))
        };
        let module = load(&self.file)?;
        let warnings = lints(module.folder().files());
        let hash = hex::encode(&module.folder().sha256());
        let (version, types) = (module.version(), module.types().to_vec());
        if !self.json {
            let (files, bytes) = module
                .folder()
                .files()
                .fold((0, 0), |(files, bytes), (_, text)| (files + 1, bytes + text.len()));
            say(&format!(
                "{}: version {version}, {} event types ({}), {bytes} bytes in {files} files, sha256 {hash}",
                self.file.display(),
                types.len(),
                types.join(", ")
            ))?;
            warnings.iter().try_for_each(|warning| say(&format!("warning: {warning}")))?;
        }
        let mut report = Vec::new();
        if !self.no_events {
            let against = match &self.against {
                Some(file) => Other::Module(Box::new(load(file)?)),
                None => Other::BuiltIn(BuiltIn::new()?),
            };
            let twin = load(&self.file)?.rereading();
            let source = match &self.events {
                Some(file) => events::read(file)?,
                None => {
                    let only = self.partitions.iter().map(|name| PartitionKey::new(name.as_str()));
                    let only = only.collect::<Result<_, _>>()?;
                    let log = connect::connect_to_streams(&config, "rules", &shutdown).await?;
                    Source::Log { log: Box::new(log.ok_or_else(connect::stopped)?), only }
                }
            };
            let mut checker =
                Checker { module, twin, against, began: Instant::now(), told_at: Instant::now(), events: 0 };
            report = checker.run(source, &shutdown, !self.json).await?;
        }
        let bad = report.iter().filter(|partition| partition.is_bad()).count();
        if self.json {
            let partitions = serde_json::to_value(&report)?;
            say(&serde_json::json!({
                "version": version, "types": types, "sha256": hash, "warnings": warnings, "partitions": partitions,
            })
            .to_string())?;
        }
        if bad > 0 {
            bail!("the rules are not fit for {bad} of {} partitions", report.len());
        }
        Ok(())
    }
}

/// The rules to compare with.
enum Other {
    BuiltIn(BuiltIn),
    Module(Box<Module>),
}

impl Other {
    fn rules(&mut self) -> &mut dyn Rulebook {
        match self {
            Self::BuiltIn(rules) => rules,
            Self::Module(rules) => &mut **rules,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::BuiltIn(_) => "the state under the built-in rules".to_owned(),
            Self::Module(rules) => format!("the state under version {}", rules.version()),
        }
    }
}

struct Checker {
    module: Module,
    /// The same, whose state is written and read again on the way.
    twin: Module,
    against: Other,
    began: Instant,
    told_at: Instant,
    events: u64,
}

impl Checker {
    async fn run(
        &mut self,
        mut source: Source,
        shutdown: &CancellationToken,
        says: bool,
    ) -> anyhow::Result<Vec<Partition>> {
        let mut report = Vec::new();
        let mut page = source.partitions(None).await?;
        while let Some(last) = page.last().cloned() {
            for partition in &page {
                let found = self.partition(&mut source, partition, shutdown).await?;
                if says {
                    found.lines(&self.against.name()).iter().try_for_each(|line| say(line))?;
                }
                report.push(found);
            }
            page = source.partitions(Some(&last)).await?;
        }
        if says {
            let seconds = self.began.elapsed().as_secs_f64();
            say(&format!("{} events of {} partitions in {seconds:.1} s", self.events, report.len()))?;
        }
        Ok(report)
    }

    async fn partition(
        &mut self,
        source: &mut Source,
        partition: &PartitionKey,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Partition> {
        let mut found = Partition { partition: partition.as_str().to_owned(), ..Partition::default() };
        let mut stretch = source.events(partition).await?;
        let opened = tokio::task::block_in_place(|| {
            self.module.open()?;
            self.twin.open()?;
            self.against.rules().open()
        });
        if let Err(broken) = opened {
            found.broken = Some(broken.to_string());
            return Ok(found);
        }
        loop {
            if shutdown.is_cancelled() {
                bail!("stopped after {} events", self.events);
            }
            let batch = stretch.next().await?;
            if batch.is_empty() {
                break;
            }
            let (ids, events): (Vec<_>, Vec<AppEvent>) =
                batch.into_iter().map(|placed| (placed.id, placed.event)).unzip();
            let reviewed = tokio::task::block_in_place(|| {
                let verdicts = self.module.review(&events)?;
                self.twin.review(&events)?;
                self.against.rules().review(&events)?;
                Ok::<_, Broken>(verdicts)
            });
            let verdicts = match reviewed {
                Ok(verdicts) => verdicts,
                Err(broken) => {
                    found.broken = Some(broken.to_string());
                    return Ok(found);
                }
            };
            self.events += events.len() as u64;
            for ((id, event), verdict) in ids.into_iter().zip(&events).zip(verdicts) {
                found.take(id, &event.event_type, verdict);
            }
            if self.told_at.elapsed() > PROGRESS_INTERVAL {
                self.told_at = Instant::now();
                let rate = (self.events as f64 / self.began.elapsed().as_secs_f64()) as u64;
                tracing::info!(
                    events = self.events,
                    rate,
                    partition = partition.as_str(),
                    "checking the rules"
                );
            }
        }
        tokio::task::block_in_place(|| self.compare(&mut found))?;
        Ok(found)
    }

    fn compare(&mut self, found: &mut Partition) -> anyhow::Result<()> {
        let mut states = || -> Result<_, Broken> {
            Ok((self.module.state()?, self.twin.state()?, self.against.rules().state()?))
        };
        let (state, again, other) = match states() {
            Ok(states) => states,
            Err(broken) => {
                found.broken = Some(broken.to_string());
                return Ok(());
            }
        };
        found.state_bytes = state.len();
        found.state_sha256 = hex::encode(&<[u8; 32]>::from(Sha256::digest(&state)));
        // Where the built-in rules know none of the events there is nothing to compare with.
        if !matches!(self.against, Other::BuiltIn(_)) || other != b"{}" {
            found.differs = differences(&state, &other)?;
        }
        found.remembers = differences(&state, &again)?;
        if let Other::Module(before) = &self.against
            && before.version() < self.module.version()
        {
            let from = before.version();
            found.migration = self.twin.migrate(from, &other).err().map(|broken| broken.to_string());
        }
        Ok(())
    }
}

/// This program, which is the worker too.
pub(super) fn program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("finding this program's own file")
}
