//! The validator's metrics: names, units and meaning, in one place.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use tokio::time::Instant;

use crate::event::Outcome;
use crate::log::CommitError;
use crate::util::time;

const COMMIT_SECONDS: &str = "insieme_commit_duration_seconds";
const COMMIT_EVENTS: &str = "insieme_commit_batch_events";
const COMMITTED: &str = "insieme_events_committed_total";
const CONFLICTS: &str = "insieme_commit_conflicts_total";
const COMMIT_FAILURES: &str = "insieme_commit_failures_total";
const REJECTED: &str = "insieme_drafts_rejected_total";
const DUPLICATES: &str = "insieme_drafts_duplicate_total";
const SOUGHT: &str = "insieme_drafts_sought_total";
const LATE: &str = "insieme_drafts_late_total";
const OVERDUE: &str = "insieme_drafts_overdue_total";
const PASSED_OVER: &str = "insieme_drafts_passed_over_total";
const MARKS: &str = "insieme_marks_committed_total";
const SLOT_WRITES: &str = "insieme_slot_write_duration_seconds";
const POISONED: &str = "insieme_drafts_poisoned_total";
const RULES_FAILED: &str = "insieme_rules_failures_total";
const DECIDE_SECONDS: &str = "insieme_decide_duration_seconds";
const SLOTS: &str = "insieme_slots_owned";
const TAKEOVERS: &str = "insieme_slot_takeovers_total";
const CACHE_BYTES: &str = "insieme_partition_cache_bytes";
const CACHE_MISSES: &str = "insieme_partition_cache_misses_total";
const LOAD_SECONDS: &str = "insieme_partition_load_duration_seconds";
const SNAPSHOT_SECONDS: &str = "insieme_snapshot_duration_seconds";
const INDEX_SECONDS: &str = "insieme_snapshot_index_duration_seconds";
const SNAPSHOT_BYTES: &str = "insieme_snapshot_size_bytes";
const SNAPSHOT_EVENTS: &str = "insieme_snapshot_events";
const SNAPSHOT_TIME: &str = "insieme_snapshot_last_timestamp_seconds";
const STAGE_SECONDS: &str = "insieme_stage_duration_seconds";
const CODES: &str = "insieme_rejections_total";
const SNAPSHOT_FAILURES: &str = "insieme_snapshot_failures_total";
const SNAPSHOT_SKIPS: &str = "insieme_snapshot_skips_total";
const STOPPED: &str = "insieme_partitions_stopped_total";
const SET_BACK: &str = "insieme_timestamps_set_back_total";
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
    describe_counter!(SOUGHT, Unit::Count, "Drafts of which the log was asked whether they are committed");
    describe_counter!(LATE, Unit::Count, "Copies of drafts that were overtaken by a later copy, and dropped");
    describe_counter!(
        OVERDUE,
        Unit::Count,
        "Copies of drafts that NATS stored too late, and that were dropped"
    );
    describe_counter!(
        PASSED_OVER,
        Unit::Count,
        "Drafts that arrived again after they were decided, and were skipped"
    );
    describe_counter!(MARKS, Unit::Count, "Marks committed: events that no client is shown");
    describe_histogram!(
        SLOT_WRITES,
        Unit::Seconds,
        "Writing a slot's key, before a rejection is told for instance"
    );
    describe_counter!(POISONED, Unit::Count, "Drafts that could not be processed at all");
    describe_counter!(RULES_FAILED, Unit::Count, "Drafts on which the application's rules failed");
    describe_histogram!(DECIDE_SECONDS, Unit::Seconds, "Deciding and folding one round of drafts");
    describe_gauge!(SLOTS, Unit::Count, "Slots that this validator owns");
    describe_counter!(TAKEOVERS, Unit::Count, "Slots taken");
    describe_gauge!(CACHE_BYTES, Unit::Bytes, "Partition states in the cache");
    describe_counter!(CACHE_MISSES, Unit::Count, "Partition states that had to be loaded");
    describe_histogram!(LOAD_SECONDS, Unit::Seconds, "Loading a partition's state");
    describe_histogram!(SNAPSHOT_SECONDS, Unit::Seconds, "Making and writing the snapshot of a state");
    describe_histogram!(INDEX_SECONDS, Unit::Seconds, "Making and writing a draft index");
    describe_histogram!(SNAPSHOT_BYTES, Unit::Bytes, "Sizes of snapshots written, uncompressed");
    describe_histogram!(SNAPSHOT_EVENTS, Unit::Count, "Events since the snapshot before, of one written");
    describe_gauge!(SNAPSHOT_TIME, Unit::Seconds, "When the last snapshot was written, Unix time");
    describe_histogram!(STAGE_SECONDS, Unit::Seconds, "The stages of a draft's way, by stage");
    describe_counter!(CODES, Unit::Count, "Drafts rejected, by the code of the first finding");
    describe_counter!(SNAPSHOT_FAILURES, Unit::Count, "Snapshots that could not be written");
    describe_counter!(SNAPSHOT_SKIPS, Unit::Count, "Snapshots put off because others were waiting");
    describe_counter!(STOPPED, Unit::Count, "Times a partition was found with a log that does not fold");
    describe_counter!(SET_BACK, Unit::Count, "Times a partition's last event was ahead of NATS's clock");
    describe_gauge!(SCHEMAS, Unit::Count, "Schemas of the application's in force");
    describe_counter!(SCHEMA_RELOADS, Unit::Count, "Tries at taking changed schemas, by result: ok, failed");
    // What an alarm asks for is there from the start, at 0: a counter that comes with its first count
    // never rises.
    for name in [
        COMMITTED,
        CONFLICTS,
        COMMIT_FAILURES,
        POISONED,
        RULES_FAILED,
        STOPPED,
        SNAPSHOT_FAILURES,
        SNAPSHOT_SKIPS,
        SET_BACK,
    ] {
        counter!(name).increment(0);
    }
    counter!(SCHEMA_RELOADS, "result" => "failed").increment(0);
    gauge!(SLOTS).increment(0.0);
    hot();
}

/// The metrics of what happens for every draft, looked up once.
struct Hot {
    commit: Histogram,
    commit_events: Histogram,
    committed: Counter,
    decide: Histogram,
    /// From the queue to a decision on the whole submission.
    stage_decided: Histogram,
    /// From there to the acknowledgement of its commit.
    stage_committed: Histogram,
}

/// The hot ones. First called when a validator starts, when the process's recorder is there.
fn hot() -> &'static Hot {
    static HOT: OnceLock<Hot> = OnceLock::new();
    HOT.get_or_init(|| Hot {
        commit: histogram!(COMMIT_SECONDS),
        commit_events: histogram!(COMMIT_EVENTS),
        committed: counter!(COMMITTED),
        decide: histogram!(DECIDE_SECONDS),
        stage_decided: histogram!(STAGE_SECONDS, "stage" => "decided"),
        stage_committed: histogram!(STAGE_SECONDS, "stage" => "committed"),
    })
}

/// By tokio's clock, which a simulation sets: what a commit took decides how the next one goes.
pub(crate) struct CommitTimer {
    started: Instant,
    events: usize,
}

/// A partition's timestamps have left the time of an event that was ahead of NATS's clock.
pub(crate) fn timestamps_set_back() {
    counter!(SET_BACK).increment(1);
}

pub(crate) fn commit_started(events: usize) -> CommitTimer {
    CommitTimer { started: Instant::now(), events }
}

/// Takes note of how a commit went, and gives the time that it took.
pub(crate) fn commit_ended(timer: CommitTimer, error: Option<&CommitError>) -> Duration {
    let took = timer.started.elapsed();
    match error {
        None => {
            hot().commit.record(took);
            hot().commit_events.record(timer.events as f64);
            hot().committed.increment(timer.events as u64);
        }
        Some(CommitError::Conflict) => counter!(CONFLICTS).increment(1),
        Some(CommitError::NotStored(_) | CommitError::Unknown(_)) => counter!(COMMIT_FAILURES).increment(1),
    }
    took
}

pub(crate) fn decided(outcomes: &[Outcome]) {
    for outcome in outcomes {
        if let Outcome::Rejected { reason, errors } = outcome {
            counter!(REJECTED, "reason" => reason.as_str()).increment(1);
            rejected_with(errors.first().map_or("NONE", |error| error.code.as_str()));
        }
    }
}

/// The most codes that are told apart. There are fewer; this only keeps a defect from making a series of
/// every text.
const CODES_MAX: usize = 64;

fn rejected_with(code: &str) {
    static KNOWN: OnceLock<Mutex<HashMap<String, Counter>>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let code = if known.contains_key(code) || known.len() < CODES_MAX { code } else { "OTHER" };
    let counter =
        known.entry(code.to_owned()).or_insert_with_key(|code| counter!(CODES, "code" => code.clone()));
    counter.increment(1);
}

/// A submission has been decided, so long after it was taken off the queue.
pub(crate) fn stage_decided(took: Duration) {
    hot().stage_decided.record(took);
}

/// What a round has decided is in the log, so long after it was decided.
pub(crate) fn stage_committed(took: Duration) {
    hot().stage_committed.record(took);
}

pub(crate) fn late() {
    counter!(LATE).increment(1);
}

/// A copy that NATS stored after its last moment was dropped.
pub(crate) fn overdue() {
    counter!(OVERDUE).increment(1);
}

/// A draft came again that was decided already.
pub(crate) fn passed_over() {
    counter!(PASSED_OVER).increment(1);
}

pub(crate) fn marked() {
    counter!(MARKS).increment(1);
}

pub(crate) fn slot_written(took: Duration) {
    histogram!(SLOT_WRITES).record(took);
}

pub(crate) fn duplicate() {
    counter!(DUPLICATES).increment(1);
}

pub(crate) fn sought(drafts: usize) {
    counter!(SOUGHT).increment(drafts as u64);
}

pub(crate) fn poisoned() {
    counter!(POISONED).increment(1);
}

pub(crate) fn rules_failed() {
    counter!(RULES_FAILED).increment(1);
}

pub(crate) fn round(took: Duration) {
    hot().decide.record(took);
}

pub(crate) fn slots_owned(count: usize) {
    gauge!(SLOTS).set(count as f64);
}

pub(crate) fn takeover() {
    counter!(TAKEOVERS).increment(1);
}

pub(crate) fn cache_bytes(bytes: usize) {
    gauge!(CACHE_BYTES).set(bytes as f64);
}

pub(crate) fn loaded(took: Duration) {
    counter!(CACHE_MISSES).increment(1);
    histogram!(LOAD_SECONDS).record(took);
}

/// Takes note of a snapshot that was written: how long that took, its size, and how many events lie between
/// it and the one before.
pub(crate) fn snapshot_written(took: Duration, bytes: u64, events: u64) {
    histogram!(SNAPSHOT_SECONDS).record(took);
    histogram!(SNAPSHOT_BYTES).record(bytes as f64);
    histogram!(SNAPSHOT_EVENTS).record(events as f64);
    gauge!(SNAPSHOT_TIME).set(time::now().as_secs_f64());
}

pub(crate) fn index_written(took: Duration) {
    histogram!(INDEX_SECONDS).record(took.as_secs_f64());
}

pub(crate) fn snapshot_failed() {
    counter!(SNAPSHOT_FAILURES).increment(1);
}

pub(crate) fn snapshot_skipped() {
    counter!(SNAPSHOT_SKIPS).increment(1);
}

pub(crate) fn partition_stopped() {
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
