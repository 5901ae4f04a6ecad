//! JSON that is meant to break the parser: private keys, depth, names given twice. Whatever a client writes, the
//! processes live on, and nobody else notices.

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::socket::Socket;
use crate::harness::tokens::{SECRET, TestKey, claims, forged};
use crate::harness::v1::{V1Client, envelope};

/// A value that `serde_json` parses again, level by level, each with a fresh limit on its depth: 70 levels of 120
/// arrays in 68 KB. Backslashes written as `\u005c` do not double from level to level.
pub(super) fn tower(key: &str) -> String {
    let mut value = "1".to_owned();
    for _ in 0..70 {
        let inner = format!("{}{value}{}", "[".repeat(120), "]".repeat(120));
        let quoted = inner.replace('\\', r"\u005c").replace('"', r"\u0022");
        value = format!("{{\"{key}\":\"{quoted}\"}}");
    }
    assert!(value.len() < 80_000, "{}", value.len());
    value
}

const KEYS: [&str; 2] = ["$serde_json::private::RawValue", "$serde_json::private::Number"];

fn v1(kind: &str, payload: &str, more: &str) -> String {
    format!(r#"{{"type":"{kind}","protocolVersion":"1.0"{more},"payload":{payload}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_any_frame_takes_a_process_down() {
    let cluster = Cluster::start()
        .set("frontend.frames_per_second_max", 0)
        .set("frontend.bytes_per_second_max", 0)
        .await;
    let frontend = &cluster.frontends[0];
    // What is sent is not parsed here: this process would not survive it either.
    let mut witness = cluster.client(0, "witness").partition("elsewhere").await;
    for bomb in KEYS.map(tower) {
        let item = |field: &str| {
            let mut item = json!({ "id": "e", "partition": "l", "projectId": "default", "type": "t", "schemaVersion": 1,
                "payload": {}, "meta": { "clientId": "v", "clientTs": 1 } });
            item[field] = "§".into();
            let text = item.to_string().replace("\"§\"", &bomb);
            v1("submit_events", &format!("{{\"events\":[{text}]}}"), "")
        };
        let before_connect = [
            v1("connect", &format!(r#"{{"token":{bomb},"clientId":"v","projectId":"default"}}"#), ""),
            v1("connect", &format!(r#"{{"token":"t","clientId":{bomb},"projectId":"default"}}"#), ""),
            v1("connect", &format!(r#"{{"token":"t","clientId":"v","projectId":{bomb}}}"#), ""),
            v1("connect", &bomb, ""),
            v1("connect", "{}", &format!(r#","msgId":{bomb}"#)),
            format!(r#"{{"type":{bomb},"protocolVersion":"1.0","payload":{{}}}}"#),
            format!(r#"{{"type":"connect","protocolVersion":{bomb},"payload":{{}}}}"#),
            format!(r#"{{"id":{bomb},"type":"connect","payload":{{}}}}"#),
            format!(r#"{{"id":"1","type":{bomb},"payload":{{}}}}"#),
            format!(r#"{{"id":"1","type":"connect","timestamp":{bomb},"payload":{{}}}}"#),
            format!(r#"{{"id":"1","type":"connect","payload":{bomb}}}"#),
            format!(r#"{{"id":"1","type":"connect","payload":{{"clientId":{bomb},"version":"1"}}}}"#),
            format!(r#"{{"id":"1","type":"connect","payload":{{"clientId":"c","version":{bomb}}}}}"#),
            format!(
                r#"{{"id":"1","type":"connect","payload":{{"clientId":"c","version":"1","token":{bomb}}}}}"#
            ),
            format!(
                r#"{{"id":"1","type":"connect","payload":{{"clientId":"c","version":"1","partition":{bomb}}}}}"#
            ),
            format!(
                r#"{{"id":"1","type":"connect","payload":{{"clientId":"c","version":"1","lastEventId":{bomb}}}}}"#
            ),
            format!(
                r#"{{"id":"1","type":"connect","payload":{{"clientId":"c","version":"1","metadata":{bomb}}}}}"#
            ),
            bomb.clone(),
        ];
        for frame in &before_connect {
            let mut socket = Socket::open(&frontend.url()).await.unwrap();
            socket.send_text(frame.as_str()).await.unwrap();
            let answer = socket.receive_text().await.expect("an answer");
            assert!(answer.contains("\"error\"") || answer.contains("\"connected\""), "{answer}");
        }
        let fields =
            ["id", "partition", "projectId", "userId", "type", "schemaVersion", "payload", "meta", "other"];
        let mut frames: Vec<String> = fields.iter().map(|field| item(field)).collect();
        frames.push(v1("submit_events", &format!(r#"{{"events":{bomb}}}"#), ""));
        frames.push(v1("submit_events", &format!(r#"{{"events":[{bomb}]}}"#), ""));
        frames.push(v1("sync", &format!(r#"{{"projectId":"default","sinceCommittedId":{bomb}}}"#), ""));
        frames.push(v1(
            "sync",
            &format!(r#"{{"projectId":"default","sinceCommittedId":0,"limit":{bomb}}}"#),
            "",
        ));
        frames.push(v1("refresh_token", &format!(r#"{{"token":{bomb}}}"#), ""));
        for (n, frame) in frames.iter().enumerate() {
            let mut socket = Socket::open(&frontend.url()).await.unwrap();
            let connect = json!({ "token": "t", "clientId": format!("v{n}"), "projectId": "default" });
            socket.send_text(envelope("connect", "c", &connect)).await.unwrap();
            socket.expect("connected").await;
            socket
                .send_text(frame.replace("\"clientId\":\"v\"", &format!("\"clientId\":\"v{n}\"")))
                .await
                .unwrap();
            while socket.receive_text().await.expect("an answer").contains("event_broadcast") {}
        }
        let mut socket = Socket::open(&frontend.url()).await.unwrap();
        socket.send("connect", json!({ "clientId": "carl", "version": "1" })).await.unwrap();
        assert!(socket.receive_text().await.unwrap().contains("\"connected\""));
        for payload in [
            format!(r#"{{"draftId":{bomb}}}"#),
            format!(r#"{{"draftId":"d","event":{bomb}}}"#),
            format!(r#"{{"draftId":"d","event":{{"type":{bomb},"payload":{{}}}}}}"#),
            format!(r#"{{"draftId":"d","event":{{"type":"set","payload":{bomb}}}}}"#),
            format!(
                r#"{{"draftId":"d","event":{{"type":"set","payload":{{"target":"a","value":{bomb}}}}}}}"#
            ),
            format!(r#"{{"draftId":"d","event":{{"type":"set","payload":{{}},"partition":{bomb}}}}}"#),
            format!(r#"{{"draftId":"d","event":{{"type":"set","payload":{{}}}},"baseEventId":{bomb}}}"#),
        ] {
            socket.send_text(format!(r#"{{"type":"submit_event","payload":{payload}}}"#)).await.unwrap();
            while socket.receive_text().await.expect("an answer").contains("\"type\":\"broadcast\"") {}
        }
    }
    // The same processes go on: both were asked something by the witness.
    let draft = witness.submit("set", json!({ "target": "alive", "value": true })).await;
    witness.expect_accepted(&draft).await;
    assert_eq!(witness.connections, 1);
    // What was committed is nested no deeper than what may be sent, and nothing was unfolded on the way.
    let log = cluster.run(&["log", "default"]);
    let log = String::from_utf8(log.stdout).unwrap();
    assert!(log.contains(KEYS[0]), "payloads are data, whatever their keys");
    for event in log.lines() {
        assert!(depth(event) <= 64, "{} levels in the log", depth(event));
    }
}

/// How deep a text is nested.
pub(super) fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// What a token's parts hold is client text as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_takes_no_process_down() {
    let key = TestKey::secret(SECRET);
    let dir = crate::harness::temp_dir();
    let file = dir.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let cluster =
        Cluster::start().set("auth.secret_file", file.display()).set("auth.token_bytes_max", 65_536).await;
    let deep = |levels: usize| {
        let mut value = json!(1);
        for _ in 0..levels {
            value = json!([value]);
        }
        value
    };
    let url = cluster.frontends[0].url();
    for key_name in KEYS {
        // Written into the token as it is: a `Value` is only ever made of plain ones here.
        let trick = json!({ key_name: format!("{}{}", "[".repeat(20_000), "]".repeat(20_000)) });
        for value in [trick, deep(100), deep(120)] {
            for claim in [
                "clientId",
                "exp",
                "iat",
                "aud",
                "iss",
                "nbf",
                "jti",
                "partition",
                "permissions",
                "roles",
                "x",
            ] {
                let token = key.token("carl", json!({ claim: value }));
                refused_or_taken(&url, &token).await;
            }
            for field in ["alg", "kid", "jwk", "jku", "crit", "x5c", "typ", "enc", "x"] {
                let mut header = json!({ "alg": "HS256", "typ": "JWT" });
                header[field] = value.clone();
                refused_or_taken(&url, &forged(&header, &claims("carl", json!({})), "c2ln")).await;
            }
        }
    }
    let token = key.token("carl", json!({}));
    let mut socket = Socket::open(&url).await.unwrap();
    socket.send("connect", json!({ "clientId": "carl", "version": "1", "token": token })).await.unwrap();
    socket.expect("connected").await;
}

async fn refused_or_taken(url: &str, token: &str) {
    let mut socket = Socket::open(url).await.unwrap();
    socket.send("connect", json!({ "clientId": "carl", "version": "1", "token": token })).await.unwrap();
    let answer = socket.receive().await.expect("an answer");
    assert!(answer["type"] == "connected" || answer["type"] == "error", "{answer}");
}

/// A name given twice could be judged by one value and read as the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_given_twice_is_refused_in_both_dialects() {
    let cluster = Cluster::start().await;
    let (mut socket, _) = Socket::greeted(&cluster.frontends[0].url(), "carl").await;
    let twice = [
        (r#"{"type":"set","payload":{"target":"a","value":1,"value":2}}"#, "payload"),
        (r#"{"type":"set","payload":{"target":"a","value":{"x":[{"k":1,"\u006b":2}]}}}"#, "payload"),
        (r#"{"type":"set","type":"set","payload":{"target":"a","value":1}}"#, "type"),
    ];
    for (n, (event, field)) in twice.iter().enumerate() {
        let frame = format!(r#"{{"type":"submit_event","payload":{{"draftId":"d{n}","event":{event}}}}}"#);
        socket.send_text(frame).await.unwrap();
        let rejected = socket.expect("event_rejected").await;
        let error = &rejected["payload"]["errors"][0];
        assert_eq!((&error["code"], &error["field"]), (&json!("DUPLICATE_KEY"), &json!(field)), "{rejected}");
    }
    let vera = V1Client::connect(&cluster.frontends[0].url(), "vera", "default").await;
    let mut raw = Socket::open(&cluster.frontends[0].url()).await.unwrap();
    let connect = json!({ "token": "t", "clientId": "vera", "projectId": "default" });
    raw.send_text(envelope("connect", "c", &connect)).await.unwrap();
    raw.expect("connected").await;
    let item = |id: &str| vera.event(id, "note", json!({ "n": 1 })).to_string();
    for (n, (from, to, field, code)) in [
        (r#""n":1"#, r#""n":1,"n":2"#, "payload", "DUPLICATE_KEY"),
        (r#""clientTs":1"#, r#""clientTs":1,"k":1,"k":2"#, "meta", "DUPLICATE_KEY"),
        (r#""type":"note""#, r#""type":"note","type":"x""#, "type", "DUPLICATE_KEY"),
        (r#""clientTs":1"#, r#""clientTs":1,"__proto__":{}"#, "meta.__proto__", "FORBIDDEN_KEY"),
        (
            r#""clientTs":1"#,
            r#""clientTs":1,"a":[{"constructor":1}]"#,
            "meta.a.0.constructor",
            "FORBIDDEN_KEY",
        ),
    ]
    .iter()
    .enumerate()
    {
        let text = item(&format!("e{n}")).replace(from, to);
        raw.send_text(v1("submit_events", &format!("{{\"events\":[{text}]}}"), "")).await.unwrap();
        let result = raw.expect("submit_events_result").await["payload"]["results"][0].clone();
        assert_eq!(result["status"], "rejected", "{result}");
        let error = &result["errors"][0];
        assert_eq!((&error["field"], &error["code"]), (&json!(field), &json!(code)), "{result}");
    }
    assert!(cluster.log("default").is_empty());
}
