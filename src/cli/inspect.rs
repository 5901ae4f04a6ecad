//! `insieme-backend inspect` and `insieme-backend quarantine`: a partition whose log does not fold, seen and mended.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::common::{NatsArgs, say};
use super::{connect, startup};
use crate::config::settings::Config;
use crate::event::{EventId, PartitionKey, Token};
use crate::log::{Log, LogError, SnapshotPart, StoredEvent};
use crate::partition::{LoadError, apply, settle_all};
use crate::state::{Fold, PartitionState};

/// Fold a partition's log from its first event, and show where it does not.
///
/// A partition whose log holds what is no event, or an event that does not fold, or a hole, takes no drafts
/// (PARTITION_STOPPED) until somebody has looked: this shows what there is to see. Fails if there is anything.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// The partition.
    #[arg(value_name = "PARTITION")]
    partition: String,
}

/// Take the events that a partition's log does not fold with out of the log, into a file.
///
/// These are all from the first one on that `inspect` shows: what stands behind it was never valid. They are
/// written to the file first, one JSON object a line with id, subject, headers and body, and then deleted, which
/// cannot be undone. The partition goes on from what is left; clients that were shown more have to begin anew.
#[derive(Debug, Args)]
pub(crate) struct Quarantine {
    #[command(flatten)]
    pub(crate) nats: NatsArgs,
    /// The partition.
    #[arg(value_name = "PARTITION")]
    partition: String,
    /// The id of the first event to take out, as `inspect` shows it, to be sure that the same is meant.
    #[arg(long, value_name = "EVENT_ID")]
    from: u64,
    /// The file to write them to; it must not exist.
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
}

impl Inspect {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = connect::connect(&config, "inspect", &shutdown).await?.ok_or_else(connect::stopped)?;
        let found = Inspected::of(&log, &self.partition).await?;
        for (id, why) in &found.problems {
            say(&format!("event {id}: {why}"))?;
        }
        let Inspected { events, head, .. } = found;
        match found.problems.first() {
            None => say(&format!("{events} events up to {head}, all of which fold")),
            Some((first, _)) => bail!(
                "{events} events up to {head}; the partition is stopped at event {first}. What it can go on without is \
                 taken out by `insieme-backend quarantine {} --from {first} --into FILE`; missing events come only \
                 from a backup",
                self.partition
            ),
        }
    }
}

impl Quarantine {
    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        let log = connect::connect(&config, "quarantine", &shutdown).await?.ok_or_else(connect::stopped)?;
        let found = Inspected::of(&log, &self.partition).await?;
        match found.problems.first() {
            None => bail!("all {} events of the partition fold: there is nothing to take out", found.events),
            Some((first, why)) if first.0 != self.from => {
                bail!("the partition is stopped at event {first} ({why}), not at {}", self.from)
            }
            Some(_) => {}
        }
        if let Some(snapshot) = log.snapshot_info(&found.token, SnapshotPart::State).await?
            && snapshot.event_id.0 >= self.from
        {
            bail!(
                "there is a snapshot of event {}, which holds what the log has lost before event {}: restore the missing \
                 events from a backup",
                snapshot.event_id,
                self.from
            );
        }
        // An index is made without folding, so it may hold what is taken out. First, so that a partition without these
        // events never has an index with them.
        if found.indexed_to.0 >= self.from {
            log.delete_index(&found.token).await?;
            say(&format!(
                "the draft index of event {} is deleted; it is made again from the log",
                found.indexed_to
            ))?;
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.into)
            .with_context(|| format!("creating {}", self.into.display()))?;
        for id in &found.behind {
            let mut line = serde_json::to_vec(&log.whole_event(*id).await?)?;
            line.push(b'\n');
            file.write_all(&line).with_context(|| format!("writing {}", self.into.display()))?;
        }
        file.sync_all().with_context(|| format!("writing {}", self.into.display()))?;
        log.delete_events(&found.behind).await?;
        let (count, file) = (found.behind.len(), self.into.display());
        say(&format!("{count} events from {} on are in {file} and no longer in the log", self.from))
    }
}

/// What a partition's log looks like.
struct Inspected {
    token: Token,
    events: u64,
    head: EventId,
    /// Why it could not be looked at.
    failed: Option<LogError>,
    /// What does not fold, and why.
    problems: Vec<(EventId, String)>,
    /// The first of these and all behind it.
    behind: Vec<EventId>,
    /// The last event in the snapshot's draft index.
    indexed_to: EventId,
}

/// The most problems that are told.
const PROBLEMS_MAX: usize = 20;

impl Inspected {
    async fn of(log: &Log, partition: &str) -> anyhow::Result<Self> {
        let token = PartitionKey::new(partition)?.token();
        let fold = startup::folds(log)?;
        let mut found = Self {
            events: 0,
            head: EventId::NONE,
            failed: None,
            problems: Vec::new(),
            behind: Vec::new(),
            indexed_to: EventId::NONE,
            token: token.clone(),
        };
        let mut state = PartitionState::new();
        log.each_event(&token, |stored| found.take(fold.as_ref(), &mut state, stored)).await?;
        if let Some(error) = found.failed.take() {
            return Err(error.into());
        }
        if found.problems.is_empty()
            && let Some(snapshot) = log.snapshot_info(&token, SnapshotPart::State).await?
            && snapshot.event_id > found.head
        {
            let why =
                format!("there is a snapshot of it, and the log ends at {}: it has lost events", found.head);
            found.problems.push((snapshot.event_id, why));
        }
        if let Some(indexed_to) = log.indexed_to(&token).await? {
            found.indexed_to = indexed_to;
            if found.problems.is_empty() && indexed_to > found.head {
                let why = format!(
                    "there is a draft index of it, and the log ends at {}: it has lost events, or they were taken out",
                    found.head
                );
                found.problems.push((indexed_to, why));
            }
        }
        Ok(found)
    }

    fn take(&mut self, fold: &dyn Fold, state: &mut PartitionState, stored: &StoredEvent) {
        self.events += 1;
        self.head = stored.id;
        let folded = apply(fold, state, stored).and_then(|()| settle_all(state));
        if let Err(error) = folded
            && self.problems.len() < PROBLEMS_MAX
        {
            let why = match error {
                LoadError::Broken { why, .. } => why,
                // That says nothing of the event.
                LoadError::Log(error) => {
                    self.failed.get_or_insert(error);
                    return;
                }
            };
            self.problems.push((stored.id, why));
        }
        if !self.problems.is_empty() {
            self.behind.push(stored.id);
        }
    }
}
