//! Plain HTTP, for backends and for networks without WebSockets: the same log, rules, limits and answers.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::backend::{Backend, token};
use crate::harness::cluster::Cluster;
use crate::harness::http::{answer, ask, ended, get};
use crate::harness::plain::{Plain, draft};
use crate::harness::tokens::now_s;
use crate::harness::{DEADLINE, until};

/// A request with a body, on a connection that goes on.
fn post(headers: &str, body: &str) -> String {
    format!(
        "POST /partitions/default/events?clientId=ann HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n{headers}\r\n{body}"
    )
}

fn ids(page: &Value) -> Vec<u64> {
    page["events"].as_array().unwrap().iter().map(|event| event["eventId"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_of_plain_http_is_committed_once_and_is_everybodys_event() {
    let cluster = Cluster::start().frontends(2).await;
    let (ann, mut bob) = (Plain::of(cluster.frontends[0].port, "ann"), cluster.client(1, "bob").await);

    // What is committed by HTTP comes to a WebSocket, and the other way round.
    let committed = ann.submit(&draft("d1", "title", json!("Groceries"))).await;
    let first = committed.expect_committed(201);
    bob.caught_up(first).await;
    assert_eq!(bob.events, [committed.json()["event"].clone()]);
    let second =
        bob.commit("set", json!({ "target": "count", "value": 7 })).await["eventId"].as_u64().unwrap();
    bob.caught_up(second).await;
    let page = until("the event to be on a page", async || {
        let page = ann.get("default/events").await.json();
        (page["currentEventIndex"] == second).then_some(page)
    })
    .await;
    assert_eq!(ids(&page), [first, second]);
    assert_eq!((&page["hasMore"], &page["nextSince"]), (&json!(false), &json!(second)));
    assert_eq!(ann.get(&format!("default/events?since={first}")).await.json()["events"][0], bob.events[1]);

    // The same draft again is that same commit, on any frontend; with other content it is none.
    for frontend in &cluster.frontends {
        let ann = Plain::of(frontend.port, "ann");
        assert_eq!(ann.submit(&draft("d1", "title", json!("Groceries"))).await.expect_committed(200), first);
        let other = ann.submit(&draft("d1", "title", json!("Other"))).await.expect(409, "duplicate_draft");
        assert_eq!(other["errors"][0]["code"], "DUPLICATE_DRAFT");
    }
    // A rejection says why.
    let move_nothing =
        json!({ "id": "d2", "type": "treeMove", "payload": { "target": "list", "options": { "id": "a" } } });
    let rejected = ann.submit(&move_nothing).await.expect(422, "validation_failed");
    assert_eq!(
        (&rejected["errors"][0]["code"], &rejected["draftId"]),
        (&json!("TARGET_NOT_FOUND"), &json!("d2"))
    );
    let mut conflict = draft("d3", "count", json!(8));
    conflict["baseEventId"] = json!(first);
    ann.submit(&conflict).await.expect(409, "conflict");
    assert_eq!(cluster.log("default").len(), 2);

    // A state says of which event it is.
    let state = ann.get("default/state").await.json();
    assert_eq!(
        (&state["state"], &state["eventId"]),
        (&json!({ "title": "Groceries", "count": 7 }), &json!(second))
    );
    let state = ann.get(&format!("default/state?at={first}")).await.json();
    assert_eq!((&state["state"], &state["eventId"]), (&json!({ "title": "Groceries" }), &json!(first)));
    for none in [0, second + 1, u64::MAX] {
        ann.get(&format!("default/state?at={none}")).await.expect(404, "bad_request");
    }
    // Any name is a partition, and one that nobody has written to is empty.
    let odd = ann.submit_to("a%2Fb%20%C3%A9", &draft("d1", "x", json!(1))).await;
    odd.expect_committed(201);
    assert_eq!(odd.json()["event"]["partition"], "a/b é");
    assert_eq!(ann.get("nobody/events").await.json()["events"], json!([]));
    assert_eq!(ann.get("nobody/state").await.json()["state"], json!({}));
    ann.get("default/events?since=99999").await.expect(409, "cursor_beyond_log");
    assert!(cluster.frontends[0].metric("insieme_http_requests_total", "endpoint=\"submit\"").await >= 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_follow_each_other_on_one_connection_however_they_are_cut() {
    let cluster = Cluster::start().set("frontend.handshake_timeout_ms", 2_000).await;
    let port = cluster.frontends[0].port;
    let body = |id: &str| draft(id, id, json!(1)).to_string();
    let length = |body: &str| format!("Content-Length: {}\r\n", body.len());
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // With a length, in chunks, and two in one go; with the id in a header.
    let one = body("a");
    let requests = [
        post(&length(&one), &one),
        post(
            "Transfer-Encoding: chunked\r\n",
            &format!("5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n", &one[..5], one.len() - 5, &one[5..]),
        ),
    ];
    stream.write_all(requests.concat().as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().status, 201);
    assert_eq!(answer(&mut stream).await.unwrap().status, 200);
    let nameless = r#"{"type":"set","payload":{"target":"b","value":1}}"#;
    stream
        .write_all(post(&format!("{}Idempotency-Key: \"b\"\r\n", length(nameless)), nameless).as_bytes())
        .await
        .unwrap();
    let by_header = answer(&mut stream).await.unwrap();
    assert_eq!((by_header.status, &by_header.json()["draftId"]), (201, &json!("b")));
    // A body that is sent when it is asked for.
    let asked = body("c");
    stream
        .write_all(post(&format!("{}Expect: 100-continue\r\n", length(&asked)), "").as_bytes())
        .await
        .unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().status, 100);
    stream.write_all(asked.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().status, 201);
    // Who then says nothing is not kept.
    assert_eq!(ended(&mut stream).await, b"");

    // What could be read in two ways is not read on.
    for headers in [
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +1\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let smuggled = format!("0\n\n{}", get("/partitions/default/state?clientId=ann"));
        let (refused, mut stream) = ask(port, &post(headers, &smuggled)).await;
        assert_eq!((refused.status, refused.header("connection")), (400, Some("close")), "{headers:?}");
        assert_eq!(ended(&mut stream).await, b"", "{headers:?}");
    }
    // A body that does not come is not waited for.
    let (slow, mut stream) = ask(port, &post("Content-Length: 50\r\n", "{")).await;
    assert_eq!((slow.status, slow.header("connection")), (408, Some("close")));
    assert_eq!(ended(&mut stream).await, b"");
    // No way of asking leads elsewhere.
    for (method, path, status) in [
        ("PUT", "default/events", 405),
        ("DELETE", "default/state", 405),
        ("GET", "default", 404),
        ("GET", "default/other", 404),
        ("GET", "default/events?limt=3", 400),
        ("GET", "default/events?limit=0", 400),
        ("GET", "%zz/events", 400),
    ] {
        let refused = Plain::of(port, "ann").ask(method, path, "", "").await;
        refused.expect(status, "bad_request");
        assert_eq!(refused.header("allow").is_some(), status == 405, "{refused:?}");
    }
    let head = Plain::of(port, "ann").ask("HEAD", "default/state", "", "").await;
    assert!(
        head.status == 200 && head.body.is_empty() && head.header("content-length") != Some("0"),
        "{head:?}"
    );
    Plain::with(&format!("127.0.0.1:{port}"), None).get("default/state").await.expect(400, "bad_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_permits_by_plain_http_what_it_permits_by_websocket() {
    let backend = Backend::start_with(&["frontend.allowed_origins=https://app.example.com"]).await;
    let url = &backend.frontends[0].1;
    let plain = |changes: Value| Plain::with(url, Some(&token("ann", changes)));
    let set = draft("d", "a", json!(1));
    plain(json!({})).submit(&set).await.expect_committed(201);

    let none = Plain::with(url, None).submit(&set).await;
    none.expect(401, "auth_failed");
    assert_eq!(none.header("www-authenticate"), Some("Bearer"));
    plain(json!({ "exp": now_s() - 600 })).submit(&set).await.expect(401, "auth_failed");
    let reader = plain(json!({ "permissions": ["read"] }));
    let refused = reader.submit(&draft("e", "a", json!(2))).await.expect(403, "forbidden");
    assert_eq!(refused["errors"][0]["code"], "FORBIDDEN");
    assert_eq!(ids(&reader.get("default/events").await.json()).len(), 1);
    let writer = plain(json!({ "permissions": ["set"] }));
    writer.submit(&draft("e", "a", json!(2))).await.expect(403, "forbidden");
    writer.get("default/state").await.expect(403, "forbidden");
    plain(json!({ "partition": "p*" })).get("default/events").await.expect(403, "forbidden");
    // Nobody speaks for another client.
    plain(json!({})).get("default/events?clientId=bob").await.expect(401, "auth_failed");
    let mut other = draft("e", "a", json!(2));
    other["clientId"] = json!("bob");
    plain(json!({})).submit(&other).await.expect(403, "forbidden");

    // Pages of the allowed origins may ask and see the answer, and no others.
    let path = "/partitions/default/events";
    let asks = |method: &str, origin: &str| {
        format!("{method} {path} HTTP/1.1\r\nHost: test\r\nOrigin: {origin}\r\n\r\n")
    };
    let port: u16 = url.trim_end_matches("/ws").rsplit(':').next().unwrap().parse().unwrap();
    let (preflight, _) = ask(port, &asks("OPTIONS", "https://app.example.com")).await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example.com"));
    let allowed = preflight.header("access-control-allow-headers").unwrap();
    assert!(["authorization", "idempotency-key", "last-event-id"].iter().all(|name| allowed.contains(name)));
    let (unknown, _) = ask(port, &asks("GET", "https://app.example.com")).await;
    assert_eq!(unknown.status, 401, "and the page may read why");
    assert_eq!(unknown.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(unknown.header("access-control-expose-headers"), Some("retry-after"));
    for method in ["OPTIONS", "GET", "POST"] {
        let (refused, _) = ask(port, &asks(method, "https://evil.example.com")).await;
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let mut backend = Backend::start_with(&["auth.leeway_s=0"]).await;
    let url = backend.frontends[0].1.clone();
    let plain = |changes: Value| Plain::with(&url, Some(&token("ann", changes)));
    // When it expires,
    let mut expires = plain(json!({ "exp": now_s() + 8 })).follow("", "").await;
    assert_eq!(expires.data().await.unwrap()["code"], "auth_failed");
    assert!(expires.data().await.is_none());
    // and when it is revoked.
    let mut revoked = plain(json!({ "jti": "t-1" })).follow("", "").await;
    plain(json!({})).submit(&draft("d", "a", json!(1))).await.expect_committed(201);
    assert_eq!(revoked.data().await.unwrap()["type"], "set");
    let connections = backend.operator().get("/connections").await;
    assert!(connections.body.contains(r#""dialect":"http""#), "{connections:?}");
    assert_eq!(backend.operator().post("/tokens/t-1/revoke", "").await.status, 200);
    let end = revoked.data().await.unwrap();
    assert_eq!(
        (&end["code"], &end["message"]),
        (&json!("auth_failed"), &json!("the token has been revoked"))
    );
    assert!(revoked.data().await.is_none());
    plain(json!({ "jti": "t-1" })).get("default/state").await.expect(401, "auth_failed");
    let metrics = backend.metrics(0).await;
    assert!(metrics.contains(r#"insieme_http_streams_ended_total{reason="auth_failed"} 2"#), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_may_take_is_bounded_as_a_frame_is() {
    let plan = Cluster::start()
        .set("frontend.submissions_per_minute_max", 3)
        .set("frontend.frame_bytes_max", 20_000)
        .set("frontend.connections_per_client_max", 2);
    let cluster = plan.await;
    let port = cluster.frontends[0].port;
    // Too large: told before the body is read, if it says so, and else when it is.
    let large = draft("d", "a", json!("x".repeat(20_000))).to_string();
    for (headers, body) in [
        (format!("Content-Length: {}\r\n", large.len()), String::new()),
        ("Content-Length: 99999999999\r\n".to_owned(), String::new()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{:x}\r\n", large.len())),
    ] {
        let (refused, mut stream) = ask(port, &post(&headers, &body)).await;
        assert_eq!((refused.status, &refused.json()["code"]), (413, &json!("message_too_large")));
        assert_eq!(ended(&mut stream).await, b"");
    }
    let deep = format!(r#"{{"id":"d","type":"set","payload":{}1{}}}"#, "[".repeat(9_000), "]".repeat(9_000));
    let (refused, _) = ask(port, &post(&format!("Content-Length: {}\r\n", deep.len()), &deep)).await;
    assert_eq!((refused.status, &refused.json()["errors"][0]["code"]), (422, &json!("TOO_DEEP")));

    // As many drafts in a minute as by WebSocket, counted together.
    let ann = Plain::of(port, "ann");
    ann.submit(&draft("a", "a", json!(1))).await.expect_committed(201);
    ann.submit(&draft("b", "b", json!(1))).await.expect_committed(201);
    let mut socket = cluster.client(0, "ann").await;
    socket.commit("set", json!({ "target": "c", "value": 1 })).await;
    ann.submit(&draft("e", "e", json!(1))).await.expect(429, "rate_limited");
    Plain::of(port, "bob").submit(&draft("e", "e", json!(1))).await.expect_committed(201);

    // As many connections of a client.
    let _stream = ann.follow("", "").await;
    ann.get("default/state").await.expect(429, "rate_limited");
    drop(socket);
    until("a place to be free", async || (ann.get("default/state").await.status == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_comes_page_by_page() {
    let cluster = Cluster::start().await;
    let mut bob = cluster.client(0, "bob").await;
    for n in 0..1_500 {
        bob.submit("set", json!({ "target": "n", "value": n })).await;
        bob.settle_to(500).await;
    }
    bob.settle().await;
    let ann = Plain::of(cluster.frontends[0].port, "ann");
    let (mut since, mut values, mut pages) = (0, Vec::new(), 0);
    loop {
        let page = ann.get(&format!("default/events?since={since}&limit=400")).await.json();
        let events = page["events"].as_array().unwrap();
        assert!(events.len() <= 400);
        values.extend(events.iter().map(|event| event["payload"]["value"].as_u64().unwrap()));
        since = page["nextSince"].as_u64().unwrap();
        pages += 1;
        if page["hasMore"] == false {
            break;
        }
    }
    assert_eq!(values, (0..1_500).collect::<Vec<_>>());
    assert!(pages >= 4);
    ann.get("default/events?limit=1001").await.expect(400, "bad_request");
    // And as a stream from the beginning.
    let mut stream = ann.follow("?since=0", "").await;
    for n in 0..1_500 {
        assert_eq!(stream.next().await.unwrap().1["payload"]["value"], n);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_where_it_was_when_its_frontend_is_killed() {
    let mut cluster = Cluster::start().frontends(2).await;
    let port = cluster.frontends[0].port;
    let mut bob = cluster.client(1, "bob").steadfast().await;
    let writing = tokio::spawn(async move {
        for n in 0..600 {
            bob.submit("set", json!({ "target": "n", "value": n })).await;
            bob.settle_to(2).await;
        }
        bob.settle().await;
    });
    let ann = Plain::of(port, "ann");
    let (mut values, mut last, mut kills) = (Vec::new(), 0, 0);
    while values.len() < 600 {
        let mut stream = match last {
            0 => ann.follow("?since=0", "").await,
            last => ann.follow("?since=0", &format!("Last-Event-ID: {last}\r\n")).await,
        };
        while let Some((id, event)) = stream.next().await {
            assert!(id > last, "{id} after {last}");
            last = id;
            values.push(event["payload"]["value"].as_u64().unwrap());
            if values.len() == 600 {
                break;
            }
            if values.len() / 150 > kills {
                kills += 1;
                cluster.restart_frontend(0).await;
            }
        }
    }
    writing.await.unwrap();
    assert_eq!((values, kills), ((0..600).collect(), 3));
    // A reader that is ahead of the log is told so, and no stream begins.
    let beyond = format!("Accept: text/event-stream\r\nLast-Event-ID: {}\r\n", last + 1_000);
    ann.ask("GET", "default/events", &beyond, "").await.expect(409, "cursor_beyond_log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_is_answered_truthfully_when_its_validator_dies() {
    let mut cluster = Cluster::start().validators(0).set("frontend.submission_deadline_ms", 4_000).await;
    let ann = Plain::of(cluster.frontends[0].port, "ann");
    // It dies when it has committed: the event is there, and is the answer.
    let doomed = cluster.add_validator("die_after_commit").await;
    let set = draft("d", "a", json!(1));
    let committed = ann.submit(&set).await.expect_committed(201);
    assert!(!cluster.validators[doomed].process.ended().await.success());
    // None is there: nobody knows whether it will be decided, and the same draft may be sent again.
    let later = draft("e", "b", json!(2));
    let unknown = ann.submit(&later).await.expect(504, "unavailable");
    assert_eq!(unknown["draftId"], "e");
    cluster.add_validator("").await;
    let answer = until("the draft to be decided", async || {
        let answer = ann.submit(&later).await;
        (answer.status != 504).then_some(answer)
    })
    .await;
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    assert_eq!(ann.submit(&later).await.expect_committed(200), answer.json()["eventId"]);
    assert_eq!(ann.submit(&set).await.expect_committed(200), committed);
    assert_eq!(cluster.log("default").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_goes_away_ends_streams_and_answers_what_is_under_way() {
    let mut cluster = Cluster::start().validators(0).set("frontend.drain_ms_max", 2_000).await;
    let port = cluster.frontends[0].port;
    let ann = Plain::of(port, "ann");
    let mut stream = ann.follow("", "").await;
    let mut idle = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    idle.write_all(get("/partitions/default/state?clientId=bob").as_bytes()).await.unwrap();
    assert_eq!(answer(&mut idle).await.unwrap().status, 200);
    let waiting = tokio::spawn(async move { ann.submit(&draft("d", "a", json!(1))).await });
    until("the draft to be under way", async || {
        (cluster.frontends[0].metric("insieme_drafts_submitted_total", "").await >= 1.0).then_some(())
    })
    .await;
    cluster.frontends[0].process.signal(libc::SIGTERM);
    let end = stream.data().await.unwrap();
    assert_eq!(end["code"], "unavailable");
    assert!(end["retryAfterMs"].as_u64() > Some(0), "{end}");
    assert!(stream.data().await.is_none());
    assert_eq!(ended(&mut idle).await, b"");
    let answer = waiting.await.unwrap();
    assert_eq!(answer.header("connection"), Some("close"));
    answer.expect(504, "unavailable");
    assert!(cluster.frontends[0].process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_not_read_is_closed() {
    let cluster = Cluster::start().set("frontend.write_stall_ms_max", 1_000).await;
    let port = cluster.frontends[0].port;
    let mut deaf = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let path = "/partitions/default/events?clientId=ann&since=0";
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    deaf.write_all(request.as_bytes()).await.unwrap();
    let mut bob = cluster.client(0, "bob").await;
    let large = "x".repeat(200_000);
    for n in 0..100 {
        bob.submit("set", json!({ "target": "n", "value": [n, large] , "options": { "replace": true } }))
            .await;
        bob.settle_to(4).await;
    }
    until("the stream to be closed", async || {
        let closed = cluster.frontends[0].metric("insieme_http_streams_ended_total", "stalled").await;
        (closed >= 1.0).then_some(())
    })
    .await;
    // All that it gets is what the kernels held.
    let mut bytes = Vec::new();
    let read = timeout(DEADLINE, deaf.read_to_end(&mut bytes)).await.expect("an end in time");
    assert!(read.is_err() || bytes.len() < 18_000_000, "{} bytes", bytes.len());
    assert_eq!(cluster.frontends[0].metric("insieme_http_streams", "").await, 0.0);
    bob.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_long_ago_is_refused_where_it_would_take_much() {
    let cluster = Cluster::start().set("validator.snapshot_events_min", 10_000_000).await;
    let mut bob = cluster.client(0, "bob").await;
    for n in 0..10_001 {
        bob.submit("set", json!({ "target": "n", "value": n })).await;
        bob.settle_to(500).await;
    }
    bob.settle().await;
    let log = cluster.log("default");
    let ann = Plain::of(cluster.frontends[0].port, "ann");
    let at = |n: usize| format!("default/state?at={}", log[n]["eventId"]);
    let last = ann.get(&at(9_999)).await;
    assert_eq!((last.status, &last.json()["state"]), (200, &json!({ "n": 9_999 })));
    let refused = ann.get(&at(10_000)).await.expect(422, "bad_request");
    assert!(refused["message"].as_str().unwrap().contains("at most 10000"), "{refused}");
    assert_eq!(ann.get("default/state").await.json()["state"]["n"], 10_000);
    // A large state comes in one piece.
    bob.commit("set", json!({ "target": "large", "value": "é\"".repeat(60_000) })).await;
    for n in 0..4 {
        bob.commit("set", json!({ "target": format!("more-{n}"), "value": "é\"".repeat(60_000) })).await;
    }
    let large = until("the last part to be there", async || {
        let state = ann.get("default/state").await.json()["state"].clone();
        state["more-3"].is_string().then_some(state)
    })
    .await;
    assert_eq!(large["large"], "é\"".repeat(60_000));
}
