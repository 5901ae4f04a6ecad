//! Finds the commit that is built, for `--version` and `/version`.
//!
//! `GIT_REVISION` counts where it is set. Else a release build reads it from the checkout; others do not, since every
//! commit would have them compile everything again. What comes without git (a tarball) has none, and builds all the
//! same. No command is run: `git` need not be there.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=GIT_REVISION");
    println!("cargo:rerun-if-changed=build.rs");
    let given = env::var("GIT_REVISION").ok().filter(|given| !given.is_empty());
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let revision = given.or_else(|| is_release.then(of_checkout).flatten()).or_else(of_package);
    if let Some(revision) = revision.filter(|revision| is_plain(revision)) {
        println!("cargo:rustc-env=INSIEME_BUILD_REVISION={revision}");
    }
}

/// One word: anything else would be an order to cargo.
fn is_plain(revision: &str) -> bool {
    revision.len() <= 64 && revision.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+/".contains(c))
}

/// The commit that HEAD names, of the checkout that this folder is the top of.
fn of_checkout() -> Option<String> {
    let git = git_folder()?;
    let head = read_watched(&git.join("HEAD"))?;
    let Some(reference) = head.strip_prefix("ref: ") else { return Some(head) };
    // A worktree has its HEAD, and shares the rest.
    let common = fs::read_to_string(git.join("commondir")).map(|path| git.join(path.trim()));
    let common = common.unwrap_or_else(|_| git.clone());
    if let Some(commit) = read_watched(&common.join(reference)) {
        return Some(commit);
    }
    let packed = read_watched(&common.join("packed-refs"))?;
    packed.lines().find_map(|line| line.strip_suffix(reference).map(|commit| commit.trim().to_owned()))
}

fn git_folder() -> Option<PathBuf> {
    let git = Path::new(&env::var("CARGO_MANIFEST_DIR").ok()?).join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let text = fs::read_to_string(&git).ok()?;
    let folder = text.strip_prefix("gitdir: ")?.trim();
    Some(git.parent()?.join(folder))
}

/// What cargo noted in the package that it made, if this is one.
fn of_package() -> Option<String> {
    let noted =
        fs::read_to_string(Path::new(&env::var("CARGO_MANIFEST_DIR").ok()?).join(".cargo_vcs_info.json"));
    let noted = noted.ok()?;
    let (_, rest) = noted.split_once("\"sha1\": \"")?;
    rest.split('"').next().map(str::to_owned)
}

/// A file that is there; when it changes, this runs again. One that is not there must not be watched: cargo takes it
/// for changed at every build.
fn read_watched(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    println!("cargo:rerun-if-changed={}", file.display());
    Some(text.trim().to_owned())
}
