//! A client that does not wait for one batch to be answered before it sends the next.

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::v1::{V1Client, envelope};

async fn v1(cluster: &Cluster, id: &str) -> V1Client {
    V1Client::connect(&cluster.frontends[0].url(), id, "default").await
}

fn note(client: &V1Client, n: usize) -> Value {
    client.event(&format!("{}-{n}", client.id), "note", json!({ "n": n }))
}

fn submit(msg_id: &str, events: &[Value]) -> String {
    envelope("submit_events", msg_id, &json!({ "events": events }))
}

/// Everything is sent while nothing can be decided; so every answer has had the chance to overtake another.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_sent_behind_a_batch_overtakes_its_answer() {
    let mut cluster = Cluster::start().set("frontend.pending_drafts_max", 8).await;
    let mut vera = v1(&cluster, "vera").await;
    let first = vera.commit(note(&vera, 0)).await;
    let events: Vec<Value> = (1..=20).map(|n| note(&vera, n)).collect();
    let mut bad = events[4].clone();
    bad["type"] = "set".into();
    let mut other_content = events[0].clone();
    other_content["payload"] = json!({ "n": "other" });
    let too_many: Vec<Value> = (30..39).map(|n| note(&vera, n)).collect();
    let sync = json!({ "projectId": "default", "sinceCommittedId": first });

    cluster.validators[0].process.pause();
    let frames = [
        submit("a", &events[0..3]),
        // By the validator: one is bad, and what stands behind it is not processed, but the next batch is.
        submit("b", &[events[3].clone(), bad.clone(), events[5].clone()]),
        // Not processed in the batch before, and processed in this one.
        submit("c", &[events[5].clone(), events[0].clone()]),
        envelope("sync", "d", &sync),
        "{}".to_owned(),
        submit("e", &too_many),
        submit("f", &[other_content]),
        submit("g", &events[6..14]),
        submit("h", &events[14..20]),
    ];
    let socket = vera.socket();
    for frame in &frames {
        socket.send_text(frame.clone()).await.unwrap();
    }
    cluster.validators[0].process.resume();

    let mut ids: Vec<Vec<Value>> = Vec::new();
    for (msg_id, expected) in [
        ("a", &["committed"; 3][..]),
        ("b", &["committed", "rejected", "not_processed"]),
        ("c", &["committed"; 2]),
        ("d", &[]),
        ("", &[]),
        // As many as may be, and the one that is too many.
        ("e", &[&["committed"; 8][..], &["rejected"]].concat()),
        ("f", &["rejected"]),
        ("g", &["committed"; 8]),
        ("h", &["committed"; 6]),
    ] {
        let answer = socket.receive().await.unwrap();
        assert_eq!(answer["msgId"].as_str().unwrap_or_default(), msg_id, "{answer}");
        match msg_id {
            "d" => {
                let page: Vec<Value> = answer["payload"]["events"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|event| event["committedId"].clone())
                    .collect();
                let told = [&ids[0][..], &ids[1][..1], &ids[2][..1]].concat();
                assert_eq!(page, told, "a page holds all that was answered before it");
                continue;
            }
            "" => {
                assert_eq!(answer["payload"]["code"], "bad_request", "{answer}");
                continue;
            }
            _ => {}
        }
        let results = answer["payload"]["results"].as_array().unwrap();
        let statuses: Vec<&str> = results.iter().map(|item| item["status"].as_str().unwrap()).collect();
        assert_eq!(statuses, expected, "{answer}");
        ids.push(results.iter().map(|item| item["committedId"].clone()).collect());
    }
    assert_eq!(ids[2][1], ids[0][0], "what is committed already is answered as it was");
    let log: Vec<Value> = cluster.log("default").iter().map(|record| record["eventId"].clone()).collect();
    let of_e = &ids[3][..8];
    let told =
        [&[first.into()], &ids[0][..], &ids[1][..1], &ids[2][..1], of_e, &ids[5][..], &ids[6][..]].concat();
    assert_eq!(log, told, "in the order sent");
    // None of its own events came as a broadcast, or comes before this answer.
    socket.send_text(envelope("sync", "z", &sync)).await.unwrap();
    assert_eq!(socket.expect("sync_response").await["msgId"], "z");
}

/// The checks of the client hold throughout: answers in order, every foreign event once and in order, no own one.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_wait_are_answered_in_order_and_hear_of_each_other() {
    const BATCHES: usize = 120;
    const ITEMS: usize = 5;
    let mut cluster = Cluster::start().set("frontend.pending_drafts_max", 60).await;
    let (mut vera, mut mona) = (v1(&cluster, "vera").await, v1(&cluster, "mona").await);
    for batch in 0..BATCHES {
        if batch == BATCHES / 2 {
            cluster.restart_validator(0).await;
        }
        for client in [&mut vera, &mut mona] {
            let events = (0..ITEMS).map(|item| note(client, batch * ITEMS + item)).collect();
            client.submit(events).await;
            client.drain().await;
        }
    }
    vera.settle().await;
    mona.settle().await;
    let log = cluster.log("default");
    assert_eq!(log.len(), 2 * BATCHES * ITEMS);
    for client in [&mut vera, &mut mona] {
        let own: Vec<u64> = client.batches.iter().flatten().filter_map(|item| item.committed_id()).collect();
        assert_eq!(own.len(), BATCHES * ITEMS);
        assert!(own.is_sorted(), "decided in the order sent");
        assert_eq!(client.connections.len(), 1, "nobody was sent away");
        let foreign: Vec<u64> = log
            .iter()
            .map(|record| record["eventId"].as_u64().unwrap())
            .filter(|id| !own.contains(id))
            .collect();
        client.told_of(*foreign.last().unwrap()).await;
        assert_eq!(client.connections[0].broadcasts, foreign);
    }
}
