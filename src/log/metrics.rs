//! The log's metrics, of every process that is connected to NATS: names, units and meaning, in one place.

use std::time::Duration;

use super::integrity::damage::DAMAGE_KINDS;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const CONNECTED: &str = "insieme_nats_connected";
const RECONNECTS: &str = "insieme_nats_reconnects_total";
const SLOW: &str = "insieme_nats_slow_subscriptions_total";
const SLOTS: &str = "insieme_slots_configured";
const QUEUED_SECONDS: &str = "insieme_draft_queued_duration_seconds";
const STREAM_MESSAGES: &str = "insieme_stream_messages";
const STREAM_BYTES: &str = "insieme_stream_bytes";
const STREAM_BYTES_MAX: &str = "insieme_stream_bytes_max";
const STORE_BYTES: &str = "insieme_store_bytes";
const STORE_BYTES_MAX: &str = "insieme_store_bytes_max";
const STRAYS: &str = "insieme_drafts_stray_total";
const DAMAGED: &str = "insieme_log_damaged";
const CLOCK_OFFSET: &str = "insieme_clock_offset_seconds";
const TORN_READS: &str = "insieme_log_torn_reads_total";
const INCOMPLETE_INDEXES: &str = "insieme_log_incomplete_indexes_total";
const LOOK_FAILURES: &str = "insieme_store_look_failures_total";

/// Tells the metrics recorder what each metric is, and how many slots there are. Called when connected.
pub(crate) fn describe(slots: u16) {
    describe_gauge!(CONNECTED, Unit::Count, "Whether NATS is connected");
    describe_counter!(RECONNECTS, Unit::Count, "Reconnects to NATS");
    describe_counter!(SLOW, Unit::Count, "Times that NATS's client dropped messages for a slow subscription");
    describe_gauge!(SLOTS, Unit::Count, "Slots that there are");
    describe_histogram!(QUEUED_SECONDS, Unit::Seconds, "From a draft's storage in DRAFTS to its taking");
    describe_gauge!(STREAM_MESSAGES, Unit::Count, "Messages in a stream, by stream");
    describe_gauge!(STREAM_BYTES, Unit::Bytes, "Bytes in a stream, by stream");
    describe_gauge!(
        STREAM_BYTES_MAX,
        Unit::Bytes,
        "The most bytes that a stream may hold, where it is bounded"
    );
    describe_gauge!(STORE_BYTES, Unit::Bytes, "What the NATS account's streams take on disk");
    describe_gauge!(STORE_BYTES_MAX, Unit::Bytes, "What they may take, where the account is bounded");
    describe_counter!(LOOK_FAILURES, Unit::Count, "Looks at streams and store that failed");
    describe_gauge!(CLOCK_OFFSET, Unit::Seconds, "How far this process's clock is ahead of NATS's");
    describe_counter!(STRAYS, Unit::Count, "Drafts in no slot's reach that were thrown away; must stay 0");
    describe_counter!(
        TORN_READS,
        Unit::Count,
        "Answers of the log that came without some of their messages, and were asked for again"
    );
    describe_counter!(
        INCOMPLETE_INDEXES,
        Unit::Count,
        "Draft indexes that lacked drafts of the log, and were made again from it"
    );
    describe_gauge!(DAMAGED, Unit::Count, "Whether the streams are not what they were, by kind of damage");
    for kind in DAMAGE_KINDS {
        damaged(kind, false);
    }
    gauge!(CONNECTED).set(1.0);
    gauge!(SLOTS).set(f64::from(slots));
    for name in [RECONNECTS, SLOW, LOOK_FAILURES, STRAYS, TORN_READS, INCOMPLETE_INDEXES] {
        counter!(name).increment(0);
    }
}

pub(crate) fn connected(is_connected: bool) {
    gauge!(CONNECTED).set(if is_connected { 1.0 } else { 0.0 });
}

/// Counts drafts that were in no slot's reach.
pub(crate) fn strays(count: u64) {
    counter!(STRAYS).increment(count);
}

pub(crate) fn reconnected() {
    counter!(RECONNECTS).increment(1);
}

pub(crate) fn torn_read() {
    counter!(TORN_READS).increment(1);
}

pub(crate) fn incomplete_index() {
    counter!(INCOMPLETE_INDEXES).increment(1);
}

pub(crate) fn slow_subscription() {
    counter!(SLOW).increment(1);
}

pub(crate) fn draft_queued(waited: Duration) {
    histogram!(QUEUED_SECONDS).record(waited);
}

pub(crate) fn stream(name: &'static str, messages: u64, bytes: u64, bytes_max: Option<u64>) {
    gauge!(STREAM_MESSAGES, "stream" => name).set(messages as f64);
    gauge!(STREAM_BYTES, "stream" => name).set(bytes as f64);
    if let Some(bytes_max) = bytes_max {
        gauge!(STREAM_BYTES_MAX, "stream" => name).set(bytes_max as f64);
    }
}

pub(crate) fn store(bytes: u64, bytes_max: Option<u64>) {
    gauge!(STORE_BYTES).set(bytes as f64);
    if let Some(bytes_max) = bytes_max {
        gauge!(STORE_BYTES_MAX).set(bytes_max as f64);
    }
}

pub(crate) fn damaged(kind: &'static str, is_damaged: bool) {
    gauge!(DAMAGED, "kind" => kind).set(if is_damaged { 1.0 } else { 0.0 });
}

pub(crate) fn clock_offset(seconds: f64) {
    gauge!(CLOCK_OFFSET).set(seconds);
}

pub(crate) fn look_failed() {
    counter!(LOOK_FAILURES).increment(1);
}
