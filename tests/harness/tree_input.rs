//! A real input: a folder's file tree, as the drafts of somebody who builds it up and works on it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::rng::Rng;

/// Names a folder to take instead.
const FOLDER_VARIABLE: &str = "INSIEME_TEST_FOLDER";
/// The fewest files and folders that make a real input.
const ENTRIES_MIN: usize = 1_000;
/// Where in the state the tree lies.
pub const TARGET: &str = "files";

/// A file or a folder.
#[derive(Debug, Clone)]
pub struct Entry {
    /// From the folder given, with `/`; its id in the tree.
    pub path: String,
    pub is_folder: bool,
    pub bytes: u64,
}

impl Entry {
    fn parent(&self) -> Option<&str> {
        self.path.rsplit_once('/').map(|(parent, _)| parent)
    }

    fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// The first `max` entries of the folder named by the environment; else of the Rust toolchain's library
/// sources, or where they are not installed, of the rest of the toolchain or `/usr/share`.
pub fn entries(max: usize) -> (PathBuf, Vec<Entry>) {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        let folder = PathBuf::from(folder);
        let entries = walk(&folder, max);
        assert!(!entries.is_empty(), "nothing in {FOLDER_VARIABLE}={}", folder.display());
        return (folder, entries);
    }
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap().stdout;
    let sysroot = PathBuf::from(String::from_utf8(sysroot).unwrap().trim());
    let candidates = [
        sysroot.join("lib/rustlib/src"),
        sysroot.join("share/doc/rust/html"),
        sysroot.clone(),
        PathBuf::from("/usr/share"),
    ];
    candidates
        .into_iter()
        .map(|folder| (folder.clone(), walk(&folder, max)))
        .find(|(_, entries)| entries.len() >= ENTRIES_MIN.min(max))
        .expect("no folder large enough; name one in INSIEME_TEST_FOLDER")
}

/// The entries below `folder`, every folder before what is in it, in the order of their names.
fn walk(folder: &Path, max: usize) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut waiting = vec![folder.to_owned()];
    while let Some(path) = waiting.pop() {
        if found.len() >= max {
            break;
        }
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if path != folder {
            let Some(relative) = path.strip_prefix(folder).unwrap().to_str() else { continue };
            let entry =
                Entry { path: relative.to_owned(), is_folder: metadata.is_dir(), bytes: metadata.len() };
            found.push(entry);
        }
        if metadata.is_dir() {
            let Ok(inside) = path.read_dir() else { continue };
            let mut inside: Vec<PathBuf> = inside.flatten().map(|entry| entry.path()).collect();
            // The last one is walked first.
            inside.sort_by(|a, b| b.cmp(a));
            waiting.extend(inside);
        }
    }
    found
}

/// The drafts of one of several clients that build up and work on the same tree: it pushes `mine`, and in
/// between updates, moves and deletes what it pushed and moves things to places of the `others`, which may
/// be there or not.
pub fn drafts(client: &str, mine: &[Entry], others: &[Entry], seed: u64) -> Vec<(&'static str, Value)> {
    let mut rng = Rng::new(seed);
    let root = format!("by {client}");
    let mut drafts = vec![(
        "treePush",
        json!({ "target": TARGET, "value": { "id": root, "name": root }, "options": { "position": "last" } }),
    )];
    let mut pushed: Vec<&Entry> = Vec::new();
    for entry in mine {
        let parent = entry
            .parent()
            .filter(|parent| mine.iter().any(|mine| mine.path == *parent))
            .unwrap_or(&root)
            .to_owned();
        let position = match rng.below(4) {
            0 => json!("first"),
            1 => json!({ "after": rng.pick(mine).path }),
            2 => json!({ "before": rng.pick(mine).path }),
            _ => json!("last"),
        };
        let value = json!({
            "id": entry.path,
            "name": entry.name(),
            "kind": if entry.is_folder { "folder" } else { "file" },
            "bytes": entry.bytes,
        });
        let options = json!({ "parent": parent, "position": position });
        drafts.push(("treePush", json!({ "target": TARGET, "value": value, "options": options })));
        pushed.push(entry);
        if rng.one_in(4) {
            let id = &rng.pick(&pushed).path;
            let value =
                json!({ "opened": rng.below(1_000), "ratio": rng.below(1_000) as f64 / 7.0, "by": client });
            let replace = rng.one_in(5);
            drafts.push((
                "treeUpdate",
                json!({ "target": TARGET, "value": value, "options": { "id": id, "replace": replace } }),
            ));
        }
        if rng.one_in(6) {
            let id = &rng.pick(&pushed).path;
            let places = if rng.one_in(3) { others } else { mine };
            let parent = &rng.pick(places).path;
            let position = if rng.one_in(2) { "first" } else { "last" };
            let options = json!({ "id": id, "parent": parent, "position": position });
            drafts.push(("treeMove", json!({ "target": TARGET, "options": options })));
        }
        if rng.one_in(8) {
            let suffix = entry.name().rsplit('.').next().unwrap_or_default();
            let target = format!("seen.{suffix}");
            let value = json!({ client: entry.path, "bytes": entry.bytes });
            drafts.push(("set", json!({ "target": target, "value": value })));
        }
        if rng.one_in(16) {
            let at = rng.below(pushed.len());
            // Folders go only at the end: what is pushed below them would have no place.
            if !pushed[at].is_folder {
                let gone = pushed.swap_remove(at);
                drafts.push(("treeDelete", json!({ "target": TARGET, "options": { "id": gone.path } })));
            }
        }
        if pushed.is_empty() {
            pushed.push(entry);
        }
    }
    for folder in mine.iter().filter(|entry| entry.is_folder) {
        if rng.one_in(10) {
            drafts.push(("treeDelete", json!({ "target": TARGET, "options": { "id": folder.path } })));
        }
    }
    drafts.push(("unset", json!({ "target": format!("seen.{client}") })));
    drafts
}
