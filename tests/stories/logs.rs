//! What stands in the logs: enough to follow one draft through all processes, and nothing of what it says.

use serde_json::{Value, json};

use crate::harness::client::Answer;
use crate::harness::cluster::{Cluster, binary};
use crate::harness::process::Process;
use crate::harness::socket::Socket;
use crate::harness::{temp_dir, until};

/// In every payload, and in every token, of these stories; nowhere else.
const PAYLOAD_MARKER: &str = "pumpernickel";
const TOKEN_MARKER: &str = "zwetschge";

/// The JSON lines of a process that hold `text`, each with the fields of its spans at the top.
fn lines(process: &Process, text: &str) -> Vec<Value> {
    let output = process.output();
    let found = output.lines().filter(|line| line.starts_with('{') && line.contains(text));
    found
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            for span in line["spans"].as_array().cloned().unwrap_or_default() {
                for (name, value) in span.as_object().unwrap() {
                    line[name] = value.clone();
                }
            }
            line
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_can_be_followed_through_the_logs_and_nothing_of_it_is_told() {
    let cluster = Cluster::start().set("log.format", "json").set("log.filter", "trace").await;
    let mut ann = cluster.client(0, "ann").partition("follow me").await;
    let draft = ann.submit("set", json!({ "target": "a", "value": PAYLOAD_MARKER })).await;
    let Answer::Accepted { event_id, .. } = ann.answer(&draft).await else { panic!("not accepted") };
    // Refused by the schema, whose errors speak of values.
    let bad = ann.submit("set", json!({ "target": { "no": PAYLOAD_MARKER }, "value": PAYLOAD_MARKER })).await;
    assert!(!ann.answer(&bad).await.is_accepted());
    // In the query, and in the frame.
    let url = format!("{}?access_token={TOKEN_MARKER}", cluster.frontends[0].url());
    let mut bea = Socket::open(&url).await.unwrap();
    let connect = json!({ "clientId": "bea", "version": "test", "token": TOKEN_MARKER });
    bea.send("connect", connect).await.unwrap();
    assert_eq!(bea.receive().await.unwrap()["type"], "connected");
    // Not even a frame that is no request.
    bea.send("no such request", json!({ "value": PAYLOAD_MARKER })).await.unwrap();
    assert_eq!(bea.receive().await.unwrap()["type"], "error");

    let (frontend, validator) = (&cluster.frontends[0].process, &cluster.validators[0].process);
    for (process, text) in [(frontend, "draft answered"), (validator, "draft committed")] {
        let line = until(text, async || lines(process, text).into_iter().find(|l| l["draft"] == draft)).await;
        let (client, partition) = (&line["client"], &line["partition"]);
        assert_eq!((client, partition), (&json!("ann"), &json!("follow me")), "{line}");
        assert!(line["connection"].is_u64(), "{line}");
        assert_eq!(line["event"], event_id, "{line}");
    }
    let rejected =
        until("the rejection to be logged", async || lines(validator, "draft rejected").pop()).await;
    assert_eq!((&rejected["draft"], &rejected["client"]), (&json!(bad), &json!("ann")), "{rejected}");
    assert!(rejected["code"].is_string(), "{rejected}");
    let connection = |process, text| lines(process, text).pop().unwrap()["connection"].clone();
    assert_eq!(connection(frontend, "draft answered"), connection(validator, "draft rejected"));

    for process in [frontend, validator] {
        let output = process.output();
        assert!(output.contains("TRACE") && output.lines().count() > 20, "{output}");
        for marker in [PAYLOAD_MARKER, TOKEN_MARKER] {
            let told = output.lines().find(|line| line.contains(marker));
            assert!(told.is_none(), "{marker} stands in the logs: {told:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_logged_changes_with_the_configuration_file_on_sighup() {
    let cluster = Cluster::start().validators(0).frontends(0).await;
    let dir = temp_dir();
    let config = dir.path().join("insieme.toml");
    let write = |filter: &str| std::fs::write(&config, format!("[log]\nfilter = {filter:?}\n")).unwrap();
    write("info");
    for role in ["validator", "frontend"] {
        write("info");
        let mut command = binary();
        command.arg(role).arg("--nats").arg(cluster.nats.url()).arg("--config").arg(&config);
        if role == "frontend" {
            command.args(["--allow-anyone", "--listen", "127.0.0.1:0"]);
        }
        let mut process = Process::spawn(role, command, dir.path());
        process.line_with(&format!("{role} ready:")).await;
        assert!(!process.output().contains("DEBUG"));

        write("info,insieme_backend=nonsense");
        process.signal(libc::SIGHUP);
        let said = process.line_with("the log filter stays as it was").await;
        assert!(said.contains("log.filter"), "{said}");

        // What the process does by itself, every so often, is told only at this level.
        write("trace");
        process.signal(libc::SIGHUP);
        process.line_with("the log filter was changed").await;
        let debug = async || process.output().contains("DEBUG").then_some(());
        until("lines of the new level", debug).await;

        write("error");
        process.signal(libc::SIGHUP);
        until("silence", async || {
            let before = process.output().len();
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            (process.output().len() == before).then_some(())
        })
        .await;
        assert!(process.is_running());
    }
}
