//! The command line: what a person who gets something wrong is told, and how processes start and end.

use std::process::{Command, Output};

use crate::harness::cluster::binary;
use crate::harness::nats::{self, NatsServer};
use crate::harness::process::Process;
use crate::harness::{free_port, temp_dir, until};

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn with_nats(role: &str, nats: &NatsServer) -> Command {
    let mut command = binary();
    command.args([role, "--nats", &nats.url()]);
    command
}

#[test]
fn without_python_and_nats_server_dev_names_the_remedies() {
    let dir = temp_dir();
    let output = binary()
        .args(["dev", "--print-nats-server"])
        .env("PATH", dir.path())
        .env("XDG_CACHE_HOME", dir.path())
        .output()
        .unwrap();
    let said = said(&output);
    assert!(!output.status.success());
    for part in ["python3 is missing", "Put one on PATH", "--nats-server FILE"] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn without_a_role_it_says_which_there_are() {
    let output = binary().output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in
        ["no role is given", "frontend  --nats", "validator --nats", "bootstrap --nats", "docker run IMAGE"]
    {
        assert!(said.contains(part), "{said}");
    }
    // A frontend listens where all that is written here says that it does.
    let output = binary().args(["check-config", "--print-defaults"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("listen = \"127.0.0.1:3001\""));
}

#[test]
fn an_unknown_key_is_an_error_wherever_it_stands() {
    let output = binary().args(["check-config", "--set", "nats.slot=4"]).output().unwrap();
    assert!(
        !output.status.success() && said(&output).contains("the closest is nats.slots"),
        "{}",
        said(&output)
    );
    let output = binary().arg("check-config").env("INSIEME_NATS_SLOT", "4").output().unwrap();
    assert!(!output.status.success() && said(&output).contains("INSIEME_NATS_SLOTS"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_may_start_in_any_order() {
    let dir = temp_dir();
    let nats = NatsServer::start().await;
    let mut validator = Process::spawn("validator", with_nats("validator", &nats), dir.path());
    let mut command = with_nats("frontend", &nats);
    command.args(["--allow-anyone", "--listen", "127.0.0.1:0"]);
    let mut frontend = Process::spawn("frontend", command, dir.path());
    for process in [&mut validator, &mut frontend] {
        process.line_with("waiting for the streams").await;
    }
    let output = with_nats("bootstrap", &nats).output().unwrap();
    assert!(
        said(&output).contains("bootstrap done: created stream DRAFTS, stream COMMITTED"),
        "{}",
        said(&output)
    );
    validator.line_with("validator ready: ").await;
    frontend.line_with("frontend ready: ws://127.0.0.1:").await;
    for process in [&mut validator, &mut frontend] {
        process.signal(libc::SIGTERM);
        assert!(process.ended().await.success(), "{}", process.tail());
    }
}

#[test]
fn a_process_that_never_finds_nats_says_where_it_looked() {
    let url = format!("nats://127.0.0.1:{}", free_port());
    let output =
        binary().args(["validator", "--nats", &url, "--set", "nats.connect_wait_ms=300"]).output().unwrap();
    let said = said(&output);
    assert!(!output.status.success());
    assert!(said.contains("gave up waiting for NATS after 300 ms") && said.contains(&url), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_dies_with_its_dev_even_by_kill_9() {
    let dir = temp_dir();
    let port = free_port();
    let mut command = binary();
    command.args(["dev", "--listen", "127.0.0.1:0", "--nats-port", &port.to_string(), "--nats-server"]);
    command.arg(nats::binary()).arg("--data-dir").arg(dir.path().join("data"));
    let mut dev = Process::spawn("dev", command, dir.path());
    dev.line_with("dev ready: ").await;
    dev.kill9();
    until("the nats-server to be gone", async || std::net::TcpStream::connect(("127.0.0.1", port)).err())
        .await;
}
