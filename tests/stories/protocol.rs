//! The classic dialect, message by message, error by error, limit by limit.

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::harness::cluster::{Cluster, Frontend};
use crate::harness::socket::Socket;
use crate::harness::{DEADLINE, until};

async fn open(frontend: &Frontend) -> Socket {
    Socket::open(&frontend.url()).await.unwrap()
}

/// A socket past its `connect`, and the answer.
async fn connected(frontend: &Frontend, client: &str) -> (Socket, Value) {
    Socket::greeted(&frontend.url(), client).await
}

fn set(target: &str, value: impl Into<Value>) -> Value {
    json!({ "type": "set", "payload": { "target": target, "value": value.into() } })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_has_the_fields_of_the_specification() {
    let cluster = Cluster::start().await;
    let mut socket = open(&cluster.frontends[0]).await;
    let connect = json!({ "clientId": "ann", "version": "1", "metadata": { "os": "x" }, "unknown": [1] });
    let id = socket.send("connect", connect).await.unwrap();
    let message = socket.expect("connected").await;
    assert!(message["id"].is_string() && message["timestamp"].is_u64(), "{message}");
    assert_eq!(message["replyTo"], id);
    let payload = &message["payload"];
    assert!(payload["serverId"].is_string() && payload["heartbeatInterval"].is_u64(), "{payload}");
    assert_eq!(payload["currentEventIndex"], 0);
    assert_eq!(payload["sinceSnapshot"], 0);
    assert_eq!(payload["initialState"], json!({}));

    let event = set("a", 1);
    let id = socket.send("submit_event", json!({ "draftId": "d", "event": event })).await.unwrap();
    let accepted = socket.expect("event_accepted").await;
    assert_eq!(accepted["replyTo"], id);
    let payload = &accepted["payload"];
    let event_id = payload["eventId"].as_u64().unwrap();
    assert_eq!(payload["draftId"], "d");
    let committed = &payload["event"];
    assert_eq!(committed["type"], "set");
    assert_eq!(committed["payload"], event["payload"]);
    assert_eq!(committed["partition"], "default");
    assert_eq!(committed["id"], format!("evt-{event_id}"));
    assert_eq!(committed["eventId"], event_id);
    assert_eq!(committed["clientId"], "ann");
    assert!(committed["timestamp"].is_u64());

    let broadcast = socket.expect("broadcast").await;
    assert_eq!(broadcast["payload"], json!({ "eventId": event_id, "event": committed }));
    assert!(broadcast["id"].is_string() && broadcast["timestamp"].is_u64());
    assert!(broadcast.get("replyTo").is_none());

    let id = socket.send("submit_event", json!({ "draftId": "e", "event": set("", 1) })).await.unwrap();
    let rejected = socket.expect("event_rejected").await;
    assert_eq!(rejected["replyTo"], id);
    assert_eq!(rejected["payload"]["draftId"], "e");
    assert_eq!(rejected["payload"]["reason"], "validation_failed");
    assert_eq!(rejected["payload"]["errors"][0]["code"], "SCHEMA_ERROR");

    let id = socket.send("sync", json!({ "sinceEventId": 0 })).await.unwrap();
    let page = socket.expect("sync_response").await;
    assert_eq!(page["replyTo"], id);
    assert_eq!(
        page["payload"],
        json!({ "events": [committed], "currentEventIndex": event_id, "hasMore": false })
    );

    socket.expect_alive().await;
    let id = socket.send("refresh_token", json!({ "token": "any" })).await.unwrap();
    assert_eq!(socket.expect("token_refreshed").await["replyTo"], id);

    let (_, message) = connected(&cluster.frontends[0], "bob").await;
    assert_eq!(message["payload"]["currentEventIndex"], event_id);
    assert_eq!(message["payload"]["initialState"], json!({ "a": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_begins_with_connect_and_only_once() {
    let cluster = Cluster::start().await;
    let mut socket = open(&cluster.frontends[0]).await;
    for kind in ["heartbeat", "sync"] {
        let id = socket.send(kind, json!({})).await.unwrap();
        assert_eq!(socket.expect_error("bad_request").await["replyTo"], id);
    }
    socket.send("connect", json!({ "clientId": "ann", "version": "1" })).await.unwrap();
    socket.expect("connected").await;
    let id = socket.send("connect", json!({ "clientId": "ann", "version": "1" })).await.unwrap();
    assert_eq!(socket.expect_error("bad_request").await["replyTo"], id);
    socket.expect_alive().await;

    // Anything but `connect`, five times in a row.
    let mut socket = open(&cluster.frontends[0]).await;
    for _ in 0..5 {
        socket.send("heartbeat", json!({})).await.unwrap();
        socket.expect_error("bad_request").await;
    }
    assert_eq!(socket.expect_closed().await, 1008);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_connect_in_time_is_closed() {
    let cluster = Cluster::start().set("frontend.connect_timeout_ms", 200).await;
    let mut socket = open(&cluster.frontends[0]).await;
    socket.expect_error("bad_request").await;
    assert_eq!(socket.expect_closed().await, 1008);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_no_messages_are_bad_requests_and_five_in_a_row_close() {
    let cluster = Cluster::start().await;
    let (mut socket, _) = connected(&cluster.frontends[0], "ann").await;
    let message =
        |kind: &str, payload: Value| json!({ "id": "m", "type": kind, "timestamp": 1, "payload": payload });
    let event = set("a", 1);
    let bad = [
        "hello".to_owned(),
        "{".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        json!({ "id": 1, "type": "heartbeat", "timestamp": 1, "payload": {} }).to_string(),
        json!({ "id": "m", "timestamp": 1, "payload": {} }).to_string(),
        json!({ "id": "m", "type": "heartbeat", "timestamp": "now", "payload": {} }).to_string(),
        json!({ "id": "m", "type": "sync", "timestamp": 1 }).to_string(),
        message("heartbeat", json!([])).to_string(),
        message("dance", json!({})).to_string(),
        message("submit_event", json!({ "event": event })).to_string(),
        message("submit_event", json!({ "draftId": 7, "event": event })).to_string(),
        message("sync", json!({ "sinceEventId": "first" })).to_string(),
        message("sync", json!({ "limit": "all" })).to_string(),
        message("refresh_token", json!({})).to_string(),
        message("connect", json!({ "clientId": "ann", "version": "1" })).to_string(),
    ];
    for frame in &bad {
        socket.send_text(frame.as_str()).await.unwrap();
        let error = socket.expect_error("bad_request").await;
        assert!(error["payload"]["message"].is_string(), "{error}");
        // A good one in between starts the count anew.
        socket.expect_alive().await;
    }
    socket.send_binary(b"{}".to_vec()).await.unwrap();
    socket.expect_error("bad_request").await;
    socket.expect_alive().await;

    for _ in 0..5 {
        socket.send_text("{}").await.unwrap();
        socket.expect_error("bad_request").await;
    }
    assert_eq!(socket.expect_closed().await, 1008);

    for payload in [
        json!({ "version": "1" }),
        json!({ "clientId": "ann" }),
        json!({ "clientId": "", "version": "1" }),
        json!({ "clientId": "a".repeat(257), "version": "1" }),
        json!({ "clientId": "ann", "version": "1", "partition": "p".repeat(257) }),
        json!({ "clientId": "ann", "version": "1", "partition": 1 }),
        json!({ "clientId": "ann", "version": "1", "lastEventId": "7" }),
        json!({ "clientId": "ann", "version": "1", "lastEventId": -7 }),
    ] {
        let mut socket = open(&cluster.frontends[0]).await;
        socket.send("connect", payload.clone()).await.unwrap();
        socket.expect_error("bad_request").await;
        socket.send("connect", json!({ "clientId": "ann", "version": "1" })).await.unwrap();
        socket.expect("connected").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_may_be_so_large_and_so_deep_and_no_larger_and_deeper() {
    let cluster = Cluster::start().await;
    let sized = |bytes: usize| {
        let text =
            json!({ "id": "m", "type": "heartbeat", "timestamp": 1, "payload": {}, "pad": "" }).to_string();
        text.replace(r#""pad":"""#, &format!(r#""pad":"{}""#, "x".repeat(bytes - text.len())))
    };
    let deep = |depth: usize| {
        let nested = format!("{}{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        format!(r#"{{"id":"m","type":"heartbeat","timestamp":1,"payload":{{}},"deep":{nested}}}"#)
    };
    for (most, too_much) in
        [(sized(256 * 1024), sized(256 * 1024 + 1)), (deep(64), deep(65)), (deep(64), deep(100_000))]
    {
        let (mut socket, _) = connected(&cluster.frontends[0], "ann").await;
        socket.send_text(most).await.unwrap();
        socket.expect("heartbeat").await;
        // The server may close before it has taken all of it.
        let _ = socket.send_text(too_much).await;
        socket.expect_error("message_too_large").await;
        assert_eq!(socket.expect_closed().await, 1009);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_strings_that_javascript_cannot_hold_are_refused() {
    let cluster = Cluster::start().await;
    let (mut socket, _) = connected(&cluster.frontends[0], "ann").await;
    for (index, value) in ["1e999", "-1e999", r#""\ud800""#, r#"{"\udc00":1}"#].into_iter().enumerate() {
        let frame = format!(
            r#"{{"id":"m","type":"submit_event","timestamp":1,"payload":{{"draftId":"d{index}","event":{{"type":"set","payload":{{"target":"a","value":{value}}}}}}}}}"#
        );
        socket.send_text(frame).await.unwrap();
        let answer = socket.receive().await.unwrap();
        let refused =
            answer["payload"]["code"] == "bad_request" || answer["payload"]["reason"] == "validation_failed";
        assert!(refused, "{value}: {answer}");
        socket.expect_alive().await;
    }
    assert!(cluster.log("default").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_is_pinged_and_then_closed_and_one_that_answers_is_not() {
    let cluster = Cluster::start().set("frontend.heartbeat_interval_ms", 150).await;
    // Its WebSocket answers pings as long as somebody reads from it.
    let (mut answering, message) = connected(&cluster.frontends[0], "answering").await;
    assert_eq!(message["payload"]["heartbeatInterval"], 150);
    let reading = tokio::spawn(async move { answering.receive().await });

    let (silent, _) = connected(&cluster.frontends[0], "silent").await;
    let mut tcp = silent.into_tcp();
    let mut bytes = Vec::new();
    tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut bytes))
        .await
        .expect("the silent one is closed")
        .unwrap();
    assert!(bytes.starts_with(&[0x89, 0]), "first a ping, and not {bytes:02x?}");
    assert!(bytes.windows(7).any(|window| window == b"\"error\""), "an error before the end");
    let close = bytes.windows(2).rposition(|window| window[0] == 0x88);
    assert!(close.is_some(), "a close frame at the end");

    assert!(!reading.is_finished(), "the one that answers pings was sent {:?}", reading.await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_cycle_ends_where_it_began_though_others_write_and_no_broadcast_overtakes_it() {
    let cluster = Cluster::start().await;
    let mut reader = cluster.client(0, "reader").await;
    let mut writer = cluster.client(0, "writer").await;
    for n in 0..25 {
        writer.commit("set", json!({ "target": "n", "value": n })).await;
    }
    let first = reader.sync(json!({ "sinceEventId": 0, "limit": 10 })).await;
    let end = first["currentEventIndex"].as_u64().unwrap();
    assert_eq!((first["events"].as_array().unwrap().len(), &first["hasMore"]), (10, &json!(true)));
    let mut since = first["events"][9]["eventId"].clone();
    let mut got = 10;
    loop {
        // Somebody writes before every page; the client fails the test on a broadcast inside the cycle.
        writer.commit("set", json!({ "target": "m", "value": got })).await;
        let page = reader.sync(json!({ "sinceEventId": since, "limit": 10 })).await;
        assert_eq!(page["currentEventIndex"], end);
        let events = page["events"].as_array().unwrap();
        got += events.len();
        since = events.last().unwrap()["eventId"].clone();
        if page["hasMore"] == false {
            break;
        }
    }
    assert_eq!((got, since.as_u64()), (25, Some(end)));
    let last = writer.commit("set", json!({ "target": "done", "value": true })).await;
    reader.caught_up(last["eventId"].as_u64().unwrap()).await;
    assert_eq!(reader.replica.hash(), cluster.state_hash("default").1);

    // A limit of none or too many is clamped, and a page past the end is empty.
    let page = reader.sync(json!({ "sinceEventId": 0, "limit": 0 })).await;
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
    let page = reader.sync(json!({ "sinceEventId": 0, "limit": 1_000_000 })).await;
    assert_eq!(page["hasMore"], false);
    let page = reader.sync(json!({ "sinceEventId": last["eventId"] })).await;
    assert_eq!(page["events"], json!([]));

    // Without a starting point it begins from a snapshot.
    let page = reader.sync(json!({})).await;
    let snapshot = &page["snapshot"];
    let behind = page["events"].as_array().unwrap();
    let mut replica = crate::harness::model::Replica::from(snapshot["state"].clone());
    for event in behind {
        assert!(event["eventId"].as_u64() > snapshot["eventIndex"].as_u64());
        replica.fold(event).unwrap();
    }
    assert_eq!(page["hasMore"], false);
    assert_eq!(replica.hash(), cluster.state_hash("default").1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_partition_than_the_connections_is_forbidden() {
    let cluster = Cluster::start().await;
    let (mut socket, _) = connected(&cluster.frontends[0], "ann").await;
    let mut event = set("a", 1);
    event["partition"] = "other".into();
    let id = socket.send("submit_event", json!({ "draftId": "d", "event": event })).await.unwrap();
    let rejected = socket.expect("event_rejected").await;
    assert_eq!((&rejected["replyTo"], &rejected["payload"]["reason"]), (&json!(id), &json!("forbidden")));
    assert_eq!(rejected["payload"]["errors"][0]["field"], "event.partition");
    socket.send("sync", json!({ "partition": "other" })).await.unwrap();
    socket.expect_error("forbidden").await;
    event["partition"] = "default".into();
    socket.send("submit_event", json!({ "draftId": "d", "event": event })).await.unwrap();
    socket.expect("event_accepted").await;
    assert!(cluster.log("other").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_submit_so_much_a_minute_over_all_its_connections() {
    let cluster = Cluster::start().set("frontend.submissions_per_minute_max", 4).await;
    let (mut one, _) = connected(&cluster.frontends[0], "ann").await;
    let (mut two, _) = connected(&cluster.frontends[0], "ann").await;
    let submit = |n: usize| json!({ "draftId": format!("d{n}"), "event": set("n", n) });
    for n in 0..4 {
        let socket = if n % 2 == 0 { &mut one } else { &mut two };
        socket.send("submit_event", submit(n)).await.unwrap();
        socket.expect_past_broadcasts("event_accepted").await;
    }
    one.send("submit_event", submit(4)).await.unwrap();
    let rejected = one.expect_past_broadcasts("event_rejected").await;
    assert_eq!(rejected["payload"]["draftId"], "d4");
    assert_eq!(rejected["payload"]["reason"], "rate_limited");
    // When the first of them is a minute old; a bucket that refills would have one again in a quarter of that.
    assert!(rejected["payload"]["retryAfterMs"].as_u64() > Some(15_000), "{rejected}");

    // Somebody else may.
    let mut bob = cluster.client(0, "bob").await;
    bob.commit("set", json!({ "target": "bob", "value": true })).await;
    assert_eq!(cluster.log("default").len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_frames_are_refused_and_when_it_goes_on_the_connection_is_closed() {
    let cluster = Cluster::start()
        .set("frontend.frames_per_second_max", 10)
        .set("frontend.frames_over_limit_max", 20)
        .await;
    let (mut socket, _) = connected(&cluster.frontends[0], "ann").await;
    for _ in 0..100 {
        if socket.send("heartbeat", json!({})).await.is_err() {
            break;
        }
    }
    let mut refused = 0;
    let gone = loop {
        match socket.receive().await {
            Ok(message) if message["type"] == "heartbeat" => {}
            Ok(message) => {
                assert_eq!(message["payload"]["code"], "rate_limited", "{message}");
                if message["payload"]["details"]["retryAfterMs"].as_u64() > Some(0) {
                    refused += 1;
                }
            }
            Err(gone) => break gone,
        }
    };
    assert_eq!((gone.code, refused >= 20), (Some(1008), true), "{refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_frontend_have_only_so_many_connections() {
    let cluster = Cluster::start()
        .set("frontend.connections_per_client_max", 2)
        .set("frontend.connections_max", 3)
        .await;
    let frontend = &cluster.frontends[0];
    let (mut first, _) = connected(frontend, "ann").await;
    let (_second, _) = connected(frontend, "ann").await;
    let mut third = open(frontend).await;
    third.send("connect", json!({ "clientId": "ann", "version": "1" })).await.unwrap();
    third.expect_error("rate_limited").await;
    assert_eq!(third.expect_closed().await, 1008);
    drop(third);

    // One over the frontend's own limit.
    let _bob = until("a place to be free again", async || {
        let mut socket = open(frontend).await;
        socket.send("connect", json!({ "clientId": "bob", "version": "1" })).await.ok()?;
        let message = socket.receive().await.ok()?;
        (message["type"] == "connected").then_some(socket)
    })
    .await;
    let refused = Socket::open(&frontend.url()).await.err().unwrap();
    assert!(refused.contains("503"), "{refused}");

    // Whose connection ends gives its place back.
    first.close().await;
    until("the first connection's place", async || {
        let mut socket = Socket::open(&frontend.url()).await.ok()?;
        socket.send("connect", json!({ "clientId": "ann", "version": "1" })).await.ok()?;
        (socket.receive().await.ok()?["type"] == "connected").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_of_a_connection_are_decided_in_the_order_sent() {
    let cluster = Cluster::start().validators(2).await;
    let mut ann = cluster.client(0, "ann").await;
    ann.submit("set", json!({ "target": "t", "value": {} })).await;
    let mut drafts = Vec::new();
    // Each stands on the one before it, as deep as a state may be, and every tenth is wrong.
    for n in 0..300 {
        let parent = if n % 100 == 0 { "_root".to_owned() } else { format!("n{}", n - 1) };
        let value = json!({ "id": format!("n{n}") });
        drafts.push(
            ann.submit("treePush", json!({ "target": "t", "value": value, "options": { "parent": parent } }))
                .await,
        );
        if n % 10 == 0 {
            ann.submit("treeDelete", json!({ "target": "t", "options": { "id": "nobody" } })).await;
        }
    }
    ann.settle().await;
    let mut last = 0;
    for draft in &drafts {
        let event_id = ann.expect_accepted(draft).await["eventId"].as_u64().unwrap();
        assert!(event_id > last);
        last = event_id;
    }
    ann.caught_up(last).await;
    assert_eq!(ann.replica.hash(), cluster.state_hash("default").1);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_unicode_string_is_a_partition_of_its_own() {
    let cluster = Cluster::start().await;
    let names =
        ["", "a", "A", "a.b", "a b", "*", ">", "~YQ", "ü", "u\u{308}", "日本語", "\u{0}", "default", "🦀\n"];
    for (index, name) in names.iter().enumerate() {
        let mut client = cluster.client(0, "ann").partition(name).await;
        client.commit("set", json!({ "target": "index", "value": index })).await;
    }
    for (index, name) in names.iter().enumerate() {
        let client = cluster.client(0, "ann").partition(name).await;
        assert_eq!(client.connected["initialState"], json!({ "index": index }), "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_goes_away_says_so() {
    let mut cluster = Cluster::start().await;
    let (mut socket, _) = connected(&cluster.frontends[0], "ann").await;
    cluster.frontends[0].process.signal(libc::SIGTERM);
    socket.expect_error("unavailable").await;
    assert_eq!(socket.expect_closed().await, 1001);
    assert!(cluster.frontends[0].process.ended().await.success());
    cluster.validators[0].process.signal(libc::SIGTERM);
    assert!(cluster.validators[0].process.ended().await.success());
}
