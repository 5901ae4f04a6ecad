//! The folder in which `dev` keeps its data, held by one process at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::Instant;

/// How long to wait for one that is just ending.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A data folder, held until this is dropped and the nats-server that was given the lock has ended.
pub(crate) struct DataDir {
    path: PathBuf,
    lock: File,
}

/// Where the data lies unless said otherwise.
pub(crate) fn default() -> anyhow::Result<PathBuf> {
    Ok(base_folder("XDG_DATA_HOME", ".local/share")?.join("insieme-backend"))
}

impl DataDir {
    /// Makes the folder if need be, and takes hold of it.
    pub(crate) async fn open(path: PathBuf) -> anyhow::Result<Self> {
        let remedy = "choose a folder that you can write to with --data-dir";
        std::fs::create_dir_all(&path)
            .with_context(|| format!("the data folder {} cannot be made; {remedy}", path.display()))?;
        // Absolute, since it goes into the configuration of a process of its own.
        let path = path.canonicalize().with_context(|| format!("the data folder {}", path.display()))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("lock"))
            .with_context(|| format!("the data folder {} cannot be written to; {remedy}", path.display()))?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = lock.read_to_string(&mut holder);
                    bail!(
                        "the data folder {} is in use by {}; end that one first, or choose another folder with --data-dir",
                        path.display(),
                        if holder.trim().is_empty() { "another process" } else { holder.trim() }
                    );
                }
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking the data folder {}", path.display()));
                }
            }
        }
        let dir = Self { path, lock };
        dir.note(&format!("`insieme-backend dev`, process {}", std::process::id()))?;
        Ok(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The lock, for a child to hold on to: the folder is free only when the child has ended too.
    pub(crate) fn share_lock(&self) -> anyhow::Result<File> {
        self.lock.try_clone().context("sharing the data folder's lock")
    }

    /// Writes into the lock who holds it.
    pub(crate) fn note(&self, holder: &str) -> anyhow::Result<()> {
        let mut file = &self.lock;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{holder}"))
            .with_context(|| format!("the data folder {} cannot be written to", self.path.display()))
    }
}

/// An environment variable that names an absolute path, or a folder below the home folder.
pub(crate) fn base_folder(variable: &str, below_home: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(path);
    }
    match std::env::home_dir().filter(|home| home.is_absolute()) {
        Some(home) => Ok(home.join(below_home)),
        None => bail!("neither {variable} nor HOME is set, so there is no place for {below_home}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_in_use_says_by_whom_and_is_free_again_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path().to_owned()).await.unwrap();
        let error = format!("{:#}", DataDir::open(dir.path().to_owned()).await.err().unwrap());
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(error.contains("--data-dir"), "{error}");
        drop(first);
        DataDir::open(dir.path().to_owned()).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_names_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = format!("{:#}", DataDir::open(file.join("below")).await.err().unwrap());
        assert!(error.contains("--data-dir"), "{error}");
    }
}
