//! The folder of schema files: read whole, and looked at for changes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::rules::{SchemaError, SchemaSet};

/// The largest schema file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The most schema files in a folder.
const FILES_MAX: usize = 10_000;

/// A folder of schema files: those whose names end in `.json` and do not begin with a `.`, as what editors
/// and Kubernetes keep for themselves does.
#[derive(Debug, Clone)]
pub struct SchemaFolder(PathBuf);

/// What a folder's files look like from outside. While it stays the same, so do the files.
#[derive(Debug, PartialEq, Eq)]
pub struct Fingerprint(Vec<(PathBuf, FileLook)>);

/// As much of a file as changes with what is in it.
type FileLook = Option<(u64, u64, (i64, i64), (i64, i64))>;

/// Why a folder's schemas cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaFolderError {
    /// The folder cannot be listed.
    #[error("{}: {reason}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// These files are broken.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Files(Vec<SchemaError>),
}

impl SchemaFolder {
    /// The folder at `path`.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads and compiles all files. Fails with all that is wrong with any of them. Blocks.
    pub fn load(&self) -> Result<SchemaSet, SchemaFolderError> {
        let mut texts = Vec::new();
        let mut unreadable = Vec::new();
        for path in self.files()? {
            // Names with what is no Unicode are shown as they can be, and fit no event type.
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match read(&path) {
                Ok(text) => texts.push((file, text)),
                Err(error) => unreadable.push(SchemaError { file, line: None, reason: error.to_string() }),
            }
        }
        match SchemaSet::from_files(texts) {
            Ok(set) if unreadable.is_empty() => {
                for file in set.with_formats() {
                    warn!(
                        file,
                        "a schema has `format`, which describes and refuses nothing; use `pattern` for what must hold"
                    );
                }
                Ok(set)
            }
            Ok(_) => Err(SchemaFolderError::Files(unreadable)),
            Err(broken) => {
                unreadable.extend(broken);
                Err(SchemaFolderError::Files(unreadable))
            }
        }
    }

    /// What the files look like now. Blocks.
    pub fn fingerprint(&self) -> Result<Fingerprint, SchemaFolderError> {
        let files = self.files()?.into_iter().map(|path| {
            let look = std::fs::metadata(&path).ok().map(|file| {
                (
                    file.ino(),
                    file.size(),
                    (file.mtime(), file.mtime_nsec()),
                    (file.ctime(), file.ctime_nsec()),
                )
            });
            (path, look)
        });
        Ok(Fingerprint(files.collect()))
    }

    /// The paths of the files, sorted.
    fn files(&self) -> Result<Vec<PathBuf>, SchemaFolderError> {
        let wrong = |reason: String| SchemaFolderError::Folder { folder: self.0.clone(), reason };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.0).map_err(|error| wrong(error.to_string()))? {
            let path = entry.map_err(|error| wrong(error.to_string()))?.path();
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            if name.ends_with(b".json") && !name.starts_with(b".") {
                files.push(path);
            }
            if files.len() > FILES_MAX {
                return Err(wrong(format!("more than {FILES_MAX} schema files")));
            }
        }
        files.sort();
        Ok(files)
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let bytes = std::fs::metadata(path)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "{bytes} bytes; a schema file has at most {FILE_BYTES_MAX}"
        )));
    }
    std::fs::read_to_string(path)
}
