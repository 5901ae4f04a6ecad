//! What stands in the logs: enough to follow one draft through all processes, and nothing of what it says.

use serde_json::{Value, json};

use crate::harness::client::Answer;
use crate::harness::cluster::{Cluster, binary};
use crate::harness::process::Process;
use crate::harness::socket::Socket;
use crate::harness::tokens::{TestKey, rsa_file};
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
        assert!(output.contains(r#""level":"trace""#) && output.lines().count() > 20, "{output}");
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

/// What a line begins with.
fn is_line(line: &str) -> bool {
    let bytes = line.as_bytes();
    line.len() > 30 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-' && bytes[10] == b'T'
}

/// Whether a character does more on a terminal than to be seen.
fn is_active(character: char) -> bool {
    character.is_control()
        || ('\u{200B}'..='\u{200F}').contains(&character)
        || ('\u{202A}'..='\u{202E}').contains(&character)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_says_neither_ends_a_line_nor_makes_it_long() {
    let cluster = Cluster::start().set("log.filter", "trace").await;
    let frontend = &cluster.frontends[0];
    let nasty = |more: usize| {
        format!("\n2026-01-01T00:00:00Z  INFO forged=1 \u{1b}[31m\u{202e}\u{9b}{}", "x".repeat(more))
    };
    // Wherever a client may say something: as much as it may there, and far more.
    let headers = "Origin: https://a\u{9b}b\r\nUser-Agent: \u{9b}31m\r\nX-Forwarded-For: \u{9b}, 1\r\nSec-WebSocket-Protocol: \u{9b}\r\n";
    crate::harness::http::ask(frontend.port, &crate::harness::http::upgrade(headers)).await;
    crate::harness::http::ask(
        frontend.port,
        &crate::harness::http::get(&format!("/{}", "p%0A".repeat(2_000))),
    )
    .await;
    for more in [50, 5_000, 200_000] {
        let text = nasty(more);
        for field in ["clientId", "partition", "version", "token", "lastEventId", "metadata"] {
            let mut connect = json!({ "clientId": "ann", "version": "1", "partition": "p" });
            connect[field] = json!(text);
            let mut socket = Socket::open(&frontend.url()).await.unwrap();
            // Of one that is refused early not all may be taken.
            let _ = socket.send("connect", connect).await;
            let _ = socket.receive().await;
        }
        let mut socket = Socket::open(&frontend.url()).await.unwrap();
        let name = nasty(50);
        let connect = json!({ "clientId": name, "version": "1", "partition": name });
        socket.send("connect", connect).await.unwrap();
        socket.expect("connected").await;
        // So that the validator speaks of it too.
        let event = json!({ "type": "set", "payload": { "target": "a", "value": 1 } });
        socket
            .send("submit_event", json!({ "draftId": format!("good {more}"), "event": event }))
            .await
            .unwrap();
        socket.expect_past_broadcasts("event_accepted").await;
        let events = [
            json!({ "type": text, "payload": {} }),
            json!({ "type": "set", "payload": { "target": text, "value": 1 } }),
            json!({ "type": "treePush", "payload": { "target": "t", "value": { "id": text } } }),
            json!({ "type": "event", "payload": { "schema": text, "data": { "a": text } } }),
        ];
        for (number, event) in events.iter().enumerate() {
            for draft in [format!("{number}"), text.clone()] {
                if socket.send("submit_event", json!({ "draftId": draft, "event": event })).await.is_err() {
                    break;
                }
            }
        }
        let _ = socket.send(&text, json!({})).await;
        while let Ok(message) = socket.receive().await {
            if message["type"] == "error"
                || message["type"] == "event_rejected" && message["payload"]["draftId"] == "3"
            {
                break;
            }
        }
        let mut v1 = Socket::open(&frontend.url()).await.unwrap();
        let payload = json!({ "token": "t", "clientId": name, "projectId": name });
        v1.send_text(crate::harness::v1::envelope("connect", &text, &payload)).await.unwrap_or_default();
        let _ = v1.receive().await;
    }
    for process in [&frontend.process, &cluster.validators[0].process] {
        let output = process.output();
        assert!(output.contains("forged"), "a name of a client is told");
        for line in output.lines().filter(|line| !line.contains(" ready: ")) {
            assert!(is_line(line), "no line of ours: {:?}", &line[..line.len().min(300)]);
            assert!(line.len() < 4_096, "{} bytes: {}", line.len(), &line[..300]);
            assert!(!line.chars().any(is_active), "{line:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_without_end_do_not_fill_the_disk() {
    let cluster = Cluster::start().set("auth.public_key_file", rsa_file("a.pub").display()).await;
    let frontend = &cluster.frontends[0];
    let before = frontend.process.output().len();
    let client = "c".repeat(200);
    let token = TestKey::rsa("a").token(&client, json!({ "partition": "home" }));
    let mut told = 0;
    for _ in 0..10 {
        let mut socket = Socket::open(&frontend.url()).await.unwrap();
        let mut connect = json!({ "clientId": client, "version": "1", "token": token });
        connect["partition"] = json!("p".repeat(250));
        for _ in 0..200 {
            socket.send("connect", connect.clone()).await.unwrap();
            socket.expect_error("forbidden").await;
            told += 1;
        }
        connect["partition"] = json!("home");
        socket.send("connect", connect).await.unwrap();
        socket.expect("connected").await;
    }
    let written = frontend.process.output().len() - before;
    println!("{told} refusals wrote {written} bytes of log lines");
    assert!(written < 100_000, "{told} refusals wrote {written} bytes of log lines");
}
