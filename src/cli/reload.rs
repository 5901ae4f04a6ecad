//! Taking changed schemas without a restart: on SIGHUP, and when the folder's files have changed.
//!
//! A notice from the file system only makes this look sooner. What counts is what the files look like, so
//! changes are also found where there are no notices: on network file systems, and in a folder that was put
//! in the place of the one before. The files are taken all or not at all.

use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use super::signals::Hangups;
use crate::config::{Fingerprint, RulesSettings, SchemaFolder, SchemaFolderError};
use crate::rules::{LiveRules, SchemaSet};
use crate::validator::metrics;

/// How long the files must have been left alone before they are read: somebody may be writing them.
const SETTLE: Duration = Duration::from_millis(100);
/// How often that is waited for.
const SETTLE_TRIES_MAX: u32 = 20;

/// What the folder looked like; the text of the error where it could not be looked at.
type Look = Result<Fingerprint, String>;

/// The rules in force, and what keeps their schemas up to date.
pub(crate) struct Reload {
    rules: Arc<LiveRules>,
    folder: Option<SchemaFolder>,
    poll: Duration,
    hangups: Hangups,
    /// The look of the files that were read last, good or bad.
    seen: Option<Look>,
}

impl Reload {
    /// Loads the rules as configured. Fails with all that is wrong with any schema file.
    pub(crate) fn start(settings: &RulesSettings, hangups: Hangups) -> anyhow::Result<Self> {
        let folder = settings.schema_folder();
        // Before they are read: what changes from here on is a change.
        let seen = folder.as_ref().map(look);
        let rules = Arc::new(LiveRules::new(settings.load()?));
        let poll = Duration::from_millis(settings.schema_poll_ms);
        Ok(Self { rules, folder, poll, hangups, seen })
    }

    /// The rules that this keeps up to date.
    pub(crate) fn rules(&self) -> Arc<LiveRules> {
        self.rules.clone()
    }

    /// Waits for the end of some work, and keeps the schemas up to date meanwhile.
    pub(crate) async fn beside<T>(self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            output = work => output,
            never = self.run() => match never {},
        }
    }

    async fn run(mut self) -> Infallible {
        metrics::schemas_loaded(self.rules.now().schemas().len());
        let Some(folder) = self.folder.take() else {
            loop {
                self.hangups.next().await;
                info!("SIGHUP: there are no schemas to reload, since rules.schema_dir is not set; going on");
            }
        };
        let mut notices = Notices::of(&folder, self.poll);
        loop {
            let asked = tokio::select! {
                () = self.hangups.next() => true,
                () = notices.next() => false,
            };
            let mut looks = blocking(&folder, look).await;
            if !asked && self.seen == looks {
                // Something else in the folder may be written without pause.
                tokio::time::sleep(SETTLE).await;
                continue;
            }
            for _ in 0..SETTLE_TRIES_MAX {
                tokio::time::sleep(SETTLE).await;
                let before = std::mem::replace(&mut looks, blocking(&folder, look).await);
                if before == looks {
                    break;
                }
            }
            self.seen = looks;
            let loaded = blocking(&folder, SchemaFolder::load).await;
            metrics::schemas_reloaded(matches!(loaded, Some(Ok(_))));
            match loaded {
                Some(Ok(schemas)) => self.take(schemas),
                Some(Err(error)) => report(&folder, &error),
                None => {}
            }
        }
    }

    fn take(&self, schemas: SchemaSet) {
        let count = schemas.len();
        self.rules.replace_schemas(schemas);
        metrics::schemas_loaded(count);
        info!(schemas = count, "the schemas were reloaded");
    }
}

fn look(folder: &SchemaFolder) -> Look {
    folder.fingerprint().map_err(|error| error.to_string())
}

/// Does something with the folder where it may block. `None` if that panicked, which is logged.
async fn blocking<T: Send + 'static>(
    folder: &SchemaFolder,
    what: impl FnOnce(&SchemaFolder) -> T + Send + 'static,
) -> Option<T> {
    let folder = folder.clone();
    let done = tokio::task::spawn_blocking(move || what(&folder)).await;
    done.inspect_err(|error| error!(%error, "reading the schemas failed; those before stay in force")).ok()
}

fn report(folder: &SchemaFolder, error: &SchemaFolderError) {
    match error {
        SchemaFolderError::Folder { .. } => {
            error!(%error, "the folder of schemas cannot be read; those before stay in force");
        }
        SchemaFolderError::Files(broken) => {
            let folder = folder.path().display();
            for broken in broken {
                let (file, line, reason) = (&broken.file, broken.line, &broken.reason);
                error!(%folder, file, line, reason, "a schema file is broken; the schemas before stay in force");
            }
        }
    }
}

/// When to look at the folder: when the file system tells of a change, and every so often.
struct Notices {
    told: mpsc::Receiver<()>,
    ticks: tokio::time::Interval,
    /// Tells for as long as it exists.
    _watcher: Option<RecommendedWatcher>,
}

impl Notices {
    fn of(folder: &SchemaFolder, poll: Duration) -> Self {
        // One notice is as good as many.
        let (tell, told) = mpsc::channel(1);
        let watcher = watch(folder.path(), tell)
            .inspect_err(|error| {
                let poll_ms = poll.as_millis();
                warn!(
                    error = format!("{error:#}"),
                    poll_ms, "the file system does not report changed schemas; polling"
                );
            })
            .ok();
        let mut ticks = tokio::time::interval(poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { told, ticks, _watcher: watcher }
    }

    /// Waits until it is time to look. Cancel safe.
    async fn next(&mut self) {
        tokio::select! {
            Some(()) = self.told.recv() => {}
            _ = self.ticks.tick() => {}
        }
    }
}

fn watch(folder: &Path, tell: mpsc::Sender<()>) -> anyhow::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // That somebody reads, as this program does, is no change.
        let is_change = event.as_ref().is_ok_and(|event| match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            _ => true,
        });
        if is_change {
            // If it is full, the notice in it is this one too.
            let _ = tell.try_send(());
        }
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive).with_context(|| folder.display().to_string())?;
    Ok(watcher)
}
