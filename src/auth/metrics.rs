//! Every metric about tokens and their keys: its name, its unit and what it tells.

use metrics::{Unit, counter, describe_counter};

use super::refusal::Refusal;

/// Tokens refused, by reason.
pub const REFUSED: &str = "insieme_tokens_refused_total";

/// Tells the recorder what the metrics are. Called once, when a frontend starts.
pub fn describe() {
    describe_counter!(REFUSED, Unit::Count, "Tokens refused, by reason");
}

/// Counts a token that is refused.
pub(super) fn refused(why: &Refusal) {
    counter!(REFUSED, "reason" => why.as_str()).increment(1);
}
