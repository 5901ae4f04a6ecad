//! Going away in good order: load balancers notice first, clients are sent off a few at a time with their
//! drafts answered, slots change hands, and nothing is lost.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::http::{ask, get, upgrade};
use crate::harness::socket::Socket;
use crate::harness::until;
use crate::harness::v1::{V1Client, envelope};

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_says_that_it_is_not_ready_before_it_sends_anybody_off() {
    let mut cluster = Cluster::start().set("frontend.drain_wait_ms", 4_000).await;
    let mut before = cluster.frontends[0].connected("before").await;
    let frontend = &mut cluster.frontends[0];
    assert_eq!(ask(frontend.port, &get("/readyz")).await.0.status, 200);
    frontend.process.signal(libc::SIGTERM);
    until("not to be ready", async || {
        (ask(frontend.port, &get("/readyz")).await.0.status == 503).then_some(())
    })
    .await;
    // Whom the load balancer still sends is served.
    assert_eq!(ask(frontend.port, &get("/livez")).await.0.status, 200);
    let mut late = frontend.connected("late").await;
    let event = json!({ "type": "set", "payload": { "target": "a", "value": 1 } });
    late.send("submit_event", json!({ "draftId": "d", "event": event })).await.unwrap();
    late.expect("event_accepted").await;
    late.expect("broadcast").await;

    before.expect("broadcast").await;
    for socket in [&mut before, &mut late] {
        let error = socket.expect_error("unavailable").await;
        assert!(error["payload"]["details"]["retryAfterMs"].as_u64() > Some(0), "{error}");
        assert_eq!(socket.expect_closed().await, 1001);
    }
    assert!(frontend.process.ended().await.success());
    assert!(Socket::open(&frontend.url()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let mut cluster = Cluster::start().set("frontend.drain_wait_ms", 600_000).await;
    let _socket = cluster.frontends[0].connected("ann").await;
    let process = &mut cluster.frontends[0].process;
    process.signal(libc::SIGTERM);
    process.line_with("a second signal ends at once").await;
    process.signal(libc::SIGTERM);
    assert_eq!(process.ended().await.code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_sent_off_a_few_at_a_time() {
    let mut cluster = Cluster::start()
        .set("frontend.drain_connections_per_second", 10)
        .set("frontend.drain_ms_max", 60_000)
        .await;
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..30 {
        let mut socket = cluster.frontends[0].connected(&format!("c{n}")).await;
        waiting.spawn(async move {
            socket.expect_error("unavailable").await;
            let at = Instant::now();
            assert_eq!(socket.expect_closed().await, 1001);
            at
        });
    }
    // Who has not got through the handshake is not waited for.
    let idle = tokio::net::TcpStream::connect(("127.0.0.1", cluster.frontends[0].port)).await.unwrap();
    cluster.frontends[0].process.signal(libc::SIGTERM);
    let mut times = waiting.join_all().await;
    times.sort();
    let (first, last) = (times[0], times[29]);
    // Three seconds at this rate, and by chance all thirty in one of them once in 10^14 times.
    assert!(last - first > Duration::from_secs(1), "within {:?}", last - first);
    assert!(cluster.frontends[0].process.ended().await.success());
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_in_flight_are_answered_before_their_connection_is_closed() {
    let mut cluster = Cluster::start().set("frontend.drain_ms_max", 60_000).await;
    let mut ann = cluster.frontends[0].connected("ann").await;
    let mut vera = V1Client::connect(&cluster.frontends[0].url(), "vera", "default").await;
    let mut idle = cluster.frontends[0].connected("idle").await;
    cluster.validators[0].process.pause();
    let event = json!({ "type": "set", "payload": { "target": "a", "value": 1 } });
    ann.send("submit_event", json!({ "draftId": "d", "event": event })).await.unwrap();
    let of_vera = vera.event("v", "note", json!({ "n": 1 }));
    let batch = envelope("submit_events", "b", &json!({ "events": [of_vera] }));
    vera.socket().send_text(batch).await.unwrap();
    // A frame behind it that is answered tells that the draft was read before the signal.
    let heartbeat = ann.send("heartbeat", json!({})).await.unwrap();
    assert_eq!(ann.expect("heartbeat").await["replyTo"], heartbeat);
    cluster.frontends[0].process.signal(libc::SIGTERM);
    // Who waits for nothing is gone before the validator goes on.
    idle.expect_error("unavailable").await;
    assert_eq!(idle.expect_closed().await, 1001);
    // What comes now is not taken, and is told when to come again.
    until("no more drafts to be taken", async || {
        let event = json!({ "type": "set", "payload": { "target": "b", "value": 1 } });
        ann.send("submit_event", json!({ "draftId": "late", "event": event })).await.unwrap();
        let id = ann.send("heartbeat", json!({})).await.unwrap();
        let answer = ann.receive().await.unwrap();
        if answer["replyTo"] == id {
            return None;
        }
        assert_eq!(answer["payload"]["reason"], "unavailable", "{answer}");
        assert!(answer["payload"]["retryAfterMs"].as_u64() > Some(0), "{answer}");
        ann.expect("heartbeat").await;
        Some(())
    })
    .await;
    cluster.validators[0].process.resume();
    let mut kinds = Vec::new();
    let code = loop {
        match ann.receive().await {
            Ok(message) => kinds.push(message["type"].as_str().unwrap().to_owned()),
            Err(gone) => break gone.code,
        }
    };
    assert!(kinds.contains(&"event_accepted".to_owned()), "{kinds:?}");
    assert_eq!((kinds.last().map(String::as_str), code), (Some("error"), Some(1001)), "{kinds:?}");
    let mut committed = false;
    let code = loop {
        match vera.socket().receive().await {
            Ok(message) if message["type"] == "submit_events_result" => {
                committed = message["payload"]["results"][0]["status"] == "committed";
            }
            Ok(_) => {}
            Err(gone) => break gone.code,
        }
    };
    assert_eq!((committed, code), (true, Some(1001)));
    assert!(cluster.frontends[0].process.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_goes_away_under_load_loses_nothing_of_either_dialect() {
    const EACH: usize = 120;
    let mut cluster = Cluster::start().frontends(2).await;
    let (from, to) = (cluster.frontends[0].url(), cluster.frontends[1].url());
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..4 {
        let mut client = Client::of(&from, &format!("c{n}")).steadfast().await;
        client.move_to(&to);
        clients.spawn(async move {
            for m in 0..EACH {
                client.submit("set", json!({ "target": format!("c{n}"), "value": m })).await;
                client.settle_to(5).await;
            }
            client.settle().await;
            assert!(client.answers.values().all(|answer| answer.is_accepted()), "{:?}", client.answers);
            client.connections
        });
        let mut client = V1Client::connect(&from, &format!("v{n}"), "default").await;
        client.move_to(&to);
        clients.spawn(async move {
            for m in 0..EACH / 4 {
                let events = (0..4)
                    .map(|k| client.event(&format!("v{n}-{m}-{k}"), "note", json!({ "m": m, "k": k })))
                    .collect();
                let results = client.results(events).await;
                assert!(results.iter().all(|item| item.status() == "committed"), "{results:?}");
            }
            client.connections.len() as u32
        });
    }
    until("some of it to be committed", async || (cluster.log("default").len() > 60).then_some(())).await;
    cluster.frontends[0].process.signal(libc::SIGTERM);
    assert!(cluster.frontends[0].process.ended().await.success());
    let connections: Vec<u32> = clients.join_all().await;
    assert!(connections.iter().filter(|count| **count == 2).count() >= 4, "{connections:?}");
    let log = cluster.log("default");
    let mut drafts: Vec<String> =
        log.iter().map(|event| format!("{} {}", event["clientId"], event["draftId"])).collect();
    drafts.sort();
    drafts.dedup();
    assert_eq!((log.len(), drafts.len()), (8 * EACH, 8 * EACH), "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_goes_away_hands_its_slots_over_and_does_not_let_them_expire() {
    let ttl = Duration::from_secs(50);
    let mut cluster = Cluster::start()
        .validators(2)
        .set("nats.slots", 8)
        .set("nats.ownership_ttl_ms", ttl.as_millis())
        .await;
    let mut clients = Vec::new();
    for n in 0..16 {
        clients.push(cluster.client(0, "ann").partition(&format!("p{n}")).await);
    }
    for client in &mut clients {
        client.commit("set", json!({ "target": "a", "value": 1 })).await;
    }
    let at = Instant::now();
    cluster.validators[0].process.signal(libc::SIGTERM);
    assert!(cluster.validators[0].process.ended().await.success());
    for client in &mut clients {
        client.commit("set", json!({ "target": "a", "value": 2 })).await;
    }
    assert!(at.elapsed() < ttl, "{:?}", at.elapsed());
    let answer = ask(cluster.frontends[0].port, &upgrade("")).await.0;
    assert_eq!(answer.status, 101);
}
