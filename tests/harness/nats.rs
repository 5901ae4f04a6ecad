//! A NATS server of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::cluster;
use super::process::Process;
use super::{free_port, temp_dir};

/// Names a nats-server to use instead of the one that the product finds or installs.
const BINARY_VARIABLE: &str = "INSIEME_TEST_NATS_SERVER";

/// A server, its port and its store, which outlive the process.
pub struct NatsServer {
    port: u16,
    dir: tempfile::TempDir,
    process: Process,
}

impl NatsServer {
    /// Starts one on a free port with a store of its own, set up as the shipped single node is.
    pub async fn start() -> Self {
        let dir = temp_dir();
        let port = free_port();
        let process = spawn(port, dir.path());
        let mut server = Self { port, dir, process };
        server.ready().await;
        server
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `kill -9`.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again on the same port and store.
    pub async fn restart(&mut self) {
        self.kill9();
        // A fresh log: the old one says that it is ready already.
        let _ = std::fs::rename(self.dir.path().join("nats.log"), self.dir.path().join("nats-before.log"));
        self.process = spawn(self.port, self.dir.path());
        self.ready().await;
    }

    async fn ready(&mut self) {
        self.process.line_with("Server is ready").await;
    }
}

fn spawn(port: u16, dir: &Path) -> Process {
    let store = dir.join("store");
    let config = dir.join("nats.conf");
    std::fs::write(
        &config,
        format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: test\njetstream {{ store_dir: {store:?}, sync_interval: always }}\n"
        ),
    )
    .unwrap();
    let mut command = Command::new(binary());
    command.arg("-c").arg(config);
    Process::spawn("nats", command, dir)
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
