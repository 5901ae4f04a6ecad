//! An application's schemas change while everybody works: good files are taken without a restart, a broken
//! one is reported and changes nothing, and a start with a broken one fails.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::Patience;
use crate::harness::client::{Answer, Client};
use crate::harness::cluster::{Cluster, binary};
use crate::harness::process::Process;
use crate::harness::{temp_dir, until};

/// The largest `rules.schema_poll_ms`: what is found before is found by the file system's notices.
const NEVER_MS: u64 = 3_600_000;

/// Puts a file in its place as a deployment does: whole.
fn put(folder: &Path, file: &str, text: &str) {
    let unfinished = folder.join(format!(".{file}.new"));
    std::fs::write(&unfinished, text).unwrap();
    std::fs::rename(unfinished, folder.join(file)).unwrap();
}

fn with_field(field: &str) -> String {
    json!({ "type": "object", "required": [field] }).to_string()
}

/// Submits a domain event; true if it is accepted.
async fn passes(client: &mut Client, schema: &str, data: Value) -> bool {
    let draft = client.submit("event", json!({ "schema": schema, "data": data })).await;
    match client.answer(&draft).await {
        Answer::Accepted { .. } => true,
        Answer::Rejected { reason, errors } => {
            assert_eq!((reason.as_str(), &errors[0]["code"]), ("validation_failed", &json!("SCHEMA_ERROR")));
            false
        }
    }
}

/// Waits until such an event passes, or until it does so no more.
async fn in_the_end(client: &mut Client, schema: &str, data: Value, expected: bool) {
    let patience = Patience::new();
    while passes(client, schema, data.clone()).await != expected {
        patience
            .wait_for(&format!("{schema} {data} to be {}", if expected { "taken" } else { "refused" }))
            .await;
    }
}

async fn reloads(process: &Process, at_least: usize) {
    let said = || process.output().matches("the schemas were reloaded").count();
    until("the schemas to be reloaded", async || (said() >= at_least).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_added_changed_and_taken_away_while_clients_work() {
    let schemas = temp_dir();
    let folder = schemas.path();
    put(folder, "note%2Fadded.json", &with_field("text"));
    let mut cluster = Cluster::start()
        .validators(2)
        .set("rules.schema_dir", folder.display())
        .set("rules.schema_poll_ms", NEVER_MS)
        .await;
    let mut ann = cluster.client(0, "ann").await;
    assert!(passes(&mut ann, "note/added", json!({ "text": "x" })).await);
    assert!(!passes(&mut ann, "note/added", json!({})).await);
    assert!(!passes(&mut ann, "note/removed", json!({})).await);

    // A version and a type more.
    put(folder, "note%2Fadded@2.json", &with_field("body"));
    put(folder, "note%2Fremoved.json", "{}");
    in_the_end(&mut ann, "note/removed", json!({}), true).await;
    assert!(passes(&mut ann, "note/added@2", json!({ "body": "x" })).await);
    assert!(!passes(&mut ann, "note/added@2", json!({ "text": "x" })).await);
    assert!(passes(&mut ann, "note/added", json!({ "text": "x" })).await);

    // Written in place, piece by piece.
    std::fs::write(folder.join("note%2Fadded.json"), with_field("title")).unwrap();
    in_the_end(&mut ann, "note/added", json!({ "title": "x" }), true).await;
    in_the_end(&mut ann, "note/added", json!({ "text": "x" }), false).await;

    std::fs::remove_file(folder.join("note%2Fremoved.json")).unwrap();
    in_the_end(&mut ann, "note/removed", json!({}), false).await;

    // All that was ever accepted is in the log, and nothing of it has changed the state.
    for validator in &mut cluster.validators {
        assert!(validator.process.is_running());
        reloads(&validator.process, 1).await;
    }
    assert_eq!(cluster.state("default"), "{}");
    assert!(cluster.log("default").iter().all(|event| event["type"] == "event"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_reported_and_the_schemas_before_stay() {
    let schemas = temp_dir();
    let folder = schemas.path();
    put(folder, "note.json", &with_field("text"));
    let mut cluster = Cluster::start()
        .set("rules.schema_dir", folder.display())
        .set("rules.schema_poll_ms", 100)
        .set("metrics.listen", "127.0.0.1:0")
        .await;
    let mut ann = cluster.client(0, "ann").await;
    assert!(passes(&mut ann, "note", json!({ "text": "x" })).await);

    // Two of three are broken; the good one must wait for them.
    let staged = temp_dir();
    put(staged.path(), "note.json", "{\n  \"type\": \"object\",\n  \"required\": \"title\"\n}");
    put(staged.path(), "other.json", "{\n  \"type\"\n}");
    for file in ["note.json", "other.json"] {
        std::fs::rename(staged.path().join(file), folder.join(file)).unwrap();
    }
    put(folder, "third.json", "{}");
    let validator = &mut cluster.validators[0].process;
    for (file, line) in [("note.json", 3), ("other.json", 3)] {
        let what = format!("file={file:?} line={line} reason=");
        until(&what, async || {
            let output = validator.output();
            output.lines().any(|line| line.contains("stay in force") && line.contains(&what)).then_some(())
        })
        .await;
    }
    assert!(passes(&mut ann, "note", json!({ "text": "x" })).await);
    assert!(!passes(&mut ann, "note", json!({ "title": "x" })).await);
    assert!(!passes(&mut ann, "third", json!({})).await);
    // It is told once a change, and not at every look.
    let told = || cluster.validators[0].process.output().matches("file=\"other.json\"").count();
    until("no more to be said of the same files", async || {
        let before = told();
        tokio::time::sleep(Duration::from_millis(500)).await;
        (told() == before).then_some(())
    })
    .await;
    let metrics = metrics(&mut cluster.validators[0].process).await;
    assert!(metrics.contains("insieme_schema_reloads_total{result=\"failed\"}"), "{metrics}");
    assert!(metrics.contains("insieme_schemas_loaded 1\n"), "{metrics}");

    put(folder, "note.json", &with_field("title"));
    put(folder, "other.json", "{}");
    in_the_end(&mut ann, "third", json!({}), true).await;
    assert!(passes(&mut ann, "note", json!({ "title": "x" })).await);
    assert!(!passes(&mut ann, "note", json!({ "text": "x" })).await);
    assert!(passes(&mut ann, "other", json!({})).await);
    let metrics = self::metrics(&mut cluster.validators[0].process).await;
    assert!(metrics.contains("insieme_schema_reloads_total{result=\"ok\"}"), "{metrics}");
    assert!(metrics.contains("insieme_schemas_loaded 3\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_schemas_anew_and_ends_nobody() {
    let schemas = temp_dir();
    let (one, two, folder) =
        (schemas.path().join("one"), schemas.path().join("two"), schemas.path().join("current"));
    for (version, field) in [(&one, "text"), (&two, "title")] {
        std::fs::create_dir(version).unwrap();
        put(version, "note.json", &with_field(field));
    }
    std::os::unix::fs::symlink(&one, &folder).unwrap();
    let mut cluster = Cluster::start()
        .set("rules.schema_dir", folder.display())
        .set("rules.schema_poll_ms", NEVER_MS)
        .await;
    let mut ann = cluster.client(0, "ann").await;
    assert!(passes(&mut ann, "note", json!({ "text": "x" })).await);

    // Another folder in the place of the first: nothing in the first one changes, so nothing tells of it.
    std::os::unix::fs::symlink(&two, schemas.path().join("next")).unwrap();
    std::fs::rename(schemas.path().join("next"), &folder).unwrap();
    assert!(passes(&mut ann, "note", json!({ "text": "x" })).await);
    cluster.validators[0].process.signal(libc::SIGHUP);
    cluster.frontends[0].process.signal(libc::SIGHUP);
    in_the_end(&mut ann, "note", json!({ "title": "x" }), true).await;
    assert!(!passes(&mut ann, "note", json!({ "text": "x" })).await);
    cluster.frontends[0].process.line_with("SIGHUP: this role has nothing to reload").await;

    // Asked, it reads them even where nothing seems to have changed.
    cluster.validators[0].process.signal(libc::SIGHUP);
    reloads(&cluster.validators[0].process, 2).await;
    assert_eq!(ann.connections, 1);
    assert!(cluster.validators[0].process.is_running() && cluster.frontends[0].process.is_running());
    cluster.validators[0].process.signal(libc::SIGTERM);
    assert!(cluster.validators[0].process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_put_in_the_place_of_the_first_is_found_by_looking() {
    let schemas = temp_dir();
    let folder = schemas.path().join("current");
    std::fs::create_dir(&folder).unwrap();
    let cluster =
        Cluster::start().set("rules.schema_dir", folder.display()).set("rules.schema_poll_ms", 100).await;
    let mut ann = cluster.client(0, "ann").await;
    assert!(!passes(&mut ann, "note", json!({})).await);
    std::fs::rename(&folder, schemas.path().join("before")).unwrap();
    let validator = &cluster.validators[0].process;
    until("the missing folder to be reported", async || {
        validator.output().contains("the folder of schemas cannot be read").then_some(())
    })
    .await;
    std::fs::create_dir(&folder).unwrap();
    put(&folder, "note.json", "{}");
    in_the_end(&mut ann, "note", json!({}), true).await;
    // The notices came from the first folder.
    put(&folder, "more.json", "{}");
    in_the_end(&mut ann, "more", json!({}), true).await;
}

#[test]
fn a_start_with_broken_files_fails_and_names_all_of_them() {
    let schemas = temp_dir();
    let folder = schemas.path();
    put(folder, "good.json", "{}");
    put(folder, "comma.json", "{\n  \"type\": \"object\",\n}");
    put(
        folder,
        "type.json",
        "{\n  \"properties\": {\n    \"a\": {\n      \"type\": \"strin\"\n    }\n  }\n}",
    );
    put(folder, "note@two.json", "{}");
    put(folder, ".hidden.json", "{");
    let set = format!("rules.schema_dir={}", folder.display());
    for role in ["validator", "check-config"] {
        // No NATS is needed to find out.
        let output = binary().args([role, "--set", &set]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        for expected in [
            "comma.json:3: trailing comma",
            "type.json:4: ",
            "note@two.json: a schema file is named <schema>.json or <schema>@<version>.json",
        ] {
            assert!(said.contains(&format!("rules.schema_dir: {}/{expected}", folder.display())), "{said}");
        }
        assert!(!said.contains("good.json") && !said.contains("hidden.json"), "{said}");
    }
}

/// What the process serves at `/metrics`.
async fn metrics(process: &mut Process) -> String {
    let line = process.line_with("metrics and health are served").await;
    let address = line.split_once("address=").map_or("", |(_, address)| address.trim());
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}
