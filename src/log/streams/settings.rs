//! How to reach NATS, and what the streams and buckets must look like.

use crate::log::subjects;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::jetstream::object_store;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType};

use crate::log::credentials::Credentials;

/// How to reach NATS, and the few settings of the streams that are an operator's to choose.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// One or more server addresses, `nats://host:port`.
    pub urls: Vec<String>,
    /// Who we are, where the server wants to know.
    pub credentials: Option<Credentials>,
    /// Certificates of the authorities to trust, PEM; switches TLS on.
    pub tls_ca_file: Option<PathBuf>,
    /// Our own certificate and its key, PEM, where the server wants them; switches TLS on.
    pub tls_client_files: Option<(PathBuf, PathBuf)>,
    /// What requests to JetStream's API begin with.
    pub api_prefix: String,
    /// How long one request to NATS may take.
    pub request_timeout: Duration,
    /// The number of slots, 1 to 1024. Fixed when the streams are made.
    pub slots: u16,
    /// Copies of every stream, 1 to 5.
    pub replicas: usize,
    /// The most bytes that undecided drafts may take.
    pub drafts_bytes_max: i64,
    /// How long an undecided draft is kept.
    pub drafts_age_max: Duration,
    /// How long a validator's hold on a slot lasts without renewal.
    pub ownership_ttl: Duration,
    /// The most revocations that are kept.
    pub revocations_max: i64,
    /// How often a process looks whether the log is still what it was.
    pub look_every: Duration,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".to_owned()],
            credentials: None,
            tls_ca_file: None,
            tls_client_files: None,
            api_prefix: "$JS.API".to_owned(),
            request_timeout: Duration::from_secs(5),
            slots: 64,
            replicas: 1,
            drafts_bytes_max: 256 << 20,
            drafts_age_max: Duration::from_secs(24 * 60 * 60),
            ownership_ttl: Duration::from_secs(6),
            revocations_max: 100_000,
            look_every: Duration::from_secs(5),
        }
    }
}

/// The metadata key under which the number of slots is kept in COMMITTED and DRAFTS.
pub(crate) const SLOTS_METADATA: &str = "insieme-slots";

/// How many consumers NATS allows a stream that asks for no number (`default_max_consumers`).
const CONSUMERS_DEFAULT: u16 = 1000;

impl LogSettings {
    /// The streams that are made as they stand here.
    pub(crate) fn own_streams(&self) -> [Config; 4] {
        [self.drafts_stream(), self.committed_stream(), self.revoked_stream(), self.rules_stream()]
    }

    /// DRAFTS: a work queue from which nothing may come back that was taken off it, whatever is killed: the client
    /// may have been told of its rejection. A single server writes a removal down late, or syncs every draft; so
    /// there the queue is in memory, and gone when the server is. Replicas agree on removals in logs of their own,
    /// which do not forget only in files: in memory, two of three that are restarted in turn make a third that has
    /// not heard of a removal the leader. What is lost with the queue costs nothing, because every frontend publishes
    /// its unanswered drafts again.
    pub(crate) fn drafts_stream(&self) -> Config {
        const WHAT: &str = "Drafts that no validator has decided yet";
        Config {
            retention: RetentionPolicy::WorkQueue,
            storage: self.queue_storage(),
            max_bytes: self.drafts_bytes_max,
            // A consumer for each slot; where the stream says nothing, NATS allows it a thousand.
            max_consumers: if self.slots > CONSUMERS_DEFAULT { self.slots.into() } else { -1 },
            max_age: self.drafts_age_max,
            metadata: self.slots_metadata(),
            ..self.stream(subjects::DRAFTS_STREAM, WHAT, subjects::DRAFTS_ALL)
        }
    }

    /// COMMITTED: the log. No limits: it is kept until an operator says otherwise.
    pub(crate) fn committed_stream(&self) -> Config {
        const WHAT: &str = "Every committed event, in order; the log";
        Config {
            allow_direct: true,
            allow_atomic_publish: true,
            metadata: self.slots_metadata(),
            republish: Some(Republish {
                source: subjects::COMMITTED_ALL.to_owned(),
                destination: subjects::LIVE_ALL.to_owned(),
                headers_only: false,
            }),
            ..self.stream(subjects::COMMITTED_STREAM, WHAT, subjects::COMMITTED_ALL)
        }
    }

    /// A stream in a file, without limits.
    fn stream(&self, name: &str, description: &str, subject: &str) -> Config {
        Config {
            name: name.to_owned(),
            description: Some(description.to_owned()),
            subjects: vec![subject.to_owned()],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            num_replicas: self.replicas,
            ..unlimited()
        }
    }

    /// The stream of a key-value bucket whose keys may expire.
    fn bucket(&self, name: &str, description: &str, subject: &str) -> Config {
        Config {
            max_messages_per_subject: 1,
            allow_direct: true,
            allow_rollup: true,
            deny_delete: true,
            allow_message_ttl: true,
            ..self.stream(name, description, subject)
        }
    }

    /// Where the queue lies, and what goes with it: see [`drafts_stream`](Self::drafts_stream).
    fn queue_storage(&self) -> StorageType {
        if self.replicas == 1 { StorageType::Memory } else { StorageType::File }
    }

    fn slots_metadata(&self) -> HashMap<String, String> {
        HashMap::from([(SLOTS_METADATA.to_owned(), self.slots.to_string())])
    }

    /// Who owns which slot, and which validators are alive: a key-value bucket. Its keys expire, but for those that
    /// are written to stay. With one server it is in memory, as the queue is whose drafts the keys speak of: a
    /// rejection waits for a key to be written.
    pub(crate) fn ownership_stream(&self) -> Config {
        const WHAT: &str = "Slot ownership and live validators";
        Config {
            storage: self.queue_storage(),
            max_age: self.ownership_ttl,
            duplicate_window: self.ownership_ttl.min(Duration::from_secs(120)),
            ..self.bucket(subjects::OWNERSHIP_STREAM, WHAT, subjects::OWNERSHIP_SUBJECTS)
        }
    }

    /// What was revoked: a key-value bucket, whose entries go by themselves when their time is up.
    pub(crate) fn revoked_stream(&self) -> Config {
        const WHAT: &str = "Tokens that are refused though they are good otherwise";
        Config {
            max_messages: self.revocations_max,
            ..self.bucket(subjects::REVOKED_STREAM, WHAT, subjects::REVOKED_SUBJECTS)
        }
    }

    /// Applications' rules, of every version that events may name, and which is in force: a key-value bucket.
    pub(crate) fn rules_stream(&self) -> Config {
        const WHAT: &str = "Applications' rules: every version, and which is in force";
        self.bucket(subjects::RULES_STREAM, WHAT, subjects::RULES_SUBJECTS)
    }

    /// Snapshots of partition states and draft indexes.
    pub(crate) fn snapshot_bucket(&self) -> object_store::Config {
        object_store::Config {
            bucket: subjects::SNAPSHOT_BUCKET.to_owned(),
            description: Some("Snapshots of partition states; all can be rebuilt from COMMITTED".to_owned()),
            storage: StorageType::File,
            num_replicas: self.replicas,
            ..Default::default()
        }
    }
}

/// NATS writes 'no limit' as -1 and reports it so; starting from there, what was asked for and what is
/// there compare equal.
fn unlimited() -> Config {
    Config {
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_message_size: -1,
        ..Default::default()
    }
}

/// What to do about a bucket of an older version.
pub(crate) const KEYS_EXPIRE: &str = "the bucket SLOTS was made by an older version: its keys expire, so a validator waits for the queue's \
     confirmation of each rejection as well. Allow it to keep them with \
     `nats stream edit KV_SLOTS --allow-msg-ttl`, and restart the validators";
