//! The queue of drafts: it need not survive NATS, but what was taken off it must not come back.

use async_nats::jetstream;
use serde_json::json;

use crate::harness::backend::Backend;
use crate::harness::cluster::Cluster;

/// How often NATS is killed.
const KILLS: usize = 12;

/// Found by the torture, seed 306: NATS had confirmed a draft's removal, was killed before that was in a file, and
/// brought the draft back, to be accepted after its client had been told of its rejection.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_that_was_rejected_does_not_come_back_when_nats_is_killed() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    let mut bob = cluster.client(0, "bob").await;
    ann.commit("set", json!({ "target": "t", "value": { "items": {}, "tree": [] } })).await;
    let mut rejected = Vec::new();
    for round in 0..KILLS {
        let node = format!("n{round}");
        // Drafts before and behind it, so that the queue is a file with something in it.
        for n in 0..20 {
            bob.submit("set", json!({ "target": format!("k{n}"), "value": round })).await;
        }
        let early = ann.submit("treeDelete", json!({ "target": "t", "options": { "id": node } })).await;
        bob.settle().await;
        ann.expect_rejected(&early, "validation_failed").await;
        // Now it would be accepted.
        bob.commit("treePush", json!({ "target": "t", "value": { "id": node } })).await;
        rejected.push(early);
        cluster.nats.servers[0].kill9();
        cluster.nats.servers[0].restart().await;
        // Behind whatever came back.
        bob.reconnect().await;
        bob.commit("set", json!({ "target": "after", "value": round })).await;
        ann.reconnect().await;
        ann.commit("set", json!({ "target": "ann", "value": round })).await;
    }
    let log = cluster.log("default");
    for event in &log {
        let draft = event["draftId"].as_str().unwrap();
        let of_ann = event["clientId"] == "ann";
        assert!(!(of_ann && rejected.iter().any(|one| one == draft)), "{draft} was rejected, and is {event}");
    }
    assert_eq!(log.iter().filter(|event| event["type"] == "treePush").count(), KILLS);
}

/// Found by `.ci/run`: NATS was back, the queue was not yet, and the operator was told of a defect.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_the_slots_also_where_the_queue_is_gone() {
    let mut backend = Backend::start().await;
    for validator in &mut backend.validators {
        validator.kill9();
    }
    let client = async_nats::connect(backend.nats.url()).await.unwrap();
    jetstream::new(client).delete_stream("DRAFTS").await.unwrap();
    let slots = backend.operator().get("/slots").await.json();
    assert!(slots["slots"].as_array().unwrap().iter().all(|slot| slot["pendingDrafts"] == 0), "{slots}");
}
