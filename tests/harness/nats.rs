//! A NATS server of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::cluster;
use super::nats_cluster::{is_healthy, spawn};
use super::process::Process;
use super::{free_port, temp_dir, until};

/// Names a nats-server to use instead of the one that the product finds or installs.
const BINARY_VARIABLE: &str = "INSIEME_TEST_NATS_SERVER";

/// A server, its ports and its store, which outlive the process.
pub struct NatsServer {
    port: u16,
    monitoring: u16,
    configuration: String,
    dir: tempfile::TempDir,
    process: Process,
}

impl NatsServer {
    /// Starts one on a free port with a store of its own, set up as the shipped single node is.
    pub async fn start() -> Self {
        Self::start_storing("$STORE").await
    }

    /// The same with its store in a folder that is given.
    pub async fn start_in(store: &Path) -> Self {
        Self::start_storing(&format!("{store:?}")).await
    }

    async fn start_storing(store: &str) -> Self {
        Self::start_with(|port| {
            format!(
                "listen: \"127.0.0.1:{port}\"\nserver_name: test\n\
                 jetstream {{ store_dir: {store}, sync_interval: always }}\n"
            )
        })
        .await
    }

    /// Starts one with a configuration made for its port. `$STORE` in it becomes the server's store folder,
    /// and a port for its monitoring is added.
    pub async fn start_with(configuration: impl FnOnce(u16) -> String) -> Self {
        let dir = temp_dir();
        let (port, monitoring) = (free_port(), free_port());
        let configuration = format!("{}http: \"127.0.0.1:{monitoring}\"\n", configuration(port));
        let process = spawn(dir.path(), &configuration);
        let mut server = Self { port, monitoring, configuration, dir, process };
        server.ready().await;
        server
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its `server_name`.
    pub fn name(&self) -> &str {
        let (_, rest) = self.configuration.split_once("server_name: ").unwrap_or_default();
        rest.lines().next().unwrap_or_default().trim_matches('"')
    }

    /// Its folder: the configuration, the log, and the store in `store`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process, to pause it, say.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again on the same port and store; kills it before, if it runs.
    pub async fn restart(&mut self) {
        self.kill9();
        // A fresh log: the old one says that it is ready already.
        let _ = std::fs::rename(self.dir.path().join("nats.log"), self.dir.path().join("nats-before.log"));
        self.process = spawn(self.dir.path(), &self.configuration);
        self.ready().await;
    }

    /// The same with another configuration, made from the one that it has.
    pub async fn restart_as(&mut self, change: impl FnOnce(&str) -> String) {
        self.configuration = change(&self.configuration);
        self.restart().await;
    }

    /// Waits until it says that it is healthy; see [`NatsCluster::healthy`](super::nats_cluster::NatsCluster).
    pub async fn healthy(&mut self) {
        let port = self.monitoring;
        until("a NATS server to be healthy", async || is_healthy(port).await.then_some(())).await;
    }

    async fn ready(&mut self) {
        self.process.line_with("Server is ready").await;
    }
}

/// Starts a server as it is shipped, with its store below `dir`; gives its address. Each user's password is the
/// user's name and `Secret`.
pub async fn start_shipped(dir: &Path) -> (String, Process) {
    start_changed(dir, |shipped| shipped).await
}

/// The same, with the user `reader` let in as `docs/READING-THE-LOG.md` says.
pub async fn start_with_reader(dir: &Path) -> (String, Process) {
    start_changed(dir, |shipped| {
        let (others, reader) = shipped.split_once("\n  READ {\n").expect("an account for readers");
        let (users, rest) = reader.split_once("    imports:").expect("what it imports");
        format!("{others}\n  READ {{\n{}    imports:{rest}", users.replace("    # ", "    "))
    })
    .await
}

async fn start_changed(dir: &Path, change: impl FnOnce(String) -> String) -> (String, Process) {
    let port = free_port();
    let file = dir.join("nats.conf");
    std::fs::write(&file, change(shipped(port, &dir.join("store")))).unwrap();
    let mut command = Command::new(binary());
    command.arg("--config").arg(&file);
    for user in ["frontend", "validator", "operator", "reader"] {
        command.env(format!("NATS_{}_PASSWORD", user.to_uppercase()), format!("{user}Secret"));
    }
    let mut server = Process::spawn("nats", command, dir);
    server.line_with("Server is ready").await;
    (format!("nats://127.0.0.1:{port}"), server)
}

/// What `nats/single.conf` says, with its accounts and users, on a port and store of the test's.
pub fn shipped(port: u16, store: &Path) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/nats");
    let shipped = std::fs::read_to_string(format!("{folder}/single.conf")).unwrap();
    let users = std::fs::read_to_string(format!("{folder}/users.conf")).unwrap();
    let changed = shipped
        .replace("include \"users.conf\"", &users)
        .replace("\"0.0.0.0:4222\"", &format!("\"127.0.0.1:{port}\""))
        .replace("http: \"0.0.0.0:8222\"", "")
        .replace("\"/data\"", &format!("{store:?}"));
    assert!(!changed.contains("0.0.0.0") && !changed.contains("/data\""));
    changed
}

/// The path of a usable nats-server. The product knows how to find or install one.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
            return path.into();
        }
        let output = cluster::binary().args(["dev", "--print-nats-server"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "no nats-server, and `dev --print-nats-server` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        said.trim().into()
    })
}
