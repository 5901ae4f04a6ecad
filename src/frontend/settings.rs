//! What an operator can set of a frontend, and what it is when he does not.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::net::{Origins, Proxies};

/// A frontend's settings. Every limit that a client or an operator can run into is here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrontendSettings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// This frontend's name among all: letters, digits, `_` and `-`; empty for a random one.
    pub id: String,
    /// The pages whose visitors' browsers may connect, as origins: `https://app.example.com`, or
    /// `https://*.example.com` for every host below that one. Any, if there are none. Whoever says no origin
    /// is no browser and is let in.
    pub allowed_origins: Vec<String>,
    /// The certificate for TLS, with its chain, PEM. Without it connections are not encrypted. Taken anew when
    /// it changes.
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key_file: Option<PathBuf>,
    /// How often the two files are looked at for a change, in milliseconds.
    pub tls_poll_ms: u64,
    /// Takes anyone, with all permissions. For development only.
    pub allow_anyone: bool,
    /// Asks the validator to commit a partition's configured initial state when its first client connects.
    pub open_empty_partitions: bool,
    /// How long a connecting client waits for that, in milliseconds.
    pub open_wait_ms: u64,

    /// The most connections of clients that have shown who they are.
    pub connections_max: usize,
    /// The most connections of one address (IPv6: of one /64 network); 0 for any number. Behind a proxy that
    /// is not in `trusted_proxies` all connections are of one address.
    pub connections_per_address_max: usize,
    /// Proxies and load balancers, as addresses (`10.0.0.7`) or networks (`10.0.0.0/8`), whose
    /// `X-Forwarded-For` tells a client's address.
    pub trusted_proxies: Vec<String>,
    /// The most connections that are not upgraded yet, a quarter of them of one address. The oldest gives way to one
    /// more.
    pub handshakes_max: usize,
    /// How long a connection may take from its first byte to its upgrade, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// The most connections that are upgraded and have not shown yet who they are, a quarter of them of one
    /// address. The oldest gives way to one more. They are not among `connections_max`.
    pub unauthenticated_max: usize,
    /// How many connections may be upgraded in a second, and at once; 0 for any number.
    pub upgrades_per_second_max: u32,
    /// How long whoever is refused for want of room is told to wait, in milliseconds; by chance up to twice
    /// that, so that not all come back at once.
    pub retry_after_ms: u64,
    /// The most connections of one client id.
    pub connections_per_client_max: usize,
    /// The largest frame that a client may send, in bytes.
    pub frame_bytes_max: usize,
    /// How deep a frame's JSON may be nested.
    pub frame_depth_max: usize,
    /// How many frames a connection may send in a second; 0 for any number.
    pub frames_per_second_max: u32,
    /// How many bytes of frames a connection may send in a second, and at once; 0 for any number. At least
    /// one frame of `frame_bytes_max` may always be sent at once.
    pub bytes_per_second_max: u32,
    /// How many bytes a client id is answered with in a second, over all its connections here: pages and states that
    /// it asked for, not what others commit. Four seconds' worth at once; 0 for any number.
    pub bytes_out_per_second_max: u32,
    /// The most bytes that clients can make this frontend hold: what they have sent and is not answered, what they
    /// do not read, and what is kept at hand for them. Beside it the process takes about 64 MiB, and what the
    /// allocator keeps. A client id may have an eighth of it, a connection a 64th.
    pub memory_bytes_max: usize,
    /// How many frames over either limit, none in between that kept it, close the connection.
    pub frames_over_limit_max: u32,
    /// How many submissions a client id may make in any minute, over all its connections here; 0 for any number.
    pub submissions_per_minute_max: u32,
    /// The most client ids whose submissions are counted at a time. When there are that many, submissions are
    /// refused until some of them have been quiet for a while.
    pub counted_clients_max: usize,
    /// How many bad requests in a row close the connection.
    pub bad_requests_max: u32,

    /// How long a connection may take from its upgrade to its `connect`, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How often a connection is looked at for a sign of life, in milliseconds; two looks without one
    /// close it.
    pub heartbeat_interval_ms: u64,
    /// How long one write may stall before the connection is closed, in milliseconds.
    pub write_stall_ms_max: u64,
    /// How long a closed connection is kept for the client to read why, in milliseconds.
    pub close_linger_ms: u64,
    /// How long a frontend that is told to go away still takes connections, though it says that it is not
    /// ready, in milliseconds: as long as a load balancer needs to notice.
    pub drain_wait_ms: u64,
    /// How many connections a frontend that goes away sends off in a second, so that not all come to the
    /// others at once; 0 for all at once. Never takes more than half of `drain_ms_max`.
    pub drain_connections_per_second: u32,
    /// How long a frontend that goes away takes at most to send its connections off, and waits for the
    /// answers to what they have sent, in milliseconds.
    pub drain_ms_max: u64,

    /// The most drafts of one connection that are not answered yet.
    pub pending_drafts_max: usize,
    /// The most submissions of one connection that are published and not answered yet; drafts that come
    /// meanwhile are bundled into the next. With one, a connection's drafts are decided in the order sent
    /// even when NATS crashes and loses drafts that it had acknowledged.
    pub submissions_unanswered_max: usize,
    /// The most drafts in one submission.
    pub submission_drafts_max: usize,
    /// The most bytes of drafts in one submission; also bounded by what NATS takes.
    pub submission_bytes_max: usize,
    /// How long to wait for an answer before the draft is published again, in milliseconds.
    pub answer_wait_ms: u64,
    /// How long a draft is held without an answer before its client is told that there is none, in
    /// milliseconds.
    pub submission_deadline_ms: u64,
    /// The first pause before a failed publish is tried again, in milliseconds; it doubles.
    pub publish_retry_ms: u64,
    /// The longest such pause, in milliseconds.
    pub publish_retry_ms_max: u64,

    /// The most recent events of a watched partition that are kept at hand.
    pub ring_events_max: usize,
    /// The most bytes of them.
    pub ring_bytes_max: usize,
    /// How long a partition's feed outlives its last watcher, in milliseconds.
    pub feed_idle_ms: u64,
    /// How often a feed compares itself with the log, whatever the live events say, in milliseconds.
    pub gap_check_ms: u64,
    /// How long the log may end before an event that was sent, in milliseconds, until the event counts as gone and
    /// the partition's connections are closed: a NATS server with a replica of the log may lag so long.
    pub head_gone_ms: u64,
    /// How long a connecting client waits for its partition's feed, in milliseconds.
    pub feed_wait_ms: u64,
    /// How many frames a connection is sent before its own frames are looked at again.
    pub frames_per_turn_max: usize,
    /// The most events in a page read from the log.
    pub page_events_max: usize,
    /// The most bytes of such a page.
    pub page_bytes_max: usize,
    /// The most bytes of pages that are kept, over all partitions.
    pub page_cache_bytes_max: usize,
    /// How many events a page of `sync` has unless the client says.
    pub sync_events_default: usize,
    /// The most it may have.
    pub sync_events_max: usize,
    /// The most bytes of events in it besides a state; without one, `state_frame_bytes_max` more. Together less than
    /// 1 MiB, so that no frame is larger: many WebSocket libraries take no more.
    pub sync_bytes_max: usize,
    /// The most bytes of a state that is sent in one frame; a larger one comes in parts.
    pub state_frame_bytes_max: usize,
    /// How long a connection's broadcasts wait for the next `sync` of a cycle, in milliseconds; in the classic dialect at
    /// most a second.
    pub sync_idle_ms_max: u64,
    /// How long what is known of a partition's snapshot is taken for true, and how long a look for it may
    /// take, in milliseconds.
    pub snapshot_info_ms: u64,
    /// How long a partition's state is kept at hand without anybody asking for it, in milliseconds.
    pub state_idle_ms: u64,
}

impl Default for FrontendSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3001)),
            id: String::new(),
            allowed_origins: Vec::new(),
            tls_cert_file: None,
            tls_key_file: None,
            tls_poll_ms: 2_000,
            allow_anyone: false,
            open_empty_partitions: false,
            open_wait_ms: 3_000,

            connections_max: 10_000,
            connections_per_address_max: 0,
            trusted_proxies: Vec::new(),
            handshakes_max: 1_024,
            handshake_timeout_ms: 10_000,
            unauthenticated_max: 1_024,
            upgrades_per_second_max: 5_000,
            retry_after_ms: 1_000,
            connections_per_client_max: 64,
            frame_bytes_max: 256 * 1024,
            frame_depth_max: 64,
            frames_per_second_max: 200,
            bytes_per_second_max: 32 << 20,
            bytes_out_per_second_max: 16 << 20,
            memory_bytes_max: 512 << 20,
            frames_over_limit_max: 50,
            submissions_per_minute_max: 100,
            counted_clients_max: 100_000,
            bad_requests_max: 5,

            connect_timeout_ms: 10_000,
            heartbeat_interval_ms: 30_000,
            write_stall_ms_max: 10_000,
            close_linger_ms: 1_000,
            drain_wait_ms: 0,
            drain_connections_per_second: 1_000,
            drain_ms_max: 10_000,

            pending_drafts_max: 1_024,
            submissions_unanswered_max: 1,
            submission_drafts_max: 64,
            submission_bytes_max: 512 * 1024,
            answer_wait_ms: 5_000,
            submission_deadline_ms: 30_000,
            publish_retry_ms: 50,
            publish_retry_ms_max: 2_000,

            ring_events_max: 2_048,
            ring_bytes_max: 4 << 20,
            feed_idle_ms: 30_000,
            gap_check_ms: 5_000,
            head_gone_ms: 15_000,
            feed_wait_ms: 5_000,
            frames_per_turn_max: 256,
            page_events_max: 256,
            page_bytes_max: 256 * 1024,
            page_cache_bytes_max: 64 << 20,
            sync_events_default: 500,
            sync_events_max: 1_000,
            sync_bytes_max: 384 * 1024,
            state_frame_bytes_max: 512 * 1024,
            sync_idle_ms_max: 60_000,
            snapshot_info_ms: 1_000,
            state_idle_ms: 60_000,
        }
    }
}

impl FrontendSettings {
    /// Says what cannot work.
    pub fn check(&self) -> Result<(), String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if self.id.len() > 64 || !self.id.bytes().all(plain) {
            return Err(format!("frontend id {:?} must be at most 64 of A-Z a-z 0-9 _ -", self.id));
        }
        Proxies::parse(&self.trusted_proxies).map_err(|error| format!("trusted_proxies: {error}"))?;
        Origins::parse(&self.allowed_origins).map_err(|error| format!("allowed_origins: {error}"))?;
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            return Err("tls_cert_file and tls_key_file go together; set both or neither".to_owned());
        }
        let counts = [
            ("connections_max", self.connections_max),
            ("handshakes_max", self.handshakes_max),
            ("unauthenticated_max", self.unauthenticated_max),
            ("connections_per_client_max", self.connections_per_client_max),
            ("frame_bytes_max", self.frame_bytes_max),
            ("frame_depth_max", self.frame_depth_max),
            ("counted_clients_max", self.counted_clients_max),
            ("pending_drafts_max", self.pending_drafts_max),
            ("submissions_unanswered_max", self.submissions_unanswered_max),
            ("submission_drafts_max", self.submission_drafts_max),
            ("ring_events_max", self.ring_events_max),
            ("frames_per_turn_max", self.frames_per_turn_max),
            ("page_events_max", self.page_events_max),
            ("page_bytes_max", self.page_bytes_max),
            ("sync_events_default", self.sync_events_default),
            ("sync_events_max", self.sync_events_max),
            ("memory_bytes_max", self.memory_bytes_max),
        ];
        let times = [
            ("handshake_timeout_ms", self.handshake_timeout_ms),
            ("retry_after_ms", self.retry_after_ms),
            ("tls_poll_ms", self.tls_poll_ms),
            ("heartbeat_interval_ms", self.heartbeat_interval_ms),
            ("write_stall_ms_max", self.write_stall_ms_max),
            ("answer_wait_ms", self.answer_wait_ms),
            ("publish_retry_ms", self.publish_retry_ms),
            ("gap_check_ms", self.gap_check_ms),
            ("snapshot_info_ms", self.snapshot_info_ms),
        ];
        let zero = counts
            .iter()
            .map(|(name, value)| (*name, *value as u64))
            .chain(times)
            .find(|(_, value)| *value == 0);
        match zero {
            Some((name, _)) => Err(format!("{name} must not be 0")),
            None => Ok(()),
        }
    }
}
