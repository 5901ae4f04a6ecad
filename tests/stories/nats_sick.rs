//! A NATS that is there and does not do what it should: full, on a disk that turned read-only, standing still, or
//! with too few permissions. Clients are told `unavailable`, operators why, nothing is told as accepted that is not in
//! the log, and when NATS is well again everything goes on by itself.

use serde_json::json;

use crate::harness::client::{Answer, Client};
use crate::harness::cluster::{Cluster, binary};
use crate::harness::disk::{Disk, SmallFolder};
use crate::harness::nats::NatsServer;
use crate::harness::process::Process;
use crate::harness::temp_dir;

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_that_is_full_commits_nothing_until_it_has_room_again() {
    let mut cluster = Cluster::start()
        .set("nats.drafts_bytes_max", 1 << 20)
        .set("frontend.submission_deadline_ms", 2_000)
        .await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 0 })).await;
    let limit = |bytes: u64| {
        move |text: &str| text.replace("store_dir", &format!("max_file_store: {bytes}, store_dir"))
    };
    cluster.nats.servers[0].restart_as(limit(2_500_000)).await;
    ann.reconnect().await;
    let mut accepted = 1;
    let refused = loop {
        assert!(accepted < 200, "NATS takes everything");
        let value = json!({ "target": format!("k{accepted}"), "value": "x".repeat(100_000) });
        let draft = ann.submit("set", value).await;
        match ann.answer_or_unavailable(&draft).await {
            Some(Answer::Accepted { .. }) => accepted += 1,
            other => break other,
        }
    };
    match refused {
        Some(Answer::Rejected { reason, .. }) => assert_eq!(reason, "unavailable"),
        other => assert!(other.is_none()),
    }
    assert_eq!(cluster.log("default").len(), accepted, "what was told as accepted, and nothing else");
    assert!(cluster.validators[0].process.is_running() && cluster.frontends[0].process.is_running());

    cluster.nats.servers[0].restart_as(|text| text.replace("max_file_store: 2500000, ", "")).await;
    ann.reconnect().await;
    ann.commit("set", json!({ "target": "room", "value": 1 })).await;
    let log = cluster.log("default");
    let ids: std::collections::HashSet<_> = log.iter().map(|event| event["draftId"].to_string()).collect();
    assert_eq!(ids.len(), log.len(), "no draft twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_whose_disk_turns_read_only_commits_nothing_until_it_is_mended() {
    let disk = Disk::mounted();
    let mut cluster = Cluster::start()
        .store_in(disk.path())
        .set("nats.drafts_bytes_max", 1 << 20)
        .set("frontend.submission_deadline_ms", 2_000)
        .await;
    // The streams were made long ago: whatever makes them up has reached the disk.
    disk.sync();
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 0 })).await;
    let mut bob = cluster.client(0, "bob").partition("p").steadfast().await;
    disk.turn_read_only();

    let held = bob.submit("set", json!({ "target": "b", "value": 1 })).await;
    let mut refused = Vec::new();
    for value in 1..4 {
        let event = json!({ "type": "set", "payload": { "target": "a", "value": value } });
        let draft = ann.submit("set", event["payload"].clone()).await;
        match ann.answer_or_unavailable(&draft).await {
            Some(Answer::Rejected { reason, .. }) => assert_eq!(reason, "unavailable"),
            other => assert_eq!(other, None, "nothing can be stored"),
        }
        refused.push((draft, event));
    }
    cluster.validators[0].process.line_with("failed to commit; reading the log and deciding again").await;
    // What is there can be read all the same.
    assert_eq!(cluster.log("default").len(), 1, "what was told as accepted, and nothing else");
    let mut eve = cluster.client(0, "eve").await;
    assert_eq!(eve.sync(json!({ "sinceEventId": 0 })).await["events"].as_array().unwrap().len(), 1);
    assert!(cluster.validators[0].process.is_running() && cluster.frontends[0].process.is_running());

    // NATS writes to a stream no more that it once could not write to, until it is started again.
    cluster.nats.kill9();
    disk.mend();
    cluster.nats.restart().await;
    ann.reconnect().await;
    for (draft, event) in &refused {
        ann.submit_again(draft, event.clone()).await;
        ann.expect_accepted(draft).await;
    }
    bob.expect_accepted(&held).await;
    let log = cluster.log("default");
    let ids: Vec<_> = log.iter().map(|event| event["draftId"].as_str().unwrap()).collect();
    assert_eq!(ids, ["draft-1", "draft-2", "draft-3", "draft-4"], "each once, in her order");
    assert_eq!(cluster.log("p").len(), 1);
    assert!(cluster.validators[0].process.is_running() && cluster.frontends[0].process.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_with_little_room_for_batches_gets_smaller_ones() {
    let store = temp_dir();
    let batches = store.path().join("jetstream/$G/streams/COMMITTED/batches");
    let _room = SmallFolder::mounted(batches, 256);
    let cluster = Cluster::start().store_in(store.path().to_owned()).await;
    let mut ann = cluster.client(0, "ann").await;
    for n in 0..60 {
        ann.submit("set", json!({ "target": format!("k{n}"), "value": "x".repeat(20_000) })).await;
    }
    ann.settle().await;
    let log = cluster.log("default");
    let drafts: Vec<_> = log.iter().map(|event| event["draftId"].as_str().unwrap()).collect();
    assert_eq!(drafts, (1..=60).map(|n| format!("draft-{n}")).collect::<Vec<_>>());
    // What was too much was refused, and tried again only in parts.
    let refused = cluster.validators[0].counter("insieme_commit_failures_total").await;
    assert!((1.0..20.0).contains(&refused), "{refused} commits were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_that_stands_still_is_waited_for() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").steadfast().await;
    ann.commit("set", json!({ "target": "a", "value": 0 })).await;
    for n in 1..4 {
        cluster.nats.servers[0].process().pause();
        let draft = ann.submit("set", json!({ "target": "a", "value": n })).await;
        // Longer than a request may take, and than a slot is held without renewal.
        tokio::time::sleep(std::time::Duration::from_millis(1_000 + 3_000 * (n - 1))).await;
        cluster.nats.servers[0].process().resume();
        ann.expect_accepted(&draft).await;
    }
    let log = cluster.log("default");
    let values: Vec<_> = log.iter().map(|event| event["payload"]["value"].as_u64().unwrap()).collect();
    assert_eq!(values, [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_may_not_commit_says_so_and_nothing_is_accepted() {
    let server = NatsServer::start_with(|port| {
        format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: test\n\
             jetstream {{ store_dir: $STORE, sync_interval: always }}\n\
             authorization {{ users: [\n\
               {{ user: all, password: all }}\n\
               {{ user: weak, password: weak, permissions {{ publish: {{ deny: \"committed.>\" }} }} }}\n\
             ] }}\n"
        )
    })
    .await;
    let dir = temp_dir();
    let command = |role: &str, user: &str| {
        let mut command = binary();
        command.args([role, "--nats", &server.url(), "--set", "nats.request_timeout_ms=500"]);
        command.args(["--set", "nats.ownership_ttl_ms=1000"]);
        command.env("INSIEME_NATS_USER", user).env("INSIEME_NATS_PASSWORD", user);
        command
    };
    assert!(command("bootstrap", "all").output().unwrap().status.success());
    let mut weak = Process::spawn("weak", command("validator", "weak"), dir.path());
    weak.line_with("validator ready: ").await;
    let mut frontend = command("frontend", "all");
    frontend.args(["--allow-anyone", "--listen", "127.0.0.1:0"]);
    frontend.args(["--set", "frontend.submission_deadline_ms=5000"]);
    let mut frontend = Process::spawn("frontend", frontend, dir.path());
    let url = frontend.line_with("frontend ready: ").await;
    let mut ann = Client::of(&url, "ann").await;
    let draft = ann.submit("set", json!({ "target": "a", "value": 1 })).await;
    assert_eq!(ann.answer_or_unavailable(&draft).await, None);
    // Quotes within a value are escaped.
    weak.line_with(r#"Permissions Violation for Publish to \"committed.default\""#).await;

    // One that may, in its place.
    weak.kill9();
    let mut strong = Process::spawn("strong", command("validator", "all"), dir.path());
    strong.line_with("validator ready: ").await;
    ann.reconnect().await;
    ann.submit_again(&draft, json!({ "type": "set", "payload": { "target": "a", "value": 1 } })).await;
    ann.expect_accepted(&draft).await;
}
