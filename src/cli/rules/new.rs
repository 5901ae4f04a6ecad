//! `insieme-backend rules new`

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use crate::cli::common::say;

/// Make a folder with rules to begin with: a board whose columns take five cards.
#[derive(Debug, Args)]
pub(super) struct New {
    /// The folder. What lies in it already is not touched.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

const FILES: [(&str, &str); 3] = [
    ("rules.js", include_str!("template/rules.js")),
    ("rules.d.ts", include_str!("template/rules.d.ts")),
    ("events.jsonl", include_str!("template/events.jsonl")),
];

impl New {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let taken = FILES.iter().find(|(name, _)| self.folder.join(name).exists());
        if let Some((name, _)) = taken {
            bail!("there is {} already; name another folder", self.folder.join(name).display());
        }
        std::fs::create_dir_all(&self.folder).with_context(|| format!("making {}", self.folder.display()))?;
        for (name, text) in FILES {
            write_new(&self.folder.join(name), text)?;
        }
        let folder = self.folder.display();
        say(&format!(
            "{folder}/rules.js      the rules\n{folder}/rules.d.ts    what an editor knows of them\n\
             {folder}/events.jsonl  events to try them on\n\n\
             Try them:  insieme-backend rules check {folder}/rules.js --events {folder}/events.jsonl"
        ))
    }
}

fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}
