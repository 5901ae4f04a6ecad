//! A partition's past, as an operator looks at it: followed, compared, and verified against its snapshots.

use std::process::Command;

use insieme_backend::event::{EventId, PartitionKey};
use insieme_backend::log::{Log, LogSettings, SnapshotPart};
use insieme_backend::state::{IndexPart, StatePart};
use serde_json::{Value, json};

use crate::harness::cluster::{Cluster, binary};
use crate::harness::process::Process;
use crate::harness::{temp_dir, until};

/// `log --follow` of the default partition, which goes on until it is stopped.
fn follow(cluster: &Cluster, more: &[&str]) -> Command {
    let mut command = binary();
    command.args(["log", "default", "--follow", "--nats", &cluster.nats.url()]).args(more);
    command
}

/// The ids of the events that a follower has printed. Its warnings are no events.
fn ids(follower: &Process) -> Vec<u64> {
    let printed = follower.output();
    let whole = printed.rfind('\n').map_or("", |end| &printed[..end]);
    let events = whole.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter_map(|event| event["eventId"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_through_an_outage_of_nats() {
    let mut cluster = Cluster::start().await;
    let dir = temp_dir();
    let mut ann = cluster.client(0, "ann").steadfast().await;
    for n in 0..3 {
        ann.commit("set", json!({ "target": "a", "value": n })).await;
    }
    let all = Process::spawn("all", follow(&cluster, &[]), dir.path());
    let mut two = Process::spawn("two", follow(&cluster, &["--type", "unset", "--limit", "2"]), dir.path());
    until("the history", async || (ids(&all).len() == 3).then_some(())).await;
    ann.commit("unset", json!({ "target": "a" })).await;
    until("what is live", async || (ids(&all).len() == 4).then_some(())).await;

    cluster.nats.restart().await;
    ann.commit("set", json!({ "target": "a", "value": 4 })).await;
    ann.commit("unset", json!({ "target": "a" })).await;
    let in_log = |cluster: &Cluster| -> Vec<u64> {
        cluster.log_with_marks("default").iter().map(|event| event["eventId"].as_u64().unwrap()).collect()
    };
    until("what came after the outage", async || (ids(&all).len() >= in_log(&cluster).len()).then_some(()))
        .await;
    assert_eq!(ids(&all), in_log(&cluster), "every event once, in its order");
    assert!(two.ended().await.success(), "{}", two.tail());
    assert_eq!(ids(&two).len(), 2);
    let refused = cluster.try_run(&["log", "default", "--follow", "--until", "1h"]);
    assert!(!refused.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_states_are_compared() {
    let cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    let mut ids = Vec::new();
    for (target, value) in [("title", json!("a")), ("list", json!([1, 2])), ("title", json!("b"))] {
        let payload = json!({ "target": target, "value": value, "options": { "replace": true } });
        let event = ann.commit("set", payload).await;
        ids.push(event["eventId"].as_u64().unwrap());
    }
    ann.commit("unset", json!({ "target": "list" })).await;
    let text = |range: &str| String::from_utf8(cluster.run(&["diff", "default", range]).stdout).unwrap();
    assert_eq!(text(&format!("{}..", ids[1])), "- /list: [1,2]\n~ /title: \"a\" -> \"b\"\n");
    assert_eq!(text(&format!("{}..{}", ids[1], ids[0])), "- /list: [1,2]\n", "backwards, too");
    assert_eq!(text(&format!("..{}", ids[0])), "+ /title: \"a\"\n");
    assert_eq!(text(&format!("{0}..{0}", ids[0])), "");
    let range = format!("{}..{}", ids[0], ids[2]);
    let printed = cluster.run(&["diff", "default", &range, "--json"]).stdout;
    assert_eq!(
        serde_json::from_slice::<Value>(&printed).unwrap(),
        json!({ "partition": "default", "from": ids[0], "to": ids[2], "changes": [
            { "op": "add", "path": "/list", "value": [1, 2] },
            { "op": "replace", "path": "/title", "was": "a", "value": "b" },
        ] })
    );
    for (range, says) in [("1..999", "there is no event 999"), ("7", "two event ids")] {
        let refused = cluster.try_run(&["diff", "default", range]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(says), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_not_what_the_log_gives_is_found() {
    let cluster =
        Cluster::start().set("validator.snapshot_events_min", 5).set("validator.snapshot_share_min", 0).await;
    let mut ann = cluster.client(0, "ann").await;
    let mut bob = cluster.client(0, "bob").partition("a/b").await;
    for n in 0..12 {
        ann.commit("set", json!({ "target": "a", "value": n })).await;
    }
    bob.commit("set", json!({ "target": "b", "value": 1 })).await;
    let settings = LogSettings { urls: vec![cluster.nats.url()], ..LogSettings::default() };
    let log = Log::connect(&settings, "test").await.unwrap();
    let token = PartitionKey::new("default").unwrap().token();
    let verify = |more: &[&str]| {
        let output = cluster.try_run(&[&["verify", "--json"], more].concat());
        let lines = String::from_utf8(output.stdout).unwrap();
        let found: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (output.status.success(), found)
    };
    until("a snapshot to be compared", async || {
        let (is_right, found) = verify(&["default"]);
        assert!(is_right, "{found:?}");
        // The last one for now: fewer than five events come after it.
        (found[0]["snapshot"].as_u64() > Some(7) && found[0]["draftIndex"].as_u64() > Some(7)).then_some(())
    })
    .await;
    let (is_right, found) = verify(&[]);
    let names: Vec<_> = found.iter().map(|one| one["partition"].as_str().unwrap()).collect();
    assert!(is_right && names == ["default", "a/b"], "{found:?}");
    assert_eq!(found[0]["stateHash"], cluster.state_hash("default").1);
    let (is_right, found) = verify(&["nobody"]);
    assert!(!is_right && found[0]["problems"][0]["why"] == "the partition has no events", "{found:?}");

    // A state that the log does not give, and one that counts wrong.
    let info = log.snapshot_info(&token, SnapshotPart::State).await.unwrap().unwrap();
    let bytes = log.read_snapshot(&token, SnapshotPart::State).await.unwrap().unwrap();
    let right = StatePart::decode(&bytes).unwrap();
    let state = br#"{"a":"forged"}"#.to_vec();
    let document = insieme_backend::state::Document::parse(&state).unwrap().unwrap();
    let forged = StatePart { sha256: document.hash(), state, ..right.clone() };
    let miscounted = StatePart { log_bytes: right.log_bytes + 1, ..right.clone() };
    let of_no_event = StatePart { event_id: EventId(right.event_id.0 + 1_000), ..right.clone() };
    for (part, says) in
        [(forged, "another state"), (miscounted, "the log has"), (of_no_event, "has no such event")]
    {
        log.write_snapshot(&token, SnapshotPart::State, info, part.encode()).await.unwrap();
        let (is_right, found) = verify(&["default", "a/b"]);
        let problems = found[0]["problems"].to_string();
        assert!(!is_right && problems.contains(says), "{problems}");
        assert_eq!(found[1]["problems"], json!([]), "the other partition is right");
    }
    log.write_snapshot(&token, SnapshotPart::State, info, right.encode()).await.unwrap();
    assert!(verify(&[]).0);

    // An index that lacks a draft, has one too many, or is no index.
    let part = SnapshotPart::Index(0);
    let info = log.snapshot_info(&token, part).await.unwrap().unwrap();
    let bytes = log.read_snapshot(&token, part).await.unwrap().unwrap();
    let right = IndexPart::decode(&bytes).unwrap();
    let mut less = right.clone();
    less.entries.pop();
    let first = *right.entries.iter().min_by_key(|(_, id, _)| *id).unwrap();
    let (mut twice, mut more) = (right.clone(), right.clone());
    twice.entries.push(first);
    more.entries.push((first.0, right.event_id, first.2));
    for (bytes, says) in [
        (less.encode(), "does not have its draft"),
        (twice.encode(), "does not have its draft"),
        (more.encode(), "draft"),
        (b"no index".to_vec(), "cannot be read"),
    ] {
        log.write_snapshot(&token, part, info, bytes).await.unwrap();
        let (is_right, found) = verify(&["default"]);
        let problems = found[0]["problems"].to_string();
        assert!(!is_right && problems.contains(says), "{problems}");
    }
    log.write_snapshot(&token, part, info, right.encode()).await.unwrap();
    let said = String::from_utf8(cluster.run(&["verify"]).stdout).unwrap();
    assert!(said.ends_with("2 partitions and 13 events are right\n"), "{said}");
}
