//! Every metric of a frontend: its name, its unit and what it tells.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Open connections.
pub const CONNECTIONS: &str = "insieme_connections";
/// Connections closed by the server, by close code.
pub const CLOSED: &str = "insieme_connections_closed_total";
/// Frames received.
pub const FRAMES_IN: &str = "insieme_frames_received_total";
/// Frames sent.
pub const FRAMES_OUT: &str = "insieme_frames_sent_total";
/// Bytes of broadcast frames sent.
pub const BROADCAST_BYTES: &str = "insieme_broadcast_bytes_total";
/// Drafts submitted.
pub const SUBMITTED: &str = "insieme_drafts_submitted_total";
/// Drafts answered as accepted.
pub const ACCEPTED: &str = "insieme_acceptances_sent_total";
/// Drafts answered as rejected, by reason.
pub const REJECTED: &str = "insieme_rejections_sent_total";
/// Drafts given up without an outcome.
pub const FORGOTTEN: &str = "insieme_drafts_unanswered_total";
/// Submissions published again.
pub const REPUBLISHED: &str = "insieme_submissions_republished_total";
/// From a draft's frame to its answer.
pub const ANSWER_SECONDS: &str = "insieme_draft_answer_duration_seconds";
/// `error` frames sent, by code.
pub const ERRORS: &str = "insieme_errors_sent_total";
/// Partitions watched.
pub const FEEDS: &str = "insieme_feeds";
/// Times that a feed had to read events from the log that no live message brought.
pub const GAPS: &str = "insieme_feed_gaps_total";
/// Holes in the log itself: must stay 0.
pub const HOLES: &str = "insieme_log_holes_total";
/// Events in the log that cannot be read: must stay 0.
pub const UNREADABLE: &str = "insieme_log_unreadable_total";
/// Reads of a connection that had left its partition's ring.
pub const RING_MISSES: &str = "insieme_ring_misses_total";
/// Pages read from the log.
pub const PAGES_READ: &str = "insieme_pages_read_total";
/// States serialised for clients.
pub const STATES: &str = "insieme_states_serialised_total";
/// Notices that found a connection's inbox full: the frontend asks again.
pub const INBOX_FULL: &str = "insieme_inbox_full_total";

/// Tells the recorder what the metrics are. Called once, when a frontend starts.
pub fn describe() {
    describe_gauge!(CONNECTIONS, Unit::Count, "Open connections");
    describe_counter!(CLOSED, Unit::Count, "Connections closed by the server, by close code");
    describe_counter!(FRAMES_IN, Unit::Count, "Frames received");
    describe_counter!(FRAMES_OUT, Unit::Count, "Frames sent");
    describe_counter!(BROADCAST_BYTES, Unit::Bytes, "Bytes of broadcast frames sent");
    describe_counter!(SUBMITTED, Unit::Count, "Drafts submitted");
    describe_counter!(ACCEPTED, Unit::Count, "Drafts answered as accepted");
    describe_counter!(REJECTED, Unit::Count, "Drafts answered as rejected, by reason");
    describe_counter!(FORGOTTEN, Unit::Count, "Drafts given up without an outcome");
    describe_counter!(REPUBLISHED, Unit::Count, "Submissions published again");
    describe_histogram!(ANSWER_SECONDS, Unit::Seconds, "From a draft's frame to its answer");
    describe_counter!(ERRORS, Unit::Count, "Error frames sent, by code");
    describe_gauge!(FEEDS, Unit::Count, "Partitions watched");
    describe_counter!(GAPS, Unit::Count, "Gaps between live events that were filled from the log");
    describe_counter!(HOLES, Unit::Count, "Holes in the log; must stay 0");
    describe_counter!(UNREADABLE, Unit::Count, "Events in the log that cannot be read; must stay 0");
    describe_counter!(RING_MISSES, Unit::Count, "Reads of connections that had left the ring");
    describe_counter!(PAGES_READ, Unit::Count, "Pages read from the log");
    describe_counter!(STATES, Unit::Count, "States serialised for clients");
    describe_counter!(INBOX_FULL, Unit::Count, "Notices that found a connection's inbox full");
}

/// Counts one.
pub(super) fn count(name: &'static str) {
    counter!(name).increment(1);
}

/// Counts some.
pub(super) fn add(name: &'static str, by: u64) {
    counter!(name).increment(by);
}

/// Counts one under a label.
pub(super) fn count_by(name: &'static str, label: &'static str, value: &'static str) {
    counter!(name, label => value).increment(1);
}

/// Records a duration.
pub(super) fn duration(name: &'static str, seconds: f64) {
    histogram!(name).record(seconds);
}

/// One more in a gauge, for as long as it lives.
pub(super) struct Counted(&'static str);

impl Counted {
    pub(super) fn one(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}
