//! A client that was away gets what it missed, once and in order, whatever goes on meanwhile.

use serde_json::json;

use crate::harness::cluster::Cluster;

const MISSED: usize = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_missed_five_thousand_events_gets_each_once_and_in_order_while_others_write() {
    let cluster = Cluster::start().frontends(2).await;
    let mut sleeper = cluster.client(1, "sleeper").await;
    let mut asker = cluster.client(0, "asker").await;
    sleeper.commit("set", json!({ "target": "n", "value": 0 })).await;
    let slept_at =
        asker.commit("set", json!({ "target": "n", "value": 1 })).await["eventId"].as_u64().unwrap();
    sleeper.caught_up(slept_at).await;
    sleeper.drop_connection();

    // Five thousand events pass.
    let mut writer = cluster.client(0, "writer").await;
    for n in 0..MISSED {
        writer.submit("set", json!({ "target": format!("k{}", n % 100), "value": n })).await;
        writer.settle_to(256).await;
    }
    writer.settle().await;

    // And more while it catches up.
    let writing = tokio::spawn(async move {
        for n in 0..1_000 {
            writer.submit("set", json!({ "target": "later", "value": n })).await;
            writer.settle_to(4).await;
        }
        writer.settle().await;
        writer
    });
    sleeper.reconnect().await;
    let mut writer = writing.await.unwrap();
    let head = cluster.state_hash("default").0;
    sleeper.caught_up(head).await;
    writer.caught_up(head).await;
    asker.caught_up(head).await;

    let log: Vec<u64> =
        cluster.log("default").iter().map(|event| event["eventId"].as_u64().unwrap()).collect();
    assert_eq!(log.len(), 2 + MISSED + 1_000);
    assert_eq!(sleeper.event_ids(), log);
    assert_eq!(asker.event_ids(), log);
    assert_eq!(sleeper.replica.hash(), cluster.state_hash("default").1);

    // And asking for it with `sync` gives the same, page by page.
    let mut since = slept_at;
    let mut pages = Vec::new();
    loop {
        let page = asker.sync(json!({ "sinceEventId": since, "limit": 1_000 })).await;
        let ids: Vec<u64> = page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["eventId"].as_u64().unwrap())
            .collect();
        if let Some(snapshot) = page.get("snapshot") {
            // Replaying may cost more than the snapshot; then the events follow it.
            since = snapshot["eventIndex"].as_u64().unwrap();
            assert!(pages.is_empty() && since > slept_at);
        }
        assert!(ids.iter().all(|id| *id > since), "{ids:?} behind {since}");
        pages.extend_from_slice(&ids);
        if page["hasMore"] == false {
            break;
        }
        since = *ids.last().expect("an empty page with more behind it");
    }
    assert_eq!(pages, log[log.len() - pages.len()..]);
}

/// A client reads `events` events of so many bytes, ten at a time. How many pages of the log were read for that.
async fn pages_read(cluster: &Cluster, events: usize, bytes: usize) -> usize {
    let mut ann = cluster.client(0, "ann").await;
    let text = "x".repeat(bytes);
    for n in 0..events {
        ann.submit("set", json!({ "target": format!("k{}", n % 10), "value": { "n": n, "text": text } }))
            .await;
        ann.settle_to(64).await;
    }
    ann.settle().await;
    let log: Vec<u64> =
        cluster.log("default").iter().map(|event| event["eventId"].as_u64().unwrap()).collect();
    let read = async || cluster.frontends[0].metric("insieme_pages_read_total", "").await as usize;
    let before = read().await;
    let (mut since, mut ids) = (0, Vec::new());
    loop {
        let page = ann.sync(json!({ "sinceEventId": since, "limit": ASKED_FOR })).await;
        assert!(page.get("snapshot").is_none(), "{page}");
        ids.extend(page["events"].as_array().unwrap().iter().map(|event| event["eventId"].as_u64().unwrap()));
        if page["hasMore"] == false {
            break;
        }
        since = *ids.last().unwrap();
    }
    assert_eq!(ids, log);
    read().await - before
}

const ASKED_FOR: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_log_are_read_once_however_little_of_them_is_asked_for_at_a_time() {
    const EVENTS: usize = 640;
    const PAGE: usize = 64;
    let cluster =
        Cluster::start().set("frontend.ring_events_max", 4).set("frontend.page_events_max", PAGE).await;
    let read = pages_read(&cluster, EVENTS, 10).await;
    // The last one is read anew each time: there may be more by then.
    assert!(read <= EVENTS / PAGE + PAGE / ASKED_FOR + 2, "{read} pages were read");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_full_by_their_bytes_are_read_once_too() {
    const EVENTS: usize = 300;
    const PAGE_BYTES: usize = 64 << 10;
    const EVENT_BYTES: usize = 2000;
    let cluster = Cluster::start()
        .set("frontend.ring_events_max", 4)
        .set("frontend.page_bytes_max", PAGE_BYTES)
        // Each is more bytes than the state: read by events all the same.
        .set("validator.snapshot_events_min", 1_000_000)
        .await;
    let read = pages_read(&cluster, EVENTS, EVENT_BYTES).await;
    let page = PAGE_BYTES / EVENT_BYTES;
    assert!(read <= EVENTS / (page * 3 / 4) + page / ASKED_FOR + 2, "{read} pages were read");
}
