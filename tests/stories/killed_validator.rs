//! A validator may die anywhere: what it committed stands, and is answered once.

use serde_json::json;

use crate::harness::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_dies_between_commit_and_acknowledgement_leaves_one_commit_and_one_answer() {
    // Given a validator that dies as soon as it has committed something.
    let mut cluster = Cluster::start().validators(0).await;
    let doomed = cluster.add_validator("die_after_commit").await;
    let mut ann = cluster.client(0, "ann").await;

    // When it gets several drafts at once,
    let drafts = [
        ann.submit("set", json!({ "target": "a", "value": 1 })).await,
        ann.submit("set", json!({ "target": "b", "value": [2] })).await,
        ann.submit("set", json!({ "target": "c", "value": 3 })).await,
    ];
    let status = cluster.validators[doomed].process.ended().await;
    assert!(!status.success());
    assert!(!cluster.log("default").is_empty(), "it died before it had committed anything");

    // and another takes over,
    cluster.add_validator("").await;

    // then each draft has one answer, and each accepted one is in the log once. (The client fails the test
    // on a second answer.)
    ann.expect_accepted(&drafts[0]).await;
    ann.expect_rejected(&drafts[1], "validation_failed").await;
    ann.expect_accepted(&drafts[2]).await;
    let last = ann.commit("set", json!({ "target": "d", "value": 4 })).await;
    ann.caught_up(last["eventId"].as_u64().unwrap()).await;
    let targets: Vec<_> =
        cluster.log("default").iter().map(|event| event["payload"]["target"].clone()).collect();
    assert_eq!(targets, ["a", "c", "d"]);
    assert_eq!(ann.replica.hash(), cluster.state_hash("default").1);
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_killed_one_after_the_other_under_load_lose_and_double_nothing() {
    let mut cluster = Cluster::start().validators(2).frontends(2).await;
    let mut writers = Vec::new();
    for index in 0..4 {
        let partition = format!("p-{}", index % 2);
        let mut client =
            cluster.client(index % 2, &format!("w-{index}")).partition(&partition).steadfast().await;
        writers.push(tokio::spawn(async move {
            for n in 0..400 {
                let target = format!("{}.{n}", client.id);
                client.submit("set", json!({ "target": target, "value": n })).await;
                client.settle_to(8).await;
            }
            client.settle().await;
            client
        }));
    }
    // A kill as soon as there is something new, so that it falls among the work.
    let mut before = 0;
    for round in 0..4 {
        let count = crate::harness::until("commits to go on", async || {
            let count = cluster.log("p-0").len() + cluster.log("p-1").len();
            (count > before || writers.iter().all(|writer| writer.is_finished())).then_some(count)
        })
        .await;
        before = count;
        cluster.restart_validator(round % 2).await;
    }
    let mut clients = Vec::new();
    for writer in writers {
        clients.push(writer.await.unwrap());
    }
    for mut client in clients {
        assert!(client.answers.values().all(|answer| answer.is_accepted()));
        let log = cluster.log(&client.partition);
        client.caught_up(log.last().unwrap()["eventId"].as_u64().unwrap()).await;
        let ids: Vec<u64> = log.iter().map(|event| event["eventId"].as_u64().unwrap()).collect();
        assert_eq!(client.event_ids(), ids[ids.len() - client.events.len()..]);
        assert_eq!(client.replica.hash(), cluster.state_hash(&client.partition).1);
        let mine: Vec<u64> = log
            .iter()
            .filter(|event| event["clientId"] == client.id.as_str())
            .map(|event| event["payload"]["value"].as_u64().unwrap())
            .collect();
        assert_eq!(mine, (0..400).collect::<Vec<u64>>(), "{}'s drafts, each once and in order", client.id);
    }
}
