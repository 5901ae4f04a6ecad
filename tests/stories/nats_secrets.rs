//! NATS's secrets change while processes run, and what is wrong with a user or a server is said at once and by name.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::admin::Operator;
use crate::harness::client::Client;
use crate::harness::cluster::binary;
use crate::harness::nats::{NatsServer, start_shipped};
use crate::harness::process::Process;
use crate::harness::{temp_dir, until};

const JETSTREAM: &str = "jetstream { store_dir: $STORE, sync_interval: always }\nserver_name: test\n";

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

fn set(target: &str, value: u64) -> Value {
    json!({ "target": target, "value": value })
}

/// What an operator configures.
fn command(arguments: &[&str], url: &str, settings: &[String]) -> Command {
    let mut command = binary();
    command.args(arguments).args([
        "--nats",
        url,
        "--set",
        "nats.slots=8",
        "--set",
        "metrics.listen=127.0.0.1:0",
    ]);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

/// A password in a file, and an nkey in another, are changed under a running validator and frontend: NATS takes only the
/// new ones from then on, and what clients do goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_changed_counts_from_the_next_connection_on() {
    let dir = temp_dir();
    let [first, second] = std::array::from_fn(|_| nkeys::KeyPair::new_user());
    let users = |password: &str, key: &nkeys::KeyPair| {
        format!(
            "authorization {{ users: [ {{ user: joe, password: {password} }}, {{ nkey: {} }} ] }}\n",
            key.public_key()
        )
    };
    let before = users("passwordOne", &first);
    let mut server =
        NatsServer::start_with(|port| format!("{JETSTREAM}listen: \"127.0.0.1:{port}\"\n{before}")).await;
    let password = write(dir.path(), "password", "passwordOne\n");
    let seed = write(dir.path(), "seed", &first.seed().unwrap());
    let by_password = ["nats.user=joe".to_owned(), format!("nats.password_file={}", password.display())];
    let by_seed = [format!("nats.nkey_seed_file={}", seed.display())];
    let bootstrapped = command(&["bootstrap"], &server.url(), &by_password).output().unwrap();
    assert!(bootstrapped.status.success(), "{}", String::from_utf8_lossy(&bootstrapped.stderr));
    let mut validator =
        Process::spawn("validator", command(&["validator"], &server.url(), &by_seed), dir.path());
    validator.line_with("validator ready: ").await;
    let arguments = ["frontend", "--allow-anyone", "--listen", "127.0.0.1:0"];
    let mut frontend =
        Process::spawn("frontend", command(&arguments, &server.url(), &by_password), dir.path());
    let url = frontend.line_with("frontend ready: ").await;
    let mut client = Client::of(&url, "ann").await;
    client.commit("set", set("a", 1)).await;

    // As an operator does it: the new secrets in the files, and NATS started again with them.
    std::fs::write(&password, "passwordTwo\n").unwrap();
    std::fs::write(&seed, second.seed().unwrap()).unwrap();
    server.restart_as(|configuration| configuration.replace(&before, &users("passwordTwo", &second))).await;
    client.commit("set", set("b", 2)).await;
    let log = command(&["log", "default"], &server.url(), &by_password).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&log.stdout).lines().count(), 2);
}

/// A command fails, and says this; long before it would give up waiting for NATS.
async fn fails_at_once(mut command: Command, says: &[&str]) {
    let dir = temp_dir();
    command.args(["--set", "nats.connect_wait_ms=600000"]);
    let mut process = Process::spawn("command", command, dir.path());
    let status = process.ended().await;
    let said = process.output();
    assert!(!status.success(), "{said}");
    for part in says {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_user_or_a_server_is_said_at_once_and_by_name() {
    let dir = temp_dir();
    // Another role's user, and one with a wrong password.
    let (url, _server) = start_shipped(dir.path()).await;
    let as_user = |arguments: &[&str], user: &str, password: &str| {
        let settings = [format!("nats.user={user}"), format!("nats.password={password}")];
        command(arguments, &url, &settings)
    };
    fails_at_once(
        as_user(&["bootstrap"], "operator", "wrong"),
        &["authorization violation", "user operator"],
    )
    .await;
    let frontend = ["frontend", "--allow-anyone", "--listen", "127.0.0.1:0", "--set", "nats.api_prefix=core"];
    fails_at_once(as_user(&frontend, "validator", "validatorSecret"), &["ermissions", "nats.user"]).await;
    fails_at_once(as_user(&["validator"], "frontend", "frontendSecret"), &["nats.user"]).await;

    let server =
        NatsServer::start_with(|port| format!("listen: \"127.0.0.1:{port}\"\nserver_name: test\n")).await;
    fails_at_once(command(&["bootstrap"], &server.url(), &[]), &["no JetStream"]).await;
    let server = NatsServer::start_with(|port| {
        format!(
            "{JETSTREAM}listen: \"127.0.0.1:{port}\"\n\
             accounts {{ A {{ users: [ {{ user: a, password: aSecret }} ] }} }}\n"
        )
    })
    .await;
    let settings = ["nats.user=a".to_owned(), "nats.password=aSecret".to_owned()];
    fails_at_once(
        command(&["validator"], &server.url(), &settings),
        &["JetStream not enabled for account", "nats.user"],
    )
    .await;
    let server = NatsServer::start_with(|port| {
        format!(
            "{JETSTREAM}listen: \"127.0.0.1:{port}\"\n\
             accounts {{ A {{ jetstream {{ max_consumers: 4 }}, users: [ {{ user: a, password: aSecret }} ] }} }}\n"
        )
    })
    .await;
    fails_at_once(command(&["bootstrap"], &server.url(), &settings), &["max_consumers", "nats.slots"]).await;
}

/// While NATS is away nothing can be released in order; a validator goes all the same, before those who stop it kill it.
#[tokio::test(flavor = "multi_thread")]
async fn a_validator_ends_in_time_while_nats_is_away() {
    for pauses in [false, true] {
        let dir = temp_dir();
        let mut server = NatsServer::start().await;
        let all_slots = |arguments: &[&str]| {
            let mut command = binary();
            command.args(arguments).args(["--nats", &server.url(), "--set", "metrics.listen=127.0.0.1:0"]);
            command
        };
        assert!(all_slots(&["bootstrap"]).output().unwrap().status.success());
        let mut validator = Process::spawn("validator", all_slots(&["validator"]), dir.path());
        validator.line_with("validator ready: ").await;
        let line = validator.line_with("metrics and health are served").await;
        let metrics = Operator::new(line.split_once("address=").unwrap().1.trim(), None);
        until("all slots to be taken", async || {
            metrics.get("/metrics").await.body.contains("insieme_slots_owned 64\n").then_some(())
        })
        .await;
        if pauses {
            server.process().pause()
        } else {
            server.kill9()
        }
        validator.line_with("WARN").await;
        validator.signal(libc::SIGTERM);
        // As long as the shipped deployments give it.
        let ended = timeout(Duration::from_secs(30), validator.ended()).await;
        assert!(ended.is_ok_and(|status| status.success()), "{}", validator.tail());
    }
}
