//! Clients of the design document ask `sync` once, know no `hasMore`, and apply what comes. They miss nothing, and what
//! was asked for as events comes as events.

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::nats::NatsServer;
use crate::harness::nats_cluster::NatsCluster;
use crate::harness::proxy::{Link, Proxy};
use crate::harness::socket::Socket;
use crate::harness::until;
use crate::harness::v1::{V1Client, envelope};

/// Commits so many events and gives their ids, in order.
async fn fill(cluster: &Cluster, count: usize) -> Vec<u64> {
    let mut writer = V1Client::connect(&cluster.frontends[0].url(), "writer", "default").await;
    let mut ids = Vec::new();
    while ids.len() < count {
        let event = |n: usize| writer.event(&format!("e{n}"), "note", json!({ "n": n }));
        let events = (ids.len()..count.min(ids.len() + 1_000)).map(event).collect();
        ids.extend(writer.results(events).await.iter().map(|item| item.committed_id().unwrap()));
    }
    ids
}

fn ids_of(page: &Value) -> Vec<u64> {
    let events = page["payload"]["events"].as_array().unwrap();
    events.iter().map(|event| event["eventId"].as_u64().unwrap()).collect()
}

async fn broadcasts(socket: &mut Socket, count: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.push(socket.expect("broadcast").await["payload"]["eventId"].as_u64().unwrap());
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_once_and_does_not_page_misses_nothing() {
    let cluster = Cluster::start().frontends(2).await;
    let (mut offline, _) = Socket::greeted(&cluster.frontends[1].url(), "offline").await;
    offline.close().await;
    let ids = fill(&cluster, 600).await;
    // It comes back without a cursor, as the document's client does, and asks for what it missed.
    let (mut socket, _) = Socket::greeted(&cluster.frontends[1].url(), "offline").await;
    socket.send("sync", json!({ "sinceEventId": 0 })).await.unwrap();
    let page = socket.expect("sync_response").await;
    assert_eq!(ids_of(&page), ids[..500]);
    let payload = &page["payload"];
    assert_eq!((&payload["hasMore"], &payload["currentEventIndex"]), (&json!(true), &json!(ids[599])));
    assert!(payload.get("snapshot").is_none());
    // It knows no `hasMore`, and waits.
    assert_eq!(broadcasts(&mut socket, 100).await, ids[500..]);
    let (mut other, _) = Socket::greeted(&cluster.frontends[0].url(), "other").await;
    for n in 0..3 {
        let event = json!({ "type": "set", "payload": { "target": format!("k{n}"), "value": n } });
        other.send("submit_event", json!({ "draftId": format!("d{n}"), "event": event })).await.unwrap();
    }
    let live = broadcasts(&mut socket, 3).await;
    assert!(live[0] > ids[599], "{live:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_message_ends_a_cycle_and_the_rest_comes_as_broadcasts() {
    let cluster = Cluster::start().await;
    let ids = fill(&cluster, 30).await;
    let (mut socket, _) = Socket::greeted(&cluster.frontends[0].url(), "ann").await;
    socket.send("sync", json!({ "sinceEventId": 0, "limit": 10 })).await.unwrap();
    assert_eq!(ids_of(&socket.expect("sync_response").await), ids[..10]);
    // Its next page belongs to the cycle, whose end is where it was.
    let late = fill_more(&cluster).await;
    socket.send("sync", json!({ "sinceEventId": ids[9], "limit": 10 })).await.unwrap();
    let page = socket.expect("sync_response").await;
    assert_eq!(
        (ids_of(&page), &page["payload"]["currentEventIndex"]),
        (ids[10..20].to_vec(), &json!(ids[29]))
    );
    let id = socket.send("heartbeat", json!({})).await.unwrap();
    assert_eq!(socket.expect("heartbeat").await["replyTo"], id);
    assert_eq!(broadcasts(&mut socket, 11).await, [&ids[20..], &[late]].concat());
    // A client that pages to the end is sent nothing twice.
    let (mut pager, _) = Socket::greeted(&cluster.frontends[0].url(), "bob").await;
    let (mut seen, mut since) = (Vec::new(), 0);
    loop {
        pager.send("sync", json!({ "sinceEventId": since, "limit": 7 })).await.unwrap();
        let page = pager.expect("sync_response").await;
        seen.extend(ids_of(&page));
        since = *seen.last().unwrap();
        if page["payload"]["hasMore"] == false {
            break;
        }
    }
    assert_eq!(seen, [&ids[..], &[late]].concat());
    pager.expect_alive().await;
}

/// Commits one event more.
async fn fill_more(cluster: &Cluster) -> u64 {
    let mut writer = V1Client::connect(&cluster.frontends[0].url(), "late", "default").await;
    let event = writer.event("late", "note", json!({}));
    writer.commit(event).await
}

/// How many of 601 events a client is shown that asks once for them, and does not page.
async fn shown_after_one_page(fault: &str) -> usize {
    let mut cluster = Cluster::start().await;
    fill(&cluster, 600).await;
    let url = cluster.nats.url();
    let frontend = cluster.add_frontend_by(&url, fault).await;
    let (mut socket, _) = Socket::greeted(&cluster.frontends[frontend].url(), "ann").await;
    socket.send("sync", json!({ "sinceEventId": 0 })).await.unwrap();
    let mut shown = ids_of(&socket.expect("sync_response").await);
    let last = fill_more(&cluster).await;
    while shown.last() != Some(&last) {
        shown.extend(broadcasts(&mut socket, 1).await);
    }
    shown.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_forgets_what_did_not_fit_on_the_page_is_seen_to() {
    assert_eq!(shown_after_one_page("").await, 601);
    assert_eq!(shown_after_one_page("skip_unpaged").await, 501);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_for_as_events_comes_as_events_and_the_state_beside_them_where_it_is_asked_for() {
    // Snapshots are made early, so that one could take the place of the events.
    let cluster = Cluster::start().set("validator.snapshot_events_min", 100).await;
    let ids = fill(&cluster, 1_501).await;
    let (mut socket, _) = Socket::greeted(&cluster.frontends[0].url(), "ann").await;
    socket.send("sync", json!({ "sinceEventId": 0, "limit": 1_000.0 })).await.unwrap();
    let page = socket.expect("sync_response").await;
    assert_eq!(ids_of(&page), ids[..1_000]);
    assert!(page["payload"].get("snapshot").is_none());
    socket.send("sync", json!({ "sinceEventId": ids[999], "limit": 1_000 })).await.unwrap();
    let page = socket.expect("sync_response").await;
    assert_eq!((ids_of(&page), &page["payload"]["hasMore"]), (ids[1_000..].to_vec(), &json!(false)));

    socket.send("sync", json!({ "sinceEventId": ids[1_490], "snapshot": true })).await.unwrap();
    let page = socket.expect("sync_response").await;
    assert_eq!(ids_of(&page), ids[1_491..]);
    assert_eq!(page["payload"]["snapshot"], json!({ "state": {}, "eventIndex": ids[1_500] }));
    for ask in [json!({}), json!({ "sinceEventId": null }), json!({ "snapshot": true })] {
        socket.send("sync", ask).await.unwrap();
        let page = socket.expect("sync_response").await;
        assert_eq!(page["payload"]["snapshot"]["eventIndex"], ids[1_500]);
        assert_eq!((ids_of(&page), &page["payload"]["hasMore"]), (vec![], &json!(false)));
    }
    socket.expect_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_lags_does_not_say_that_events_are_lost() {
    let mut cluster = Cluster::start().await;
    let ids = fill(&cluster, 3).await;
    let proxy = Proxy::start(cluster.nats.servers[0].port()).await;
    let lags = cluster.add_frontend_by(&proxy.url(), "").await;
    let url = cluster.frontends[lags].url();
    let mut ann = Socket::open(&url).await.unwrap();
    let connect = |last: &Value| json!({ "clientId": "ann", "version": "1", "lastEventId": last });
    ann.send("connect", connect(&json!(ids[2]))).await.unwrap();
    ann.expect("connected").await;
    let mut vera = Socket::open(&url).await.unwrap();
    let payload = json!({ "token": "t", "clientId": "vera", "projectId": "default" });
    vera.send_text(envelope("connect", "c", &payload)).await.unwrap();
    vera.expect("connected").await;

    // It hears nothing any more, and the clients come from where they were told of one event more.
    proxy.set(Link::Deaf);
    let event = cluster.client(0, "bob").await.commit("set", json!({ "target": "a", "value": 1 })).await;
    let seen = &event["eventId"];
    ann.send("sync", json!({ "sinceEventId": seen })).await.unwrap();
    ann.expect_error("unavailable").await;
    let payload = json!({ "projectId": "default", "sinceCommittedId": seen, "limit": 500 });
    vera.send_text(envelope("sync", "s", &payload)).await.unwrap();
    let error = vera.expect("error").await;
    assert_ne!(error["payload"]["code"], "auth_failed", "{error}");

    proxy.set(Link::Whole);
    until("the frontend to have caught up", async || {
        let mut ann = Socket::open(&url).await.ok()?;
        ann.send("connect", connect(seen)).await.ok()?;
        (ann.receive().await.ok()?["type"] == "connected").then_some(())
    })
    .await;
}

/// Found by the long torture, seed 88941238: the state of `connected` is read from the log, and was ahead of what the
/// frontend had heard of. A page that ended before it had its last events sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_does_not_end_before_the_state_that_the_client_was_given() {
    let server = NatsServer::start_with(|port| {
        format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: test\n\
             jetstream {{ store_dir: $STORE }}\n\
             no_auth_user: all\n\
             authorization {{ users: [\n\
               {{ user: all, password: all }}\n\
               {{ user: deaf, password: deaf, permissions {{ subscribe: {{ deny: \"live.>\" }} }} }}\n\
             ] }}\n"
        )
    })
    .await;
    // It hears of what is committed only when it has reason to look.
    let plan = Cluster::start().set("frontend.gap_check_ms", 600_000);
    let mut cluster = plan.start_on(NatsCluster::of(server)).await;
    cluster.set("nats.user", "deaf");
    cluster.set("nats.password", "deaf");
    let deaf = cluster.add_frontend().await;
    let url = cluster.frontends[deaf].url();
    let first = fill(&cluster, 1).await[0];
    let mut bob = cluster.client(0, "bob").await;
    let set = |n: u64| json!({ "target": "a", "value": n });
    // Somebody keeps the feed where it is.
    let mut keeper = Socket::open(&url).await.unwrap();
    keeper
        .send("connect", json!({ "clientId": "keeper", "version": "1", "lastEventId": first }))
        .await
        .unwrap();
    keeper.expect("connected").await;
    let second = bob.commit("set", set(2)).await["eventId"].as_u64().unwrap();

    let (mut ann, connected) = Socket::greeted(&url, "ann").await;
    assert_eq!(connected["payload"]["currentEventIndex"], second, "the state is of the log's end");
    ann.send("sync", json!({ "sinceEventId": 0 })).await.unwrap();
    let page = ann.expect("sync_response").await;
    assert_eq!(page["payload"]["currentEventIndex"], second, "{page}");
    assert_eq!(ids_of(&page), [first, second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_seen_events_that_the_log_does_not_have_is_told_so() {
    let cluster = Cluster::start().await;
    let ids = fill(&cluster, 3).await;
    let beyond = ids[2] + 40;
    let url = cluster.frontends[0].url();
    let mut socket = Socket::open(&url).await.unwrap();
    let connect = |last| json!({ "clientId": "ann", "version": "1", "lastEventId": last });
    // It stays, and may ask for less.
    socket.send("connect", connect(beyond)).await.unwrap();
    socket.expect_error("cursor_beyond_log").await;
    socket.send("connect", connect(ids[2])).await.unwrap();
    socket.expect("connected").await;
    let id = socket.send("sync", json!({ "sinceEventId": beyond })).await.unwrap();
    assert_eq!(socket.expect_error("cursor_beyond_log").await["replyTo"], id);
    socket.send("sync", json!({ "sinceEventId": ids[2] })).await.unwrap();
    assert!(ids_of(&socket.expect("sync_response").await).is_empty());

    // A v1 client would take an empty page for nothing new. It is stopped for good, and slowed down if it is not.
    let connect = json!({ "token": "t", "clientId": "vera", "projectId": "default" });
    let sync = json!({ "projectId": "default", "sinceCommittedId": beyond, "limit": 500 });
    let mut codes = Vec::new();
    for _ in 0..20 {
        let mut socket = Socket::open(&url).await.unwrap();
        socket.send_text(crate::harness::v1::envelope("connect", "c", &connect)).await.unwrap();
        let answer = socket.receive().await.unwrap();
        if answer["type"] == "connected" {
            socket.send_text(crate::harness::v1::envelope("sync", "s", &sync)).await.unwrap();
            let error = socket.expect("error").await;
            assert!(
                error["payload"]["message"].as_str().unwrap().starts_with("cursor_beyond_log"),
                "{error}"
            );
            codes.push(error["payload"]["code"].clone());
        } else {
            codes.push(answer["payload"]["code"].clone());
            assert!(answer["payload"]["details"]["retryAfterMs"].as_u64().unwrap() > 0, "{answer}");
        }
        assert_eq!(socket.expect_closed().await, 1008);
    }
    assert_eq!((&codes[0], &codes[19]), (&json!("auth_failed"), &json!("rate_limited")), "{codes:?}");
    assert!(
        cluster.frontends[0].metric("insieme_clients_beyond_log_total", "").await >= 6.0,
        "two classic and some of v1"
    );
    // Others of that frontend are let in.
    V1Client::connect(&url, "wilma", "default").await.sync(500).await;
}
