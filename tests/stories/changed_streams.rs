//! Streams that somebody changed behind the backend's back: what is gone is noticed, by those who run and by those
//! who start, and said in plain words. Nobody is served a log that has lost what others have seen, until an operator
//! says that it is meant.

use std::path::Path;
use std::process::Output;

use async_nats::jetstream::{self, stream::Stream};
use serde_json::json;

use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::until;

/// One of each, who look often.
fn cluster() -> Plan {
    Cluster::start()
        .set("nats.look_ms", 100)
        .set("frontend.gap_check_ms", 100)
        .set("frontend.head_gone_ms", 500)
}

async fn committed(cluster: &Cluster) -> (jetstream::Context, Stream) {
    let client = async_nats::connect(cluster.nats.url()).await.unwrap();
    let js = jetstream::new(client);
    let stream = js.get_stream("COMMITTED").await.unwrap();
    (js, stream)
}

/// Gives the event's id.
async fn commit(client: &mut Client, key: &str) -> u64 {
    client.commit("set", json!({ "target": key, "value": 1 })).await["eventId"].as_u64().unwrap()
}

async fn write(client: &mut Client, from: u64, upto: u64) -> u64 {
    let mut last = 0;
    for n in from..upto {
        last = commit(client, &format!("k{n}")).await;
    }
    last
}

/// The validator has noted that the log is so far.
async fn noted(js: &jetstream::Context, last: u64) {
    let store = js.get_object_store("SNAPSHOTS").await.unwrap();
    until("the log's mark", async || {
        let info = store.info("log.mark").await.ok()?;
        (info.metadata.get("last")?.parse::<u64>().ok()? >= last).then_some(())
    })
    .await;
}

/// All processes end with an error that says so.
async fn all_stop(cluster: &mut Cluster, why: &str) {
    for process in [&mut cluster.frontends[0].process, &mut cluster.validators[0].process] {
        assert!(!process.ended().await.success());
        assert!(process.output().contains(why), "{}", process.tail());
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A process that starts now ends with an error that says so.
fn none_starts(cluster: &Cluster, why: &str) {
    for role in [&["validator"][..], &["frontend", "--allow-anyone", "--listen", "127.0.0.1:0"]] {
        let output = cluster.try_run(role);
        assert!(!output.status.success() && said(&output).contains(why), "{}", said(&output));
    }
}

fn accept(cluster: &Cluster) -> String {
    let asked = cluster.try_run(&["accept-log"]);
    assert!(!asked.status.success() && said(&asked).contains("--yes"), "{}", said(&asked));
    said(&cluster.run(&["accept-log", "--yes"]))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_purged_is_not_served_until_that_is_said_to_be_meant() {
    let mut cluster = cluster().await;
    let mut ann = cluster.client(0, "ann").await;
    let last = write(&mut ann, 0, 5).await;
    let (js, stream) = committed(&cluster).await;
    noted(&js, last).await;
    stream.purge().await.unwrap();
    all_stop(&mut cluster, "begins with event 6 and not 1").await;
    none_starts(&cluster, "begins with event 6 and not 1");

    let accepted = accept(&cluster);
    assert!(accepted.contains("events 6 to 5"), "{accepted}");
    cluster.restart_validator(0).await;
    cluster.restart_frontend(0).await;
    // Who was there before is told, and who begins anew finds an empty partition.
    let mut bob = cluster.client(0, "bob").await;
    assert_eq!(commit(&mut bob, "a").await, 6);
    let again = said(&cluster.run(&["accept-log"]));
    assert!(again.contains("nothing is wrong"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_deleted_and_made_anew_is_not_taken_for_the_one_before() {
    let mut cluster = cluster().set("validator.snapshot_events_min", 5).await;
    let mut ann = cluster.client(0, "ann").await;
    let last = write(&mut ann, 0, 12).await;
    let (js, _) = committed(&cluster).await;
    noted(&js, last).await;
    let store = js.get_object_store("SNAPSHOTS").await.unwrap();
    until("a snapshot", async || store.info("state.default").await.ok().map(drop)).await;
    js.delete_stream("COMMITTED").await.unwrap();
    until("it to be missed", async || {
        cluster.frontends[0].readyz().await.contains("COMMITTED is gone").then_some(())
    })
    .await;
    assert!(cluster.run(&["bootstrap"]).status.success());
    all_stop(&mut cluster, "it was deleted and created again").await;
    none_starts(&cluster, "it was deleted and created again");

    let accepted = accept(&cluster);
    assert!(accepted.contains("2 snapshots of what is gone were deleted"), "{accepted}");
    cluster.restart_validator(0).await;
    cluster.restart_frontend(0).await;
    let mut bob = cluster.client(0, "bob").await;
    assert_eq!(commit(&mut bob, "a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_go_back_are_refused_by_those_who_run_and_by_those_who_start() {
    let mut cluster = cluster().await;
    let mut ann = cluster.client(0, "ann").await;
    let early = write(&mut ann, 0, 4).await;
    let (js, _) = committed(&cluster).await;
    noted(&js, early).await;
    let store = cluster.nats.servers[0].dir().join("store");
    let backup = cluster.nats.servers[0].dir().join("backup");
    cluster.nats.kill9();
    copy(&store, &backup);
    cluster.nats.restart().await;
    ann.reconnect().await;
    let late = write(&mut ann, 4, 9).await;
    ann.caught_up(late).await;
    noted(&js, late).await;

    // The whole store as it was, the mark too: those who run know better.
    cluster.nats.kill9();
    let aside = cluster.nats.servers[0].dir().join("aside");
    std::fs::rename(&store, &aside).unwrap();
    copy(&backup, &store);
    cluster.nats.restart().await;
    all_stop(&mut cluster, &format!("ends with event {early}, and event {late} was in it")).await;

    // Only the log as it was: the mark knows better.
    cluster.nats.kill9();
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&aside, &store).unwrap();
    let log = "jetstream/$G/streams/COMMITTED";
    std::fs::remove_dir_all(store.join(log)).unwrap();
    copy(&backup.join(log), &store.join(log));
    cluster.nats.restart().await;
    none_starts(&cluster, &format!("ends with event {early}, and event {late} was in it"));

    accept(&cluster);
    cluster.restart_validator(0).await;
    cluster.restart_frontend(0).await;
    // A client with a position that the log does not have is told so.
    let refused = ann.try_reconnect().await.unwrap_err();
    assert!(refused.contains(&format!("`lastEventId` {late} is not in this partition")), "{refused}");
    let mut bob = cluster.client(0, "bob").await;
    assert_eq!(commit(&mut bob, "a").await, early + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_were_changed_are_told_until_they_are_right_again() {
    let cluster = cluster().await;
    let (js, stream) = committed(&cluster).await;
    let right = stream.cached_info().config.clone();
    let wrong = jetstream::stream::Config { max_messages: 1_000_000, ..right.clone() };
    js.update_stream(wrong).await.unwrap();
    until("the frontend to say so", async || {
        let answer = cluster.frontends[0].readyz().await;
        answer.contains("COMMITTED: max_msgs is 1000000, configured is -1").then_some(())
    })
    .await;
    until("the validator to say so", async || {
        cluster.validators[0].readyz().await.contains("max_msgs is 1000000").then_some(())
    })
    .await;
    assert_eq!(cluster.frontends[0].metric("insieme_log_damaged", "settings").await, 1.0);
    js.update_stream(right).await.unwrap();
    until("all to be well", async || cluster.frontends[0].readyz().await.contains(" 200 ").then_some(()))
        .await;
    assert_eq!(cluster.frontends[0].metric("insieme_log_damaged", "").await, 0.0);
    commit(&mut cluster.client(0, "ann").await, "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_shown_an_event_that_is_gone_is_sent_away() {
    let cluster = cluster().await;
    let mut ann = cluster.client(0, "ann").await;
    let last = write(&mut ann, 0, 3).await;
    ann.caught_up(last).await;
    let mut bob = cluster.client(0, "bob").partition("elsewhere").await;
    commit(&mut bob, "a").await;
    let (_, stream) = committed(&cluster).await;
    stream.delete_message(3).await.unwrap();
    until("the loss to be noticed", async || {
        (cluster.frontends[0].metric("insieme_log_went_back_total", "").await >= 1.0).then_some(())
    })
    .await;
    until("the hole to be noticed", async || {
        (cluster.frontends[0].metric("insieme_log_damaged", "deleted").await >= 1.0).then_some(())
    })
    .await;
    let closed = ann.socket().expect_past_broadcasts("error").await;
    assert!(closed.to_string().contains("are missing from the log"), "{closed}");
    // The others have lost nothing.
    commit(&mut bob, "b").await;
    // Who comes back with what it has is told, who begins anew goes on from what is left.
    let refused = ann.try_reconnect().await.unwrap_err();
    assert!(refused.contains("`lastEventId` 3 is not in this partition, which ends at 2"), "{refused}");
    let mut eve = cluster.client(0, "eve").await;
    commit(&mut eve, "c").await;
    assert_eq!(cluster.log("default").len(), 3);
}
