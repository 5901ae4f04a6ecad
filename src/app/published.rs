//! A module as it is published: its files in one JSON object, whose hash is the version's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::sources::Folder;
use crate::event::RulesVersion;

/// The files of a module.
#[derive(Debug, Serialize, Deserialize)]
pub struct Published {
    /// The name of the module's own file.
    entry: String,
    files: BTreeMap<String, String>,
    /// Whether it says who may open a partition: who does not fold by it need not load it then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    authorizes: bool,
}

impl Published {
    /// What a module that was loaded is published as, and the version that this is.
    pub fn of(number: u64, folder: &Folder, authorizes: bool) -> serde_json::Result<(RulesVersion, Vec<u8>)> {
        let files = folder.files().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        let body = serde_json::to_vec(&Self { entry: folder.entry().to_owned(), files, authorizes })?;
        Ok((RulesVersion { number, hash: hash_of(&body) }, body))
    }

    /// Reads what was published as this version.
    pub fn read(version: RulesVersion, body: &[u8]) -> Result<Self, String> {
        if hash_of(body) != version.hash {
            return Err(format!("what is kept as version {version} is not what was published"));
        }
        serde_json::from_slice(body).map_err(|error| format!("version {version}: {error}"))
    }

    /// The files, by name.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Whether it says who may open a partition.
    pub(super) fn authorizes(&self) -> bool {
        self.authorizes
    }

    /// The files, as a module is loaded from them.
    pub(super) fn into_folder(self) -> Folder {
        Folder::of_files(self.entry, self.files)
    }
}

fn hash_of(body: &[u8]) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(body).into();
    std::array::from_fn(|place| digest.get(place).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_is_what_is_read() {
        let files = BTreeMap::from([("rules.js".to_owned(), "1".to_owned())]);
        let (version, mut body) =
            Published::of(3, &Folder::of_files("rules.js".to_owned(), files), false).unwrap();
        let read = Published::read(version, &body).unwrap();
        assert_eq!(read.files().collect::<Vec<_>>(), [("rules.js", "1")]);
        body.push(b' ');
        assert!(Published::read(version, &body).unwrap_err().contains("not what was published"));
    }
}
