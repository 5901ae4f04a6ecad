//! Every metric about tokens and their keys: its name, its unit and what it tells.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::refusal::Refusal;
use crate::util::time;

/// Tokens refused, by reason.
pub const REFUSED: &str = "insieme_tokens_refused_total";
/// Looks at where the keys for tokens come from, by result.
pub const KEY_LOOKS: &str = "insieme_key_looks_total";
/// The keys that tokens are checked with.
pub const KEYS: &str = "insieme_keys_in_force";
/// When the keys were last seen to be those where they come from.
pub const KEYS_CURRENT: &str = "insieme_keys_current_timestamp_seconds";

/// Revocations in force.
pub const REVOCATIONS: &str = "insieme_revocations_in_force";
/// Looks at what was revoked.
pub const REVOCATION_LOOKS: &str = "insieme_revocation_looks_total";

/// Questions to the application who may come in, by result.
pub const HOOK_CALLS: &str = "insieme_hook_calls_total";
/// How long they took.
pub const HOOK_SECONDS: &str = "insieme_hook_duration_seconds";

/// Tells the recorder what the metrics are. Called once, when a frontend starts.
pub fn describe() {
    describe_counter!(REFUSED, Unit::Count, "Tokens refused, by reason");
    describe_counter!(KEY_LOOKS, Unit::Count, "Looks at where the keys for tokens come from, by result");
    describe_gauge!(REVOCATIONS, Unit::Count, "Revocations of tokens in force");
    describe_counter!(REVOCATION_LOOKS, Unit::Count, "Looks at what was revoked, by result");
    describe_gauge!(KEYS, Unit::Count, "Keys that tokens are checked with");
    describe_gauge!(
        KEYS_CURRENT,
        Unit::Seconds,
        "When the keys were last seen to be current, in Unix seconds"
    );
    describe_counter!(
        HOOK_CALLS,
        Unit::Count,
        "Questions to the application who may come in (auth.hook_url), by result: allowed, refused, kept, failed"
    );
    describe_histogram!(
        HOOK_SECONDS,
        Unit::Seconds,
        "From such a question to its answer, waiting for its turn included"
    );
    // An alarm asks for it: a counter that comes with its first count never rises.
    counter!(HOOK_CALLS, "result" => "failed").increment(0);
    counter!(KEY_LOOKS, "result" => "failed").increment(0);
}

/// Says how many revocations are in force.
pub(crate) fn revocations(count: usize) {
    gauge!(REVOCATIONS).set(count as f64);
}

/// Counts a look at what was revoked.
pub fn revocations_looked(is_good: bool) {
    counter!(REVOCATION_LOOKS, "result" => if is_good { "ok" } else { "failed" }).increment(1);
}

/// Counts a token that is refused.
pub(crate) fn refused(why: &Refusal) {
    counter!(REFUSED, "reason" => why.as_str()).increment(1);
}

/// Counts a question to the application.
pub(super) fn hook_asked(result: &'static str) {
    counter!(HOOK_CALLS, "result" => result).increment(1);
}

/// Says how long a question to the application took.
pub(super) fn hook_took(time: Duration) {
    histogram!(HOOK_SECONDS).record(time.as_secs_f64());
}

/// Counts a look at where the keys come from.
pub(crate) fn looked(is_good: bool) {
    counter!(KEY_LOOKS, "result" => if is_good { "ok" } else { "failed" }).increment(1);
    if is_good {
        let now = time::now().as_secs_f64();
        gauge!(KEYS_CURRENT).set(now.floor());
    }
}

/// Says how many keys are in force.
pub(crate) fn keys_in_force(count: usize) {
    gauge!(KEYS).set(count as f64);
}
