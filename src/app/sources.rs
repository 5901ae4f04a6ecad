//! The files of a module: the one that is named, and what it imports from the same folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::bounds::{FILES_BYTES_MAX, FILES_MAX};

/// What begins the names of the engine's own modules.
pub(super) const OWN: &str = "insieme:";

/// Where the files of a module come from.
pub(super) trait Sources {
    /// The text of a file, by its path from the module's folder.
    fn fetch(&mut self, name: &str) -> Result<String, String>;
}

/// The folder of a module, and the files of it that were asked for.
#[derive(Debug, Clone)]
pub struct Folder {
    /// `None` if all files are there.
    root: Option<PathBuf>,
    entry: String,
    files: BTreeMap<String, String>,
}

impl Folder {
    /// The folder in which `file` lies.
    pub fn of(file: &Path) -> std::io::Result<Self> {
        // A link is followed here, so that what it leads to brings its own folder along.
        let file = file.canonicalize()?;
        let name = file.file_name().and_then(|name| name.to_str());
        match (file.parent(), name) {
            (Some(root), Some(name)) if file.is_file() => {
                Ok(Self { root: Some(root.to_owned()), entry: name.to_owned(), files: BTreeMap::new() })
            }
            _ => Err(std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "not a file with a name in Unicode",
            )),
        }
    }

    /// One whose files are these.
    pub(super) fn of_files(entry: String, files: BTreeMap<String, String>) -> Self {
        Self { root: None, entry, files }
    }

    /// The name of the module's own file.
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// The files that were asked for.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// The hash of these files, with their names.
    pub fn sha256(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in self.files.iter().flat_map(|(name, text)| [name, text]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn bytes(&self) -> usize {
        self.files.values().map(String::len).sum()
    }

    fn read(&self, name: &str) -> Result<String, String> {
        let Some(root) = &self.root else { return Err(format!("{name} was not published")) };
        let path = root.join(name);
        let real = path.canonicalize().map_err(|error| format!("{name}: {error}"))?;
        if !real.starts_with(root) {
            return Err(format!("{name} leads out of the module's folder"));
        }
        if !real.is_file() {
            return Err(format!("{name} is no file"));
        }
        let bytes = real.metadata().map_err(|error| format!("{name}: {error}"))?.len();
        if bytes > (FILES_BYTES_MAX - self.bytes()) as u64 {
            return Err(format!("with {name} the module has more than {FILES_BYTES_MAX} bytes"));
        }
        std::fs::read_to_string(&real).map_err(|error| format!("{name}: {error}"))
    }
}

impl Sources for Folder {
    fn fetch(&mut self, name: &str) -> Result<String, String> {
        if let Some(text) = self.files.get(name) {
            return Ok(text.clone());
        }
        if self.files.len() >= FILES_MAX {
            return Err(format!("the module has more than {FILES_MAX} files"));
        }
        let text = self.read(name)?;
        self.files.insert(name.to_owned(), text.clone());
        Ok(text)
    }
}

/// Where an `import` leads, as a path from the module's folder.
pub(super) fn resolve(base: &str, name: &str) -> Result<String, String> {
    if name.starts_with(OWN) {
        return Ok(name.to_owned());
    }
    if base.starts_with(OWN) || !(name.starts_with("./") || name.starts_with("../")) {
        return Err(format!(
            "{name:?} cannot be imported: a module imports what lies in its folder, by a name that begins with ./, \
             and \"insieme:actions\""
        ));
    }
    let mut path: Vec<&str> = base.split('/').collect();
    path.pop();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                path.pop().ok_or_else(|| format!("{name:?} leads out of the module's folder"))?;
            }
            part => path.push(part),
        }
    }
    Ok(path.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_leads_from_the_file_that_it_stands_in() {
        assert_eq!(resolve("rules.js", "./lib/a.js").unwrap(), "lib/a.js");
        assert_eq!(resolve("lib/a.js", "./b.js").unwrap(), "lib/b.js");
        assert_eq!(resolve("lib/a.js", "../c.js").unwrap(), "c.js");
        assert_eq!(resolve("rules.js", "insieme:actions").unwrap(), "insieme:actions");
    }

    #[test]
    fn nothing_else_can_be_imported() {
        for name in
            ["../a.js", "./lib/../../a.js", "/etc/passwd", "lodash", "node:fs", "https://example.org/a.js"]
        {
            assert!(resolve("rules.js", name).is_err(), "{name}");
        }
        assert!(resolve("insieme:actions", "./rules.js").is_err());
    }

    #[test]
    fn a_link_out_of_the_folder_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("rules");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("rules.js"), "1").unwrap();
        std::fs::write(dir.path().join("secret.js"), "2").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret.js"), folder.join("link.js")).unwrap();
        let mut folder = Folder::of(&folder.join("rules.js")).unwrap();
        assert_eq!(folder.fetch("rules.js").unwrap(), "1");
        assert!(folder.fetch("link.js").unwrap_err().contains("out of the module's folder"));
        assert!(folder.fetch("none.js").is_err());
        assert_eq!(folder.files().count(), 1);
    }

    #[test]
    fn a_module_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rules.js");
        std::fs::write(&file, " ".repeat(FILES_BYTES_MAX + 1)).unwrap();
        assert!(Folder::of(&file).unwrap().fetch("rules.js").unwrap_err().contains("bytes"));
    }
}
