//! A draft id stands for one commit, however often and wherever it is sent.

use serde_json::{Value, json};

use crate::harness::client::Answer;
use crate::harness::cluster::Cluster;

fn push(id: &str) -> Value {
    json!({ "type": "treePush", "payload": { "target": "todo", "value": { "id": id, "text": "milk" } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_sent_twice_at_once_on_two_frontends_and_after_a_restart_is_committed_once() {
    let mut cluster = Cluster::start().validators(2).frontends(2).await;
    let mut here = cluster.client(0, "ann").await;
    let mut there = cluster.client(1, "ann").await;
    here.commit("set", json!({ "target": "todo", "value": { "items": {}, "tree": [] } })).await;

    // At once on two frontends, and twice on one of them.
    here.submit_again("buy", push("a")).await;
    there.submit_again("buy", push("a")).await;
    let first = here.expect_accepted("buy").await;
    assert_eq!(there.expect_accepted("buy").await, first);
    here.submit_again("buy", push("a")).await;
    assert_eq!(here.expect_accepted("buy").await, first);

    // The same content in other words: the order of keys, and an option's default spelled as before.
    let respelled = r#"{ "payload": { "value": { "text": "m\u0069lk", "id": "a" }, "target": "todo" }, "type": "treePush" }"#;
    here.submit_again("buy", serde_json::from_str(respelled).unwrap()).await;
    assert_eq!(here.expect_accepted("buy").await, first);

    // Other content under the same id.
    here.submit_again("buy", push("b")).await;
    let errors = here.expect_rejected("buy", "duplicate_draft").await;
    assert_eq!(errors[0]["code"], "DUPLICATE_DRAFT");

    // Another client's draft of that name is another draft.
    let mut bob = cluster.client(0, "bob").await;
    bob.submit_as("buy", push("c"), None).await;
    assert_ne!(bob.expect_accepted("buy").await, first);

    // After everything was killed.
    cluster.restart_everything().await;
    here.reconnect().await;
    there.reconnect().await;
    there.submit_again("buy", push("a")).await;
    assert_eq!(there.expect_accepted("buy").await, first);
    here.submit_again("buy", push("b")).await;
    here.expect_rejected("buy", "duplicate_draft").await;

    assert_eq!(cluster.log("default").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_drafts_sent_at_once_on_two_frontends_are_each_committed_once() {
    let cluster = Cluster::start().validators(2).frontends(2).await;
    let mut here = cluster.client(0, "ann").await;
    let mut there = cluster.client(1, "ann").await;
    here.commit("set", json!({ "target": "todo", "value": { "items": {}, "tree": [] } })).await;

    let drafts: Vec<String> = (0..300).map(|n| format!("buy-{n}")).collect();
    for draft in &drafts {
        here.submit_again(draft, push(draft)).await;
        there.submit_again(draft, push(draft)).await;
    }
    here.settle().await;
    there.settle().await;
    for draft in &drafts {
        assert!(here.answers[draft].is_accepted(), "{:?}", here.answers[draft]);
        assert_eq!(here.answers[draft], there.answers[draft]);
    }
    assert_eq!(cluster.log("default").len(), 1 + drafts.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_draft_leaves_its_id_free() {
    let cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    ann.submit_as("buy", push("a"), None).await;
    let errors = ann.expect_rejected("buy", "validation_failed").await;
    assert_eq!(errors[0]["code"], "TARGET_NOT_FOUND");
    ann.commit("set", json!({ "target": "todo", "value": {} })).await;
    ann.submit_as("buy", push("a"), None).await;
    assert!(matches!(ann.answer("buy").await, Answer::Accepted { .. }));
}
