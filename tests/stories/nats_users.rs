//! The NATS users of `nats/single.conf`: each role can do its work as its user, and may publish nothing else.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::client::Client;
use crate::harness::cluster::binary;
use crate::harness::nats;
use crate::harness::process::Process;
use crate::harness::{free_port, temp_dir};

/// What `nats/single.conf` says, on a port and store of the test's.
fn configuration(port: u16, store: &std::path::Path) -> String {
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

fn as_user(role: &str, user: &str, url: &str) -> Command {
    let mut command = binary();
    command.arg(role);
    command.env("INSIEME_NATS_URLS", url);
    command.env("INSIEME_NATS_USER", user).env("INSIEME_NATS_PASSWORD", format!("{user}Secret"));
    command
}

async fn connect(user: &str, url: &str) -> async_nats::Client {
    let options = async_nats::ConnectOptions::with_user_and_password(user.into(), format!("{user}Secret"));
    options.connect(url).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_works_as_its_user_and_a_frontend_may_not_publish_events() {
    let dir = temp_dir();
    let port = free_port();
    let url = format!("nats://127.0.0.1:{port}");
    let file = dir.path().join("nats.conf");
    std::fs::write(&file, configuration(port, &dir.path().join("store"))).unwrap();
    let mut command = Command::new(nats::binary());
    command.arg("--config").arg(&file);
    for user in ["frontend", "validator", "operator"] {
        command.env(format!("NATS_{}_PASSWORD", user.to_uppercase()), format!("{user}Secret"));
    }
    let mut server = Process::spawn("nats", command, dir.path());
    server.line_with("Server is ready").await;

    assert!(as_user("bootstrap", "operator", &url).output().unwrap().status.success());
    let mut command = as_user("validator", "validator", &url);
    // A snapshot after every few events, so that writing and reading them is tried too.
    command.args(["--set", "validator.snapshot_events_min=3", "--set", "validator.snapshot_share_min=0"]);
    let mut validator = Process::spawn("validator", command, dir.path());
    validator.line_with("validator ready: ").await;
    let mut command = as_user("frontend", "frontend", &url);
    command.args(["--allow-anyone", "--listen", "127.0.0.1:0"]);
    let mut frontend = Process::spawn("frontend", command, dir.path());
    let address = frontend.line_with("frontend ready: ").await;

    let mut ann = Client::of(&address, "ann").await;
    for number in 0..10 {
        ann.commit("set", json!({ "target": format!("k{number}"), "value": "x".repeat(50_000) })).await;
    }
    validator.line_with("snapshot written").await;
    for command in ["state", "log"] {
        let output = as_user(command, "frontend", &url).arg("default").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    // The administration asks the frontend, which answers.
    let mut command = as_user("admin", "operator", &url);
    command.args(["serve", "--allow-anyone", "--listen", "127.0.0.1:0"]);
    let mut admin = Process::spawn("admin", command, dir.path());
    let ops = Operator::new(&admin.line_with("admin ready: ").await, None);
    let connections = ops.get("/partitions/default/connections").await.json();
    assert_eq!(connections["connections"][0]["client"], "ann", "{connections}");
    let roles = |processes: &Value| {
        let processes = processes["processes"].as_array().unwrap().clone();
        processes.iter().map(|process| process["role"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(roles(&ops.get("/processes").await.json()), ["frontend", "validator", "admin"]);
    assert!(!server.output().contains("Violation"), "{}", server.tail());

    // The same credentials, in other hands.
    let stolen = connect("frontend", &url).await;
    let before = as_user("state", "operator", &url).args(["default", "--hash"]).output().unwrap().stdout;
    const FORBIDDEN: [&str; 6] = [
        "committed.default",
        "answer.someone",
        "$KV.SLOTS.slot.1",
        "$O.SNAPSHOTS.M.x",
        "control.frontend",
        "live.default",
    ];
    for subject in FORBIDDEN {
        stolen.publish(subject, "forged".into()).await.unwrap();
    }
    stolen.flush().await.unwrap();
    server.line_with("Publish Violation - Subject \"live.default\"").await;
    for subject in FORBIDDEN {
        assert!(server.output().contains(&format!("Publish Violation - Subject \"{subject}\"")), "{subject}");
    }
    let after = as_user("state", "operator", &url).args(["default", "--hash"]).output().unwrap().stdout;
    assert_eq!(before, after);
}
