//! Two validators that both believe to own a slot: every commit is valid at its place all the same.

use serde_json::json;

use crate::harness::Patience;
use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::model::Replica;
use crate::harness::rng::Rng;

/// Every event of the partition's log was allowed by the state before it.
fn log_is_valid(cluster: &Cluster, partition: &str) -> usize {
    let log = cluster.log(partition);
    let mut state = Replica::default();
    for event in &log {
        state.allows(event).unwrap_or_else(|error| panic!("{event} was committed on a stale state: {error}"));
        state.fold(event).unwrap();
    }
    assert_eq!(state.hash(), cluster.state_hash(partition).1);
    log.len()
}

fn accepted_by(client: &Client) -> usize {
    client.answers.values().filter(|answer| answer.is_accepted()).count()
}

/// Pushes, moves and deletes the same few nodes as everybody else.
async fn work(mut client: Client, seed: u64) -> Client {
    let mut rng = Rng::new(seed + client.last_event_id);
    for _ in 0..150 {
        let id = format!("n{}", rng.below(8));
        let parent = format!("n{}", rng.below(8));
        let (kind, payload) = match rng.below(4) {
            0 => ("treePush", json!({ "target": "t", "value": { "id": id } })),
            1 => ("treeDelete", json!({ "target": "t", "options": { "id": id } })),
            2 => ("treeMove", json!({ "target": "t", "options": { "id": id, "parent": parent } })),
            _ => {
                ("treePush", json!({ "target": "t", "value": { "id": id }, "options": { "parent": parent } }))
            }
        };
        client.submit(kind, payload).await;
        client.settle_to(6).await;
    }
    client.settle().await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_that_fight_for_every_slot_commit_nothing_on_a_stale_state() {
    // Given two validators that each believe to own every slot, and an honest one.
    let mut cluster = Cluster::start().set("nats.slots", 2).validators(0).frontends(2).await;
    cluster.add_validator("never_lose_slots").await;
    cluster.add_validator("never_lose_slots").await;
    cluster.add_validator("").await;

    // When clients push, move and delete the same few nodes, so that nearly every draft depends on the one
    // before it.
    let mut setup = cluster.client(0, "setup").await;
    setup.commit("init", json!({ "value": { "t": { "items": {}, "tree": [] } } })).await;
    let mut clients = Vec::new();
    for index in 0..4 {
        clients.push(cluster.client(index % 2, &format!("w-{index}")).steadfast().await);
    }
    let patience = Patience::new();
    for round in 1.. {
        let writing =
            clients.drain(..).enumerate().map(|(index, client)| tokio::spawn(work(client, index as u64)));
        for writer in writing.collect::<Vec<_>>() {
            clients.push(writer.await.unwrap());
        }
        // A good while, and until they have really met: a commit was refused because another was there first.
        let mut refused = 0.0;
        for validator in &cluster.validators {
            refused += validator.counter("insieme_commit_conflicts_total").await;
        }
        if round >= 8 && refused >= 1.0 {
            println!("{refused} commits were refused and decided anew");
            break;
        }
        patience.wait_for("two validators to commit to one partition at once").await;
    }
    let accepted = 1 + clients.iter().map(accepted_by).sum::<usize>();

    // Then the log is valid event for event, holds what was accepted and nothing else, and all agree.
    assert_eq!(log_is_valid(&cluster, "default"), accepted);
    let (head, hash) = cluster.state_hash("default");
    for mut client in clients {
        client.caught_up(head).await;
        assert_eq!(client.replica.hash(), hash);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_slept_through_its_ownership_decides_anew_when_it_wakes() {
    // Given a validator that sleeps while it believes to own every slot,
    let mut cluster = Cluster::start().validators(1).await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "t", "value": {} })).await;
    cluster.validators[0].process.pause();

    // and drafts that it may have taken already,
    let racing = ann.submit("treePush", json!({ "target": "t", "value": { "id": "x" } })).await;

    // when another one takes its slots and goes on,
    cluster.add_validator("").await;
    ann.expect_accepted(&racing).await;
    ann.commit("treePush", json!({ "target": "t", "value": { "id": "y" }, "options": { "parent": "x" } }))
        .await;
    ann.commit("treeDelete", json!({ "target": "t", "options": { "id": "x" } })).await;

    // and the first wakes up, has the slots handed back and gets drafts again,
    cluster.validators[0].process.resume();
    for n in 0..200 {
        let options = if n % 2 == 0 { json!({ "position": "last" }) } else { json!({ "parent": "x" }) };
        let value = json!({ "id": format!("n{n}") });
        ann.submit("treePush", json!({ "target": "t", "value": value, "options": options })).await;
        ann.settle_to(4).await;
    }
    ann.settle().await;

    // then it has committed nothing on the state that it fell asleep with.
    let log = log_is_valid(&cluster, "default");
    assert_eq!((log, accepted_by(&ann)), (104, 104));
}
