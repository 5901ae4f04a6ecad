//! A whole backend: NATS, one server or three, bootstrapped, with any number of validators and frontends.

use std::future::{Future, IntoFuture};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, Output};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{Client, Connecting};
use super::free_port;
use super::nats_cluster::NatsCluster;
use super::process::Process;
use super::socket::Socket;
use super::temp_dir;

/// Names the one random history to play.
pub const HISTORY_SEED_VARIABLE: &str = "INSIEME_HISTORY_SEED";

/// What is to be started.
#[derive(Clone)]
pub struct Plan {
    validators: usize,
    frontends: usize,
    three_nats_servers: bool,
    store: Option<PathBuf>,
    settings: Vec<String>,
}

/// A running backend.
pub struct Cluster {
    pub nats: NatsCluster,
    pub validators: Vec<Validator>,
    pub frontends: Vec<Frontend>,
    plan: Plan,
    dir: tempfile::TempDir,
}

/// A validator's process.
pub struct Validator {
    pub process: Process,
    /// The name under which it owns slots.
    pub id: String,
    health: u16,
}

impl Validator {
    /// The sum of a counter over its labels, as the validator's `/metrics` tells it; 0 if it is not there.
    pub async fn counter(&self, name: &str) -> f64 {
        metric(self.health, name, "").await
    }

    /// What its `/readyz` answers.
    pub async fn readyz(&self) -> String {
        get(self.health, "/readyz").await
    }

    /// Where metrics and health are served.
    pub fn health_port(&self) -> u16 {
        self.health
    }
}

/// What is answered on a path of a port.
async fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// The sum of a metric over those of its labels that hold `label`, as `/metrics` on a port tells it.
async fn metric(port: u16, name: &str, label: &str) -> f64 {
    let text = get(port, "/metrics").await;
    let is_asked_for = |line: &&str| line.split([' ', '{']).next() == Some(name) && line.contains(label);
    text.lines()
        .filter(is_asked_for)
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// A frontend's process, and the address that it keeps over restarts.
pub struct Frontend {
    pub process: Process,
    pub port: u16,
    metrics: u16,
}

impl Frontend {
    /// The sum of a metric over those of its labels that hold `label`; 0 if there are none.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        metric(self.metrics, name, label).await
    }

    /// What its `/readyz` answers.
    pub async fn readyz(&self) -> String {
        get(self.metrics, "/readyz").await
    }

    /// Where metrics and health are served.
    pub fn metrics_port(&self) -> u16 {
        self.metrics
    }

    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws", self.port)
    }

    /// A bare socket past its `connect`.
    pub async fn connected(&self, client: &str) -> Socket {
        Socket::greeted(&self.url(), client).await.0
    }
}

impl Cluster {
    /// One validator and one frontend unless the plan is changed; without the limits on how fast a client
    /// may be, which stories about limits set for themselves.
    pub fn start() -> Plan {
        Plan { validators: 1, frontends: 1, three_nats_servers: false, store: None, settings: Vec::new() }
            .set("frontend.submissions_per_minute_max", 0)
            .set("frontend.frames_per_second_max", 0)
            .set("frontend.bytes_per_second_max", 0)
    }

    /// Sets a configuration key for the processes that are started from now on.
    pub fn set(&mut self, key: &str, value: impl std::fmt::Display) {
        self.plan = self.plan.clone().set(key, value);
    }

    /// Starts one more validator, with faults switched on.
    pub async fn add_validator(&mut self, faults: &str) -> usize {
        self.add_validator_by(&self.nats.url(), faults).await
    }

    /// Starts one more validator that reaches NATS by another way, with faults switched on.
    pub async fn add_validator_by(&mut self, nats: &str, faults: &str) -> usize {
        let name = format!("validator-{}", self.validators.len());
        let validator = validator(&self.plan, nats, &name, faults, self.dir.path()).await;
        self.validators.push(validator);
        self.validators.len() - 1
    }

    /// Starts one more frontend.
    pub async fn add_frontend(&mut self) -> usize {
        let name = format!("frontend-{}", self.frontends.len());
        let port = free_port();
        self.frontends.push(frontend(&self.plan, &self.nats.url(), &name, port, self.dir.path()).await);
        self.frontends.len() - 1
    }

    /// Starts one more frontend that reaches NATS by another way, with faults switched on.
    pub async fn add_frontend_by(&mut self, nats: &str, faults: &str) -> usize {
        let name = format!("frontend-{}", self.frontends.len());
        let port = free_port();
        self.frontends.push(frontend_with(&self.plan, nats, &name, port, faults, self.dir.path()).await);
        self.frontends.len() - 1
    }

    /// Kills a frontend where it stands and starts another on its address.
    pub async fn restart_frontend(&mut self, index: usize) {
        self.frontends[index].process.kill9();
        let port = self.frontends[index].port;
        let name = format!("frontend-{index}-{:x}", rand::random::<u32>());
        self.frontends[index] = frontend(&self.plan, &self.nats.url(), &name, port, self.dir.path()).await;
    }

    /// Kills a validator where it stands and starts another in its place.
    pub async fn restart_validator(&mut self, index: usize) {
        self.validators[index].process.kill9();
        let name = format!("validator-{index}-{:x}", rand::random::<u32>());
        self.validators[index] = validator(&self.plan, &self.nats.url(), &name, "", self.dir.path()).await;
    }

    /// Kills every process, NATS too, where it stands, and starts all of it again.
    pub async fn restart_everything(&mut self) {
        for frontend in &mut self.frontends {
            frontend.process.kill9();
        }
        for validator in &mut self.validators {
            validator.process.kill9();
        }
        self.nats.restart().await;
        for index in 0..self.validators.len() {
            self.restart_validator(index).await;
        }
        for index in 0..self.frontends.len() {
            self.restart_frontend(index).await;
        }
    }

    /// A client of frontend `index`, not connected yet.
    pub fn client(&self, index: usize, client_id: &str) -> Connecting {
        Client::of(&self.frontends[index].url(), client_id)
    }

    /// The server's own word on a partition: its last event id and the hash of its canonical state.
    pub fn state_hash(&self, partition: &str) -> (u64, String) {
        let output = self.run(&["state", partition, "--hash"]);
        let said = stdout(&output);
        let (id, hash) =
            said.trim().split_once(' ').unwrap_or_else(|| panic!("`state --hash` said {said:?}"));
        (id.parse().unwrap(), hash.to_owned())
    }

    /// A partition's state as the server tells it, in canonical form.
    pub fn state(&self, partition: &str) -> String {
        stdout(&self.run(&["state", partition])).trim_end().to_owned()
    }

    /// A partition's committed events, from the log itself; without marks, which no client is shown.
    pub fn log(&self, partition: &str) -> Vec<Value> {
        let all = self.log_with_marks(partition).into_iter();
        all.filter(|event| event["isMark"] != true).collect()
    }

    /// Everything in a partition's log; nothing, if there is no such partition.
    pub fn log_with_marks(&self, partition: &str) -> Vec<Value> {
        let output = self.try_run(&["log", partition]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || said.contains("the log has no events"), "`log` failed: {said}");
        stdout(&output)
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("`log` said {line:?}: {error}"))
            })
            .collect()
    }

    /// Runs a subcommand against this backend's NATS, whatever comes of it.
    pub fn try_run(&self, arguments: &[&str]) -> Output {
        self.plan.command(arguments, &self.nats.url()).output().unwrap()
    }

    /// Runs a subcommand with faults switched on, over a way of its own to NATS; gives what it prints.
    pub async fn run_by(&self, nats: &str, faults: &str, arguments: &[&str]) -> String {
        let mut command = self.plan.command(arguments, nats);
        command.env("INSIEME_FAULT", faults);
        let running = tokio::task::spawn_blocking(move || command.output());
        let output = running.await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    }

    /// Runs a subcommand against this backend's NATS; it must succeed.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.try_run(arguments);
        assert!(
            output.status.success(),
            "`insieme-backend {}` failed: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }
}

impl Plan {
    pub fn validators(mut self, count: usize) -> Self {
        self.validators = count;
        self
    }

    pub fn frontends(mut self, count: usize) -> Self {
        self.frontends = count;
        self
    }

    /// Three NATS servers and three replicas of every stream, instead of one.
    pub fn three_nats_servers(mut self) -> Self {
        self.three_nats_servers = true;
        self.set("nats.replicas", 3)
    }

    /// The folder in which the one NATS server has its store.
    pub fn store_in(mut self, folder: PathBuf) -> Self {
        self.store = Some(folder);
        self
    }

    /// Sets a configuration key for every process; a later setting wins.
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        let prefix = format!("{key}=");
        self.settings.retain(|setting| !setting.starts_with(&prefix));
        self.settings.push(format!("{prefix}{value}"));
        self
    }

    /// Starts it on NATS servers that run already.
    pub async fn start_on(self, nats: NatsCluster) -> Cluster {
        let dir = temp_dir();
        let output = self.command(&["bootstrap"], &nats.url()).output().unwrap();
        assert!(output.status.success(), "bootstrap failed: {}", String::from_utf8_lossy(&output.stderr));
        let mut cluster =
            Cluster { nats, validators: Vec::new(), frontends: Vec::new(), plan: self.clone(), dir };
        for _ in 0..self.validators {
            cluster.add_validator("").await;
        }
        for _ in 0..self.frontends {
            cluster.add_frontend().await;
        }
        cluster
    }

    /// Whether frontends are given a key, and so take nobody without a token.
    fn asks_for_tokens(&self) -> bool {
        const KEYS: [&str; 5] = ["secret_file", "public_key_file", "jwks_file", "jwks_url", "hook_url"];
        self.settings.iter().any(|set| KEYS.iter().any(|key| set.starts_with(&format!("auth.{key}="))))
    }

    fn command(&self, arguments: &[&str], nats: &str) -> Command {
        let mut command = binary();
        command.args(arguments).arg("--nats").arg(nats);
        for setting in &self.settings {
            command.arg("--set").arg(setting);
        }
        command
    }
}

impl IntoFuture for Plan {
    type Output = Cluster;
    type IntoFuture = Pin<Box<dyn Future<Output = Cluster>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let nats = match &self.store {
                _ if self.three_nats_servers => NatsCluster::start().await,
                Some(folder) => NatsCluster::single_in(folder).await,
                None => NatsCluster::single().await,
            };
            self.start_on(nats).await
        })
    }
}

async fn validator(plan: &Plan, nats: &str, name: &str, faults: &str, dir: &Path) -> Validator {
    let mut command = plan.command(&["validator"], nats);
    let health = free_port();
    command.env("INSIEME_FAULT", faults).args(["--health-listen", &format!("127.0.0.1:{health}")]);
    let mut process = Process::spawn(name, command, dir);
    let id = process.line_with("validator ready:").await;
    Validator { process, id, health }
}

async fn frontend(plan: &Plan, nats: &str, name: &str, port: u16, dir: &Path) -> Frontend {
    frontend_with(plan, nats, name, port, "", dir).await
}

async fn frontend_with(plan: &Plan, nats: &str, name: &str, port: u16, faults: &str, dir: &Path) -> Frontend {
    let mut command = plan.command(&["frontend"], nats);
    command.env("INSIEME_FAULT", faults);
    let metrics = free_port();
    command.args(["--listen", &format!("127.0.0.1:{port}")]);
    command.args(["--set", &format!("metrics.listen=127.0.0.1:{metrics}")]);
    if !plan.asks_for_tokens() {
        command.arg("--allow-anyone");
    }
    let mut process = Process::spawn(name, command, dir);
    let url = process.line_with("frontend ready:").await;
    assert!(url.ends_with(&format!("://127.0.0.1:{port}/ws")), "{url}");
    Frontend { process, port, metrics }
}

/// The binary under test.
pub fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_insieme-backend"));
    command.env_remove("INSIEME_FAULT");
    // The tests' own; the product refuses settings that it does not know.
    command.env_remove(HISTORY_SEED_VARIABLE);
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}
