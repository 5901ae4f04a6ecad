//! A server of NATS that was cut off or paused, and still believes to lead the log. It answers from memory, and lacks
//! what was committed since.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use serde_json::{Value, json};

use crate::harness::client::Answer;
use crate::harness::cluster::Cluster;
use crate::harness::nats_cluster::NatsCluster;
use crate::harness::proxy::Link;
use crate::harness::socket::Socket;
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

/// Which server leads the log, as one server says; `None` when that one does not know.
async fn leads(js: &jetstream::Context) -> Option<String> {
    js.get_stream("COMMITTED").await.ok()?.cached_info().cluster.as_ref()?.leader.clone()
}

async fn jetstream_by(url: &str) -> jetstream::Context {
    let mut js = jetstream::new(async_nats::connect(url).await.unwrap());
    js.set_timeout(Duration::from_secs(1));
    js
}

/// The server that leads the log is cut off from the others, which elect another one and store an event. A client that
/// has seen the event comes to a frontend that reaches the first server alone. The code of what it is told; `None` if
/// that server knew better by then.
async fn told_at_an_old_leader(cluster: &mut Cluster, faults: &str) -> Option<Value> {
    let leader = cluster.nats.leader("COMMITTED").await;
    let urls = cluster.nats.urls();
    let (at_old, at_others) =
        (jetstream_by(&urls[leader]).await, jetstream_by(&urls[(leader + 1) % 3]).await);
    let name = cluster.nats.servers[leader].name().to_owned();
    let frontend = cluster.add_frontend_by(&urls[leader], faults).await;
    let mut record = cluster.log_with_marks("default").pop().unwrap();
    let next = record["ordinal"].as_u64().unwrap() + 1;
    record.as_object_mut().unwrap().remove("eventId");
    (record["ordinal"], record["draftId"]) = (next.into(), format!("d-{next}").into());

    let seen_as = format!("event-{next}");
    cluster.nats.link(leader, Link::Silent);
    until("another leader", async || leads(&at_others).await.filter(|leader| *leader != name)).await;
    let seen = until("an event at the new leader", async || {
        // One whose answer is lost is not stored twice.
        let event = PublishMessage::build().message_id(&seen_as).payload(record.to_string().into());
        let stored = at_others.send_publish("committed.default", event).await.ok()?;
        stored.await.ok().map(|stored| stored.sequence)
    })
    .await;
    let mut socket = Socket::open(&cluster.frontends[frontend].url()).await.unwrap();
    let connect = json!({ "clientId": "ann", "version": "1", "lastEventId": seen });
    socket.send("connect", connect).await.unwrap();
    let told = socket.expect("error").await["payload"]["code"].clone();
    let is_old = leads(&at_old).await == Some(name);
    cluster.nats.link(leader, Link::Whole);
    cluster.nats.healthy().await;
    is_old.then_some(told)
}

/// Nobody is told that the log went back because a server lacks what others have stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_comes_to_an_old_leader_is_not_told_that_its_events_are_lost() {
    let plan = Cluster::start().three_nats_servers();
    let mut cluster = plan.start_on(NatsCluster::wired().await).await;
    cluster.client(0, "bob").await.commit("set", json!({ "target": "a", "value": 1 })).await;
    for (faults, code) in [("", "unavailable"), ("believe_old_leader", "cursor_beyond_log")] {
        // It gives up to lead 10 to 20 s after it was cut off, and the others elect one within some 9 s.
        let told = until("an answer while the old one believes to lead", async || {
            told_at_an_old_leader(&mut cluster, faults).await
        });
        assert_eq!(told.await, code, "{faults}");
    }
}
