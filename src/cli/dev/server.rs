//! The nats-server that runs under `dev`, as a child.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::data_dir::DataDir;

const START_WAIT: Duration = Duration::from_secs(60);
const STOP_WAIT: Duration = Duration::from_secs(20);
/// How many of its last lines are shown when it does not start.
const LAST_LINES: usize = 5;

/// A running nats-server. Dropping it kills it.
pub(crate) struct NatsServer {
    child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    url: String,
}

impl NatsServer {
    /// Starts it, and returns when it takes clients.
    pub(crate) async fn start(binary: &Path, dir: &DataDir, port: Option<u16>) -> anyhow::Result<Self> {
        let config = dir.path().join("nats-server.conf");
        std::fs::write(&config, configuration(dir.path(), port))
            .with_context(|| format!("{} cannot be written", config.display()))?;
        let mut command = Command::new(binary);
        command
            .arg("--config")
            .arg(&config)
            // With the lock for standard input, the folder counts as in use for as long as the server
            // lives, even if we do not.
            .stdin(Stdio::from(dir.share_lock()?))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A group of its own, or Ctrl-C would end it together with us instead of after us.
            .process_group(0)
            .kill_on_drop(true);
        die_with_parent(&mut command);
        let mut child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        dir.note(&format!(
            "`insieme-backend dev`, process {}, with its nats-server, process {}",
            std::process::id(),
            child.id().unwrap_or_default()
        ))?;
        let errors = child.stderr.take().ok_or_else(|| anyhow!("nats-server has no standard error"))?;
        let mut lines = BufReader::new(errors).lines();
        let ready = timeout(START_WAIT, ready(&mut lines));
        let address = ready
            .await
            .map_err(|_| anyhow!("nats-server was not ready within {} s", START_WAIT.as_secs()))?
            .with_context(|| explain(port))?;
        info!(%address, "nats-server is ready");
        Ok(Self { child, lines, url: format!("nats://{address}") })
    }

    /// Where it takes clients.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Passes on what it logs until it ends, which it should not. Cancel safe.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        while let Ok(Some(line)) = self.lines.next_line().await {
            pass_on(&line);
        }
        match self.child.wait().await {
            Ok(status) => anyhow!("it ended by itself: {status}"),
            Err(error) => anyhow!("waiting for it: {error}"),
        }
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            // An error means that it has ended already, which the wait below finds out.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        match timeout(STOP_WAIT, self.wait()).await {
            Ok(status) => {
                info!(status = %status?, "nats-server has ended");
                Ok(())
            }
            Err(_) => {
                self.child.kill().await.context("killing nats-server")?;
                bail!("nats-server did not end within {} s and was killed", STOP_WAIT.as_secs())
            }
        }
    }

    async fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        while let Ok(Some(line)) = self.lines.next_line().await {
            debug!(target: "nats_server", "{line}");
        }
        self.child.wait().await.context("waiting for nats-server")
    }
}

/// Its configuration. Written anew at every start; -1 is a free port.
fn configuration(dir: &Path, port: Option<u16>) -> String {
    let port = port.map_or(-1, i32::from);
    format!(
        "# Written by `insieme-backend dev` at every start.\n\
         server_name: insieme-dev\n\
         host: 127.0.0.1\n\
         port: {port}\n\
         max_payload: 1MB\n\
         jetstream {{\n  store_dir: {:?}\n  # Every event is on disk before it is reported accepted.\n  sync_interval: always\n}}\n",
        dir.join("nats").display().to_string()
    )
}

fn explain(port: Option<u16>) -> String {
    match port {
        Some(port) => format!(
            "nats-server did not start; if port {port} is taken, choose another with --nats-port, or leave it out to have a free one"
        ),
        None => "nats-server did not start".to_owned(),
    }
}

/// Reads its log until it takes clients; gives the address.
async fn ready(lines: &mut Lines<BufReader<ChildStderr>>) -> anyhow::Result<SocketAddr> {
    let mut address = None;
    let mut last = VecDeque::new();
    while let Some(line) = lines.next_line().await.context("reading its log")? {
        pass_on(&line);
        if let Some((_, told)) = line.split_once("Listening for client connections on ") {
            address = told.trim().parse().ok();
        }
        if line.contains("Server is ready") {
            return address.ok_or_else(|| anyhow!("it does not say on which address it listens"));
        }
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    bail!("its last words:\n  {}", last.make_contiguous().join("\n  "))
}

/// Warnings and errors of the server are ours too; the rest is for whoever looks for trouble.
fn pass_on(line: &str) {
    if line.contains("[ERR]") || line.contains("[FTL]") || line.contains("[WRN]") {
        warn!(target: "nats_server", "{line}");
    } else {
        debug!(target: "nats_server", "{line}");
    }
}

/// Has the kernel kill the child when we die, however that happens.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let parent = rustix::process::getpid();
    let set = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // We may have died before that was set.
        if getppid() == Some(parent) { Ok(()) } else { Err(std::io::Error::other("the parent died")) }
    };
    // SAFETY: between fork and exec the closure makes two system calls; it neither allocates nor locks
    // unless it fails, and then the child ends anyway.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(set)
    };
}

/// Elsewhere the lock that the child holds tells the next `dev` that it is still there.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command) {}
