//! `insieme-backend dev`: the one command that a newcomer runs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::harness::client::Client;
use crate::harness::cluster::binary;
use crate::harness::process::Process;
use crate::harness::{nats, temp_dir};

fn dev(data: &Path, listen: &str) -> Command {
    let mut command = binary();
    command
        .args(["dev", "--listen", listen, "--nats-server"])
        .arg(nats::binary())
        .arg("--data-dir")
        .arg(data);
    command
}

async fn started(name: &str, command: Command, logs: &Path) -> (Process, String) {
    let mut process = Process::spawn(name, command, logs);
    let rest = process.line_with("ws://").await;
    let address = rest.split_whitespace().next().unwrap().to_owned();
    (process, format!("ws://{address}"))
}

/// Runs a command that has to fail, and gives what it said.
fn refusal(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(!status.success(), "it was to fail, but said: {said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_works_ends_with_ctrl_c_and_finds_its_data_again() {
    let dir = temp_dir();
    let data = dir.path().join("data");
    let (mut process, url) = started("dev-1", dev(&data, "127.0.0.1:0"), dir.path()).await;
    let mut ann = Client::of(&url, "ann").await;
    ann.commit("set", json!({ "target": "list", "value": { "items": {}, "tree": [] } })).await;
    ann.commit("treePush", json!({ "target": "list", "value": { "id": "a" } })).await;
    let said = process.output();
    assert!(said.contains(&data.display().to_string()), "it tells where the data lies:\n{said}");
    assert!(
        said.contains("connect") && said.contains("clientId"),
        "it gives a first message to paste:\n{said}"
    );
    assert!(said.to_lowercase().contains("anyone"), "it tells that it takes anyone:\n{said}");

    process.signal(libc::SIGINT);
    assert!(process.ended().await.success(), "{}", process.tail());

    let (mut process, url) = started("dev-2", dev(&data, "127.0.0.1:0"), dir.path()).await;
    let again = Client::of(&url, "bob").await;
    assert_eq!(again.last_event_id, 2);
    assert_eq!(again.connected["initialState"]["list"]["tree"], json!([{ "id": "a", "children": [] }]));
    process.signal(libc::SIGTERM);
    assert!(process.ended().await.success(), "{}", process.tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_that_dev_prints_works() {
    let dir = temp_dir();
    let (process, url) = started("dev", dev(&dir.path().join("data"), "127.0.0.1:0"), dir.path()).await;
    let said = process.output();
    let line = said.lines().find(|line| line.contains("\"connect\"")).expect("a line with a connect message");
    let message = &line[line.find('{').unwrap()..=line.rfind('}').unwrap()];
    let mut socket = crate::harness::socket::Socket::open(&url).await.unwrap();
    socket.send_text(message).await.unwrap();
    socket.expect("connected").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let dir = temp_dir();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refusal(dev(&dir.path().join("data"), &address));
    assert!(said.contains(&address) && said.contains("--listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_is_named() {
    let dir = temp_dir();
    // A file where a folder has to be: also root cannot write there.
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let data = file.join("data");
    let said = refusal(dev(&data, "127.0.0.1:0"));
    assert!(said.contains(&data.display().to_string()) && said.contains("--data-dir"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_too_old_is_refused_with_the_remedy() {
    let dir = temp_dir();
    let old = dir.path().join("nats-server");
    std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.10.4'\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = binary();
    command.args(["dev", "--listen", "127.0.0.1:0", "--nats-server"]).arg(&old);
    command.arg("--data-dir").arg(dir.path().join("data"));
    let said = refusal(command);
    assert!(said.contains("2.10.4") && said.contains("2.12"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_refuse_to_start_without_auth_unless_told() {
    let server = nats::NatsServer::start().await;
    let mut command = binary();
    command.args(["frontend", "--listen", "127.0.0.1:0", "--nats"]).arg(server.url());
    let said = refusal(command);
    assert!(said.contains("--allow-anyone"), "{said}");
}
