//! A draft id stands for one commit, however often and wherever it is sent.

use insieme_backend::event::DraftKey;
use serde_json::{Value, json};

use crate::harness::client::{Answer, Client};
use crate::harness::cluster::{Cluster, binary};
use crate::harness::nats::NatsServer;
use crate::harness::process::Process;
use crate::harness::{temp_dir, until};

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

/// A validator keeps only ten bytes of a draft of long ago, and asks the log for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn drafts_of_long_ago_are_looked_for_in_the_log() {
    const SOUGHT: &str = "insieme_drafts_sought_total";
    const DRAFTS: usize = 300;
    let mut cluster = Cluster::start().set("validator.snapshot_events_min", 50).await;
    let mut ann = cluster.client(0, "ann").await;
    let drafts: Vec<String> = (0..DRAFTS).map(|n| format!("buy-{n}")).collect();
    let set = |value: usize| json!({ "type": "set", "payload": { "target": "todo", "value": value } });
    for (n, draft) in drafts.iter().enumerate() {
        ann.submit_again(draft, set(n)).await;
    }
    ann.settle().await;
    let first = ann.answers.clone();
    assert!(first.values().all(Answer::is_accepted));
    assert_eq!(cluster.validators[0].counter(SOUGHT).await, 0.0, "nothing looks like a draft of long ago");

    for restarted in [false, true] {
        if restarted {
            cluster.restart_everything().await;
            ann.reconnect().await;
        }
        for (n, draft) in drafts.iter().enumerate() {
            ann.submit_again(draft, set(n)).await;
        }
        ann.settle().await;
        for draft in &drafts {
            assert_eq!(ann.answers[draft], first[draft], "{draft}, restarted: {restarted}");
        }
        let sought = cluster.validators[0].counter(SOUGHT).await;
        assert!(sought >= 100.0, "only {sought} of {DRAFTS} were looked for, restarted: {restarted}");
        ann.submit_again(&drafts[0], set(DRAFTS)).await;
        ann.expect_rejected(&drafts[0], "duplicate_draft").await;
    }
    assert_eq!(cluster.log("default").len(), DRAFTS);
}

/// Two ids that look alike to an index which keeps the first bytes of a public hash of each. The second is committed
/// and becomes one of long ago while another copy of it waits in the same run of the partition.
#[tokio::test(flavor = "multi_thread")]
async fn a_draft_that_looks_like_an_older_one_is_committed_once_however_many_come_after_it() {
    looks_like_an_older_one("").await;
}

/// The same where nearly all ids look alike, so that the index has to keep many of them whole.
#[tokio::test(flavor = "multi_thread")]
async fn drafts_that_all_look_alike_are_each_committed_once() {
    looks_like_an_older_one("weak_marks").await;
}

async fn looks_like_an_older_one(faults: &str) {
    const OTHERS: usize = 200;
    let mut cluster = Cluster::start()
        .validators(0)
        .frontends(2)
        .set("frontend.submissions_unanswered_max", 64)
        .set("frontend.submission_drafts_max", 512)
        .await;
    let validator = cluster.add_validator(faults).await;
    let mut here = cluster.client(0, "ann").await;
    let mut there = cluster.client(1, "ann").await;
    let set = |value: usize| json!({ "type": "set", "payload": { "target": "todo", "value": value } });
    let (old, new) = alike("ann");
    here.submit_again(&old, set(0)).await;
    for n in 0..OTHERS {
        here.submit_again(&format!("old-{n}"), set(n)).await;
    }
    here.settle().await;

    // All of it waits for the validator at once, the second copy last. All but the first is one run of the partition.
    let js = async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap());
    cluster.validators[validator].process.pause();
    here.submit_again("first", set(1)).await;
    queued(&js, 1).await;
    here.submit_again(&new, set(2)).await;
    for n in 0..OTHERS {
        here.submit_again(&format!("new-{n}"), set(n)).await;
    }
    queued(&js, 2 + OTHERS).await;
    there.submit_again(&new, set(2)).await;
    queued(&js, 3 + OTHERS).await;
    cluster.validators[validator].process.resume();
    here.settle().await;
    there.settle().await;
    assert_eq!(here.answers[&new], there.answers[&new]);

    // And every one of them once more.
    let first = here.answers.clone();
    for n in 0..OTHERS {
        here.submit_again(&format!("old-{n}"), set(n)).await;
        here.submit_again(&format!("new-{n}"), set(n)).await;
    }
    here.submit_again(&old, set(1)).await;
    here.expect_rejected(&old, "duplicate_draft").await;
    here.settle().await;
    for (draft, answer) in &first {
        assert!(*draft == old || here.answers[draft] == *answer, "{draft}: {:?}", here.answers[draft]);
    }
    assert_eq!(cluster.log("default").len(), 3 + 2 * OTHERS);
}

/// Two draft ids of a client of whose keys the first four bytes are the same.
fn alike(client: &str) -> (String, String) {
    let mut seen = std::collections::HashMap::new();
    for n in 0.. {
        let id = format!("alike-{n}");
        let key = DraftKey::classic(client, &id);
        if let Some(other) = seen.insert([key.0[0], key.0[1], key.0[2], key.0[3]], id.clone()) {
            return (other, id);
        }
    }
    unreachable!("among 4 billion and one there are two")
}

/// Waits until so many drafts wait on the queue.
async fn queued(js: &async_nats::jetstream::Context, drafts: usize) {
    until(&format!("{drafts} drafts to be queued"), async || {
        let stream = js.get_stream("DRAFTS").await.unwrap();
        let state = &stream.cached_info().state;
        let mut count = 0;
        for sequence in state.first_sequence..=state.last_sequence {
            let Ok(message) = stream.get_raw_message(sequence).await else { continue };
            let body: Value = serde_json::from_slice(&message.payload).unwrap();
            count += body["drafts"].as_array().unwrap().len();
        }
        (count >= drafts).then_some(())
    })
    .await;
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

/// Found by the torture, seed 303: a frontend that lagged let a validator take what its client had committed over
/// another one for the commit of an earlier copy, and so the drafts before it for rejected.
#[tokio::test(flavor = "multi_thread")]
async fn new_drafts_before_an_old_one_are_not_taken_for_decided_on_a_frontend_that_lags() {
    let server = NatsServer::start_with(|port| {
        format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: test\n\
             jetstream {{ store_dir: $STORE }}\n\
             authorization {{ users: [\n\
               {{ user: all, password: all }}\n\
               {{ user: deaf, password: deaf, permissions {{ subscribe: {{ deny: \"live.>\" }} }} }}\n\
             ] }}\n"
        )
    })
    .await;
    let dir = temp_dir();
    let start = |name: &str, role: &str, user: &str| {
        let mut command = binary();
        command.args([role, "--nats", &server.url()]);
        command.env("INSIEME_NATS_USER", user).env("INSIEME_NATS_PASSWORD", user);
        if role == "frontend" {
            command.args(["--allow-anyone", "--listen", "127.0.0.1:0"]);
            // It hears of what is committed only when it has reason to look.
            command.args(["--set", "frontend.gap_check_ms=600000", "--set", "frontend.answer_wait_ms=300"]);
        }
        Process::spawn(name, command, dir.path())
    };
    assert!(start("bootstrap", "bootstrap", "all").ended().await.success());
    let mut validator = start("validator", "validator", "all");
    validator.line_with("validator ready: ").await;
    let (mut quick, mut deaf) = (start("quick", "frontend", "all"), start("deaf", "frontend", "deaf"));
    let (quick, deaf) = (quick.line_with("frontend ready: ").await, deaf.line_with("frontend ready: ").await);

    // Somebody keeps the feed of the deaf one at the beginning.
    let _keeper = Client::of(&deaf, "keeper").await;
    let mut ann = Client::of(&quick, "ann").await;
    let old = json!({ "type": "set", "payload": { "target": "old", "value": 1 } });
    ann.submit_as("old", old.clone(), None).await;
    let committed = ann.expect_accepted("old").await;

    let mut ann = Client::of(&deaf, "ann").await;
    let mut new = Vec::new();
    for n in 0..20 {
        new.push(ann.submit("set", json!({ "target": "new", "value": n })).await);
    }
    // All but the first few go together, and this one with them.
    ann.submit_as("old", old, None).await;
    for draft in new {
        ann.expect_accepted(&draft).await;
    }
    assert_eq!(ann.expect_accepted("old").await, committed);
}
