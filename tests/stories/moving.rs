//! The log moved to another backend as a file: exported while clients write, imported under its ids or with a mapping,
//! refused when it is not whole, and continued after an import that died.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::cluster::{Cluster, binary};
use crate::harness::temp_dir;

/// A backend with streams and no process yet.
async fn empty() -> Cluster {
    Cluster::start().validators(0).frontends(0).await
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn import(cluster: &Cluster, file: &Path, more: &[&str], fault: &str) -> Output {
    let mut command = binary();
    command.args(["import", "--nats", &cluster.nats.url()]).args(more).arg(file).env("INSIEME_FAULT", fault);
    command.output().unwrap()
}

/// Imports; every run dies after the first batch that it stores.
fn import_by_dying(cluster: &Cluster, file: &Path, more: &[&str]) -> (usize, String) {
    for runs in 0..100 {
        let output = import(cluster, file, more, "die_in_import");
        if output.status.success() {
            return (runs, String::from_utf8(output.stdout).unwrap());
        }
        assert!(stderr(&output).contains("die_in_import"), "{}", stderr(&output));
    }
    panic!("it never ends");
}

/// Writes an export as its page describes it: `events` are lines.
fn write_export(file: &Path, events: &[Value]) {
    let mut text = json!({ "insieme": "export", "version": 1 }).to_string() + "\n";
    for event in events {
        writeln!(text, "{event}").unwrap();
    }
    let mut sha256 = String::new();
    Sha256::digest(&text).iter().for_each(|byte| write!(sha256, "{byte:02x}").unwrap());
    let id = |event: Option<&Value>| event.map_or(json!(0), |event| event["id"].clone());
    let (first, last) = (id(events.first()), id(events.last()));
    let end = json!({ "events": events.len(), "first": first, "last": last, "sha256": sha256 });
    std::fs::write(file, format!("{text}{}\n", json!({ "end": end }))).unwrap();
}

/// Events of a few partitions, with ids that are not used between them.
fn events_with_gaps(count: u64) -> Vec<Value> {
    let mut ordinals = HashMap::new();
    let mut id = 40;
    let event = |n: u64| {
        id += if n.is_multiple_of(7) { 3 } else { 1 };
        let partition = format!("p{}", n % 3);
        let ordinal = ordinals.entry(partition.clone()).or_insert(0_u64);
        *ordinal += 1;
        json!({ "id": id, "record": {
            "type": "set", "payload": { "target": format!("k{}", n % 50), "value": n }, "partition": partition,
            "timestamp": 1_700_000_000_000_u64 + n, "clientId": "ann", "draftId": format!("d-{n}"),
            "contentHash": "0000000000000000", "ordinal": *ordinal,
        } })
    };
    (0..count).map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_made_while_clients_write_is_imported_with_every_id() {
    let cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    let refused = ann.submit("treePush", json!({})).await;
    ann.expect_rejected(&refused, "validation_failed").await;
    for n in 0..60 {
        ann.commit("set", json!({ "target": format!("k{}", n % 20), "value": n })).await;
    }
    let mut writer = cluster.client(0, "bob").partition("else where \u{fc}").steadfast().await;
    let writing = tokio::spawn(async move {
        for n in 0..200 {
            writer.submit("set", json!({ "target": "n", "value": n })).await;
            writer.settle_to(4).await;
        }
        writer.settle().await;
    });
    let dir = temp_dir();
    let file = dir.path().join("export.jsonl");
    cluster.run(&["export", file.to_str().unwrap()]);
    writing.await.unwrap();
    let again = cluster.try_run(&["export", file.to_str().unwrap()]);
    assert!(!again.status.success(), "a file that is there is not written over");

    let mut other = empty().await;
    let output = import(&other, &file, &[], "");
    assert!(output.status.success(), "{}", stderr(&output));
    other.add_validator("").await;
    other.add_frontend().await;
    assert_eq!(other.log_with_marks("default"), cluster.log_with_marks("default"));
    assert_eq!(other.state_hash("default"), cluster.state_hash("default"));
    let (moved, all) = (other.log("else where \u{fc}"), cluster.log("else where \u{fc}"));
    assert_eq!(moved[..], all[..moved.len()]);
    other.run(&["verify"]);

    // She comes back with what she has, asks again for what was accepted long ago, and goes on.
    ann.drop_connection();
    ann.move_to(&other.frontends[0].url());
    ann.reconnect().await;
    let first = cluster.log("default")[0].clone();
    let draft = first["draftId"].as_str().unwrap();
    ann.submit_again(draft, json!({ "type": "set", "payload": first["payload"] })).await;
    assert_eq!(ann.expect_accepted(draft).await["eventId"], first["eventId"]);
    let next = ann.commit("set", json!({ "target": "more", "value": 1 })).await["eventId"].as_u64().unwrap();
    ann.caught_up(next).await;
    assert_eq!(ann.replica.hash(), other.state_hash("default").1);

    // The log has more than the file now.
    let output = import(&other, &file, &[], "");
    assert!(
        !output.status.success() && stderr(&output).contains("cannot keep their ids"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_whole_changes_nothing() {
    let other = empty().await;
    let dir = temp_dir();
    let (file, whole) = (dir.path().join("export"), dir.path().join("whole"));
    write_export(&whole, &events_with_gaps(20));
    let text = std::fs::read(&whole).unwrap();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let mut wrong: Vec<(&str, Vec<u8>)> = vec![
        ("cut off", text[..text.len() - 1].to_vec()),
        ("cut off", text[..text.len() / 2].to_vec()),
        ("cut off", lines[..lines.len() - 1].concat()),
        ("cut off", lines[..1].concat()),
        ("no export", Vec::new()),
        ("no export", lines[1..].concat()),
        ("is not what was written", [&lines[..7], &lines[8..]].concat().concat()),
        ("comes after event", [&lines[..7], &lines[6..]].concat().concat()),
        ("after the last line", [&lines[..], &lines[1..2]].concat().concat()),
        ("no event", [&lines[..3], &[b"{\"id\":9}\n".as_slice()], &lines[3..]].concat().concat()),
    ];
    let mut changed = text.clone();
    let at = text.windows(8).position(|window| window == b"\"value\":").unwrap();
    changed[at + 8] = b'9';
    wrong.push(("is not what was written", changed));
    let newer = String::from_utf8(text.clone()).unwrap().replacen("\"version\":1", "\"version\":2", 1);
    wrong.push(("reads version 1", newer.into_bytes()));
    for (why, bytes) in wrong {
        std::fs::write(&file, bytes).unwrap();
        let output = import(&other, &file, &[], "");
        assert!(!output.status.success() && stderr(&output).contains(why), "{why}: {}", stderr(&output));
    }
    // Also if more events do not fold than are told.
    write_export(&file, &events_with_gaps(200));
    let text = std::fs::read(&file).unwrap();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    std::fs::write(&file, [&lines[..7], &lines[8..]].concat().concat()).unwrap();
    let output = import(&other, &file, &[], "");
    assert!(stderr(&output).contains("is not what was written"), "{}", stderr(&output));
    // It is whole, and an event of it does not fold.
    let mut events = events_with_gaps(20);
    events[4]["record"]["ordinal"] = 9.into();
    events[6]["record"]["payload"] = json!({ "target": "a" });
    write_export(&file, &events);
    let output = import(&other, &file, &[], "");
    let said = stderr(&output);
    let of = |index: usize| format!("event {}: ", events[index]["id"]);
    assert!(!output.status.success() && said.contains(&of(4)) && said.contains(&of(6)), "{said}");

    let client = async_nats::connect(other.nats.url()).await.unwrap();
    let info =
        async_nats::jetstream::new(client).get_stream("COMMITTED").await.unwrap().cached_info().clone();
    assert_eq!((info.state.messages, info.state.last_sequence), (0, 0));
    // The same NATS then takes the whole one.
    let output = import(&other, &whole, &[], "");
    assert!(output.status.success(), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_dies_is_continued_and_keeps_every_id() {
    let mut other = empty().await;
    let dir = temp_dir();
    let file = dir.path().join("export");
    let events = events_with_gaps(3_000);
    write_export(&file, &events);
    let (runs, said) = import_by_dying(&other, &file, &[]);
    assert!(runs >= 4, "{runs}: {said}");
    assert!(said.contains("3000 were there already, 0 were stored"), "{said}");
    // And once more changes nothing.
    let output = import(&other, &file, &[], "");
    assert!(output.status.success(), "{}", stderr(&output));

    other.add_validator("").await;
    other.add_frontend().await;
    for partition in ["p0", "p1", "p2"] {
        let is: Vec<Value> = other.log(partition).iter().map(|event| event["eventId"].clone()).collect();
        let wanted = |event: &&Value| event["record"]["partition"] == partition;
        let was: Vec<Value> = events.iter().filter(wanted).map(|event| event["id"].clone()).collect();
        assert_eq!(is, was, "{partition}");
    }
    other.run(&["verify"]);
    let mut ann = other.client(0, "ann").partition("p0").await;
    let event = ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    assert_eq!(event["eventId"].as_u64(), events.last().unwrap()["id"].as_u64().map(|last| last + 1));
    // Ids that are left out are no damage.
    other.restart_everything().await;
    ann.reconnect().await;
    ann.commit("set", json!({ "target": "a", "value": 2 })).await;
    assert!(other.run(&["accept-log"]).status.success());
    // What it exports is what it got, and one event more of `p0`.
    let back = dir.path().join("back");
    other.run(&["export", "--partition", "p1", "--partition", "p2", back.to_str().unwrap()]);
    let lines = std::fs::read_to_string(&back).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let wanted = |event: &&Value| event["record"]["partition"] != "p0";
    let was: Vec<Value> = events.iter().filter(wanted).cloned().collect();
    assert_eq!(records[1..records.len() - 1], was[..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn into_a_backend_that_is_used_ids_are_new_and_written_down() {
    let cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let dir = temp_dir();
    let path = |name: &str| -> PathBuf { dir.path().join(name) };
    let (file, map) = (path("export"), path("map"));
    let events = events_with_gaps(2_500);
    write_export(&file, &events);
    let output = import(&cluster, &file, &[], "");
    assert!(!output.status.success() && stderr(&output).contains("with --map"), "{}", stderr(&output));

    // A client writes elsewhere all the while.
    let mut writer = cluster.client(0, "bob").partition("elsewhere").steadfast().await;
    let writing = tokio::spawn(async move {
        for n in 0..100 {
            writer.commit("set", json!({ "target": "n", "value": n })).await;
        }
    });
    let with_map = ["--map", map.to_str().unwrap()];
    let (runs, said) = import_by_dying(&cluster, &file, &with_map);
    assert!(runs >= 3, "{runs}: {said}");
    writing.await.unwrap();

    let lines = std::fs::read_to_string(&map).unwrap();
    let pairs = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let new: HashMap<u64, u64> =
        pairs.map(|pair| (pair["from"].as_u64().unwrap(), pair["to"].as_u64().unwrap())).collect();
    assert_eq!(new.len(), events.len());
    for partition in ["p0", "p1", "p2"] {
        let is = cluster.log(partition).into_iter().map(|mut event| {
            let id = event.as_object_mut().unwrap().remove("eventId").unwrap();
            (id.as_u64().unwrap(), event)
        });
        let wanted = events.iter().filter(|event| event["record"]["partition"] == partition);
        let was = wanted.map(|event| (new[&event["id"].as_u64().unwrap()], event["record"].clone()));
        assert!(is.eq(was), "{partition}");
    }
    cluster.run(&["verify"]);
    let mut late = cluster.client(0, "late").partition("p1").await;
    late.commit("set", json!({ "target": "b", "value": 1 })).await;

    // A partition that has events of its own is not mixed with the file's.
    let again = path("again");
    let output = import(&cluster, &file, &["--map", again.to_str().unwrap()], "");
    assert!(!output.status.success() && stderr(&output).contains("not the file's"), "{}", stderr(&output));
    assert!(!again.exists());
}
