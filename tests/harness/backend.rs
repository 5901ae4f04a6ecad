//! Everything that an operator looks after: two frontends, two validators and the administration, as processes,
//! with tokens.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::admin::Operator;
use super::client::{Client, Connecting};
use super::cluster::binary;
use super::nats::NatsServer;
use super::process::Process;
use super::socket::Socket;
use super::temp_dir;
use super::tokens::{SECRET, TestKey};
use super::v1::envelope;

/// How many slots there are.
pub const SLOTS: u64 = 8;
/// How often processes say that they are there, in milliseconds.
const ANNOUNCE_MS: u64 = 200;

/// A backend with its administration.
pub struct Backend {
    pub nats: NatsServer,
    pub validators: Vec<Process>,
    /// Each with its address.
    pub frontends: Vec<(Process, String)>,
    pub admin: Process,
    /// The administration's address.
    pub address: String,
    dir: tempfile::TempDir,
    settings: Vec<String>,
}

impl Backend {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With these settings, of all processes.
    pub async fn start_with(settings: &[&str]) -> Self {
        let settings: Vec<String> = settings.iter().map(|set| (*set).to_owned()).collect();
        let nats = NatsServer::start().await;
        let dir = temp_dir();
        std::fs::write(dir.path().join("secret"), SECRET).unwrap();
        let command = |arguments: &[&str]| command(arguments, &nats.url(), dir.path(), &settings);
        let bootstrapped = command(&["bootstrap"]).output().unwrap();
        assert!(bootstrapped.status.success(), "{}", String::from_utf8_lossy(&bootstrapped.stderr));
        let mut validators = Vec::new();
        for number in 0..2 {
            let set = format!("validator.id=v{number}");
            let mut process =
                Process::spawn(&format!("v{number}"), command(&["validator", "--set", &set]), dir.path());
            process.line_with("validator ready: ").await;
            validators.push(process);
        }
        let mut admin = Process::spawn(
            "admin",
            command(&["admin", "serve", "--listen", "127.0.0.1:0", "--set", "admin.stream_alive_ms=300"]),
            dir.path(),
        );
        let address = admin.line_with("admin ready: ").await;
        let mut backend = Self { nats, validators, frontends: Vec::new(), admin, address, dir, settings };
        for _ in 0..2 {
            backend.add_frontend().await;
        }
        backend
    }

    /// Starts one more frontend; gives its place.
    pub async fn add_frontend(&mut self) -> usize {
        let id = format!("f{}", self.frontends.len());
        let set = format!("frontend.id={id}");
        let mut started = self.command(&["frontend", "--listen", "127.0.0.1:0", "--set", &set]);
        started.args(["--set", "metrics.listen=127.0.0.1:0"]);
        let mut process = Process::spawn(&id, started, self.dir.path());
        let url = process.line_with("frontend ready: ").await;
        self.frontends.push((process, url));
        self.frontends.len() - 1
    }

    /// What a frontend's `/metrics` tells.
    pub async fn metrics(&mut self, frontend: usize) -> String {
        let process = &mut self.frontends[frontend].0;
        let line = process.line_with("metrics and health are served").await;
        let address = line.split_once("address=").map_or("", |(_, address)| address.trim());
        Operator::new(address, None).get("/metrics").await.body
    }

    /// A command of this backend's, with its settings.
    pub fn command(&self, arguments: &[&str]) -> Command {
        command(arguments, &self.nats.url(), self.dir.path(), &self.settings)
    }

    /// Somebody who may do everything.
    pub fn operator(&self) -> Operator {
        Operator::new(&self.address, Some(&token("ops", json!({ "permissions": ["admin"] }))))
    }

    /// A client of a frontend, with a token.
    pub fn client(&self, frontend: usize, id: &str, changes: Value) -> Connecting {
        Client::of(&self.frontends[frontend].1, id).token(token(id, changes))
    }

    /// A socket of the classic dialect that is connected to the partition `default` with this token.
    pub async fn socket(&self, frontend: usize, id: &str, token: &str) -> Socket {
        let mut socket = Socket::open(&self.frontends[frontend].1).await.unwrap();
        let connect = json!({ "clientId": id, "version": "test", "token": token });
        socket.send("connect", connect).await.unwrap();
        socket
    }

    /// A socket of the v1 dialect that has said `connect` to the partition `default` with this token.
    pub async fn v1_socket(&self, frontend: usize, id: &str, token: &str) -> Socket {
        let mut socket = Socket::open(&self.frontends[frontend].1).await.unwrap();
        let connect = json!({ "token": token, "clientId": id, "projectId": "default" });
        socket.send_text(envelope("connect", "c-1", &connect)).await.unwrap();
        socket
    }
}

fn command(arguments: &[&str], nats: &str, dir: &Path, settings: &[String]) -> Command {
    let mut command = binary();
    command.args(arguments).args(["--nats", nats, "--set", &format!("nats.slots={SLOTS}")]);
    command.args(["--set", &format!("control.announce_ms={ANNOUNCE_MS}")]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.env("INSIEME_AUTH_SECRET_FILE", dir.join("secret"));
    command
}

/// A token that permits everything but the administration, for an hour; with changes.
pub fn token(client: &str, changes: Value) -> String {
    let mut claims = json!({ "permissions": ["read", "set", "init"] });
    for (key, value) in changes.as_object().unwrap() {
        claims[key] = value.clone();
    }
    TestKey::secret(SECRET).token(client, claims)
}

/// The payload of a `set`.
pub fn set(target: &str, value: Value) -> Value {
    json!({ "target": target, "value": value })
}
