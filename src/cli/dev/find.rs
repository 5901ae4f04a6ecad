//! Which nats-server to run: the one named, else a new enough one on PATH, else the pinned one from the
//! cache folder, installed there first if need be.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::process::Command;
use tokio::time::timeout;
use tracing::{info, warn};

use super::install;

/// The oldest server that has atomic batches.
const VERSION_MIN: (u32, u32) = (2, 12);
const VERSION_WAIT: Duration = Duration::from_secs(10);

/// Finds a nats-server, or installs one.
pub(crate) async fn nats_server(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        let version = version(path).await.with_context(|| format!("--nats-server {}", path.display()))?;
        if !is_enough(&version) {
            bail!(
                "--nats-server {} is version {version}; at least {}.{} is needed (atomic batches). \
                 Name a newer one, or leave the option out to have version {} installed",
                path.display(),
                VERSION_MIN.0,
                VERSION_MIN.1,
                install::VERSION
            );
        }
        return Ok(path.to_owned());
    }
    if let Some(path) = on_path() {
        match version(&path).await {
            Ok(version) if is_enough(&version) => {
                info!(path = %path.display(), version, "nats-server found on PATH");
                return Ok(path);
            }
            Ok(version) => {
                warn!(path = %path.display(), version, "the nats-server on PATH is too old; using another");
            }
            Err(error) => warn!("the nats-server on PATH cannot be used: {error:#}"),
        }
    }
    let cached = install::place()?;
    if cached.is_file() {
        match version(&cached).await {
            Ok(version) if version == install::VERSION => return Ok(cached),
            Ok(version) => warn!(version, "the cached nats-server has another version; installing it again"),
            Err(error) => warn!("the cached nats-server cannot be used; installing it again: {error:#}"),
        }
    }
    install::install(&cached).await.with_context(|| {
        format!(
            "no nats-server {}.{} or later on PATH, and version {} could not be installed. \
             Put one on PATH, or name one with --nats-server FILE",
            VERSION_MIN.0,
            VERSION_MIN.1,
            install::VERSION
        )
    })?;
    let version = version(&cached).await.context("the nats-server just installed")?;
    info!(path = %cached.display(), version, "nats-server installed");
    Ok(cached)
}

/// What `--version` says, without the `v`.
async fn version(path: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(VERSION_WAIT, command.output())
        .await
        .map_err(|_| anyhow!("no answer to --version within {} s", VERSION_WAIT.as_secs()))?
        .context("it cannot be run")?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim().strip_prefix("nats-server: v") {
        Some(version) => Ok(version.to_owned()),
        None => bail!("it does not answer --version as a nats-server does, but with {:?}", said.trim()),
    }
}

fn is_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= VERSION_MIN,
        _ => false,
    }
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program that answers `--version` with `said`.
    fn stand_in(dir: &tempfile::TempDir, said: &str) -> PathBuf {
        let path = dir.path().join("nats-server");
        std::fs::write(&path, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(is_enough("2.12.0") && is_enough("2.15.1") && is_enough("3.0.0") && is_enough("2.12.0-RC.1"));
        assert!(!is_enough("2.9.25") && !is_enough("2.11.99") && !is_enough("1.20.0") && !is_enough("dev"));
    }

    #[tokio::test]
    async fn a_named_server_that_is_too_old_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let old = stand_in(&dir, "nats-server: v2.10.25");
        let error = format!("{:#}", nats_server(Some(&old)).await.unwrap_err());
        assert!(error.contains("is version 2.10.25; at least 2.12 is needed"), "{error}");
        assert!(error.contains("leave the option out"), "{error}");
        let new = stand_in(&dir, "nats-server: v2.12.3");
        assert_eq!(nats_server(Some(&new)).await.unwrap(), new);
    }

    #[tokio::test]
    async fn a_named_file_that_is_no_nats_server_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let other = stand_in(&dir, "GNU ls 9.1");
        let error = format!("{:#}", nats_server(Some(&other)).await.unwrap_err());
        assert!(error.contains("--nats-server") && error.contains("GNU ls 9.1"), "{error}");
        let error = format!("{:#}", nats_server(Some(&dir.path().join("none"))).await.unwrap_err());
        assert!(error.contains("cannot be run"), "{error}");
    }
}
