//! Attacks on a connection, each with the answer it gets; the process's memory before and after is bounded,
//! and whoever means well notices nothing.
//!
//! Run with `--no-capture` to see the table of answers.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::harness::cluster::{Cluster, Frontend};
use crate::harness::http::{self, ask, upgrade};
use crate::harness::socket::{Gone, Socket};
use crate::harness::until;
use crate::harness::v1::envelope;

/// How much an attack, or a hundred of them, may leave behind.
const MEMORY_GROWTH_MAX: u64 = 48 << 20;

pub(super) async fn is_alive(socket: &mut Socket) {
    let id = socket.send("heartbeat", json!({})).await.unwrap();
    assert_eq!(socket.expect_past_broadcasts("heartbeat").await["replyTo"], id);
}

/// What a client masks its frames with.
const MASK: [u8; 4] = [1, 2, 3, 4];

/// A client's frame, with a header that may say anything.
pub(super) fn frame(first: u8, claimed: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0xFF];
    bytes.extend(claimed.to_be_bytes());
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A text message, as a client sends it.
pub(super) fn text(text: &str) -> Vec<u8> {
    frame(0x81, text.len() as u64, text.as_bytes())
}

/// Sends bytes past a handshake, and gives the close code and what else was said.
pub(super) async fn raw(frontend: &Frontend, pieces: impl IntoIterator<Item = Vec<u8>>) -> (u16, String) {
    let (response, stream) = ask(frontend.port, &upgrade("")).await;
    assert_eq!(response.status, 101);
    let (mut reading, mut writing) = stream.into_split();
    // Read meanwhile: the server may answer long before all is sent.
    let said = tokio::spawn(async move {
        let mut bytes = Vec::new();
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut bytes);
        let _ = tokio::time::timeout(crate::harness::DEADLINE, reading).await.expect("it is ended");
        bytes
    });
    for piece in pieces {
        if writing.write_all(&piece).await.is_err() {
            break;
        }
    }
    let bytes = said.await.unwrap();
    drop(writing);
    let close = bytes.windows(2).rposition(|window| window[0] == 0x88).expect("a close frame");
    let code = u16::from_be_bytes([bytes[close + 2], bytes[close + 3]]);
    (code, String::from_utf8_lossy(&bytes[..close]).into_owned())
}

type Pieces = Vec<Vec<u8>>;

/// What is sent past a handshake, by name; and the close code and error that it gets.
pub(super) fn too_much() -> [(&'static str, Pieces, u16, &'static str); 13] {
    let whole = |text: String| vec![frame(0x81, text.len() as u64, text.as_bytes())];
    let nested = format!(
        r#"{{"id":"m","type":"connect","timestamp":1,"payload":{{"clientId":"a","version":"1","metadata":{}1{}}}}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let unbalanced = "[{\"a\":".repeat(40_000);
    let kilobyte = vec![b'x'; 1024];
    let mut fragments: Pieces = vec![frame(0x01, 1024, &kilobyte)];
    fragments.extend((0..2_000).map(|_| frame(0x00, 1024, &kilobyte)));
    let mut empty: Pieces = vec![frame(0x01, 0, b"")];
    empty.extend((0..100).map(|_| frame(0x00, 0, b"").repeat(200)));
    [
        ("a 300 KiB frame", whole("x".repeat(300 * 1024)), 1009, "message_too_large"),
        ("10,000 levels of nesting", whole(nested), 1009, "message_too_large"),
        ("80,000 levels that are never closed", whole(unbalanced), 1009, "message_too_large"),
        (
            "a number of a billion digits, announced",
            std::iter::once(frame(0x81, 1_000_000_000, b"{\"id\":"))
                .chain((0..5_000).map(|_| vec![b'1'; 10_000]))
                .collect(),
            1009,
            "message_too_large",
        ),
        ("a frame of 2^63 bytes, announced", vec![frame(0x81, 1 << 63, b"x")], 1009, "message_too_large"),
        ("fragments without end", fragments, 1009, "message_too_large"),
        ("empty fragments without end", empty, 1009, "message_too_large"),
        ("text that is not UTF-8", vec![frame(0x81, 3, &[b'{', 0xFF, b'}'])], 1007, "bad_request"),
        (
            "half a character before a fragment's end and none behind it",
            vec![frame(0x01, 2, &[0xE2, 0x82]), frame(0x80, 1, b"x")],
            1007,
            "bad_request",
        ),
        ("a frame with reserved bits", vec![frame(0xF1, 1, b"x")], 1002, "bad_request"),
        ("a frame of an unknown kind", vec![frame(0x87, 1, b"x")], 1002, "bad_request"),
        ("a ping of 64 KiB", vec![frame(0x89, 65_536, b"x")], 1002, "bad_request"),
        ("a frame without a mask", vec![vec![0x81, 2, b'{', b'}']], 1002, "bad_request"),
    ]
}

/// Prints what an attack was answered with.
fn tell(attack: &str, answer: impl std::fmt::Display) {
    println!("{attack:<58} {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_too_much_are_refused_by_what_they_claim_and_cost_no_memory() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let mut good = frontend.connected("good").await;
    let before = frontend.process.memory_bytes();

    for (attack, pieces, code, error) in too_much() {
        for _ in 0..5 {
            let (closed, said) = raw(frontend, pieces.clone()).await;
            assert_eq!(closed, code, "{attack}: {said}");
            assert!(said.contains(&format!("\"code\":\"{error}\"")), "{attack}: {said}");
        }
        tell(attack, format!("error {error}, close {code}"));
    }
    // Frames that are announced, and then nothing: each may claim the most there is.
    let mut held = Vec::new();
    for _ in 0..300 {
        let (_, mut stream) = ask(frontend.port, &upgrade("")).await;
        stream.write_all(&frame(0x81, 256 * 1024, b"{")).await.unwrap();
        held.push(stream);
    }
    is_alive(&mut good).await;
    let grown = frontend.process.memory_bytes().saturating_sub(before);
    assert!(grown < MEMORY_GROWTH_MAX, "{grown} bytes more than before");
    tell(
        "the frontend's memory, before and more after",
        format!("{} KiB, {} KiB", before / 1024, grown / 1024),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_without_end_are_no_events() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let mut socket = frontend.connected("ann").await;
    let before = frontend.process.memory_bytes();
    let long = "1".repeat(200_000);
    for (attack, value) in [
        ("a number of 200,000 digits", long.clone()),
        ("200,000 digits behind the point", format!("0.{long}")),
        ("200,000 digits of an exponent", format!("1e{long}")),
        ("the same, negative", format!("1e-{long}")),
    ] {
        for _ in 0..20 {
            let text = format!(
                r#"{{"id":"m","type":"submit_event","timestamp":1,"payload":{{"draftId":"{}","event":{{"type":"set","payload":{{"target":"a","value":{value}}}}}}}}}"#,
                rand::random::<u32>()
            );
            socket.send_text(text).await.unwrap();
            let answer = loop {
                let message = socket.receive().await.unwrap();
                if message["type"] != "broadcast" {
                    break message;
                }
            };
            match answer["type"].as_str().unwrap() {
                // What is a number is kept as one that JavaScript can hold.
                "event_accepted" => {
                    let kept = &answer["payload"]["event"]["payload"]["value"];
                    assert!(kept.as_f64().is_some_and(f64::is_finite), "{attack}: {kept}");
                }
                "event_rejected" => assert_eq!(answer["payload"]["reason"], "validation_failed", "{attack}"),
                _ => assert_eq!(answer["payload"]["code"], "bad_request", "{attack}: {answer}"),
            }
            tell_once(attack, &answer);
            is_alive(&mut socket).await;
        }
    }
    // What was freed goes back to the system when the allocator next looks.
    until("the frontend's memory to be no more than it may grow", async || {
        is_alive(&mut socket).await;
        (frontend.process.memory_bytes().saturating_sub(before) < MEMORY_GROWTH_MAX).then_some(())
    })
    .await;
}

fn tell_once(attack: &str, answer: &Value) {
    static TOLD: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
    let mut told = TOLD.lock().unwrap();
    if !told.iter().any(|one| one == attack) {
        told.push(attack.to_owned());
        tell(attack, &answer["type"]);
    }
}

/// Names that mean something to NATS, to a file system, to a terminal or to JavaScript.
fn names() -> Vec<(String, String)> {
    let mut names: Vec<(String, String)> = [
        "..",
        "*",
        ">",
        "a.*",
        "a.>",
        ".",
        "a..b",
        " ",
        "a b",
        "\t",
        "\n",
        "a\r\nPUB x 1\r\n1",
        "\u{0}",
        "$JS.API.>",
        "committed.default",
        "~",
        "~YQ",
        "/",
        "../../etc/passwd",
        "__proto__",
        "prototype",
        "constructor",
        "\u{202E}",
        "\u{FEFF}",
        "\u{FFFF}",
        "%2e%2e",
        "$(id)",
        "'; DROP TABLE",
        "<script>",
    ]
    .iter()
    .map(|name| (format!("{name:?}"), (*name).to_owned()))
    .collect();
    names.push(("3 KiB".to_owned(), "n".repeat(3 * 1024)));
    names.push(("3 KiB of `>`".to_owned(), ">".repeat(3 * 1024)));
    names
}

/// Events that hold a name as their type, target, key, id and schema.
pub(super) fn events_with(name: &str) -> [Value; 8] {
    [
        json!({ "type": name, "payload": {} }),
        json!({ "type": "set", "payload": { "target": name, "value": 1 } }),
        json!({ "type": "set", "payload": { "target": format!("a.{name}"), "value": 1 } }),
        json!({ "type": "set", "payload": { "target": "k", "value": { (name): 1 } } }),
        json!({ "type": "unset", "payload": { "target": name } }),
        json!({ "type": "treePush", "payload": { "target": name, "value": { "id": name } } }),
        json!({ "type": "treeMove", "payload": { "target": "t", "options": { "id": name, "parent": name } } }),
        json!({ "type": "event", "payload": { "schema": name, "data": { (name): name } } }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_only_a_name_wherever_it_stands() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let mut bystander = frontend.connected("bystander").await;
    let event = json!({ "type": "set", "payload": { "target": "a", "value": 1 } });
    bystander.send("submit_event", json!({ "draftId": "d", "event": event })).await.unwrap();
    bystander.expect("event_accepted").await;
    bystander.expect("broadcast").await;
    let before = frontend.process.memory_bytes();

    for (shown, name) in names() {
        let long = name.len() > 256;
        // Where it is the partition, the client, the draft: taken as it is, or refused for its length.
        let mut socket = Socket::open(&frontend.url()).await.unwrap();
        let connect = json!({ "clientId": name, "version": "1", "partition": name });
        socket.send("connect", connect).await.unwrap();
        let answer = socket.receive().await.unwrap();
        if long {
            assert_eq!(answer["payload"]["code"], "bad_request", "{shown}: {answer}");
            let connect = json!({ "clientId": "long", "version": "1", "partition": "long" });
            socket.send("connect", connect).await.unwrap();
            socket.expect("connected").await;
        } else {
            assert_eq!(answer["type"], "connected", "{shown}: {answer}");
            assert_eq!(answer["payload"]["currentEventIndex"], 0, "{shown}: nobody else's partition");
        }
        let first = answer["type"].clone();
        let event = json!({ "type": "set", "payload": { "target": "a", "value": 2 } });
        socket.send("submit_event", json!({ "draftId": name, "event": event })).await.unwrap();
        let answer = socket.receive().await.unwrap();
        if long {
            assert_eq!(answer["payload"]["errors"][0]["field"], "draftId", "{shown}: {answer}");
        } else {
            assert_eq!(answer["type"], "event_accepted", "{shown}: {answer}");
            assert_eq!(answer["payload"]["event"]["partition"], name.as_str());
            assert_eq!(answer["payload"]["draftId"], name.as_str());
            socket.expect("broadcast").await;
        }
        tell(&format!("{shown} as client, partition and draft"), format!("{first}, {}", answer["type"]));

        // Where it is an event's type, a target, a key, an id, a schema: answered, and the state stays a state.
        for (index, event) in events_with(&name).iter().enumerate() {
            let payload = json!({ "draftId": format!("e{index}"), "event": event });
            socket.send("submit_event", payload).await.unwrap();
            let answer = loop {
                let message = socket.receive().await.unwrap();
                if message["type"] != "broadcast" {
                    break message;
                }
            };
            let kind = answer["type"].as_str().unwrap();
            let refused = kind == "event_rejected" || answer["payload"]["code"] == "bad_request";
            assert!(refused || kind == "event_accepted", "{shown}, {event}: {answer}");
            let forbidden = ["__proto__", "prototype", "constructor"].contains(&name.as_str());
            if forbidden && (1..=6).contains(&index) {
                assert!(refused, "{event}: {answer}");
            }
        }
        is_alive(&mut socket).await;

        // The same in the other dialect.
        let mut socket = Socket::open(&frontend.url()).await.unwrap();
        let payload = json!({ "token": name, "clientId": name, "projectId": name });
        socket.send_text(envelope("connect", &name, &payload)).await.unwrap();
        let answer = socket.receive().await.unwrap();
        let expected = if long { "error" } else { "connected" };
        assert_eq!(answer["type"], expected, "{shown}: {answer}");
        if !long {
            let event = json!({
                "id": name, "projectId": name, "partition": name, "type": name, "schemaVersion": 1,
                "payload": { (name.as_str()): name }, "meta": { "clientId": name, "clientTs": 1, (name.as_str()): name },
            });
            socket.send_text(envelope("submit_events", &name, &json!({ "events": [event] }))).await.unwrap();
            let answer = socket.receive().await.unwrap();
            assert_eq!(answer["type"], "submit_events_result", "{shown}: {answer}");
            assert_eq!(answer["msgId"], name.as_str());
            assert!(answer["payload"]["results"][0]["status"].is_string(), "{answer}");
        }
    }

    // Nobody else has noticed, and nothing but what was said is where it was said.
    is_alive(&mut bystander).await;
    let log = cluster.log("default");
    assert_eq!((log.len(), &log[0]["draftId"]), (1, &json!("d")), "{log:?}");
    assert!(cluster.state("default").contains("\"a\":1"));
    let grown = frontend.process.memory_bytes().saturating_sub(before);
    assert!(grown < MEMORY_GROWTH_MAX, "{grown} bytes more than before");
    let (response, _) = ask(frontend.port, &http::get("/readyz")).await;
    assert_eq!(response.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_closed_and_costs_nobody_anything() {
    let cluster = Cluster::start()
        .set("frontend.write_stall_ms_max", 500)
        .set("frontend.heartbeat_interval_ms", 600_000)
        .await;
    let frontend = &cluster.frontends[0];
    let mut writer = cluster.client(0, "writer").await;
    let mut reader = cluster.client(0, "reader").await;
    let files = || std::fs::read_dir(format!("/proc/{}/fd", frontend.process.id())).unwrap().count();
    let before = (frontend.process.memory_bytes(), files());
    let mut deaf = Vec::new();
    for n in 0..10 {
        deaf.push(frontend.connected(&format!("deaf{n}")).await.into_tcp());
    }
    // And who asks without end for what it does not read.
    let mut greedy = frontend.connected("greedy").await;
    let text = "x".repeat(200_000);
    let mut last = 0;
    for n in 0..150 {
        let event = writer.commit("set", json!({ "target": format!("k{}", n % 4), "value": text })).await;
        last = event["eventId"].as_u64().unwrap();
        reader.drain().await;
    }
    // Its requests are not read either, once its answers are not.
    let greed = tokio::spawn(async move {
        for _ in 0..10_000 {
            if let Err(Gone { .. }) = greedy.send("sync", json!({ "sinceEventId": 0 })).await {
                return;
            }
        }
    });
    reader.caught_up(last).await;
    greed.await.unwrap();
    crate::harness::until("those who do not read to be closed", async || (files() <= before.1).then_some(()))
        .await;
    writer.commit("set", json!({ "target": "done", "value": true })).await;
    let grown = frontend.process.memory_bytes().saturating_sub(before.0);
    // The ring, the pages and the state at hand are the frontend's own; they have their bounds.
    assert!(grown < 160 << 20, "{grown} bytes more than before");
    tell("eleven who never read: more memory", format!("{} KiB", grown / 1024));
    for stream in &mut deaf {
        http::ended(stream).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_and_of_small_frames_meets_the_limit_of_frames() {
    let cluster = Cluster::start()
        .set("frontend.frames_per_second_max", 50)
        .set("frontend.frames_over_limit_max", 20)
        .await;
    let frontend = &cluster.frontends[0];
    let ping = [0x89, 0x80, 1, 2, 3, 4];
    let (code, said) = raw(frontend, (0..100).map(|_| ping.repeat(100))).await;
    assert_eq!(code, 1008, "{said}");
    assert!(said.contains("\"rate_limited\"") && said.contains("\"retryAfterMs\""), "{said}");
    tell("a flood of pings", "error rate_limited, close 1008");
    let (code, _) = raw(frontend, (0..100).map(|_| frame(0x82, 0, b"").repeat(100))).await;
    assert_eq!(code, 1008);
    tell("a flood of empty binary frames", "error rate_limited, close 1008");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bytes_meets_the_limit_of_bytes() {
    let cluster = Cluster::start()
        .set("frontend.bytes_per_second_max", 10_000)
        .set("frontend.frames_over_limit_max", 3)
        .await;
    let frontend = &cluster.frontends[0];
    let mut socket = frontend.connected("ann").await;
    let pad = "x".repeat(100_000);
    let heartbeat = json!({ "id": "m", "type": "heartbeat", "timestamp": 1, "payload": {}, "pad": pad });
    for _ in 0..10 {
        if socket.send_text(heartbeat.to_string()).await.is_err() {
            break;
        }
    }
    // A frame of the greatest size may come at once; two of these do.
    for _ in 0..2 {
        socket.expect("heartbeat").await;
    }
    for _ in 0..4 {
        let error = socket.expect_error("rate_limited").await;
        let wait = error["payload"]["details"]["retryAfterMs"].as_u64().unwrap();
        assert!(wait > 1_000 && wait < 20_000, "{error}");
    }
    assert_eq!(socket.expect_closed().await, 1008);

    let payload = json!({ "token": "t", "clientId": "vera", "projectId": "p" });
    let mut socket = Socket::open(&frontend.url()).await.unwrap();
    socket.send_text(envelope("connect", "c", &payload)).await.unwrap();
    socket.expect("connected").await;
    let sync = json!({ "projectId": "p", "sinceCommittedId": 0, "pad": pad });
    for _ in 0..4 {
        if socket.send_text(envelope("sync", "s", &sync)).await.is_err() {
            break;
        }
    }
    let error = loop {
        let message = socket.receive().await.unwrap();
        if message["type"] == "error" {
            break message;
        }
    };
    assert_eq!(error["payload"]["code"], "rate_limited");
    assert!(error["payload"]["details"]["retryAfterMs"].as_u64() > Some(0), "{error}");
    assert_eq!(socket.expect_closed().await, 1008);
}
