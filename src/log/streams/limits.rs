//! What NATS takes, compared with what is needed of it: said at the start in plain words, and not by a failure later.

use async_nats::jetstream::account::{Account, Limits};
use async_nats::jetstream::stream::StorageType;
use tracing::{debug, warn};

use super::bootstrap::{BootstrapError, stream_info};
use super::settings::LogSettings;
use crate::log::client::Log;
use crate::log::queue::consumer::UNDECIDED_MAX;
use crate::log::subjects::OWNERSHIP_STREAM;

/// The smallest `max_payload` that will do: snapshots are written in pieces of 128 KiB, as NATS's clients do it.
const MESSAGE_BYTES_MIN: usize = 129 * 1024;
/// The streams and buckets that there are.
const STREAMS: i64 = 5;
/// The most that a slot's key takes: NATS holds no message with longer headers.
const SLOT_KEY_BYTES_MAX: i64 = 64 * 1024;

impl Log {
    /// Says what can never work with what NATS takes.
    pub(crate) async fn check_limits(&self) -> Result<(), BootstrapError> {
        let mut problems = Vec::from_iter(message_problem(self.message_bytes_max()));
        match self.js.query_account().await {
            Ok(account) => {
                let limits = limits_of(&account, self.settings.replicas);
                let bucket_bytes = self.bucket_bytes_in_memory().await;
                problems.extend(account_problems(limits, &self.settings, bucket_bytes));
            }
            // Whoever asks for the streams next learns why.
            Err(error) => debug!(%error, "failed to ask for the account's limits"),
        }
        if problems.is_empty() { Ok(()) } else { Err(BootstrapError::Limits(problems)) }
    }

    /// What the bucket of slots may take of NATS's memory. One that an older version has made is in a file.
    async fn bucket_bytes_in_memory(&self) -> i64 {
        let expected = self.settings.ownership_stream().storage;
        let found = stream_info(self, OWNERSHIP_STREAM).await;
        let storage = found.ok().flatten().map_or(expected, |found| found.config.storage);
        // One key more: a key is written before the one that it replaces is removed.
        if storage == StorageType::Memory {
            (i64::from(self.settings.slots) + 1) * SLOT_KEY_BYTES_MAX
        } else {
            0
        }
    }

    /// Warns of what a frontend takes from clients and NATS does not.
    pub fn warn_of_limits(&self, frame_bytes_max: usize, submission_bytes_max: usize) {
        for warning in frontend_warnings(self.message_bytes_max(), frame_bytes_max, submission_bytes_max) {
            warn!("{warning}");
        }
    }
}

/// The limits that hold for streams of so many replicas.
fn limits_of(account: &Account, replicas: usize) -> &Limits {
    let tier = account.tiers.get(&format!("R{replicas}"));
    tier.map_or(&account.limits, |tier| &tier.limits)
}

fn message_problem(message_bytes_max: usize) -> Option<String> {
    (message_bytes_max < MESSAGE_BYTES_MIN).then(|| {
        format!(
            "max_payload: NATS takes messages of {message_bytes_max} bytes, and at least {MESSAGE_BYTES_MIN} are needed, \
             because snapshots are written in pieces of 128 KiB; raise max_payload in the configuration of NATS"
        )
    })
}

fn account_problems(limits: &Limits, settings: &LogSettings, bucket_bytes: i64) -> Vec<String> {
    let slots = i64::from(settings.slots);
    let drafts_bytes_max = settings.drafts_bytes_max;
    let (kind, store, one_stream) = match settings.replicas {
        1 => ("memory", limits.max_memory, limits.memory_max_stream_bytes),
        _ => ("files", limits.max_storage, limits.storage_max_stream_bytes),
    };
    let too_few = |limit: Option<i64>, needed: i64| limit.filter(|limit| (1..needed).contains(limit));
    let mut problems = Vec::new();
    if let Some(limit) = too_few(limits.max_streams, STREAMS) {
        problems.push(format!(
            "max_streams: the NATS account may have {limit} streams, and {STREAMS} are needed; raise it"
        ));
    }
    if let Some(limit) = too_few(limits.max_consumers, slots) {
        problems.push(format!(
            "max_consumers: the NATS account may have {limit} consumers of a stream, and nats.slots is {slots}: each slot \
             has one; raise max_consumers, or make the streams with fewer slots"
        ));
    }
    if let Some(limit) = too_few(Some(limits.max_ack_pending), UNDECIDED_MAX) {
        problems.push(format!(
            "max_ack_pending: consumers of the NATS account may have {limit} messages without an acknowledgement, and \
             {UNDECIDED_MAX} are needed; raise it"
        ));
    }
    for (name, limit) in [("the NATS account", store), ("a stream of the NATS account", one_stream)] {
        if let Some(limit) = too_few(limit, drafts_bytes_max) {
            problems.push(format!(
                "nats.drafts_bytes_max is {drafts_bytes_max}, and {name} may hold {limit} bytes in {kind}; lower \
                 nats.drafts_bytes_max, or raise the account's limit"
            ));
        }
    }
    let needed = drafts_bytes_max.saturating_add(bucket_bytes);
    if let Some(limit) = too_few(limits.max_memory, needed)
        && settings.replicas == 1
        && limit >= drafts_bytes_max
    {
        problems.push(format!(
            "max_mem: the NATS account may hold {limit} bytes in memory, and {needed} are needed: {drafts_bytes_max} for \
             undecided drafts (nats.drafts_bytes_max), and {bucket_bytes} for the bucket SLOTS; raise max_mem, or lower \
             nats.drafts_bytes_max"
        ));
    }
    if limits.max_bytes_required {
        problems.push(
            "max_bytes_required: the NATS account demands a bound in bytes of every stream, and the log has none; \
             switch it off"
                .to_owned(),
        );
    }
    problems
}

fn frontend_warnings(
    message_bytes_max: usize,
    frame_bytes_max: usize,
    submission_bytes_max: usize,
) -> Vec<String> {
    let mut warnings = Vec::new();
    // In the log an event has what a frame has, and about as much again of names and headers.
    if frame_bytes_max.saturating_add(16 * 1024) > message_bytes_max {
        warnings.push(format!(
            "frontend.frame_bytes_max is {frame_bytes_max}, and NATS takes messages of {message_bytes_max} bytes \
             (max_payload): larger events are refused with TOO_LARGE_FOR_LOG; lower frontend.frame_bytes_max, or raise \
             max_payload in the configuration of NATS"
        ));
    }
    if submission_bytes_max > message_bytes_max / 2 {
        warnings.push(format!(
            "frontend.submission_bytes_max is {submission_bytes_max}, and counts as {}: half of what NATS takes in a \
             message (max_payload)",
            message_bytes_max / 2
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> Limits {
        let mut limits = serde_json::json!({
            "max_memory": -1, "max_storage": -1, "max_streams": -1, "max_consumers": -1, "max_bytes_required": false,
            "max_ack_pending": -1, "memory_max_stream_bytes": -1, "storage_max_stream_bytes": -1,
        });
        let changed: serde_json::Value = serde_json::from_str(text).unwrap();
        for (key, value) in changed.as_object().unwrap() {
            limits[key] = value.clone();
        }
        serde_json::from_value(limits).unwrap()
    }

    fn problems(text: &str, replicas: usize) -> Vec<String> {
        account_problems(&limits(text), &LogSettings { replicas, ..LogSettings::default() }, BUCKET)
    }

    const BUCKET: i64 = 1_000;

    #[test]
    fn what_just_does_is_no_problem_and_what_just_does_not_is_named() {
        let bytes = LogSettings::default().drafts_bytes_max;
        for (limit, enough, replicas) in [
            ("max_streams", STREAMS, 1),
            ("max_consumers", 64, 1),
            ("max_ack_pending", UNDECIDED_MAX, 1),
            ("max_memory", bytes + BUCKET, 1),
            ("memory_max_stream_bytes", bytes, 1),
            ("max_storage", bytes, 3),
            ("storage_max_stream_bytes", bytes, 3),
        ] {
            assert!(problems(&format!("{{\"{limit}\":{enough}}}"), replicas).is_empty(), "{limit}");
            let found = problems(&format!("{{\"{limit}\":{}}}", enough - 1), replicas);
            assert_eq!(found.len(), 1, "{limit}: {found:?}");
            assert!(found[0].contains(&(enough - 1).to_string()), "{found:?}");
        }
        assert_eq!(problems("{\"max_bytes_required\":true}", 1).len(), 1);
        assert!(problems("{}", 1).is_empty() && problems("{\"max_storage\":1}", 1).is_empty());
    }

    #[test]
    fn messages_must_hold_a_piece_of_a_snapshot() {
        assert!(message_problem(MESSAGE_BYTES_MIN).is_none());
        assert!(message_problem(MESSAGE_BYTES_MIN - 1).is_some());
    }

    #[test]
    fn a_frontend_is_warned_of_what_nats_does_not_take() {
        assert!(frontend_warnings(1 << 20, 256 << 10, 512 << 10).is_empty());
        assert_eq!(frontend_warnings(1 << 20, 1 << 20, 512 << 10).len(), 1);
        assert_eq!(frontend_warnings(256 << 10, 256 << 10, 512 << 10).len(), 2);
    }
}
