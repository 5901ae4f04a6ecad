//! Why an export or an import failed.

use std::path::{Path, PathBuf};

use crate::log::{CommitError, LogError};
use crate::partition::LoadError;

/// Why nothing was exported or imported, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A file cannot be read or written.
    #[error("{path}: {error}", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The file is no whole export.
    #[error("line {line}: {why}")]
    Damaged {
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The log does not allow it.
    #[error("{0}")]
    Refused(String),
    /// The log was not read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log does not fold.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Events were not stored, or not surely.
    #[error(
        "failed to store events: {0}. What was stored before stays; run the same command again, and it continues \
         from there"
    )]
    NotStored(CommitError),
    /// Somebody asked it to stop.
    #[error("stopped; run the same command again, and it continues from there")]
    Stopped,
}

impl MoveError {
    pub(crate) fn file(path: &Path) -> impl Fn(std::io::Error) -> Self {
        move |error| Self::File { path: path.to_owned(), error }
    }
}
