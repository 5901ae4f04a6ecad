//! The power is cut: what was reported accepted is there afterwards, with the configurations of NATS as they are shipped.
//!
//! Every server has its store on a file system of its own, which is shut down in the middle of the load as by a power
//! cut: what was written and not synced is gone. A configuration that syncs later must be seen to lose something.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_nats::jetstream;
use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::disk::Disk;
use crate::harness::nats_cluster::NatsCluster;
use crate::harness::socket::Socket;
use crate::harness::until;

/// How many events of each kind are accepted before the cut, at least.
const ACCEPTED_MIN: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_as_it_is_shipped_accepted_is_there_after_a_power_cut() {
    assert_eq!(lost_by_a_power_cut(1, |shipped| shipped.to_owned()).await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_three_servers_as_they_are_shipped_accepted_is_there_after_a_power_cut_of_all() {
    assert_eq!(lost_by_a_power_cut(3, |shipped| shipped.to_owned()).await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_that_syncs_later_is_seen_to_lose_what_it_accepted() {
    assert_ne!(lost_by_a_power_cut(1, sync_later).await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_that_sync_later_are_seen_to_lose_what_they_accepted() {
    assert_ne!(lost_by_a_power_cut(3, sync_later).await, [] as [String; 0]);
}

/// Whatever is shipped that configures a NATS server has it sync every event.
#[test]
fn every_configuration_that_is_shipped_syncs_always() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["nats", "deploy", "src/cli/dev"] {
        look_into(&root.join(folder), &mut found);
    }
    let mut names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["cluster.conf", "nats-values.yaml", "server.rs", "single.conf"]);
    for (name, text) in found {
        // Not where a comment names it.
        let set = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '/']));
        let set = set.filter(|line| line.contains("sync_interval")).collect::<Vec<_>>();
        assert_eq!(set.len(), 1, "{name}: {set:?}");
        assert!(set[0].contains("sync_interval: always"), "{name}: {set:?}");
    }
}

/// The files below a folder that say where a server has its store.
fn look_into(folder: &std::path::Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            look_into(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.contains("store_dir") || text.contains("fileStore") {
            found.push((path.file_name().unwrap().to_string_lossy().into_owned(), text));
        }
    }
}

fn sync_later(shipped: &str) -> String {
    let changed = shipped.replace("sync_interval: always", "sync_interval: \"2m\"");
    assert_ne!(changed, shipped);
    changed
}

type Accepted = Arc<Mutex<HashMap<String, u64>>>;

/// Runs a backend on so many servers, cuts their power under load, and gives the drafts that were accepted and are not in
/// the log afterwards.
async fn lost_by_a_power_cut(servers: usize, change: impl Fn(&str) -> String) -> Vec<String> {
    let disks: Vec<Disk> = (0..servers).map(|_| Disk::mounted()).collect();
    let stores: Vec<_> = disks.iter().map(Disk::path).collect();
    let nats = NatsCluster::shipped(&stores, change).await;
    let plan = Cluster::start()
        .set("nats.replicas", servers)
        // Each is a consumer that three servers agree on when a validator takes it.
        .set("nats.slots", 8)
        // A queue in files has its bytes reserved, and the disks are small.
        .set("nats.drafts_bytes_max", 16 << 20);
    let mut cluster = plan.start_on(nats).await;

    let accepted: [Accepted; 3] = Default::default();
    let mut writers = tokio::task::JoinSet::new();
    let url = cluster.frontends[0].url();
    // Alone, so that each is committed by itself; many at a time, which go as atomic batches; and batches of v1.
    let (singles, many, batches) = (accepted[0].clone(), accepted[1].clone(), accepted[2].clone());
    writers.spawn(write(url.clone(), "single".to_owned(), 1, singles));
    for n in 0..4 {
        writers.spawn(write(url.clone(), format!("many-{n}"), 100, many.clone()));
    }
    writers.spawn(write_batches(url, batches));
    until("enough to be accepted", async || {
        accepted.iter().all(|accepted| accepted.lock().unwrap().len() >= ACCEPTED_MIN).then_some(())
    })
    .await;
    for disk in &disks {
        disk.cut_power();
    }
    // Everything goes down with it. What was answered before that counts.
    cluster.nats.kill9();
    cluster.frontends.iter_mut().for_each(|frontend| frontend.process.kill9());
    cluster.validators.iter_mut().for_each(|validator| validator.process.kill9());
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }

    for disk in &disks {
        disk.mend();
    }
    // One that has lost something may never say that it is healthy.
    for server in &mut cluster.nats.servers {
        server.restart().await;
    }
    let accepted = accepted.iter().flat_map(|accepted| accepted.lock().unwrap().clone()).collect();
    let lost = missing(&cluster, accepted).await;
    if lost.is_empty() {
        // And it goes on from there.
        cluster.nats.healthy().await;
        cluster.restart_validator(0).await;
        cluster.restart_frontend(0).await;
        let mut ann = cluster.client(0, "after").steadfast().await;
        ann.commit("set", json!({ "target": "after", "value": 1 })).await;
    }
    lost
}

/// Of drafts and the events that they were accepted as, those that the log does not have as such.
async fn missing(cluster: &Cluster, accepted: Vec<(String, u64)>) -> Vec<String> {
    let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
    let client = options.connect(cluster.nats.urls()).await.unwrap();
    let js = jetstream::new(client);
    // A server that syncs late may have lost the stream itself.
    let stream = until("the log, or that there is none", async || match js.get_stream("COMMITTED").await {
        Ok(stream) => Some(Some(stream)),
        Err(error) => error.to_string().contains("10059").then_some(None),
    })
    .await;
    let mut missing = Vec::new();
    let last = stream.as_ref().map_or(0, |stream| stream.cached_info().state.last_sequence);
    for (draft, event) in accepted {
        let found = match &stream {
            Some(stream) if event <= last => {
                until("an event, or that it is not there", async || {
                    match stream.get_raw_message(event).await {
                        Ok(message) => Some(Some(message)),
                        Err(error) => error.to_string().contains("no message found").then_some(None),
                    }
                })
                .await
            }
            _ => None,
        };
        let draft_id = found.map(|message| {
            serde_json::from_slice::<Value>(&message.payload).unwrap()["draftId"].as_str().unwrap().to_owned()
        });
        if draft_id.as_ref() != Some(&draft) {
            missing.push(format!("{draft} as event {event}; the log ends at {last}"));
        }
    }
    missing
}

/// Submits as one client, so many at a time, until the connection ends.
async fn write(url: String, client: String, at_once: usize, accepted: Accepted) {
    let mut socket = Socket::open(&url).await.unwrap();
    let hello = json!({ "clientId": client, "version": "test", "partition": client });
    socket.send("connect", hello).await.unwrap();
    socket.expect("connected").await;
    let (mut sent, mut answered) = (0_usize, 0);
    loop {
        while sent < answered + at_once {
            sent += 1;
            let event = json!({ "type": "set", "payload": { "target": client, "value": sent } });
            let payload = json!({ "draftId": format!("{client}/{sent}"), "event": event });
            if socket.send("submit_event", payload).await.is_err() {
                return;
            }
        }
        let Ok(message) = socket.receive().await else { return };
        let payload = &message["payload"];
        if message["type"] == "event_accepted" {
            let draft = payload["draftId"].as_str().unwrap().to_owned();
            accepted.lock().unwrap().insert(draft, payload["eventId"].as_u64().unwrap());
        }
        // What is refused, or not known, when the power is cut is nothing that was promised.
        answered += usize::from(message["type"] != "broadcast");
    }
}

/// Submits batches of v1, one after the other, until the connection ends.
async fn write_batches(url: String, accepted: Accepted) {
    let mut socket = Socket::open(&url).await.unwrap();
    let message = |kind: &str, id: usize, payload: Value| {
        json!({ "type": kind, "protocolVersion": "1.0", "msgId": format!("m{id}"), "payload": payload })
            .to_string()
    };
    let hello = json!({ "token": "any", "clientId": "batches", "projectId": "project" });
    socket.send_text(message("connect", 0, hello)).await.unwrap();
    socket.expect("connected").await;
    for batch in 1.. {
        let events: Vec<Value> = (0..10)
            .map(|n| {
                json!({
                    "id": format!("batch-{batch}/{n}"), "projectId": "project", "partition": "doc", "type": "set",
                    "schemaVersion": 1, "payload": { "target": "batches", "value": n },
                    "meta": { "clientId": "batches", "clientTs": 1 },
                })
            })
            .collect();
        if socket.send_text(message("submit_events", batch, json!({ "events": events }))).await.is_err() {
            return;
        }
        let Ok(answer) = socket.receive().await else { return };
        for item in answer["payload"]["results"].as_array().into_iter().flatten() {
            if item["status"] == "committed" {
                let (draft, event) = (item["id"].as_str().unwrap(), item["committedId"].as_u64().unwrap());
                accepted.lock().unwrap().insert(draft.to_owned(), event);
            }
        }
    }
}
