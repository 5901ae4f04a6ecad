//! Three NATS servers, three replicas: the loss of any one is not noticed but by the time that it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, binary};
use crate::harness::nats_cluster::NatsCluster;
use crate::harness::process::Process;
use crate::harness::verdict::nothing_lost_nothing_doubled;
use crate::harness::{temp_dir, until};

const WRITERS: usize = 3;
const DRAFTS: u64 = 400;

/// Clients that write one value after the other to one partition, over all frontends; and how many drafts
/// they have answers to. (Not asked of the log: a server that stalls takes its share of the questions.)
async fn writers(cluster: &Cluster) -> (Vec<JoinHandle<Client>>, Arc<AtomicU64>) {
    let mut writers = Vec::new();
    let answered = Arc::new(AtomicU64::new(0));
    for index in 0..WRITERS {
        let frontend = index % cluster.frontends.len();
        let mut client = cluster.client(frontend, &format!("w-{index}")).partition("p").steadfast().await;
        let answered = answered.clone();
        writers.push(tokio::spawn(async move {
            for n in 0..DRAFTS {
                client.submit("set", json!({ "target": client.id, "value": n })).await;
                client.settle_to(4).await;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            client.settle().await;
            client
        }));
    }
    (writers, answered)
}

/// Waits until the writers have got on, so that what happens next happens among the work.
async fn some_progress(answered: &AtomicU64) {
    let before = answered.load(Ordering::Relaxed);
    until("the writers to get on", async || {
        let now = answered.load(Ordering::Relaxed);
        (now > before + 10 || now >= WRITERS as u64 * DRAFTS).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_nats_server_may_be_killed_or_stall_and_nothing_is_lost_or_doubled() {
    let mut cluster = Cluster::start().three_nats_servers().validators(2).frontends(2).await;
    let (writers, answered) = writers(&cluster).await;

    // The one that every commit goes through, twice over: by then another leads.
    for _ in 0..2 {
        some_progress(&answered).await;
        let leader = cluster.nats.leader("COMMITTED").await;
        cluster.nats.servers[leader].kill9();
        some_progress(&answered).await;
        cluster.nats.servers[leader].restart().await;
        cluster.nats.healthy().await;
    }

    // One that keeps its connections and says nothing.
    some_progress(&answered).await;
    let leader = cluster.nats.leader("COMMITTED").await;
    cluster.nats.servers[leader].process().pause();
    until("another leader", async || (cluster.nats.leader("COMMITTED").await != leader).then_some(())).await;
    cluster.nats.servers[leader].process().resume();
    cluster.nats.healthy().await;

    nothing_lost_nothing_doubled(&cluster, writers, DRAFTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_waits_for_a_cluster_that_is_not_whole_yet() {
    let (mut nats, third) = NatsCluster::start_two().await;
    let dir = temp_dir();
    let mut command = binary();
    command.args(["bootstrap", "--nats", &nats.url(), "--set", "nats.replicas=3"]);
    let mut bootstrap = Process::spawn("bootstrap", command, dir.path());
    bootstrap.line_with("waiting for the NATS servers: ").await;
    nats.servers.push(third.start().await);
    bootstrap.line_with("bootstrap done: created stream DRAFTS, stream COMMITTED").await;
    assert!(bootstrap.ended().await.success());
}
