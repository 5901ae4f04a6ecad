//! Many partitions over one connection: each with its own order, its own cursor and its own end.

use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::backend::{Backend, token};
use crate::harness::cluster::Cluster;
use crate::harness::many::Many;
use crate::harness::socket::Socket;
use crate::harness::until;
use crate::harness::v1::envelope;

/// The ids of a partition's events in the log.
fn logged(cluster: &Cluster, partition: &str) -> Vec<u64> {
    cluster.log(partition).iter().map(|event| event["eventId"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_partitions_go_over_one_connection_each_in_its_own_order() {
    let cluster = Cluster::start().await;
    let url = cluster.frontends[0].url();
    let mut bob = cluster.client(0, "bob").partition("b").await;
    bob.commit("set", json!({ "target": "before", "value": 1 })).await;
    let mut ann = Many::connect(&url, "ann", json!(["a", "b"])).await;
    let of_a = ann.subscribed("a").await;
    assert_eq!(of_a["payload"]["initialState"], json!({}), "{of_a}");
    assert_eq!(of_a["replyTo"], "m-1", "what `connect` names is answered to it");
    let of_b = ann.subscribed("b").await;
    assert_eq!(of_b["payload"]["initialState"], json!({ "before": 1 }), "{of_b}");
    let began_at = of_b["payload"]["currentEventIndex"].as_u64().unwrap();
    assert!(began_at > 0 && of_b["payload"]["sinceSnapshot"].is_u64(), "{of_b}");
    let of_c = ann.subscribe("c", None).await;
    assert_eq!(of_c["payload"]["partition"], "c");

    // The same draft id in each: partitions have nothing to do with each other.
    for n in 0..20 {
        for partition in ["a", "b", "c"] {
            ann.submit(partition, &format!("d-{n}"), json!(n)).await;
        }
        bob.submit("set", json!({ "target": "bob", "value": n })).await;
    }
    bob.settle().await;
    for partition in ["a", "b", "c"] {
        for n in 0..20 {
            let answer = ann.answer(partition, &format!("d-{n}")).await;
            assert_eq!(answer["type"], "event_accepted", "{answer}");
        }
        let last = *logged(&cluster, partition).last().unwrap();
        ann.seen(partition, last).await;
    }
    let after = |partition: &str, from: u64| -> Vec<u64> {
        logged(&cluster, partition).into_iter().filter(|id| *id > from).collect()
    };
    assert_eq!(ann.ids("b"), after("b", began_at));
    assert_eq!(ann.ids("b").len(), 40, "bob's too");
    for (partition, of) in [("a", &of_a), ("c", &of_c)] {
        let from = of["payload"]["currentEventIndex"].as_u64().unwrap();
        assert_eq!(ann.ids(partition), after(partition, from));
        // What one sent is decided in the order sent.
        let drafts: Vec<_> =
            ann.of[partition].events.iter().map(|event| event["payload"]["value"].clone()).collect();
        assert_eq!(drafts, (0..20).map(Value::from).collect::<Vec<_>>());
    }

    // A sync names the partition, and so does its answer.
    let id = ann.send("sync", json!({ "partition": "c", "sinceEventId": 0, "limit": 3 })).await;
    let page = ann.socket.expect("sync_response").await;
    assert_eq!((&page["replyTo"], &page["payload"]["partition"]), (&json!(id), &json!("c")), "{page}");
    assert_eq!(page["payload"]["events"].as_array().unwrap().len(), 3);
    // Unsubscribed, it gets no more of it; the others go on.
    let id = ann.send("unsubscribe", json!({ "partition": "c" })).await;
    while ann.of["c"].is_open {
        // The cycle ended, and the rest of the page's events comes again.
        let message = ann.socket.receive().await.unwrap();
        if message["type"] == "unsubscribed" {
            assert_eq!((&message["replyTo"], &message["payload"]["partition"]), (&json!(id), &json!("c")));
            ann.of.get_mut("c").unwrap().is_open = false;
        } else {
            assert_eq!(message["type"], "broadcast", "{message}");
        }
    }
    let mut cid = cluster.client(0, "cid").partition("c").await;
    cid.commit("set", json!({ "target": "late", "value": 1 })).await;
    ann.commit("a", "last", json!(1)).await;
    let last = *logged(&cluster, "a").last().unwrap();
    ann.seen("a", last).await;
    assert!(!ann.of["c"].is_open);
    // And comes back to it where it was.
    let from = logged(&cluster, "c")[10];
    ann.of.get_mut("c").unwrap().last = from;
    let again = ann.subscribe("c", Some(from)).await;
    assert_eq!(again["payload"].get("initialState"), None, "{again}");
    let last = *logged(&cluster, "c").last().unwrap();
    ann.seen("c", last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_partition_is_caught_up_from_its_own_cursor() {
    let cluster = Cluster::start()
        .frontends(2)
        .set("frontend.ring_events_max", 16)
        .set("frontend.page_events_max", 50)
        .await;
    let names: Vec<String> = (0..6).map(|n| format!("p-{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        let mut writer = cluster.client(0, "writer").partition(name).await;
        for value in 0..(n * 80) {
            writer.submit("set", json!({ "target": "x", "value": value })).await;
            writer.settle_to(32).await;
        }
        writer.settle().await;
    }
    // From the beginning, from the middle, from the end, from beyond it; and one without a cursor.
    let logs: Vec<Vec<u64>> = names.iter().map(|name| logged(&cluster, name)).collect();
    let wanted = json!([
        names[0], { "partition": names[1], "lastEventId": 0 },
        { "partition": names[2], "lastEventId": logs[2][100] },
        { "partition": names[3], "lastEventId": logs[3].last() },
        { "partition": names[4], "lastEventId": 1_000_000 },
        { "partition": names[5], "lastEventId": logs[5][7] },
    ]);
    let mut ann = Many::connect(&cluster.frontends[1].url(), "ann", wanted).await;
    for (n, at) in [(1, 0), (2, logs[2][100]), (3, *logs[3].last().unwrap()), (5, logs[5][7])] {
        ann.of.entry(names[n].clone()).or_default().last = at;
    }
    let error = ann.error("cursor_beyond_log").await;
    assert_eq!(
        (&error["payload"]["details"]["partition"], &error["replyTo"]),
        (&json!(names[4]), &json!("m-1"))
    );
    for n in [0, 1, 2, 3, 5] {
        ann.subscribed(&names[n]).await;
        if let Some(last) = logs[n].last() {
            ann.seen(&names[n], *last).await;
        }
    }
    assert_eq!(ann.ids(&names[1]), logs[1]);
    assert_eq!(ann.ids(&names[2]), logs[2][101..]);
    assert_eq!((ann.ids(&names[3]), ann.ids(&names[5])), (vec![], logs[5][8..].to_vec()));
    // The one that was refused can be asked for again.
    assert!(ann.subscribe(&names[4], None).await["payload"]["initialState"].is_object());

    // Page by page while others write.
    ann.of.get_mut(&names[4]).unwrap().last = 0;
    ann.send("sync", json!({ "partition": names[4], "sinceEventId": 0, "limit": 100 })).await;
    let mut writer = cluster.client(0, "late").partition(&names[1]).await;
    writer.commit("set", json!({ "target": "x", "value": "meanwhile" })).await;
    ann.seen(&names[1], *logged(&cluster, &names[1]).last().unwrap()).await;
    // It does not go on, so the rest comes as broadcasts.
    ann.seen(&names[4], *logs[4].last().unwrap()).await;
    assert_eq!(ann.ids(&names[4]), logs[4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_answered_and_the_connection_stays() {
    let cluster = Cluster::start().await;
    let url = cluster.frontends[0].url();
    // `connect` itself.
    let mut socket = Socket::open(&url).await.unwrap();
    let too_many: Vec<String> = (0..101).map(|n| format!("p{n}")).collect();
    for (more, says) in [
        (json!({ "partition": "a", "partitions": ["b"] }), "exclude each other"),
        (json!({ "lastEventId": 1, "partitions": ["b"] }), "exclude each other"),
        (json!({ "partitions": ["a", { "partition": "a" }] }), "twice"),
        (json!({ "partitions": too_many }), "at most 100"),
    ] {
        let mut connect = json!({ "clientId": "ann", "version": "test" });
        connect.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        socket.send("connect", connect).await.unwrap();
        let error = socket.expect_error("bad_request").await;
        assert!(error["payload"]["message"].as_str().unwrap().contains(says), "{error}");
    }
    // A connection without a partition.
    socket.send("connect", json!({ "clientId": "ann", "version": "test", "partitions": [] })).await.unwrap();
    let connected = socket.expect("connected").await["payload"].clone();
    assert_eq!(connected["partitions"], json!([]));
    assert!(connected["serverId"].is_string() && connected["heartbeatInterval"].is_u64(), "{connected}");
    assert_eq!(connected.get("currentEventIndex"), None);
    socket.expect_alive().await;

    let set = |partition: Option<&str>| json!({ "type": "set", "partition": partition, "payload": { "target": "a", "value": 1 } });
    for (partition, reason, code) in
        [(None, "validation_failed", "SCHEMA_ERROR"), (Some("a"), "forbidden", "FORBIDDEN")]
    {
        socket.send("submit_event", json!({ "draftId": "d", "event": set(partition) })).await.unwrap();
        let rejected = socket.expect("event_rejected").await["payload"].clone();
        assert_eq!((&rejected["reason"], &rejected["errors"][0]["code"]), (&json!(reason), &json!(code)));
        assert_eq!(rejected["errors"][0]["field"], "event.partition");
    }
    for (kind, payload, code) in [
        ("sync", json!({ "sinceEventId": 0 }), "bad_request"),
        ("sync", json!({ "sinceEventId": 0, "partition": "a" }), "forbidden"),
        ("unsubscribe", json!({ "partition": "a" }), "bad_request"),
        ("unsubscribe", json!({}), "bad_request"),
        ("subscribe", json!({ "partition": 5 }), "bad_request"),
    ] {
        let id = socket.send(kind, payload).await.unwrap();
        let error = socket.expect_error(code).await;
        assert_eq!(error["replyTo"], id, "{error}");
    }
    socket.send("subscribe", json!({ "partition": "a" })).await.unwrap();
    socket.expect("subscribed").await;
    for _ in 0..8 {
        // As often as it likes: what is understood is no bad frame.
        socket.send("subscribe", json!({ "partition": "a" })).await.unwrap();
        socket.expect_error("bad_request").await;
    }
    socket.expect_alive().await;

    // A connection for one partition stays that.
    let mut one = cluster.frontends[0].connected("bob").await;
    for kind in ["subscribe", "unsubscribe"] {
        one.send(kind, json!({ "partition": "a" })).await.unwrap();
        let error = one.expect_error("forbidden").await;
        assert!(error["payload"]["message"].as_str().unwrap().contains("partitions"), "{error}");
    }
    one.expect_alive().await;
    // The published dialect has none of that.
    let mut v1 = Socket::open(&url).await.unwrap();
    let connect = json!({ "token": "t", "clientId": "cid", "projectId": "a" });
    v1.send_text(envelope("connect", "c", &connect)).await.unwrap();
    v1.expect("connected").await;
    v1.send_text(envelope("subscribe", "s", &json!({ "partition": "b" }))).await.unwrap();
    v1.expect_error("bad_request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_a_hundred_partitions_and_no_more() {
    let cluster = Cluster::start().await;
    let names: Vec<String> = (0..100).map(|n| format!("p-{n}")).collect();
    let mut ann = Many::connect(&cluster.frontends[0].url(), "ann", json!(names[..60])).await;
    for name in &names[60..] {
        ann.send("subscribe", json!({ "partition": name })).await;
    }
    for name in &names {
        ann.subscribed(name).await;
    }
    ann.send("subscribe", json!({ "partition": "one more" })).await;
    let error = ann.error("forbidden").await;
    assert!(error["payload"]["message"].as_str().unwrap().contains("at most 100"), "{error}");
    // Each of them lives.
    for name in &names {
        ann.submit(name, "d", json!(1)).await;
    }
    for name in &names {
        let accepted = ann.answer(name, "d").await;
        ann.seen(name, accepted["payload"]["eventId"].as_u64().unwrap()).await;
    }
    // Out of one, into another, but not for ever: each may start a feed.
    let mut rounds = 0;
    let error = loop {
        ann.send("unsubscribe", json!({ "partition": names[0] })).await;
        while ann.of[&names[0]].is_open {
            ann.step().await.unwrap();
        }
        ann.send("subscribe", json!({ "partition": names[0], "lastEventId": 0 })).await;
        ann.of.get_mut(&names[0]).unwrap().last = 0;
        let had = ann.errors.len();
        while !ann.of[&names[0]].is_open && ann.errors.len() == had {
            ann.step().await.unwrap();
        }
        if let Some(error) = ann.errors.get(had) {
            break error.clone();
        }
        rounds += 1;
        assert!(rounds < 10_000, "never refused");
    };
    assert!(rounds >= 99, "{rounds}");
    assert_eq!(error["payload"]["code"], "rate_limited", "{error}");
    assert!(error["payload"]["details"]["retryAfterMs"].is_u64(), "{error}");
    ann.commit(&names[1], "after", json!(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_leave_room_for_what_comes_and_goes() {
    // So little that a connection may hold 512 KiB.
    let cluster = Cluster::start().set("frontend.memory_bytes_max", 32 << 20).await;
    let url = cluster.frontends[0].url();
    let names: Vec<String> = (0..100).map(|n| format!("p-{n}")).collect();
    let mut ann = Many::connect(&url, "ann", json!(names)).await;
    let answered = |ann: &Many| ann.errors.len() + ann.of.values().filter(|seen| seen.is_open).count();
    while answered(&ann) < 100 {
        ann.step().await.unwrap();
    }
    let open: Vec<String> =
        ann.of.iter().filter(|(_, seen)| seen.is_open).map(|(name, _)| name.clone()).collect();
    assert!(open.len() >= 10 && !ann.errors.is_empty(), "{} are open", open.len());
    for error in &ann.errors {
        assert_eq!(error["payload"]["code"], "unavailable", "{error}");
        let partition = error["payload"]["details"]["partition"].as_str().unwrap();
        assert!(names.iter().any(|name| name == partition) && !open.iter().any(|name| name == partition));
    }
    // What is open is served, and one that is left makes room for another.
    for name in &open {
        ann.commit(name, "first", json!("x".repeat(100_000))).await;
    }
    ann.send("unsubscribe", json!({ "partition": open[0] })).await;
    while ann.of[&open[0]].is_open {
        ann.step().await.unwrap();
    }
    ann.subscribe("another", None).await;
    ann.commit("another", "first", json!(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_nobody_decides_holds_up_no_other() {
    let mut cluster = Cluster::start()
        .validators(2)
        .set("nats.slots", 16)
        .set("frontend.memory_bytes_max", 64 << 20)
        .set("frontend.pending_drafts_max", 100)
        .await;
    let names: Vec<String> = (0..32).map(|n| format!("p-{n}")).collect();
    let mut ann = Many::connect(&cluster.frontends[0].url(), "ann", json!(names)).await;
    for name in &names {
        ann.subscribed(name).await;
        ann.commit(name, "first", json!(1)).await;
    }
    // From now on one half is decided by nobody, for a while.
    cluster.validators[1].process.pause();
    for name in &names {
        ann.submit(name, "second", json!(2)).await;
    }
    let answered = |ann: &Many, name: &String| ann.answers.contains_key(&(name.clone(), "second".to_owned()));
    // Some are decided at once, as often as is asked for.
    let mut lives = None;
    while lives.is_none() {
        ann.step().await.unwrap();
        lives = names.iter().find(|name| answered(&ann, name)).cloned();
    }
    let lives = lives.unwrap();
    for n in 0..5 {
        ann.commit(&lives, &format!("more-{n}"), json!(n)).await;
    }
    let stands = names.iter().find(|name| !answered(&ann, name)).cloned();
    if let Some(stands) = &stands {
        // As much as it takes of drafts that are not decided: it is told so, and the other goes on.
        let large = "x".repeat(100_000);
        for n in 0..40 {
            ann.submit(stands, &format!("much-{n}"), json!(large)).await;
        }
        for n in 5..10 {
            ann.commit(&lives, &format!("more-{n}"), json!(n)).await;
        }
    }
    cluster.validators[1].process.resume();
    for name in &names {
        let answer = ann.answer(name, "second").await;
        assert_eq!(answer["type"], "event_accepted", "{answer}");
    }
    if let Some(stands) = &stands {
        for n in 0..40 {
            let answer = ann.answer(stands, &format!("much-{n}")).await;
            let reason = &answer["payload"]["reason"];
            assert!(answer["type"] == "event_accepted" || reason == "unavailable", "{answer}");
        }
    }
    for name in &names {
        let log = logged(&cluster, name);
        ann.seen(name, *log.last().unwrap()).await;
        assert_eq!(ann.ids(name), log[log.len() - ann.ids(name).len()..]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_partition_does_not_starve_the_others_of_its_connection() {
    let cluster = Cluster::start()
        .set("frontend.write_stall_ms_max", 60_000)
        .set("frontend.submission_deadline_ms", 120_000)
        .await;
    let url = cluster.frontends[0].url();
    let large = "x".repeat(100_000);
    let mut writer = cluster.client(0, "writer").partition("busy").await;
    for n in 0..300 {
        writer.submit("set", json!({ "target": format!("t{}", n % 10), "value": large })).await;
        writer.settle_to(4).await;
    }
    writer.settle().await;
    let mut bob = cluster.client(0, "bob").partition("quiet").await;
    let quiet = (0..8).map(|n| format!("q-{n}"));
    let names: Vec<String> = quiet.chain(["quiet".to_owned()]).collect();
    let mut ann = Many::connect(&url, "ann", json!(names)).await;
    for name in &names {
        ann.subscribed(name).await;
    }
    // 30 MB to be written, of which a client that reads slowly takes a part.
    ann.send("subscribe", json!({ "partition": "busy", "lastEventId": 0 })).await;
    let first = ann.socket.expect("subscribed").await;
    assert_eq!(first["payload"]["partition"], "busy");
    bob.commit("set", json!({ "target": "a", "value": 1 })).await;
    let (mut of_busy, mut of_quiet_after) = (0, None);
    while of_busy < 300 {
        let message = ann.socket.receive().await.unwrap();
        match message["payload"]["event"]["partition"].as_str() {
            Some("busy") => of_busy += 1,
            Some("quiet") => of_quiet_after = Some(of_busy),
            _ => {}
        }
    }
    let after = of_quiet_after.expect("the quiet partition's event came after all of the busy one's");
    assert!(after < 300, "{after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_log_does_not_fold_is_refused_and_the_others_are_served() {
    let mut cluster = Cluster::start().await;
    let mut bob = cluster.client(0, "bob").partition("broken").await;
    bob.commit("set", json!({ "target": "a", "value": 1 })).await;
    bob.drop_connection();
    let nats = async_nats::connect(cluster.nats.url()).await.unwrap();
    let stream = async_nats::jetstream::new(nats);
    stream.publish("committed.broken", "no event at all".into()).await.unwrap().await.unwrap();
    // One that has no state of it at hand.
    cluster.restart_frontend(0).await;
    let mut ann = Many::connect(&cluster.frontends[0].url(), "ann", json!(["broken", "whole"])).await;
    ann.subscribed("whole").await;
    ann.commit("whole", "d", json!(1)).await;
    while ann.errors.is_empty() {
        ann.step().await.unwrap();
    }
    let error = &ann.errors[0]["payload"];
    assert_eq!((&error["code"], &error["details"]["partition"]), (&json!("unavailable"), &json!("broken")));
    // With a cursor it can be read, and written to it cannot.
    ann.of.entry("broken".to_owned()).or_default().last = 0;
    ann.subscribe("broken", Some(0)).await;
    ann.submit("broken", "d", json!(1)).await;
    let refused = ann.answer("broken", "d").await;
    assert!(refused.to_string().contains("PARTITION_STOPPED"), "{refused}");
    ann.commit("whole", "e", json!(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_and_started_again_leaves_no_gap_in_any_partition_and_no_draft_unanswered() {
    let mut cluster = Cluster::start().validators(2).await;
    let names: Vec<String> = (0..12).map(|n| format!("p-{n}")).collect();
    let mut ann = Many::connect(&cluster.frontends[0].url(), "ann", json!(names)).await;
    for name in &names {
        ann.subscribed(name).await;
    }
    for round in 0..3 {
        for n in 0..10 {
            for name in &names {
                ann.submit(name, &format!("d-{round}-{n}"), json!(n)).await;
            }
        }
        if round < 2 {
            cluster.nats.restart().await;
        }
        for n in 0..10 {
            for name in &names {
                let answer = ann.answer(name, &format!("d-{round}-{n}")).await;
                assert_eq!(answer["type"], "event_accepted", "{answer}");
            }
        }
    }
    for name in &names {
        let log = logged(&cluster, name);
        ann.seen(name, *log.last().unwrap()).await;
        assert_eq!(ann.ids(name), log[log.len() - 30..], "{name}");
    }
    assert_eq!(ann.errors, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_goes_away_answers_the_drafts_of_all_partitions_first() {
    let mut cluster = Cluster::start().frontends(2).await;
    let names: Vec<String> = (0..10).map(|n| format!("p-{n}")).collect();
    let mut ann = Many::connect(&cluster.frontends[0].url(), "ann", json!(names)).await;
    for name in &names {
        ann.subscribed(name).await;
        ann.commit(name, "first", json!(0)).await;
    }
    for n in 0..20 {
        for name in &names {
            ann.submit(name, &format!("d-{n}"), json!(n)).await;
        }
    }
    cluster.frontends[0].process.signal(libc::SIGTERM);
    let mut bob = cluster.client(1, "bob").partition("p-3").await;
    bob.commit("set", json!({ "target": "bob", "value": 1 })).await;
    let gone = loop {
        if let Err(gone) = ann.step().await {
            break gone;
        }
    };
    assert_eq!(gone.code, Some(1001));
    assert_eq!(ann.errors.last().unwrap()["payload"]["code"], "unavailable");
    // Whatever was taken is answered. What was read too late was refused, and is sent again.
    let url = cluster.frontends[1].url();
    let again: Vec<(String, String)> = names
        .iter()
        .flat_map(|name| (0..20).map(move |n| (name.clone(), format!("d-{n}"))))
        .filter(|of| ann.answers.get(of).is_none_or(|answer| answer["type"] == "event_rejected"))
        .collect();
    for of in &again {
        if let Some(answer) = ann.answers.get(of) {
            assert_eq!(answer["payload"]["reason"], "unavailable", "{answer}");
        }
    }
    ann.come_back(&url, "ann").await;
    for (name, draft) in &again {
        ann.submit(name, draft, json!(1)).await;
    }
    for (name, draft) in &again {
        assert_eq!(ann.answer(name, draft).await["type"], "event_accepted");
    }
    for name in &names {
        let log = logged(&cluster, name);
        ann.seen(name, *log.last().unwrap()).await;
        assert_eq!(ann.ids(name), log[log.len() - ann.ids(name).len()..], "{name}");
        assert!(ann.ids(name).len() >= 21, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_partition_is_as_the_token_allows_and_operators_see_and_close_the_connection() {
    let backend = Backend::start().await;
    let ops = backend.operator();
    let url = backend.frontends[0].1.clone();
    let connect = |token: &str, partitions: Value| json!({ "clientId": "ann", "version": "test", "token": token, "partitions": partitions });
    let both = token("ann", json!({ "partition": ["a", "b"], "jti": "t-1" }));
    let mut socket = Socket::open(&url).await.unwrap();
    socket.send("connect", connect(&both, json!(["a", "c"]))).await.unwrap();
    let error = socket.expect_error("forbidden").await;
    assert!(error["payload"]["message"].as_str().unwrap().contains("\"c\""), "{error}");
    let mut ann = Many::connect_with(&url, connect(&both, json!(["a"]))).await;
    ann.subscribed("a").await;
    ann.send("subscribe", json!({ "partition": "c" })).await;
    ann.error("forbidden").await;
    ann.subscribe("b", None).await;
    ann.commit("b", "d", json!(1)).await;

    let all = ops.get("/connections").await.json();
    let shown = &all["connections"][0];
    assert_eq!((&shown["partition"], &shown["partitions"]), (&json!("a"), &json!(["a", "b"])), "{all}");
    let of_b = ops.get("/partitions/b/connections").await.json();
    assert_eq!(of_b["total"], 1, "{of_b}");
    // Who asks for a partition's connections is not told of others.
    let confined = token("eve", json!({ "permissions": ["admin"], "partition": "b" }));
    let confined = Operator::new(&backend.address, Some(&confined));
    let seen = confined.get("/partitions/b/connections").await.json();
    assert_eq!(seen["connections"][0]["partitions"], json!(["b"]), "{seen}");
    assert_eq!(ops.get("/partitions/c/connections").await.json()["total"], 0);

    // A fresh token that loses one right and keeps another.
    let less = token("ann", json!({ "partition": "b", "jti": "t-2" }));
    ann.send("refresh_token", json!({ "token": less })).await;
    while ann.of["a"].is_open {
        ann.step().await.unwrap();
    }
    let word = &ann.of["a"].unsubscribed["payload"];
    assert_eq!((&word["code"], &word["partition"]), (&json!("forbidden"), &json!("a")), "{word}");
    assert!(word["message"].is_string() && word["lastEventId"].is_u64(), "{word}");
    ann.commit("b", "e", json!(1)).await;
    ann.submit("a", "e", json!(1)).await;
    assert_eq!(ann.answer("a", "e").await["payload"]["reason"], "forbidden");
    until("the connection to be of one partition", async || {
        let all = ops.get("/connections").await.json();
        (all["connections"][0]["partitions"] == json!(["b"])).then_some(())
    })
    .await;

    // Closed by one of its partitions; and by its token.
    let closed = ops.post("/clients/ann/close", r#"{"partition":"a"}"#).await.json();
    assert_eq!(closed["closed"], 0, "{closed}");
    let closed = ops.post("/clients/ann/close", r#"{"partition":"b","reconnect":true}"#).await.json();
    assert_eq!(closed["closed"], 1, "{closed}");
    ann.error("unavailable").await;
    assert_eq!(ann.socket.expect_closed().await, 1001);
    let mut ann = Many::connect_with(&url, connect(&both, json!([]))).await;
    assert_eq!(ops.post("/tokens/t-1/revoke", "").await.json()["closed"], 1, "one without a partition too");
    ann.error("auth_failed").await;
    assert_eq!(ann.socket.expect_closed().await, 1008);
}
