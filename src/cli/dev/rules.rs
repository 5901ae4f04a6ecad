//! `dev --rules FILE`: the file's rules are in force, and go along with every change of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::cli::common::say;
use crate::cli::rules::store::{prepared, publish};
use crate::log::Log;

/// How often it is looked whether the files have changed.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// The most files, and the depth of folders, that are looked at.
const FILES_MAX: usize = 1000;
const DEPTH_MAX: usize = 4;

/// What the files of a module's folder look like from outside.
type Seen = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// Puts the module in force whenever its files change, for as long as this is not dropped.
pub(super) async fn follow(log: Log, file: PathBuf) -> anyhow::Result<()> {
    let mut before = None;
    loop {
        let now = tokio::task::block_in_place(|| seen(&file));
        if before.as_ref() != Some(&now) {
            // What is wrong is told once, and looked at again when somebody has changed it.
            if let Err(error) = put_in_force(&log, &file).await {
                say(&format!("rules: {error:#}"))?;
            }
            before = Some(now);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn put_in_force(log: &Log, file: &Path) -> anyhow::Result<()> {
    let (version, body) = tokio::task::block_in_place(|| prepared(file))?;
    publish(log, version, body).await?;
    let last = log.rules_activations().await?.last().map(|last| last.rules.version);
    if last != Some(version) {
        log.activate_rules(version, log.now_ms()).await?;
    }
    say(&format!("rules: {version} is in force"))
}

/// All JavaScript in the folder of the module.
fn seen(file: &Path) -> Seen {
    let mut seen = Seen::new();
    let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    look(folder, DEPTH_MAX, &mut seen);
    seen
}

fn look(folder: &Path, depth: usize, seen: &mut Seen) {
    // What cannot be read now is looked at again in a moment.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let Ok(about) = entry.metadata() else { continue };
        if about.is_dir() && depth > 0 && !is_hidden && entry.file_name() != "node_modules" {
            look(&path, depth - 1, seen);
        } else if seen.len() < FILES_MAX && path.extension().is_some_and(|end| end == "js" || end == "mjs") {
            seen.insert(path, (about.len(), about.modified().ok()));
        }
    }
}
