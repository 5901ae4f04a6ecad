//! As many slots as there may be. NATS tells the last messages of no more than 1,024 subjects at once, and the bucket of
//! slots then has a key for each slot and one for each validator.

use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::until;

const SLOTS: f64 = 1024.0;

#[tokio::test(flavor = "multi_thread")]
async fn every_slot_has_an_owner_where_there_are_as_many_as_there_may_be() {
    let mut cluster = Cluster::start().set("nats.slots", SLOTS).validators(0).await;
    cluster.add_validator("").await;
    let owned = async |cluster: &Cluster, validator: usize| {
        cluster.validators[validator].counter("insieme_slots_owned").await
    };
    until("all slots to be owned", async || (owned(&cluster, 0).await == SLOTS).then_some(())).await;

    // A second one sees who is there and who owns what, and gets its share.
    cluster.add_validator("").await;
    until("the slots to be shared", async || {
        let (first, second) = (owned(&cluster, 0).await, owned(&cluster, 1).await);
        (second > SLOTS / 4.0 && first + second == SLOTS).then_some(())
    })
    .await;
    for n in 0..8 {
        let mut client = cluster.client(0, "ann").partition(&format!("p{n}")).await;
        client.commit("set", json!({ "target": "a", "value": n })).await;
    }

    // And takes over what the first one had.
    cluster.validators[0].process.kill9();
    until("the slots to be taken over", async || (owned(&cluster, 1).await == SLOTS).then_some(())).await;
    for n in 0..8 {
        let mut client = cluster.client(0, "bob").partition(&format!("p{n}")).await;
        client.commit("set", json!({ "target": "b", "value": n })).await;
        assert_eq!(cluster.log(&format!("p{n}")).len(), 2);
    }
}
