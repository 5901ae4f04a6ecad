//! A server of NATS that was cut off or paused, and still believes to lead the log. It answers from memory, and lacks
//! what was committed since.

use serde_json::json;

use crate::harness::client::Answer;
use crate::harness::cluster::Cluster;
use crate::harness::until;

const STOPPED: &str = "insieme_partitions_stopped_total";

/// A validator loads a partition whose snapshot is newer than what it is told at the leader. Whether it goes on with the
/// partition.
async fn goes_on(faults: &str) -> bool {
    let mut cluster = Cluster::start().set("validator.snapshot_events_min", 5).await;
    let mut ann = cluster.client(0, "ann").await;
    for n in 0..10 {
        ann.commit("set", json!({ "target": "a", "value": n })).await;
    }
    let js = async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap());
    let store = js.get_object_store("SNAPSHOTS").await.unwrap();
    until("a snapshot", async || store.info("state.default").await.ok().map(drop)).await;
    cluster.validators[0].process.kill9();

    let validator = cluster.add_validator(faults).await;
    let draft = ann.submit("set", json!({ "target": "a", "value": "after" })).await;
    let accepted = match ann.answer(&draft).await {
        Answer::Accepted { .. } => true,
        Answer::Rejected { reason, errors } => {
            assert_eq!(reason, "unavailable", "{errors:?}");
            false
        }
    };
    let stopped = cluster.validators[validator].counter(STOPPED).await;
    assert_eq!(stopped == 0.0, accepted, "stopped {stopped} times");
    assert_eq!(cluster.log("default").len(), 10 + usize::from(accepted));
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_not_called_broken_because_an_old_leader_lacks_its_events() {
    assert!(goes_on("old_leader").await);
    assert!(!goes_on("old_leader,believe_old_leader").await, "an old leader does no harm: the story is none");
}
