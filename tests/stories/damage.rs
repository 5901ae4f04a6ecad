//! What does not belong there: messages on the queue that are no drafts, and snapshots that are damaged. Each
//! is reported, and everything goes on.

use bytes::Bytes;
use insieme_backend::event::PartitionKey;
use insieme_backend::log::{Log, LogSettings, SnapshotPart};
use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::until;

async fn log_of(cluster: &Cluster) -> Log {
    let settings = LogSettings { urls: vec![cluster.nats.url()], ..LogSettings::default() };
    Log::connect(&settings, "test").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_draft_is_taken_off_the_queue_and_blocks_nobody() {
    let cluster = Cluster::start().await;
    let log = log_of(&cluster).await;
    let key = PartitionKey::new("default").unwrap();
    let token = key.token();
    let elsewhere = json!({
        "partition": "elsewhere", "submitter": { "clientId": "x", "permissions": ["*"] },
        "replyTo": { "frontend": "nobody", "connection": 1, "submission": 1, "attempt": 1 },
        "unit": "each", "drafts": [],
    });
    let garbage = ["", "not json", "{}", "[1]", "\u{0}", &elsewhere.to_string()];
    for text in garbage {
        log.publish_draft(&key, &token, Bytes::from(text.to_owned())).await.unwrap();
    }
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    assert_eq!(cluster.validators[0].counter("insieme_drafts_poisoned_total").await, garbage.len() as f64);
    assert_eq!(cluster.log("default").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_passed_over_for_the_log() {
    let mut cluster = Cluster::start().set("validator.snapshot_events_min", 20).await;
    let mut ann = cluster.client(0, "ann").await;
    let first = ann.commit("set", json!({ "target": "k0", "value": 0 })).await;
    for n in 1..60 {
        ann.commit("set", json!({ "target": format!("k{n}"), "value": n })).await;
    }
    let log = log_of(&cluster).await;
    let token = PartitionKey::new("default").unwrap().token();
    let info = until("a snapshot", async || {
        let both = (
            log.snapshot_info(&token, SnapshotPart::State).await.unwrap(),
            log.snapshot_info(&token, SnapshotPart::Index).await.unwrap(),
        );
        if let (Some(state), Some(_)) = both { Some(state) } else { None }
    })
    .await;
    let before = cluster.state_hash("default");

    for part in [SnapshotPart::State, SnapshotPart::Index] {
        let mut bytes = log.read_snapshot(&token, part).await.unwrap().unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        log.write_snapshot(&token, part, info, bytes).await.unwrap();
    }
    cluster.restart_validator(0).await;
    cluster.restart_frontend(0).await;

    // The state, for those who come new, and the index, for those who ask again, are what they were.
    assert_eq!(cluster.state_hash("default"), before);
    ann.reconnect().await;
    let again = json!({ "type": "set", "payload": { "target": "k0", "value": 0 } });
    ann.submit_again("draft-1", again).await;
    assert_eq!(ann.expect_accepted("draft-1").await, first);
    ann.commit("set", json!({ "target": "more", "value": 1 })).await;
    assert_eq!(cluster.log("default").len(), 61);
}
