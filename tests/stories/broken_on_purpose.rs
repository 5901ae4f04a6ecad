//! A precaution that the torture seldom needs, in the one situation that it is for: with it all is well, and
//! without it, in a product broken on purpose, the harm shows.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use crate::harness::cluster::Cluster;
use crate::harness::until;

#[path = "../torturing/proxy.rs"]
#[allow(dead_code)]
mod proxy;

use proxy::{Link, Proxy};

/// How long harm is waited for that must not come; and harm that must, several times as long.
const HARM: Duration = Duration::from_secs(4);

/// A frontend misses the last events while it is cut off, and nothing comes after them. Whether it tells of them.
async fn tells_what_it_missed(fault: &str) -> bool {
    let mut cluster = Cluster::start().set("frontend.gap_check_ms", 500).await;
    let proxy = Proxy::start(cluster.nats.servers[0].port()).await;
    let cut_off = cluster.add_frontend_by(&proxy.url(), fault).await;
    let mut bob = cluster.client(cut_off, "bob").await;
    let mut ann = cluster.client(0, "ann").await;
    let seen = ann.commit("set", json!({ "target": "a", "value": 1 })).await["eventId"].as_u64().unwrap();
    bob.caught_up(seen).await;
    proxy.set(Link::Cut);
    until("the frontend to be cut off", async || {
        let connected = cluster.frontends[cut_off].metric("insieme_nats_connected", "").await;
        (connected == 0.0).then_some(())
    })
    .await;
    let missed = ann.commit("set", json!({ "target": "a", "value": 2 })).await["eventId"].as_u64().unwrap();
    proxy.set(Link::Whole);
    until("the frontend to be back", async || {
        let connected = cluster.frontends[cut_off].metric("insieme_nats_connected", "").await;
        (connected == 1.0).then_some(())
    })
    .await;
    if fault.is_empty() {
        bob.caught_up(missed).await;
        return true;
    }
    timeout(HARM, bob.caught_up(missed)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_was_cut_off_looks_at_what_it_missed() {
    assert!(tells_what_it_missed("").await);
    assert!(
        !tells_what_it_missed("never_compare").await,
        "without the comparison nothing shows: the story is none"
    );
}
