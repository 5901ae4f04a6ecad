//! A process whose clock is off: what it commits has NATS's time, and everybody can see that its clock is off.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::until;

const YEAR_MS: u64 = 365 * 24 * 60 * 60 * 1000;
/// What a test may take at most, and so what an honest timestamp may be off by.
const HOUR_MS: u64 = 60 * 60 * 1000;
const OFFSET: &str = "insieme_clock_offset_seconds";

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn set(value: u64) -> Value {
    json!({ "target": "todo", "value": value })
}

fn timestamps(cluster: &Cluster) -> Vec<u64> {
    cluster.log("default").iter().map(|event| event["timestamp"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_whose_clock_is_a_year_ahead_or_after_commits_at_the_time_of_nats() {
    let mut cluster = Cluster::start().validators(0).await;
    for faults in [format!("clock_ms={YEAR_MS}"), format!("clock_ms=-{YEAR_MS}"), String::new()] {
        let validator = cluster.add_validator(&faults).await;
        let mut ann = cluster.client(0, "ann").await;
        ann.submit_as(&format!("by {faults:?}"), json!({ "type": "set", "payload": set(1) }), None).await;
        ann.expect_accepted(&format!("by {faults:?}")).await;
        let timestamp = *timestamps(&cluster).last().unwrap();
        assert!(timestamp.abs_diff(now_ms()) < HOUR_MS, "{timestamp} by {faults:?}");

        let validator = &mut cluster.validators[validator];
        let offset = validator.counter(OFFSET).await;
        if faults.is_empty() {
            assert!(offset.abs() < 3_600.0, "{offset}");
            assert!(!validator.process.output().contains("this process's clock is"));
        } else {
            assert!((offset.abs() - (YEAR_MS / 1000) as f64).abs() < 3_600.0, "{offset} by {faults}");
            validator.process.line_with("this process's clock is").await;
        }
        validator.process.kill9();
    }
    let all = timestamps(&cluster);
    assert_eq!(all.len(), 3);
    assert!(all.is_sorted(), "{all:?}");
}

/// What an older version committed with such a clock does not hold the partition's time for a year.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_last_event_is_of_next_year_goes_on_with_the_time_of_now() {
    const SET_BACK: &str = "insieme_timestamps_set_back_total";
    let mut cluster = Cluster::start().validators(0).set("validator.snapshot_events_min", 1).await;
    let ahead = cluster.add_validator(&format!("clock_ms={YEAR_MS},own_clock")).await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", set(1)).await;
    assert!(timestamps(&cluster)[0] > now_ms() + YEAR_MS - HOUR_MS, "an older version believed its clock");
    // Its snapshot is of next year too.
    until("a snapshot", async || {
        (cluster.validators[ahead].counter("insieme_snapshot_last_timestamp_seconds").await > 0.0)
            .then_some(())
    })
    .await;
    cluster.validators[ahead].process.kill9();

    let validator = cluster.add_validator("").await;
    for n in 2..5 {
        ann.commit("set", set(n)).await;
    }
    let after = &timestamps(&cluster)[1..];
    assert!(after.iter().all(|timestamp| timestamp.abs_diff(now_ms()) < HOUR_MS), "{after:?}");
    assert!(after.is_sorted(), "{after:?}");
    let validator = &mut cluster.validators[validator];
    assert_eq!(validator.counter(SET_BACK).await, 1.0);
    validator.process.line_with("timestamps go on with the time of now").await;
}

/// The same with the event itself, put into the log as such a version did.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_next_year_in_the_log_does_not_hold_the_time_of_those_after_it() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", set(1)).await;
    cluster.validators[0].process.kill9();
    let mut record = cluster.log("default").remove(0);
    record.as_object_mut().unwrap().remove("eventId");
    (record["ordinal"], record["draftId"]) = (2.into(), "of next year".into());
    record["timestamp"] = (now_ms() + YEAR_MS).into();
    let js = async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap());
    js.publish("committed.default", record.to_string().into()).await.unwrap().await.unwrap();

    cluster.restart_validator(0).await;
    ann.commit("set", set(3)).await;
    let all = timestamps(&cluster);
    assert!(all[1] > now_ms() + YEAR_MS - HOUR_MS && all[2].abs_diff(now_ms()) < HOUR_MS, "{all:?}");
}
