//! What operators do from a shell: `insieme-backend admin`, against the administration as it is served.

use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::backend::{Backend, set, token};
use crate::harness::cluster::binary;
use crate::harness::temp_dir;

/// A shell with a token.
struct Shell {
    address: String,
    dir: tempfile::TempDir,
}

impl Shell {
    fn at(backend: &Backend) -> Self {
        let shell = Self { address: backend.address.clone(), dir: temp_dir() };
        let token = token("ops", json!({ "permissions": ["admin"] }));
        std::fs::write(shell.token_file(), format!("{token}\n")).unwrap();
        shell
    }

    fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = binary();
        command.arg("admin").args(arguments).env("INSIEME_ADMIN_URL", &self.address);
        command.env("INSIEME_ADMIN_TOKEN_FILE", self.token_file());
        command.output().unwrap()
    }

    /// What a command prints, which must succeed.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        serde_json::from_str(&self.says(&arguments)).unwrap()
    }

    /// What a command that must fail says, on standard output and standard error.
    fn fails(&self, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    }
}

/// The first words of the lines of a table, without its head.
fn column(text: &str, number: usize) -> Vec<String> {
    text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(number)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_does_everything_from_a_shell() {
    // One entry a page: lists are put together from many.
    let mut backend = Backend::start_with(&["admin.page_entries_default=1"]).await;
    let shell = Shell::at(&backend);
    let hostile = "eve\u{1b}[2J";
    let mut ann = backend.client(0, "ann", json!({ "jti": "t-1" })).await;
    ann.commit("set", set("a", json!(1))).await;
    ann.commit("set", set("a", json!(2))).await;
    let _bob = backend.client(1, "bob", json!({})).await;
    let _eve = backend.client(1, hostile, json!({})).partition("other").await;
    let _eve_too = backend.client(1, hostile, json!({})).await;

    let roles = ["frontend", "frontend", "validator", "validator", "admin"];
    assert_eq!(column(&shell.says(&["processes"]), 0), roles);
    assert_eq!(shell.json(&["processes"])["processes"][0]["id"], "f0");
    assert_eq!(column(&shell.says(&["partitions"]), 0), ["default"]);
    let slots = shell.json(&["slots"]);
    assert_eq!(slots["slots"].as_array().unwrap().len(), 8, "{slots}");
    assert_eq!(shell.says(&["state", "default"]).trim(), r#"{"a":2}"#);
    assert_eq!(shell.says(&["events", "default"]).lines().count(), 2);
    let at = ann.events[0]["eventId"].to_string();
    assert_eq!(shell.json(&["state", "default", "--at", &at])["state"], json!({ "a": 1 }));

    let connections = shell.says(&["connections", "default"]);
    assert_eq!(column(&connections, 0), ["ann", "bob", r"eve\u{1b}[2J"], "{connections}");
    assert!(!connections.contains('\u{1b}') && connections.contains("t-1"), "{connections}");
    assert_eq!(shell.json(&["client", hostile])["connections"].as_array().unwrap().len(), 2);
    let two = shell.says(&["connections", "default", "--limit", "2"]);
    assert!(two.contains("(2 of 3)") && !two.contains("eve"), "{two}");

    assert_eq!(column(&shell.says(&["connections"]), 0).len(), 4);
    assert_eq!(column(&shell.says(&["clients"]), 0), ["ann", "bob", r"eve\u{1b}[2J"]);
    assert_eq!(shell.json(&["clients", "--partition", "other"])["clients"][0]["connections"], 1);
    assert_eq!(shell.says(&["events", "default", "--client", "ann", "--type", "set"]).lines().count(), 2);
    assert!(shell.says(&["events", "default", "--until", "1h"]).is_empty());
    assert!(shell.says(&["snapshot", "default"]).starts_with("snapshot written: event 2, "));

    assert!(shell.says(&["close", hostile, "--partition", "other"]).contains("1 connections closed"));
    assert!(shell.says(&["close", "bob", "--reconnect"]).contains("1 connections closed"));
    let revoked = shell.says(&["revoke-token", "t-1", "--for", "2h"]);
    assert!(revoked.contains("revoked: 1 connections closed") && revoked.contains("until 2"), "{revoked}");
    assert!(shell.says(&["revoke-client", "bob"]).contains("until it is lifted"));
    assert_eq!(column(&shell.says(&["revocations"]), 0), ["token", "client"]);
    shell.says(&["lift-token", "t-1"]);
    shell.says(&["lift-client", "bob"]);
    assert_eq!(shell.json(&["revocations"])["revocations"], json!([]));
    let log = shell.says(&["log", "info,insieme_backend::validator=debug", "--minutes", "5"]);
    assert_eq!(column(&log, 0), roles, "{log}");
    assert_eq!(column(&shell.says(&["log"]), 2)[0], "info,insieme_backend::validator=debug");

    // What goes wrong is told, and the exit code tells it too.
    backend.frontends[1].0.pause();
    let (printed, said) = shell.fails(&["connections", "default"]);
    assert!(column(&printed, 0).is_empty() && said.contains("no answer in time from: frontend f1"), "{said}");
    backend.frontends[1].0.resume();
    for (arguments, says) in [
        (&["state", "nobody"][..], "404 Not Found: the partition \"nobody\" has no events"),
        (&["lift-token", "t-1"], "no such revocation"),
        (&["log", "x=y=z"], "no log filter"),
        (&["slots", "--url", "http://127.0.0.1:1"], "admin serve"),
        (&["slots", "--url", "ftp://x"], "no address such as"),
        (&["slots", "--token-file", "/nowhere"], "/nowhere"),
    ] {
        let (_, said) = shell.fails(arguments);
        assert!(said.contains(says), "{arguments:?}: {said}");
    }
    std::fs::write(shell.token_file(), token("eve", json!({}))).unwrap();
    let (_, said) = shell.fails(&["slots"]);
    assert!(said.contains("does not permit `admin`") && !said.contains("eyJ"), "{said}");
    let output = binary().args(["admin", "slots", "--url", &backend.address]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--token-file names a file with a token"));
}
