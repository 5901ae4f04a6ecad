//! NATS, a frontend, everything in turn dies while clients write: nothing is lost, doubled or left without
//! an answer.

use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::until;
use crate::harness::verdict::nothing_lost_nothing_doubled;

const DRAFTS: u64 = 600;

/// Four clients that write to two partitions, over all frontends.
async fn writers(cluster: &Cluster) -> Vec<JoinHandle<Client>> {
    let mut writers = Vec::new();
    for index in 0..4 {
        let frontend = index % cluster.frontends.len();
        let partition = format!("p-{}", index / 2);
        let mut client =
            cluster.client(frontend, &format!("w-{index}")).partition(&partition).steadfast().await;
        writers.push(tokio::spawn(async move {
            for n in 0..DRAFTS {
                client.submit("set", json!({ "target": client.id, "value": n })).await;
                client.settle_to(8).await;
            }
            client.settle().await;
            client
        }));
    }
    writers
}

/// Waits until there are more events than before, so that what happens next happens among the work.
async fn some_progress(cluster: &Cluster, before: &mut usize) {
    *before = until("the writers to get on", async || {
        let count = cluster.log("p-0").len();
        (count > *before || count as u64 >= 2 * DRAFTS).then_some(count)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_killed_under_load_and_started_again_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start().validators(2).frontends(2).await;
    let writers = writers(&cluster).await;
    let mut progress = 0;
    for _ in 0..2 {
        some_progress(&cluster, &mut progress).await;
        cluster.nats.restart().await;
    }
    nothing_lost_nothing_doubled(&cluster, writers, DRAFTS).await;
    // The processes have lived through it.
    assert!(cluster.validators.iter_mut().all(|validator| validator.process.is_running()));
    assert!(cluster.frontends.iter_mut().all(|frontend| frontend.process.is_running()));
}

#[tokio::test(flavor = "multi_thread")]
async fn frontends_killed_under_load_lose_and_double_nothing() {
    let mut cluster = Cluster::start().frontends(2).await;
    let writers = writers(&cluster).await;
    let mut progress = 0;
    for round in 0..4 {
        some_progress(&cluster, &mut progress).await;
        cluster.restart_frontend(round % 2).await;
    }
    nothing_lost_nothing_doubled(&cluster, writers, DRAFTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_restarted_in_turn_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start().validators(2).frontends(2).await;
    let writers = writers(&cluster).await;
    let mut progress = 0;
    for index in 0..2 {
        some_progress(&cluster, &mut progress).await;
        cluster.restart_validator(index).await;
        some_progress(&cluster, &mut progress).await;
        cluster.restart_frontend(index).await;
    }
    some_progress(&cluster, &mut progress).await;
    cluster.restart_everything().await;
    nothing_lost_nothing_doubled(&cluster, writers, DRAFTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nats_is_away_a_draft_is_unavailable_and_can_be_sent_again() {
    let mut cluster =
        Cluster::start().set("frontend.submission_deadline_ms", 500).set("frontend.feed_wait_ms", 500).await;
    // The deadline is short enough for the takeover after the outage to pass it: then she asks again.
    let mut ann = cluster.client(0, "ann").steadfast().await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    cluster.nats.kill9();

    ann.send(
        "submit_event",
        json!({ "draftId": "b", "event": { "type": "set", "payload": { "target": "b", "value": 2 } } }),
    )
    .await;
    let answer = loop {
        let message = ann.socket().receive().await.unwrap();
        if message["type"] != "broadcast" {
            break message;
        }
    };
    // Either it is known not to be stored, or nobody can say.
    let code =
        if answer["type"] == "error" { &answer["payload"]["code"] } else { &answer["payload"]["reason"] };
    assert_eq!(code, "unavailable", "{answer}");

    cluster.nats.restart().await;
    ann.reconnect().await;
    ann.submit_again("b", json!({ "type": "set", "payload": { "target": "b", "value": 2 } })).await;
    ann.expect_accepted("b").await;
    assert_eq!(cluster.log("default").len(), 2);
}
