//! Both dialects on one log, and what the v1 dialect promises beyond the published client's own server: no
//! hole between sync and live, a repeat that is answered and not told again, a slow reader that nobody
//! waits for.

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::socket::Socket;
use crate::harness::v1::{V1Client, as_classic, as_v1, committed_id, envelope};

async fn v1(cluster: &Cluster, frontend: usize, id: &str) -> V1Client {
    V1Client::connect(&cluster.frontends[frontend].url(), id, "default").await
}

fn note(client: &V1Client, n: usize) -> Value {
    client.event(&format!("{}-{n}", client.id), "note", json!({ "n": n }))
}

fn statuses(results: &[crate::harness::v1::Item]) -> Vec<&str> {
    results.iter().map(|item| item.status()).collect()
}

fn broadcasts(client: &V1Client) -> &[u64] {
    &client.connections.last().unwrap().broadcasts
}

#[tokio::test(flavor = "multi_thread")]
async fn each_dialect_sees_the_others_events_in_its_own_shape_and_in_one_order() {
    let cluster = Cluster::start().validators(2).frontends(2).await;
    let mut vera = v1(&cluster, 0, "vera").await;
    let mut carl = cluster.client(1, "carl").await;

    // One event each, to the letter.
    let mut event = note(&vera, 0);
    event["partition"] = "label".into();
    event["schemaVersion"] = 3.into();
    event["userId"] = "u".into();
    event["meta"]["extra"] = json!([1, null]);
    let of_vera = vera.commit(event.clone()).await;
    let of_carl = carl.commit("set", json!({ "target": "t", "value": 1 })).await["eventId"].as_u64().unwrap();
    vera.told_of(of_carl).await;
    carl.caught_up(of_carl).await;
    let log = cluster.log("default");
    let (at_0, at_1) = (&log[0]["timestamp"], &log[1]["timestamp"]);
    assert_eq!(
        carl.events[0],
        json!({ "type": "note", "payload": { "n": 0 }, "partition": "default", "id": format!("evt-{of_vera}"),
            "eventId": of_vera, "timestamp": at_0, "clientId": "vera" })
    );
    assert_eq!(
        vera.log[&of_carl],
        json!({ "id": format!("evt-{of_carl}"), "projectId": "default", "partition": "default",
            "committedId": of_carl, "type": "set", "schemaVersion": 1,
            "payload": { "target": "t", "value": 1 },
            "meta": { "clientId": "carl", "clientTs": at_1 }, "serverTs": at_1 })
    );
    event["committedId"] = of_vera.into();
    event["serverTs"] = at_0.clone();
    let mut late = v1(&cluster, 1, "late").await;
    late.sync(500).await;
    assert_eq!(late.log[&of_vera], event);

    // Many of both at once: one order for everybody.
    for n in 1..=100 {
        let events = vec![note(&vera, 2 * n), note(&vera, 2 * n + 1)];
        vera.submit(events).await;
        carl.submit("set", json!({ "target": format!("k{n}"), "value": n })).await;
    }
    vera.settle().await;
    carl.settle().await;
    let log = cluster.log("default");
    let head = log.last().unwrap()["eventId"].as_u64().unwrap();
    assert_eq!(log.len(), 2 + 300);
    carl.caught_up(head).await;
    late.told_of(head).await;
    vera.told_of(head).await;
    let ids: Vec<u64> = log.iter().map(|record| record["eventId"].as_u64().unwrap()).collect();
    assert_eq!(carl.events, log.iter().map(as_classic).collect::<Vec<_>>());
    assert_eq!(late.log.values().cloned().collect::<Vec<_>>(), log.iter().map(as_v1).collect::<Vec<_>>());
    assert_eq!(broadcasts(&late), &ids[2..]);
    // Vera has the rest of carl's on the way: her own may be answered before his is broadcast.
    let of_others: Vec<u64> = log
        .iter()
        .filter(|record| record["clientId"] == "carl")
        .map(|record| record["eventId"].as_u64().unwrap())
        .collect();
    vera.told_of(*of_others.last().unwrap()).await;
    assert_eq!(broadcasts(&vera), of_others);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_between_two_pages_comes_after_the_last_one_in_order_and_once() {
    let cluster = Cluster::start().frontends(2).await;
    let mut vera = v1(&cluster, 0, "vera").await;
    let mut carl = cluster.client(0, "carl").await;
    let mut events = Vec::new();
    for n in 0..10 {
        events.push(vera.commit(note(&vera, n)).await);
    }
    for frontend in 0..2 {
        let mut reader = v1(&cluster, frontend, "reader").await;
        let mut since = 0;
        let (mut pages, mut between) = (Vec::new(), Vec::new());
        loop {
            let page = reader.page_after(since, 3).await;
            pages.extend(page["events"].as_array().unwrap().iter().map(committed_id));
            since = page["nextSinceCommittedId"].as_u64().unwrap();
            let upto = *events.last().unwrap();
            assert_eq!(page["syncToCommittedId"], upto, "fixed for the cycle");
            if page["hasMore"] == false {
                assert_eq!(since, upto);
                break;
            }
            // The client fails the test if any of these arrives before the last page.
            let of_vera = vera.results(vec![note(&vera, 1_000 * (frontend + 1) + pages.len())]).await;
            between.push(of_vera[0].committed_id().unwrap());
            let of_carl = carl.commit("set", json!({ "target": "x", "value": pages.len() })).await;
            between.push(of_carl["eventId"].as_u64().unwrap());
        }
        assert!(between.len() >= 6);
        assert_eq!(pages, events);
        let marker = carl.commit("set", json!({ "target": "marker", "value": frontend })).await;
        between.push(marker["eventId"].as_u64().unwrap());
        reader.told_of(*between.last().unwrap()).await;
        assert_eq!(broadcasts(&reader), between);
        events.extend(between);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_event_is_answered_as_before_and_not_broadcast_again() {
    let cluster = Cluster::start().validators(2).frontends(2).await;
    let mut vera = v1(&cluster, 0, "vera").await;
    let mut watchers = [v1(&cluster, 0, "near").await, v1(&cluster, 1, "far").await];
    let mut carl = cluster.client(1, "carl").await;
    let event = note(&vera, 1);
    let first = vera.commit(event.clone()).await;

    // Alone, in another spelling, in a batch with a new one, from elsewhere, and by another client.
    assert_eq!(vera.commit(event.clone()).await, first);
    let respelled = r#"{ "type": "submit_events", "protocolVersion": "1.0", "msgId": "respelled", "payload": {
        "events": [{ "type": "n\u006fte", "schemaVersion": 1.0, "payload": { "n": 1e0 }, "partition": "doc",
            "projectId": "default", "meta": { "clientTs": 1.00 }, "id": "vera-1" }] } }"#;
    vera.socket().send_text(respelled).await.unwrap();
    let answer = vera.socket().expect("submit_events_result").await;
    assert_eq!(answer["msgId"], "respelled");
    assert_eq!(answer["payload"]["results"][0]["committedId"], first, "{answer}");
    let results = vera.results(vec![event.clone(), note(&vera, 2), event.clone()]).await;
    let second = results[1].committed_id().unwrap();
    assert_eq!(
        results.iter().map(|item| item.committed_id()).collect::<Vec<_>>(),
        [Some(first), Some(second), Some(first)]
    );
    vera.drop_connection();
    vera.move_to(&cluster.frontends[1].url());
    vera.reconnect().await;
    assert_eq!(vera.commit(event.clone()).await, first);
    let mut other = v1(&cluster, 0, "other").await;
    let mut as_other = event.clone();
    as_other["meta"]["clientId"] = "other".into();
    assert_eq!(other.commit(as_other).await, first);

    // With other content it is refused, whichever field differs.
    for (field, value) in [
        ("payload", json!({ "n": 2 })),
        ("type", json!("other")),
        ("schemaVersion", json!(2)),
        ("partition", json!("elsewhere")),
        ("userId", json!("u")),
        ("meta", json!({ "clientId": "vera", "clientTs": 2 })),
    ] {
        let mut altered = event.clone();
        altered[field] = value;
        let results = vera.results(vec![altered.clone()]).await;
        assert_eq!(results[0].result["status"], "rejected", "{field}");
        assert_eq!(results[0].result["reason"], "validation_failed", "{field}");
        // In one batch with a new event of that id too.
        let (mut new, mut new_altered) = (event.clone(), altered);
        new["id"] = format!("new-{field}").into();
        new_altered["id"] = new["id"].clone();
        let results = vera.results(vec![new, new_altered]).await;
        assert_eq!(statuses(&results), ["committed", "rejected"], "{field}");
    }

    let marker = vera.commit(note(&vera, 3)).await;
    let log: Vec<u64> =
        cluster.log("default").iter().map(|record| record["eventId"].as_u64().unwrap()).collect();
    assert_eq!(log.len(), 9);
    for watcher in &mut watchers {
        watcher.told_of(marker).await;
        assert_eq!(broadcasts(watcher), log);
    }
    carl.caught_up(marker).await;
    assert_eq!(carl.event_ids(), log);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_items_of_a_batch_behind_a_bad_one_are_not_processed_and_those_before_it_stand() {
    let cluster = Cluster::start().await;
    let mut vera = v1(&cluster, 0, "vera").await;
    let mut watcher = v1(&cluster, 0, "watcher").await;
    let bad: [(&str, &str, Value); 6] = [
        ("type", "validation_failed", Value::Null),
        ("projectId", "forbidden", json!("another")),
        ("partition", "bad_request", json!("")),
        ("schemaVersion", "validation_failed", json!(0)),
        ("meta", "forbidden", json!({ "clientId": "watcher", "clientTs": 1 })),
        // By the validator: a built-in action without a target.
        ("type", "validation_failed", json!("set")),
    ];
    let mut expected = Vec::new();
    for (case, (field, reason, value)) in bad.into_iter().enumerate() {
        let n = 10 * case;
        let (before, behind) = (note(&vera, n), note(&vera, n + 2));
        let mut wrong = note(&vera, n + 1);
        wrong[field] = value;
        // Behind the bad one nothing is processed, what stands before it neither.
        let results = vera.results(vec![before.clone(), wrong.clone(), behind.clone(), before.clone()]).await;
        assert_eq!(
            statuses(&results),
            ["committed", "rejected", "not_processed", "not_processed"],
            "{field}: {results:?}"
        );
        assert_eq!(results[1].result["reason"], reason, "{field}");
        assert_eq!(results[2].result["blockedById"], wrong["id"]);
        expected.push(results[0].committed_id().unwrap());
        // Sent anew it is processed.
        expected.push(vera.commit(behind).await);
    }
    watcher.told_of(*expected.last().unwrap()).await;
    assert_eq!(broadcasts(&watcher), expected);
    assert_eq!(cluster.log("default").len(), expected.len());
    assert!(broadcasts(&vera).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_client_that_does_not_read() {
    // Nothing but a deadline of this test's would end a wait for the slow one's socket.
    let cluster = Cluster::start().set("frontend.write_stall_ms_max", 600_000).await;
    let url = cluster.frontends[0].url();
    let mut slow = Socket::open(&url).await.unwrap();
    let payload = json!({ "token": "any", "clientId": "slow", "projectId": "default" });
    slow.send_text(envelope("connect", "m", &payload)).await.unwrap();
    slow.expect("connected").await;
    let mut slow_classic = cluster.client(0, "slow-classic").await;
    let mut vera = v1(&cluster, 0, "vera").await;
    let mut watcher = v1(&cluster, 0, "watcher").await;
    let mut carl = cluster.client(0, "carl").await;

    // More than the kernel takes in for a socket that nobody reads.
    let text = "x".repeat(4 << 10);
    let mut last = 0;
    for batch in 0..100 {
        let events =
            (0..20).map(|n| vera.event(&format!("{batch}-{n}"), "note", json!({ "text": text }))).collect();
        last = vera.results(events).await.last().unwrap().committed_id().unwrap();
        carl.drain().await;
        watcher.drain().await;
    }
    let of_carl = carl.commit("set", json!({ "target": "done", "value": true })).await;
    watcher.told_of(of_carl["eventId"].as_u64().unwrap()).await;
    assert_eq!(broadcasts(&watcher).len(), 2_001);
    assert_eq!(broadcasts(&watcher)[1_999], last);

    // And whoever reads at last has missed nothing.
    for id in broadcasts(&watcher) {
        assert_eq!(committed_id(&slow.expect("event_broadcast").await["payload"]), *id);
    }
    slow_classic.caught_up(of_carl["eventId"].as_u64().unwrap()).await;
    assert_eq!(slow_classic.event_ids(), broadcasts(&watcher));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_frames_and_frames_too_large_or_too_deep_close_a_v1_connection_with_the_reason() {
    let cluster = Cluster::start()
        .set("frontend.frames_per_second_max", 10)
        .set("frontend.frame_bytes_max", 4_096)
        .await;
    let mut hasty = v1(&cluster, 0, "hasty").await;
    let socket = hasty.socket();
    let sync = envelope("sync", "m", &json!({ "projectId": "default", "sinceCommittedId": 0 }));
    for _ in 0..40 {
        if socket.send_text(sync.clone()).await.is_err() {
            break;
        }
    }
    let mut answered = 0;
    let error = loop {
        let message = socket.receive().await.unwrap();
        if message["type"] == "error" {
            break message;
        }
        assert_eq!(message["type"], "sync_response");
        answered += 1;
    };
    assert!(answered >= 9, "{answered} answers before {error}");
    assert_eq!(
        (&error["protocolVersion"], &error["payload"]["code"]),
        (&json!("1.0"), &json!("rate_limited"))
    );
    assert_eq!(socket.expect_closed().await, 1008);

    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    for frame in [
        envelope("sync", "m", &json!({ "pad": "x".repeat(5_000) })),
        format!(r#"{{"type":"sync","protocolVersion":"1.0","payload":{{"deep":{deep}}}}}"#),
    ] {
        let mut large = v1(&cluster, 0, "large").await;
        let socket = large.socket();
        let _ = socket.send_text(frame).await;
        // The published client has no code for it.
        let error = socket.expect_error("bad_request").await;
        assert_eq!(error["protocolVersion"], "1.0");
        assert_eq!(socket.expect_closed().await, 1009);
    }

    // A frame that is only wrong closes nothing, however often.
    let mut vera = v1(&cluster, 0, "vera").await;
    for _ in 0..6 {
        vera.socket().send_text("{}").await.unwrap();
        vera.socket().expect_error("bad_request").await;
    }
    vera.commit(note(&vera, 0)).await;
}
