//! What does not belong there: messages on the queue that are no drafts, and snapshots that are damaged. Each
//! is reported, and everything goes on.

use bytes::Bytes;
use insieme_backend::event::PartitionKey;
use insieme_backend::log::{Log, LogSettings, SnapshotInfo, SnapshotPart};
use serde_json::json;

use crate::harness::cluster::Cluster;
use crate::harness::socket::Socket;
use crate::harness::until;
use crate::harness::v1::V1Client;

async fn log_of(cluster: &Cluster) -> Log {
    let settings = LogSettings { urls: vec![cluster.nats.url()], ..LogSettings::default() };
    Log::connect(&settings, "test").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_draft_is_taken_off_the_queue_and_blocks_nobody() {
    let cluster = Cluster::start().await;
    let log = log_of(&cluster).await;
    let key = PartitionKey::new("default").unwrap();
    let token = key.token();
    let elsewhere = json!({
        "partition": "elsewhere", "submitter": { "clientId": "x", "permissions": ["*"] },
        "replyTo": { "frontend": "nobody", "connection": 1, "submission": 1, "attempt": 1 },
        "unit": "each", "drafts": [],
    });
    let garbage = ["", "not json", "{}", "[1]", "\u{0}", &elsewhere.to_string()];
    for text in garbage {
        log.publish_draft(&key, &token, Bytes::from(text.to_owned())).await.unwrap();
    }
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    assert_eq!(cluster.validators[0].counter("insieme_drafts_poisoned_total").await, garbage.len() as f64);
    assert_eq!(cluster.log("default").len(), 1);
}

/// Whoever has a frontend's password can hand in what no frontend would. It takes no validator down.
#[tokio::test(flavor = "multi_thread")]
async fn drafts_that_no_frontend_would_hand_in_take_no_validator_down() {
    let mut cluster = Cluster::start().await;
    let log = log_of(&cluster).await;
    let key = PartitionKey::new("default").unwrap();
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let values = [
        nested(100_000),
        nested(1_020),
        super::hostile_json::tower("$serde_json::private::RawValue"),
        format!("{{\"$serde_json::private::RawValue\":\"{}\"}}", "[".repeat(100_000)),
        "1e999".to_owned(),
        r#"{"a":1,"a":2}"#.to_owned(),
        r#""\ud800""#.to_owned(),
    ];
    for (n, value) in values.iter().enumerate() {
        let meta = format!(r#","v1":{{"label":"l","schemaVersion":1,"meta":{{"x":{value}}}}}"#);
        for (dialect, v1) in ["", &meta].iter().enumerate() {
            let payload = format!(r#"{{"target":"k{n}","value":{value}}}"#);
            let submission = format!(
                r#"{{"partition":"default","submitter":{{"clientId":"x","permissions":["*"]}},
                "replyTo":{{"frontend":"nobody","connection":1,"submission":{n},"attempt":1}},
                "drafts":[{{"draftId":"d{n}-{dialect}","type":"set","payload":{payload}{v1}}}]}}"#
            );
            log.publish_draft(&key, &key.token(), Bytes::from(submission)).await.unwrap();
        }
    }
    // Another partition, since this process cannot read what may have been committed in that one.
    let mut ann = cluster.client(0, "ann").partition("elsewhere").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let decided = async || cluster.validators[0].counter("insieme_rejections_total").await >= 8.0;
    until("all to be decided", async || decided().await.then_some(())).await;
    assert!(cluster.validators[0].process.is_running() && cluster.frontends[0].process.is_running());
}

/// How an object of a snapshot is made unusable.
type Spoil = fn(&mut Vec<u8>);

const WAYS: [(&str, Spoil); 5] = [
    ("SHA-256 does not match", |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }),
    ("is cut off", |bytes| bytes.truncate(bytes.len() - 3)),
    ("has format version 7", |bytes| bytes[4] = 7),
    ("no snapshot part of the kind expected", |bytes| bytes[0] = b'X'),
    ("is cut off", Vec::clear),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_cannot_be_used_is_reported_and_passed_over_for_the_log() {
    let mut cluster = Cluster::start().set("validator.snapshot_events_min", 50).await;
    let mut ann = cluster.client(0, "ann").await;
    let first = ann.commit("set", json!({ "target": "k0", "value": 0 })).await;
    for n in 1..60 {
        ann.commit("set", json!({ "target": format!("k{n}"), "value": n })).await;
    }
    let log = log_of(&cluster).await;
    let token = PartitionKey::new("default").unwrap().token();
    let info = until("a snapshot", async || {
        let both = (
            log.snapshot_info(&token, SnapshotPart::State).await.unwrap(),
            log.snapshot_info(&token, SnapshotPart::Index(0)).await.unwrap(),
        );
        if let (Some(state), Some(_)) = both { Some(state) } else { None }
    })
    .await;
    let before = cluster.state_hash("default");
    let mut whole = Vec::new();
    for part in [SnapshotPart::State, SnapshotPart::Index(0)] {
        whole.push((part, log.read_snapshot(&token, part).await.unwrap().unwrap()));
    }
    let mut events = 60;
    for (index, (reported, spoil)) in WAYS.into_iter().enumerate() {
        for (part, bytes) in &whole {
            let mut bytes = bytes.clone();
            spoil(&mut bytes);
            log.write_snapshot(&token, *part, info, bytes).await.unwrap();
        }
        cluster.restart_validator(0).await;
        // The state, for those who come new, and the index, for those who ask again, are what they were.
        if index == 0 {
            cluster.restart_frontend(0).await;
            assert_eq!(cluster.state_hash("default"), before);
        }
        ann.reconnect().await;
        let again = json!({ "type": "set", "payload": { "target": "k0", "value": 0 } });
        ann.submit_again("draft-1", again).await;
        assert_eq!(ann.expect_accepted("draft-1").await, first);
        ann.commit("set", json!({ "target": "more", "value": index })).await;
        events += 1;
        let said = cluster.validators[0].process.output();
        assert!(said.contains("the snapshot is unusable") && said.contains(reported), "{said}");
        // Made anew from the log, it is of a later event than the one that was spoilt.
        until("the snapshot to be made anew", async || {
            let (state, index) = (
                log.snapshot_info(&token, SnapshotPart::State).await.unwrap()?,
                log.snapshot_info(&token, SnapshotPart::Index(0)).await.unwrap()?,
            );
            (state.event_id.min(index.event_id) > info.event_id).then_some(())
        })
        .await;
    }
    let store = object_store(&cluster).await;
    for object in ["state.default", "index.default"] {
        store.delete(object).await.unwrap();
    }
    cluster.restart_validator(0).await;
    ann.commit("set", json!({ "target": "more", "value": "with none" })).await;
    assert_eq!(cluster.log("default").len(), events + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_that_are_not_yet_in_the_index_are_known_from_the_log() {
    // An index is written as often as the state while it is short, and then ever more seldom.
    const EVENTS: usize = 600;
    let mut cluster = Cluster::start().set("validator.snapshot_events_min", 10).await;
    let log = log_of(&cluster).await;
    let token = PartitionKey::new("default").unwrap().token();
    let mut ann = cluster.client(0, "ann").await;
    let (mut ids, mut lag) = (Vec::new(), 0);
    for n in 0..EVENTS {
        let id = ann.submit("set", json!({ "target": "n", "value": n })).await;
        ids.push((id.clone(), ann.expect_accepted(&id).await));
        if n % 10 == 0 {
            let of = |part| log.snapshot_info(&token, part);
            let (state, index) =
                (of(SnapshotPart::State).await.unwrap(), of(SnapshotPart::Index(0)).await.unwrap());
            let ordinal = |info: Option<SnapshotInfo>| info.map_or(0, |info| info.ordinal);
            lag = lag.max(ordinal(state).saturating_sub(ordinal(index)));
        }
    }
    assert!(lag >= 20, "the index was never more than {lag} events behind the state");
    cluster.restart_validator(0).await;
    for (n, (id, event_id)) in ids.into_iter().enumerate() {
        ann.submit_again(&id, json!({ "type": "set", "payload": { "target": "n", "value": n } })).await;
        assert_eq!(ann.expect_accepted(&id).await, event_id);
    }
    assert_eq!(cluster.log("default").len(), EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_bucket_of_snapshots_partitions_are_taken_in_from_the_log() {
    let cluster = Cluster::start().set("frontend.submission_deadline_ms", 4_000).await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let client = async_nats::connect(cluster.nats.url()).await.unwrap();
    async_nats::jetstream::new(client).delete_stream("OBJ_SNAPSHOTS").await.unwrap();
    // One that is known goes on, and so does one of which nobody has heard yet.
    ann.commit("set", json!({ "target": "a", "value": 2 })).await;
    let mut bob = cluster.client(0, "bob").partition("of which nobody has heard").await;
    bob.commit("set", json!({ "target": "a", "value": 1 })).await;
}

async fn object_store(cluster: &Cluster) -> async_nats::jetstream::object_store::ObjectStore {
    let client = async_nats::connect(cluster.nats.url()).await.unwrap();
    async_nats::jetstream::new(client).get_object_store("SNAPSHOTS").await.unwrap()
}

/// Writes to the log as nobody may; gives the event's id.
async fn forge(cluster: &Cluster, partition: &str, body: String) -> u64 {
    let client = async_nats::connect(cluster.nats.url()).await.unwrap();
    let js = async_nats::jetstream::new(client);
    js.publish(format!("committed.{partition}"), body.into()).await.unwrap().await.unwrap().sequence
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_fold_stops_its_partition_alone_until_an_operator_mends_it() {
    let cluster = Cluster::start()
        .set("nats.look_ms", 100)
        .set("frontend.gap_check_ms", 100)
        .set("frontend.head_gone_ms", 300)
        .await;
    let mut ann = cluster.client(0, "ann").await;
    let mut bob = cluster.client(0, "bob").partition("elsewhere").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    bob.commit("set", json!({ "target": "a", "value": 1 })).await;
    let stored = cluster.log("default").remove(0);
    let folds_not = {
        let mut event = stored.clone();
        event.as_object_mut().unwrap().remove("eventId");
        // By then there are two.
        event["ordinal"] = 3.into();
        event["payload"] = json!({ "target": 5 });
        event["draftId"] = "forged".into();
        event.to_string()
    };
    let dir = crate::harness::temp_dir();
    for (round, (forged, why)) in
        [("no event at all".to_owned(), "expected"), (folds_not, "the payload is not that of a set")]
            .into_iter()
            .enumerate()
    {
        // Nobody is there to be shown it.
        ann.drop_connection();
        let id = forge(&cluster, "default", forged).await;
        let mut eve = Socket::open(&cluster.frontends[0].url()).await.unwrap();
        eve.send("connect", json!({ "clientId": "eve", "version": "test", "lastEventId": 1 })).await.unwrap();
        eve.expect("connected").await;
        let event = json!({ "type": "set", "payload": { "target": "a", "value": round } });
        eve.send("submit_event", json!({ "draftId": format!("e-{round}"), "event": event })).await.unwrap();
        let refused = eve.expect_past_broadcasts("event_rejected").await;
        assert!(refused.to_string().contains("PARTITION_STOPPED"), "{refused}");
        eve.close().await;
        // A v1 client is told of each item once, and does not come back for ever with the same batch.
        let mut vera = V1Client::connect(&cluster.frontends[0].url(), "vera", "default").await;
        let events = (0..2).map(|n| vera.event(&format!("v-{round}-{n}"), "note", json!({}))).collect();
        let results = vera.results(events).await;
        assert_eq!(results[0].result["errors"][0]["code"], "PARTITION_STOPPED", "{results:?}");
        assert_eq!((results[0].status(), results[1].status()), ("rejected", "not_processed"));
        assert_eq!((vera.turned_away, vera.connections.len()), (0, 1));
        vera.drop_connection();
        assert!(cluster.validators[0].counter("insieme_partitions_stopped_total").await >= 1.0);
        // The others go on.
        bob.commit("set", json!({ "target": "a", "value": 2 })).await;

        let inspected = cluster.try_run(&["inspect", "default"]);
        let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
        assert!(
            !inspected.status.success() && said.contains(&format!("event {id}:")) && said.contains(why),
            "{said}"
        );
        assert!(cluster.run(&["inspect", "elsewhere"]).status.success());
        let file = dir.path().join(format!("taken-{round}"));
        let into = file.to_str().unwrap();
        let wrong = cluster.try_run(&["quarantine", "default", "--from", "1", "--into", into]);
        assert!(!wrong.status.success() && !file.exists());
        cluster.run(&["quarantine", "default", "--from", &id.to_string(), "--into", into]);
        let kept = std::fs::read_to_string(&file).unwrap();
        assert!(kept.contains(&format!("\"eventId\":{id},\"subject\":\"committed.default\"")), "{kept}");
        cluster.run(&["inspect", "default"]);

        // The partition goes on, for those who were there before and for those who come.
        until("the frontend to know", async || {
            (cluster.frontends[0].metric("insieme_log_went_back_total", "").await > round as f64)
                .then_some(())
        })
        .await;
        ann.reconnect().await;
        ann.commit("set", json!({ "target": "a", "value": round + 2 })).await;
    }
    assert_eq!(cluster.log("default").len(), 3);
    // What an operator took out is not told as damage.
    assert_eq!(cluster.frontends[0].metric("insieme_log_damaged", "").await, 0.0);
}
