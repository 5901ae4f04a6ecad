//! The validator's metrics: names, units and meaning, in one place.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use tokio::time::Instant;

use crate::event::Outcome;
use crate::log::CommitError;

const COMMIT_SECONDS: &str = "insieme_commit_duration_seconds";
const COMMIT_EVENTS: &str = "insieme_commit_batch_events";
const COMMITTED: &str = "insieme_events_committed_total";
const CONFLICTS: &str = "insieme_commit_conflicts_total";
const COMMIT_FAILURES: &str = "insieme_commit_failures_total";
const REJECTED: &str = "insieme_drafts_rejected_total";
const DUPLICATES: &str = "insieme_drafts_duplicate_total";
const LATE: &str = "insieme_drafts_late_total";
const POISONED: &str = "insieme_drafts_poisoned_total";
const DECIDE_SECONDS: &str = "insieme_decide_duration_seconds";
const SLOTS: &str = "insieme_slots_owned";
const TAKEOVERS: &str = "insieme_slot_takeovers_total";
const CACHE_BYTES: &str = "insieme_partition_cache_bytes";
const CACHE_MISSES: &str = "insieme_partition_cache_misses_total";
const LOAD_SECONDS: &str = "insieme_partition_load_duration_seconds";
const SNAPSHOT_SECONDS: &str = "insieme_snapshot_duration_seconds";
const SNAPSHOT_FAILURES: &str = "insieme_snapshot_failures_total";
const SNAPSHOT_SKIPS: &str = "insieme_snapshot_skips_total";
const STOPPED: &str = "insieme_partitions_stopped_total";
const SCHEMAS: &str = "insieme_schemas_loaded";
const SCHEMA_RELOADS: &str = "insieme_schema_reloads_total";

/// Tells the metrics recorder what each metric is. Call once, at the start.
pub fn describe() {
    describe_histogram!(COMMIT_SECONDS, Unit::Seconds, "From sending a commit to its acknowledgement");
    describe_histogram!(COMMIT_EVENTS, Unit::Count, "Events per commit");
    describe_counter!(COMMITTED, Unit::Count, "Events committed");
    describe_counter!(CONFLICTS, Unit::Count, "Commits refused because the partition had moved on");
    describe_counter!(COMMIT_FAILURES, Unit::Count, "Commits not stored, or without an answer");
    describe_counter!(REJECTED, Unit::Count, "Drafts rejected, by reason");
    describe_counter!(DUPLICATES, Unit::Count, "Drafts that were found committed already");
    describe_counter!(LATE, Unit::Count, "Copies of drafts that were overtaken by a later copy, and dropped");
    describe_counter!(POISONED, Unit::Count, "Drafts that could not be processed at all");
    describe_histogram!(DECIDE_SECONDS, Unit::Seconds, "Deciding and folding one round of drafts");
    describe_gauge!(SLOTS, Unit::Count, "Slots that this validator owns");
    describe_counter!(TAKEOVERS, Unit::Count, "Slots taken");
    describe_gauge!(CACHE_BYTES, Unit::Bytes, "Partition states in the cache");
    describe_counter!(CACHE_MISSES, Unit::Count, "Partition states that had to be loaded");
    describe_histogram!(LOAD_SECONDS, Unit::Seconds, "Loading a partition's state");
    describe_histogram!(SNAPSHOT_SECONDS, Unit::Seconds, "Making and writing a snapshot");
    describe_counter!(SNAPSHOT_FAILURES, Unit::Count, "Snapshots that could not be written");
    describe_counter!(SNAPSHOT_SKIPS, Unit::Count, "Snapshots put off because others were waiting");
    describe_counter!(STOPPED, Unit::Count, "Times a partition was found with a log that does not fold");
    describe_gauge!(SCHEMAS, Unit::Count, "Schemas of the application's in force");
    describe_counter!(SCHEMA_RELOADS, Unit::Count, "Tries at taking changed schemas, by result: ok, failed");
}

/// By tokio's clock, which a simulation sets: what a commit took decides how the next one goes.
pub(super) struct CommitTimer {
    started: Instant,
    events: usize,
}

pub(super) fn commit_started(events: usize) -> CommitTimer {
    CommitTimer { started: Instant::now(), events }
}

/// Takes note of how a commit went, and gives the time that it took.
pub(super) fn commit_ended(timer: CommitTimer, error: Option<&CommitError>) -> Duration {
    let took = timer.started.elapsed();
    match error {
        None => {
            histogram!(COMMIT_SECONDS).record(took);
            histogram!(COMMIT_EVENTS).record(timer.events as f64);
            counter!(COMMITTED).increment(timer.events as u64);
        }
        Some(CommitError::Conflict) => counter!(CONFLICTS).increment(1),
        Some(CommitError::NotStored(_) | CommitError::Unknown(_)) => counter!(COMMIT_FAILURES).increment(1),
    }
    took
}

pub(super) fn decided(outcomes: &[Outcome]) {
    for outcome in outcomes {
        if let Outcome::Rejected { reason, .. } = outcome {
            counter!(REJECTED, "reason" => reason.as_str()).increment(1);
        }
    }
}

pub(super) fn late() {
    counter!(LATE).increment(1);
}

pub(super) fn duplicate() {
    counter!(DUPLICATES).increment(1);
}

pub(super) fn poisoned() {
    counter!(POISONED).increment(1);
}

pub(super) fn round(took: Duration) {
    histogram!(DECIDE_SECONDS).record(took);
}

pub(super) fn slots_owned(count: usize) {
    gauge!(SLOTS).set(count as f64);
}

pub(super) fn takeover() {
    counter!(TAKEOVERS).increment(1);
}

pub(super) fn cache_bytes(bytes: usize) {
    gauge!(CACHE_BYTES).set(bytes as f64);
}

pub(super) fn loaded(took: Duration) {
    counter!(CACHE_MISSES).increment(1);
    histogram!(LOAD_SECONDS).record(took);
}

pub(super) fn snapshot_written(took: Duration) {
    histogram!(SNAPSHOT_SECONDS).record(took);
}

pub(super) fn snapshot_failed() {
    counter!(SNAPSHOT_FAILURES).increment(1);
}

pub(super) fn snapshot_skipped() {
    counter!(SNAPSHOT_SKIPS).increment(1);
}

pub(super) fn partition_stopped() {
    counter!(STOPPED).increment(1);
}

/// Takes note of how many schemas are in force.
pub fn schemas_loaded(count: usize) {
    gauge!(SCHEMAS).set(count as f64);
}

/// Takes note of a try at taking changed schemas.
pub fn schemas_reloaded(ok: bool) {
    counter!(SCHEMA_RELOADS, "result" => if ok { "ok" } else { "failed" }).increment(1);
}
