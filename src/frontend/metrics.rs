//! Every metric of a frontend: its name, its unit and what it tells.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use crate::util::time;

/// Open connections.
pub const CONNECTIONS: &str = "insieme_connections";
/// Connections that came.
pub const OPENED: &str = "insieme_connections_opened_total";
/// Connections that have more than one event to be written to them.
pub const BEHIND: &str = "insieme_connections_behind";
/// Connections that got no WebSocket, by reason.
pub const UPGRADES_REFUSED: &str = "insieme_upgrades_refused_total";
/// Connections that gave way to others before they had said who they are, by stage.
pub const GAVE_WAY: &str = "insieme_connections_gave_way_total";
/// Times that no connection could be accepted for want of something, such as file descriptors.
pub const ACCEPT_ERRORS: &str = "insieme_accept_errors_total";
/// Tries at taking a changed certificate, by result.
pub const TLS_RELOADS: &str = "insieme_tls_reloads_total";
/// When the certificate in force ends to be valid.
pub const TLS_NOT_AFTER: &str = "insieme_tls_certificate_not_after_timestamp_seconds";
/// Connections closed by the server, by close code.
pub const CLOSED: &str = "insieme_connections_closed_total";
/// Connections ended by an order of the administration, by reason.
pub const DISMISSED: &str = "insieme_connections_dismissed_total";
/// Frames received.
pub const FRAMES_IN: &str = "insieme_frames_received_total";
/// Frames sent.
pub const FRAMES_OUT: &str = "insieme_frames_sent_total";
/// Bytes of broadcast frames sent.
pub const BROADCAST_BYTES: &str = "insieme_broadcast_bytes_total";
/// Events written to connections as broadcasts.
pub const BROADCASTS: &str = "insieme_broadcasts_sent_total";
/// What clients make the frontend hold, as counted against `frontend.memory_bytes_max`.
pub const MEMORY_BYTES: &str = "insieme_frontend_memory_bytes";
/// Connections closed because they held most of a memory that was full.
pub const MEMORY_CLOSED: &str = "insieme_connections_closed_for_memory_total";
/// Drafts that wait for their answer.
pub const PENDING: &str = "insieme_drafts_pending";
/// The stages of a draft's way; also a validator's.
pub const STAGE_SECONDS: &str = "insieme_stage_duration_seconds";
/// Drafts submitted.
pub const SUBMITTED: &str = "insieme_drafts_submitted_total";
/// Drafts answered as accepted.
pub const ACCEPTED: &str = "insieme_acceptances_sent_total";
/// Drafts answered as rejected, by reason.
pub const REJECTED: &str = "insieme_rejections_sent_total";
/// Drafts given up without an outcome.
pub const FORGOTTEN: &str = "insieme_drafts_unanswered_total";
/// Clients told that they have seen events which the log does not have.
pub const BEYOND_LOG: &str = "insieme_clients_beyond_log_total";
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
/// Events that were read from the log to fill gaps.
pub const GAP_EVENTS: &str = "insieme_gap_events_total";
/// What the rings of all feeds hold.
pub const RING_BYTES: &str = "insieme_ring_bytes";
/// What the cache of the log's pages holds.
pub const PAGE_CACHE_BYTES: &str = "insieme_page_cache_bytes";
/// From a connection's greeting to the head, for one that began behind it.
pub const CATCH_UP_SECONDS: &str = "insieme_catch_up_duration_seconds";
/// Reading a page of the log.
pub const PAGE_SECONDS: &str = "insieme_page_read_duration_seconds";
/// Holes in the log itself: must stay 0.
pub const HOLES: &str = "insieme_log_holes_total";
/// Partitions whose last events were gone from the log: must stay 0.
pub const WENT_BACK: &str = "insieme_log_went_back_total";
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

/// Requests of plain HTTP answered, by endpoint and status.
pub const HTTP_REQUESTS: &str = "insieme_http_requests_total";
/// Streams of plain HTTP that are open; also among the connections.
pub const HTTP_STREAMS: &str = "insieme_http_streams";
/// Streams of plain HTTP that ended, by reason.
pub const HTTP_STREAMS_ENDED: &str = "insieme_http_streams_ended_total";
/// Times that the application's rules did not let a client into a partition, by reason.
pub const NO_ENTRY: &str = "insieme_rules_entries_refused_total";

/// Tells the recorder what the metrics are. Called once, when a frontend starts.
pub fn describe() {
    describe_gauge!(CONNECTIONS, Unit::Count, "Open connections");
    describe_counter!(OPENED, Unit::Count, "Connections that came");
    describe_gauge!(BEHIND, Unit::Count, "Connections with more than one event to be written");
    describe_counter!(BROADCASTS, Unit::Count, "Events written to connections as broadcasts");
    describe_gauge!(MEMORY_BYTES, Unit::Bytes, "What clients make the frontend hold");
    describe_counter!(
        MEMORY_CLOSED,
        Unit::Count,
        "Connections closed because they held most of a memory that was full"
    );
    describe_gauge!(PENDING, Unit::Count, "Drafts that wait for their answer");
    describe_histogram!(STAGE_SECONDS, Unit::Seconds, "The stages of a draft's way, by stage");
    describe_counter!(GAP_EVENTS, Unit::Count, "Events read from the log to fill gaps");
    describe_gauge!(RING_BYTES, Unit::Bytes, "What the rings of recent events hold");
    describe_gauge!(PAGE_CACHE_BYTES, Unit::Bytes, "What the cache of the log's pages holds");
    describe_histogram!(
        CATCH_UP_SECONDS,
        Unit::Seconds,
        "From a handshake behind the head until the connection reaches the head"
    );
    describe_histogram!(PAGE_SECONDS, Unit::Seconds, "Reading a page of the log");
    describe_counter!(
        NO_ENTRY,
        Unit::Count,
        "Times that the application's rules did not let a client into a partition, by reason: refused, failed, unavailable"
    );
    describe_counter!(UPGRADES_REFUSED, Unit::Count, "Connections that got no WebSocket, by reason");
    describe_counter!(
        GAVE_WAY,
        Unit::Count,
        "Connections that gave way to others before they had said who they are, by stage"
    );
    describe_counter!(ACCEPT_ERRORS, Unit::Count, "Failures to accept a connection, such as no descriptors");
    describe_counter!(TLS_RELOADS, Unit::Count, "Tries at taking a changed certificate, by result");
    describe_gauge!(
        TLS_NOT_AFTER,
        Unit::Seconds,
        "When the first certificate of the chain in force ends to be valid, in Unix seconds"
    );
    describe_counter!(CLOSED, Unit::Count, "Connections closed by the server, by close code");
    describe_counter!(
        DISMISSED,
        Unit::Count,
        "Connections ended by an order of the administration, by reason"
    );
    describe_counter!(FRAMES_IN, Unit::Count, "Frames received");
    describe_counter!(FRAMES_OUT, Unit::Count, "Frames sent");
    describe_counter!(BROADCAST_BYTES, Unit::Bytes, "Bytes of broadcast frames sent");
    describe_counter!(SUBMITTED, Unit::Count, "Drafts submitted");
    describe_counter!(ACCEPTED, Unit::Count, "Drafts answered as accepted");
    describe_counter!(REJECTED, Unit::Count, "Drafts answered as rejected, by reason");
    describe_counter!(FORGOTTEN, Unit::Count, "Drafts given up without an outcome");
    describe_counter!(
        BEYOND_LOG,
        Unit::Count,
        "Clients told that they have seen events which the log does not have"
    );
    describe_counter!(REPUBLISHED, Unit::Count, "Submissions published again");
    describe_histogram!(ANSWER_SECONDS, Unit::Seconds, "From a draft's frame to its answer");
    describe_counter!(ERRORS, Unit::Count, "Error frames sent, by code");
    describe_gauge!(FEEDS, Unit::Count, "Partitions watched");
    describe_counter!(GAPS, Unit::Count, "Gaps between live events that were filled from the log");
    describe_counter!(HOLES, Unit::Count, "Holes in the log; must stay 0");
    describe_counter!(
        WENT_BACK,
        Unit::Count,
        "Partitions whose last events were gone from the log; must stay 0"
    );
    describe_counter!(UNREADABLE, Unit::Count, "Events in the log that cannot be read; must stay 0");
    describe_counter!(RING_MISSES, Unit::Count, "Reads of connections that had left the ring");
    describe_counter!(PAGES_READ, Unit::Count, "Pages read from the log");
    describe_counter!(STATES, Unit::Count, "States serialised for clients");
    describe_counter!(INBOX_FULL, Unit::Count, "Notices that found a connection's inbox full");
    describe_counter!(HTTP_REQUESTS, Unit::Count, "Requests of plain HTTP answered, by endpoint and status");
    describe_gauge!(HTTP_STREAMS, Unit::Count, "Open streams of plain HTTP");
    describe_counter!(HTTP_STREAMS_ENDED, Unit::Count, "Streams of plain HTTP that ended, by reason");
    // What an alarm asks for is there from the start, at 0: a counter that comes with its first count
    // never rises.
    for name in
        [OPENED, MEMORY_CLOSED, FORGOTTEN, GAPS, HOLES, WENT_BACK, UNREADABLE, SUBMITTED, ACCEPTED, FRAMES_IN]
    {
        counter!(name).increment(0);
    }
    counter!(TLS_RELOADS, "result" => "failed").increment(0);
    for name in [CONNECTIONS, BEHIND, MEMORY_BYTES, PENDING, RING_BYTES, PAGE_CACHE_BYTES] {
        gauge!(name).increment(0.0);
    }
    hot();
}

/// The metrics of what happens for every frame and every event, looked up once.
pub(crate) struct Hot {
    pub frames_in: Counter,
    pub frames_out: Counter,
    pub broadcasts: Counter,
    pub broadcast_bytes: Counter,
    pub submitted: Counter,
    pub accepted: Counter,
    pub ring_misses: Counter,
    pub answer: Histogram,
    /// From a draft's frame to the beginning of its publish.
    pub received: Histogram,
    /// From there to the acknowledgement of DRAFTS.
    pub stored: Histogram,
    /// From the commit, by the validator's clock, to the feed.
    pub seen: Histogram,
    /// From the feed to a connection's socket.
    pub broadcast: Histogram,
    pub behind: Gauge,
    pub memory_bytes: Gauge,
    pub pending: Gauge,
    pub ring_bytes: Gauge,
    pub page_cache_bytes: Gauge,
}

/// The hot ones. First called when a frontend starts, when the process's recorder is there.
pub(crate) fn hot() -> &'static Hot {
    static HOT: OnceLock<Hot> = OnceLock::new();
    HOT.get_or_init(|| Hot {
        frames_in: counter!(FRAMES_IN),
        frames_out: counter!(FRAMES_OUT),
        broadcasts: counter!(BROADCASTS),
        broadcast_bytes: counter!(BROADCAST_BYTES),
        submitted: counter!(SUBMITTED),
        accepted: counter!(ACCEPTED),
        ring_misses: counter!(RING_MISSES),
        answer: histogram!(ANSWER_SECONDS),
        received: histogram!(STAGE_SECONDS, "stage" => "received"),
        stored: histogram!(STAGE_SECONDS, "stage" => "stored"),
        seen: histogram!(STAGE_SECONDS, "stage" => "seen"),
        broadcast: histogram!(STAGE_SECONDS, "stage" => "broadcast"),
        behind: gauge!(BEHIND),
        memory_bytes: gauge!(MEMORY_BYTES),
        pending: gauge!(PENDING),
        ring_bytes: gauge!(RING_BYTES),
        page_cache_bytes: gauge!(PAGE_CACHE_BYTES),
    })
}

/// One holder's share of a gauge that many have a part in; given back when it is dropped.
pub(crate) struct Share {
    gauge: &'static Gauge,
    value: usize,
}

impl Share {
    pub(crate) fn of(gauge: &'static Gauge) -> Self {
        Self { gauge, value: 0 }
    }

    /// Sets the share.
    pub(crate) fn set(&mut self, value: usize) {
        if value != self.value {
            self.gauge.increment(value as f64 - self.value as f64);
            self.value = value;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts one.
pub(crate) fn count(name: &'static str) {
    counter!(name).increment(1);
}

/// Counts some.
pub(crate) fn add(name: &'static str, by: u64) {
    counter!(name).increment(by);
}

/// Says until when the certificate in force is valid, in Unix seconds.
pub(crate) fn certificate_ends(at: i64) {
    gauge!(TLS_NOT_AFTER).set(at as f64);
}

/// The seconds from a Unix time in milliseconds, by whoever's clock, to now; 0 if that is still to come.
pub(crate) fn since_ms(timestamp_ms: u64) -> Duration {
    Duration::from_millis(time::now_ms().saturating_sub(timestamp_ms))
}

/// Counts one under a label.
pub(crate) fn count_by(name: &'static str, label: &'static str, value: &'static str) {
    counter!(name, label => value).increment(1);
}

/// Counts a request of plain HTTP.
pub(crate) fn http_request(endpoint: &'static str, status: String) {
    counter!(HTTP_REQUESTS, "endpoint" => endpoint, "status" => status).increment(1);
}

/// Records a duration.
pub(crate) fn duration(name: &'static str, seconds: f64) {
    histogram!(name).record(seconds);
}

/// One more in a gauge, for as long as it lives.
pub(crate) struct Counted(&'static str);

impl Counted {
    pub(crate) fn one(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}
