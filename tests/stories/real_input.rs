//! A real input, worked on by eight clients at once, comes out the same everywhere, and is all still there
//! after everything was killed.

use std::collections::BTreeMap;

use crate::harness::client::{Answer, Client};
use crate::harness::cluster::Cluster;
use crate::harness::model::Replica;
use crate::harness::tree_input;

/// One of them needs an encoded token.
const PARTITIONS: [&str; 3] = ["project-a", "Projekt B · ビー", "project.c"];
const CLIENTS: usize = 8;
const ENTRIES_PER_PARTITION: usize = 2_200;
/// How many drafts a client lets go unanswered.
const WINDOW: usize = 48;

#[tokio::test(flavor = "multi_thread")]
async fn eight_clients_build_a_file_tree_and_all_agree_before_and_after_a_crash_of_everything() {
    let mut cluster = Cluster::start().validators(2).frontends(2).await;
    let (folder, entries) = tree_input::entries(ENTRIES_PER_PARTITION);

    // Given eight clients on three partitions, over both frontends.
    let mut clients = Vec::new();
    for index in 0..CLIENTS {
        let partition = PARTITIONS[index % PARTITIONS.len()];
        let name = format!("client-{index}");
        clients.push(cluster.client(index % 2, &name).partition(partition).steadfast().await);
    }
    for client in &mut clients[..PARTITIONS.len()] {
        let value = serde_json::json!({ "files": { "items": {}, "tree": [] }, "seen": {} });
        client.commit("init", serde_json::json!({ "value": value })).await;
    }

    // When each builds its share of the tree, and they work on it all at once.
    let working = clients.into_iter().enumerate().map(|(index, mut client)| {
        let peers = (CLIENTS - index % PARTITIONS.len()).div_ceil(PARTITIONS.len());
        let share = entries.len().div_ceil(peers);
        let mine = entries.chunks(share).nth(index / PARTITIONS.len()).unwrap_or_default();
        let drafts = tree_input::drafts(&client.id, mine, &entries, index as u64);
        tokio::spawn(async move {
            let initialised = client.last_event_id.max(1);
            client.caught_up(initialised).await;
            for (kind, payload) in drafts {
                client.submit(kind, payload).await;
                client.settle_to(WINDOW).await;
            }
            client.settle().await;
            client
        })
    });
    let working: Vec<_> = working.collect();
    let mut clients = Vec::new();
    for client in working {
        clients.push(client.await.unwrap());
    }

    // Then nearly all of it was accepted, and the rest for reasons that clients give each other.
    let (accepted, rejected) = tally(&clients);
    println!("{}: {accepted} accepted, rejected: {rejected:?}", folder.display());
    let refused: usize = rejected.values().sum();
    assert!(accepted > refused * 4, "{accepted} accepted, {rejected:?}");
    let expected = ["CYCLE", "NODE_NOT_FOUND", "PARENT_NOT_FOUND", "PATH_NOT_AN_OBJECT"];
    assert!(rejected.keys().all(|code| expected.contains(&code.as_str())), "{rejected:?}");

    // And every client's fold is the server's state.
    all_agree(&cluster, &mut clients).await;
    let before: Vec<_> = PARTITIONS.iter().map(|partition| cluster.state_hash(partition)).collect();

    // When everything is killed and started again, NATS too,
    cluster.restart_everything().await;

    // then the same is there, and the clients go on where they were.
    let after: Vec<_> = PARTITIONS.iter().map(|partition| cluster.state_hash(partition)).collect();
    assert_eq!(before, after);
    for client in &mut clients {
        client.reconnect().await;
        let target = format!("back.{}", client.id);
        client.commit("set", serde_json::json!({ "target": target, "value": true })).await;
    }
    all_agree(&cluster, &mut clients).await;
}

/// The accepted drafts, and the codes of the rejected ones.
fn tally(clients: &[Client]) -> (usize, BTreeMap<String, usize>) {
    let mut accepted = 0;
    let mut rejected = BTreeMap::new();
    for answer in clients.iter().flat_map(|client| client.answers.values()) {
        match answer {
            Answer::Accepted { .. } => accepted += 1,
            Answer::Rejected { errors, .. } => {
                *rejected.entry(errors[0]["code"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
    }
    (accepted, rejected)
}

/// Every client has seen every event of its partition once and in order, every accepted draft is one of
/// them, and the folds of all, of the log and of the server are one state.
async fn all_agree(cluster: &Cluster, clients: &mut [Client]) {
    for partition in PARTITIONS {
        let log = cluster.log(partition);
        let ids: Vec<u64> = log.iter().map(|event| event["eventId"].as_u64().unwrap()).collect();
        let mut replay = Replica::default();
        for event in &log {
            replay.allows(event).unwrap_or_else(|error| panic!("{event} should not be in the log: {error}"));
            replay.fold(event).unwrap();
        }
        let (head, hash) = cluster.state_hash(partition);
        assert_eq!(Some(head), ids.last().copied());
        assert_eq!(
            replay.hash(),
            hash,
            "the log of {partition} folds to something else than the server says"
        );

        for client in clients.iter_mut().filter(|client| client.partition == partition) {
            client.caught_up(head).await;
            assert_eq!(client.event_ids(), ids, "{} has not seen what is in the log", client.id);
            assert_eq!(client.replica.hash(), hash, "{} has another state than the server", client.id);
            for answer in client.answers.values() {
                if let Answer::Accepted { event_id, .. } = answer {
                    assert!(
                        ids.binary_search(event_id).is_ok(),
                        "event {event_id} was accepted and is not there"
                    );
                }
            }
        }
        let newcomer = cluster.client(0, "newcomer").partition(partition).await;
        assert_eq!((newcomer.last_event_id, newcomer.replica.hash()), (head, hash));
    }
}
