//! Clients as they are: they cut text in the middle of an emoji, leave without waiting, leave out what they do not need.
//! One mistake costs one draft, and never the ones after it.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::cluster::{Cluster, Frontend};
use crate::harness::socket::Socket;
use crate::harness::until;
use crate::harness::v1::envelope;

async fn v1(frontend: &Frontend, client: &str) -> Socket {
    let mut socket = Socket::open(&frontend.url()).await.unwrap();
    let connect = json!({ "token": "t", "clientId": client, "projectId": "default" });
    socket.send_text(envelope("connect", "c", &connect)).await.unwrap();
    socket.expect("connected").await;
    socket
}

fn item(id: &str) -> Value {
    json!({ "id": id, "partition": "l", "projectId": "default", "type": "note", "schemaVersion": 1,
        "payload": { "text": "hi" }, "meta": { "clientId": "vera", "clientTs": 1 } })
}

fn batch(msg_id: &str, items: &[String]) -> String {
    let events = items.join(",");
    format!(
        r#"{{"type":"submit_events","protocolVersion":"1.0","msgId":"{msg_id}","payload":{{"events":[{events}]}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_one_item_of_a_batch_is_that_items_result() {
    let cluster = Cluster::start().set("frontend.frames_per_second_max", 0).await;
    let mut socket = v1(&cluster.frontends[0], "vera").await;
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let cut = r#""see you \ud83d""#;
    let cases: Vec<(&str, String, &str)> = vec![
        (r#""hi""#, cut.into(), "payload"),
        (r#""text""#, r#""\ud83d""#.into(), "payload"),
        (r#""hi""#, nested(70), ""),
        (r#""hi""#, nested(100_000), ""),
        (r#""hi""#, "1e999".into(), "payload"),
        (r#""clientTs":1"#, format!(r#""clientTs":1,"x":{cut}"#), "meta"),
        (r#""clientTs":1"#, format!(r#""clientTs":1,"x":{}"#, nested(80)), ""),
        (r#""clientTs":1"#, r#""clientTs":1,"x":-1e400"#.into(), "meta"),
        (r#""clientTs":1"#, r#""clientTs":"soon""#.into(), "meta.clientTs"),
        (r#""note""#, r#""no\udc00te""#.into(), "type"),
        (r#""note""#, "\"\"".into(), "type"),
        (r#""note""#, "7".into(), "type"),
        (r#""note""#, format!("\"{}\"", "t".repeat(300)), "type"),
        (r#""note""#, r#""read""#.into(), "type"),
        (r#""partition":"l""#, r#""partition":null"#.into(), "partition"),
        (r#""partition":"l""#, r#""partition":"\ud800""#.into(), "partition"),
        (r#""partition":"l""#, format!("\"partition\":\"{}\"", "l".repeat(300)), "partition"),
        (r#""schemaVersion":1"#, r#""schemaVersion":"1""#.into(), "schemaVersion"),
        (r#""schemaVersion":1"#, r#""schemaVersion":0"#.into(), "schemaVersion"),
        (r#""schemaVersion":1"#, r#""schemaVersion":1.5"#.into(), "schemaVersion"),
        (r#"{"text":"hi"}"#, "null".into(), "payload"),
        (r#"{"text":"hi"}"#, "[]".into(), "payload"),
        (r#"{"text":"hi"}"#, r#"{"__proto__":1}"#.into(), "payload.__proto__"),
        (r#""projectId":"default""#, r#""projectId":"other""#.into(), "projectId"),
        (r#""schemaVersion":1"#, r#""schemaVersion":1,"userId":null"#.into(), "userId"),
    ];
    let ids = |n: usize| [format!("a{n}"), format!("b{n}"), format!("c{n}")];
    for (n, (from, to, field)) in cases.iter().enumerate() {
        let [a, b, c] = ids(n);
        let faulty = item(&b).to_string();
        assert!(faulty.contains(from), "{from}");
        let items = [item(&a).to_string(), faulty.replace(from, to), item(&c).to_string()];
        socket.send_text(batch(&format!("m{n}"), &items)).await.unwrap();
        let answer = socket.expect("submit_events_result").await;
        let results = answer["payload"]["results"].as_array().unwrap();
        let statuses: Vec<_> = results.iter().map(|result| result["status"].as_str().unwrap()).collect();
        assert_eq!(statuses, ["committed", "rejected", "not_processed"], "{field}: {answer}");
        assert_eq!((&results[1]["id"], &results[2]["blockedById"]), (&json!(b), &json!(b)));
        let error = &results[1]["errors"][0];
        assert_eq!(error["field"], *field, "{error}");
        assert!(
            !error["code"].as_str().unwrap().is_empty() && !error["message"].as_str().unwrap().is_empty()
        );
    }
    // An id that is half an emoji is given back as it came, so that its client knows its draft again.
    let odd = item("§").to_string().replace("\"§\"", r#""\ud83d""#);
    socket.send_text(batch("odd", &[odd, item("after").to_string()])).await.unwrap();
    let answer = socket.receive_text().await.unwrap();
    assert!(answer.contains(r#"{"id":"\ud83d","status":"rejected""#), "{answer}");
    assert!(answer.contains(r#""blockedById":"\ud83d""#), "{answer}");
    // The items before the one that is too many are committed, and the batch is answered whole.
    let many: Vec<String> = (0..1_026).map(|n| item(&format!("many{n}")).to_string()).collect();
    socket.send_text(batch("many", &many)).await.unwrap();
    let answer = socket.expect("submit_events_result").await;
    let results = answer["payload"]["results"].as_array().unwrap();
    assert_eq!((results.len(), &results[1_023]["status"]), (1_026, &json!("committed")));
    assert_eq!(
        (&results[1_024]["status"], &results[1_025]["status"]),
        (&json!("rejected"), &json!("not_processed"))
    );
    assert_eq!(results[1_024]["errors"][0]["code"], "TOO_MANY_ITEMS");
    // And the connection goes on.
    socket.send_text(batch("end", &[item("end").to_string()])).await.unwrap();
    assert_eq!(socket.expect("submit_events_result").await["payload"]["results"][0]["status"], "committed");
    assert_eq!(cluster.log("default").len(), cases.len() + 1_024 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_classic_draft_is_answered_by_its_rejection_whatever_is_wrong_with_it() {
    let cluster = Cluster::start().await;
    let (mut socket, _) = Socket::greeted(&cluster.frontends[0].url(), "carl").await;
    let nested = format!("{}1{}", "[".repeat(70), "]".repeat(70));
    let good = r#"{"type":"set","payload":{"target":"a","value":1}}"#;
    let cases = [
        (good.replace('1', r#""\ud83d""#), "payload", "validation_failed"),
        (good.replace('1', &nested), "event", "validation_failed"),
        (good.replace('1', "1e999"), "payload", "validation_failed"),
        (good.replace("\"set\"", "7"), "type", "validation_failed"),
        (good.replace("\"set\"", r#""\udc00""#), "type", "validation_failed"),
        ("null".into(), "event", "validation_failed"),
        (r#"{"type":"set"}"#.into(), "payload", "validation_failed"),
        (good.replace("\"type\"", "\"partition\":\"other\",\"type\""), "event.partition", "forbidden"),
        (good.replace("\"type\"", "\"partition\":{},\"type\""), "event.partition", "validation_failed"),
        (good.replace("\"set\"", &format!("\"{}\"", "t".repeat(300))), "type", "validation_failed"),
    ];
    for (n, (event, field, reason)) in cases.iter().enumerate() {
        let frame = format!(
            r#"{{"id":"m{n}","type":"submit_event","payload":{{"draftId":"d{n}","event":{event}}}}}"#
        );
        socket.send_text(frame).await.unwrap();
        let rejected = socket.expect("event_rejected").await;
        let payload = &rejected["payload"];
        assert_eq!(
            (&rejected["replyTo"], &payload["draftId"]),
            (&json!(format!("m{n}")), &json!(format!("d{n}")))
        );
        assert_eq!(
            (&payload["reason"], &payload["errors"][0]["field"]),
            (&json!(reason), &json!(field)),
            "{event}"
        );
    }
    socket.expect_alive().await;
    assert!(cluster.log("default").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_what_the_document_prints_and_no_more_is_served() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let mut socket = Socket::open(&frontend.url().replace("/ws", "/")).await.unwrap();
    socket.send_text(r#"{"type":"connect","payload":{"clientId":"carl","version":"0.0.8"}}"#).await.unwrap();
    assert!(socket.expect("connected").await.get("replyTo").is_none());
    socket.send_text(r#"{"type":"heartbeat"}"#).await.unwrap();
    assert!(socket.expect("heartbeat").await.get("replyTo").is_none());
    let submit = r#"{"type":"submit_event","payload":{"draftId":"d","baseEventId":0.0,"event":{"type":"set","payload":{"target":"a","value":1}}}}"#;
    socket.send_text(submit).await.unwrap();
    let accepted = socket.expect("event_accepted").await;
    assert!(accepted.get("replyTo").is_none(), "{accepted}");
    socket.expect("broadcast").await;
    socket.send_text(r#"{"type":"sync","payload":{"sinceEventId":0.0,"limit":5e1}}"#).await.unwrap();
    assert_eq!(socket.expect("sync_response").await["payload"]["events"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subprotocol_that_is_offered_is_agreed_on() {
    let cluster = Cluster::start().await;
    let url = cluster.frontends[0].url();
    let address = url.strip_prefix("ws://").and_then(|url| url.strip_suffix("/ws")).unwrap();
    for (offered, agreed) in [("insieme.v1, other", Some("insieme.v1")), ("a b", None), ("", None)] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {offered}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        match agreed {
            Some(agreed) => {
                assert!(answer.contains(&format!("sec-websocket-protocol: {agreed}\r\n")), "{answer}")
            }
            None => assert!(!answer.contains("sec-websocket-protocol"), "{answer}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_comes_back_as_it_was_written() {
    let cluster = Cluster::start().await;
    let mut watcher = v1(&cluster.frontends[0], "watcher").await;
    let mut vera = v1(&cluster.frontends[0], "vera").await;
    let payload = r#"{ "z":1.0, "a":{"y":"\u00e9","b":[ ]}, "10":1, "9":2 }"#;
    let meta = r#"{"z":[1],"clientId":"vera","clientTs":1,"a":1}"#;
    let written = |id: &str, payload: &str| {
        let text = item(id).to_string().replace(r#"{"text":"hi"}"#, payload);
        text.replace(r#"{"clientId":"vera","clientTs":1}"#, meta)
    };
    vera.send_text(batch("m", &[written("e", payload)])).await.unwrap();
    assert_eq!(vera.expect("submit_events_result").await["payload"]["results"][0]["status"], "committed");
    let broadcast = watcher.receive_text().await.unwrap();
    assert!(broadcast.contains(payload) && broadcast.contains(meta), "{broadcast}");
    // What is the same in another order is the same event.
    vera.send_text(batch("n", &[written("e", r#"{"9":2,"10":1,"a":{"b":[],"y":"é"},"z":1}"#)]))
        .await
        .unwrap();
    assert_eq!(vera.expect("submit_events_result").await["payload"]["results"][0]["status"], "committed");
    assert_eq!(cluster.log("default").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_moved_next_to_itself_stays_and_one_without_its_item_can_be_deleted() {
    let cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "t", "value": {} })).await;
    for id in ["a", "b", "c"] {
        let options = json!({ "position": "last" });
        ann.commit("treePush", json!({ "target": "t", "value": { "id": id }, "options": options })).await;
    }
    let order = |cluster: &Cluster| -> Vec<String> {
        let state: Value = serde_json::from_str(&cluster.state("default")).unwrap();
        let nodes = state["t"]["tree"].as_array().unwrap();
        nodes.iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect()
    };
    for id in ["a", "b", "c"] {
        for side in ["after", "before"] {
            let options = json!({ "id": id, "position": { side: id } });
            ann.commit("treeMove", json!({ "target": "t", "options": options })).await;
            assert_eq!(order(&cluster), ["a", "b", "c"], "{id} {side} itself");
        }
    }
    ann.commit("unset", json!({ "target": "t.items.b" })).await;
    ann.commit("treeDelete", json!({ "target": "t", "options": { "id": "b" } })).await;
    assert_eq!(order(&cluster), ["a", "c"]);
    let draft = ann.submit("treeDelete", json!({ "target": "t", "options": { "id": "b" } })).await;
    let errors = ann.expect_rejected(&draft, "validation_failed").await;
    assert_eq!(errors[0]["code"], "NODE_NOT_FOUND");
    assert_eq!(ann.replica.hash(), cluster.state_hash("default").1);
}

/// Pages send their last drafts when they are left.
#[tokio::test(flavor = "multi_thread")]
async fn drafts_that_are_sent_right_before_leaving_are_committed() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let mut expected = 0;
    for round in 0..6 {
        for count in [1, 5] {
            for half_closes in [false, true] {
                let client = format!("c{round}-{count}-{half_closes}");
                let drafts: Vec<String> = (0..count)
                    .map(|n| {
                        let event = json!({ "type": "set", "payload": { "target": format!("{client}-{n}"), "value": n } });
                        json!({ "type": "submit_event", "payload": { "draftId": n.to_string(), "event": event } }).to_string()
                    })
                    .collect();
                let (mut socket, _) = Socket::greeted(&frontend.url(), &client).await;
                leave(&mut socket, drafts, half_closes).await;

                let mut socket = v1(frontend, &client).await;
                let items = (0..count).map(|n| {
                    let mut item = item(&format!("{client}-{n}"));
                    item["meta"]["clientId"] = client.as_str().into();
                    item.to_string()
                });
                let batches = items.enumerate().map(|(n, item)| batch(&format!("m{n}"), &[item])).collect();
                leave(&mut socket, batches, half_closes).await;
                expected += 2 * count;
            }
        }
    }
    let committed = || cluster.log("default").len();
    until("all drafts to be in the log", async || (committed() >= expected).then_some(())).await;
    assert_eq!(committed(), expected);
    // Those who have left are gone.
    until("their connections to end", async || {
        (frontend.metric("insieme_connections", "").await == 0.0).then_some(())
    })
    .await;
}

async fn leave(socket: &mut Socket, texts: Vec<String>, half_closes: bool) {
    if half_closes {
        for text in texts {
            socket.send_text(text).await.unwrap();
        }
        socket.shut_down_writing().await;
    } else {
        socket.send_and_close(&texts).await.unwrap();
    }
}

/// What an operator and a client are told when nobody decides.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_validator_clients_and_operators_are_told_so() {
    let mut cluster = Cluster::start()
        .set("frontend.submission_deadline_ms", 12_000)
        .set("frontend.answer_wait_ms", 1_000)
        .await;
    cluster.validators[0].process.pause();
    let frontend = &cluster.frontends[0];
    assert!(frontend.readyz().await.contains("200 OK"));
    let (mut carl, _) = Socket::greeted(&frontend.url(), "carl").await;
    let mut vera = v1(frontend, "vera").await;
    let event = json!({ "type": "set", "payload": { "target": "a", "value": 1 } });
    carl.send("submit_event", json!({ "draftId": "d", "event": event })).await.unwrap();
    vera.send_text(batch("m", &[item("e").to_string()])).await.unwrap();
    for (socket, code) in [(&mut carl, "unavailable"), (&mut vera, "server_error")] {
        let error = socket.expect_error(code).await;
        let message = error["payload"]["message"].as_str().unwrap();
        assert!(message.contains("no validator has decided anything"), "{message}");
    }
    // Both dialects count.
    assert_eq!(frontend.metric("insieme_drafts_unanswered_total", "").await, 2.0);
    let readyz = frontend.readyz().await;
    assert!(readyz.contains("503") && readyz.contains("no validator"), "{readyz}");
    cluster.validators[0].process.resume();
    let frontend = &cluster.frontends[0];
    until("the frontend to be ready again", async || {
        frontend.readyz().await.contains("200 OK").then_some(())
    })
    .await;
}
