//! Makes the streams and buckets, once, and says in plain words where existing ones differ from what is
//! expected, instead of changing them silently.

use async_nats::jetstream::context::{
    CreateStreamErrorKind, GetStreamError, GetStreamErrorKind, RequestError, RequestErrorKind,
};
use async_nats::jetstream::stream::{Config, Info, StorageType};
use tracing::{info, warn};

use super::settings::KEYS_EXPIRE;
use super::settings::SLOTS_METADATA;
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::subjects;

/// The oldest server that has atomic batches.
const SERVER_MIN: (i64, i64, i64) = (2, 12, 0);

/// What bootstrap did.
#[derive(Debug, Default)]
pub struct BootstrapReport {
    /// What was made.
    pub created: Vec<String>,
    /// What was there already, as it should be.
    pub present: Vec<String>,
}

/// Why the log cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The server lacks what the pipeline rests on.
    #[error("the NATS server is version {0}; at least {v}.{m}.{p} is needed (atomic batches)",
        v = SERVER_MIN.0, m = SERVER_MIN.1, p = SERVER_MIN.2)]
    ServerTooOld(String),
    /// Something exists that is not as configured.
    #[error("the streams are not as configured:\n  {}\nChange the configuration to match, or the streams with the `nats` command line", .0.join("\n  "))]
    Differs(Vec<String>),
    /// NATS takes less than is needed.
    #[error("NATS does not take what is needed:\n  {}", .0.join("\n  "))]
    Limits(Vec<String>),
    /// Streams are missing.
    #[error("{0} does not exist; run `insieme-backend bootstrap` first")]
    Missing(String),
    /// NATS failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Makes what is missing and checks what is there. Idempotent; any number may run at once.
pub async fn bootstrap(log: &Log) -> Result<BootstrapReport, BootstrapError> {
    check_server(log)?;
    log.check_limits().await?;
    let mut report = BootstrapReport::default();
    let mut differences = Vec::new();
    for expected in log.settings.own_streams() {
        let found = match stream_config(log, &expected.name).await? {
            Some(found) => {
                report.present.push(format!("stream {}", expected.name));
                found
            }
            None => {
                report.created.push(format!("stream {}", expected.name));
                create(log.js.create_stream(expected.clone()).await, &expected.name)?
                    .cached_info()
                    .config
                    .clone()
            }
        };
        differences.extend(differences_of(&expected, &found));
    }
    let ownership = log.settings.ownership_stream();
    let name = ownership.name.clone();
    match stream_config(log, &name).await? {
        Some(found) => {
            report.present.push(format!("bucket {}", subjects::OWNERSHIP_BUCKET));
            if !found.allow_message_ttl {
                warn!("{KEYS_EXPIRE}");
            }
            compare(&mut differences, &name, "max_age", &ownership.max_age, &found.max_age);
            compare(&mut differences, &name, "replicas", &ownership.num_replicas, &found.num_replicas);
        }
        None => {
            report.created.push(format!("bucket {}", subjects::OWNERSHIP_BUCKET));
            log.make(with_new_revisions(ownership)).await?;
        }
    }
    let snapshots = log.settings.snapshot_bucket();
    let name = format!("OBJ_{}", snapshots.bucket);
    match stream_config(log, &name).await? {
        Some(found) => {
            report.present.push(format!("object store {}", snapshots.bucket));
            compare(&mut differences, &name, "replicas", &snapshots.num_replicas, &found.num_replicas);
        }
        None => {
            report.created.push(format!("object store {}", snapshots.bucket));
            create(log.js.create_object_store(snapshots).await, &name)?;
        }
    }
    if differences.is_empty() { Ok(report) } else { Err(BootstrapError::Differs(differences)) }
}

impl Log {
    /// Checks that everything is there and as configured, and makes nothing. Every role does this at its
    /// start.
    pub async fn check(&self) -> Result<(), BootstrapError> {
        check_server(self)?;
        let (mut differences, mut missing) = (Vec::new(), None);
        for expected in self.settings.own_streams() {
            match stream_config(self, &expected.name).await? {
                Some(found) => {
                    warn_of_consumers(&expected, &found);
                    differences.extend(differences_of(&expected, &found));
                }
                None => drop(missing.get_or_insert(expected.name)),
            }
        }
        for name in
            [format!("KV_{}", subjects::OWNERSHIP_BUCKET), format!("OBJ_{}", subjects::SNAPSHOT_BUCKET)]
        {
            if stream_config(self, &name).await?.is_none() {
                missing.get_or_insert(name);
            }
        }
        match missing {
            _ if !differences.is_empty() => Err(BootstrapError::Differs(differences)),
            Some(name) => Err(BootstrapError::Missing(format!("stream {name}"))),
            // From here on events get NATS's time.
            None => {
                self.check_limits().await?;
                Ok(self.read_clock().await?)
            }
        }
    }

    /// Makes DRAFTS, and the bucket of slots if that is in memory too, where they are missing: they are gone when NATS
    /// was restarted. Only beside a log that has as many slots; what else is missing or different, [`Log::check`] tells.
    pub async fn open_queue(&self) -> Result<(), LogError> {
        let slots = self.settings.ownership_stream();
        self.open(self.settings.drafts_stream()).await?;
        if slots.storage == StorageType::Memory { self.open(with_new_revisions(slots)).await } else { Ok(()) }
    }

    async fn open(&self, expected: Config) -> Result<(), LogError> {
        if stream_config(self, &expected.name).await?.is_some() {
            return Ok(());
        }
        let log = stream_config(self, subjects::COMMITTED_STREAM).await?;
        let slots = self.settings.slots.to_string();
        if log.is_none_or(|log| log.metadata.get(SLOTS_METADATA) != Some(&slots)) {
            return Ok(());
        }
        let name = expected.name.clone();
        if self.make(expected).await? {
            info!(stream = name, "made again what was in NATS's memory");
        }
        Ok(())
    }

    /// Makes a stream; false if somebody else was quicker.
    async fn make(&self, config: Config) -> Result<bool, LogError> {
        let name = config.name.clone();
        match self.js.create_stream(config).await {
            Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(api) if api.error_code().0 == IN_USE) => {
                Ok(false)
            }
            made => create(made, &name).map(|_| true),
        }
    }
}

/// Below this the first revision is drawn: what can still count up from there is exact in JSON too.
const FIRST_REVISION_MAX: u64 = 1 << 52;

/// The bucket of slots, to be made. In memory it is made again whenever NATS was restarted. Would its revisions begin at
/// 1 each time, then whoever holds a slot of the bucket before could write the key of the one now, pull from its consumer,
/// and take its own states for current. So they begin where none has been.
///
/// Not in a file, from which nothing is lost: NATS empties a stream that it reads from its file if that still begins there.
fn with_new_revisions(slots: Config) -> Config {
    let first_sequence =
        (slots.storage == StorageType::Memory).then(|| rand::random_range(1..FIRST_REVISION_MAX));
    Config { first_sequence, ..slots }
}

fn check_server(log: &Log) -> Result<(), BootstrapError> {
    let (major, minor, patch) = SERVER_MIN;
    if log.client.is_server_compatible(major, minor, patch) {
        Ok(())
    } else {
        Err(BootstrapError::ServerTooOld(log.client.server_info().version))
    }
}

async fn stream_config(log: &Log, name: &str) -> Result<Option<Config>, LogError> {
    const WHAT: &str = "asking for a stream";
    match stream_info(log, name).await {
        Ok(info) => Ok(info.map(|info| info.config)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(api) if NO_JETSTREAM.contains(&api.error_code().0) => {
                Err(LogError::refused(WHAT, format!("{name}: {api}: {NO_JETSTREAM_HINT}")))
            }
            _ if !log.client.server_info().jetstream && nobody_answers(&error) => Err(LogError::refused(
                WHAT,
                format!("{name}: the NATS server has no JetStream: {NO_JETSTREAM_HINT}"),
            )),
            GetStreamErrorKind::JetStream(api) if api.code() < 500 => {
                Err(LogError::refused(WHAT, format!("{name}: {api}")))
            }
            _ => Err(LogError::unavailable(WHAT, format!("{name}: {error}"))),
        },
    }
}

/// Whether nobody listens to what was asked.
fn nobody_answers(error: &GetStreamError) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes
        .find_map(|error| error.downcast_ref::<RequestError>())
        .is_some_and(|error| error.kind() == RequestErrorKind::NoResponders)
}

/// "JetStream not enabled", of a server, and of an account.
const NO_JETSTREAM: [u64; 2] = [10076, 10039];
const NO_JETSTREAM_HINT: &str =
    "switch JetStream on there, or see whether nats.user is this role's and nats.urls the right server";

/// "Stream not found".
pub(crate) const NO_STREAM: u64 = 10059;
/// "Stream name already in use": somebody else has made it.
const IN_USE: u64 = 10058;

/// What a stream is like just now; nothing if it is not there.
pub(crate) async fn stream_info(log: &Log, name: &str) -> Result<Option<Info>, GetStreamError> {
    match log.js.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().clone())),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(api) if api.error_code().0 == NO_STREAM => Ok(None),
            _ => Err(error),
        },
    }
}

/// "Insufficient memory resources available", and the same of storage: what a stream reserves is more than is left.
const NO_ROOM: [u64; 2] = [10028, 10047];
/// "No suitable peers for placement": of the servers that the replicas need, some are not there.
const NO_PEERS: u64 = 10005;

fn create<T, E: std::error::Error + 'static>(result: Result<T, E>, name: &str) -> Result<T, LogError> {
    use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind as Kind};
    result.map_err(|error| {
        // Buckets are streams, and their errors have the stream's below them.
        let mut causes =
            std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let kind = causes.find_map(|error| error.downcast_ref::<CreateStreamError>()).map(|error| error.kind());
        let no_room = matches!(&kind, Some(Kind::JetStream(api)) if NO_ROOM.contains(&api.error_code().0));
        let passes = kind.is_some_and(|kind| match kind {
            Kind::JetStream(api) => !no_room && api.code() >= 500 || api.error_code().0 == NO_PEERS,
            Kind::TimedOut | Kind::JetStreamUnavailable | Kind::ResponseParse | Kind::Response => true,
            _ => false,
        });
        let advice = if no_room {
            "; raise max_mem or max_file of the NATS account and max_memory_store or max_file_store of its server, or \
             lower nats.drafts_bytes_max"
        } else {
            ""
        };
        let why = format!("{name}: {error}{advice}");
        if passes {
            LogError::unavailable("creating a stream", why)
        } else {
            LogError::refused("creating a stream", why)
        }
    })
}

/// Says that some slots can have no consumer. The stream works for the others, so that is no reason not to start.
fn warn_of_consumers(expected: &Config, found: &Config) {
    if expected.max_consumers > 0 && found.max_consumers != expected.max_consumers {
        warn!(
            stream = expected.name,
            needed = expected.max_consumers,
            found = found.max_consumers,
            "the stream may not have a consumer for each slot (max_consumers), which cannot be changed: drafts of some slots \
             are not decided; stop all processes, delete the stream, run `insieme-backend bootstrap`, and start them again"
        );
    }
}

pub(crate) fn differences_of(expected: &Config, found: &Config) -> Vec<String> {
    let mut all = Vec::new();
    let name = &expected.name;
    let slots = |config: &Config| config.metadata.get(SLOTS_METADATA).cloned();
    compare(&mut all, name, "subjects", &expected.subjects, &found.subjects);
    compare(&mut all, name, "retention", &expected.retention, &found.retention);
    compare(&mut all, name, "storage", &expected.storage, &found.storage);
    compare(&mut all, name, "discard", &expected.discard, &found.discard);
    compare(&mut all, name, "max_bytes", &expected.max_bytes, &found.max_bytes);
    compare(&mut all, name, "max_msgs", &expected.max_messages, &found.max_messages);
    compare(
        &mut all,
        name,
        "max_msgs_per_subject",
        &expected.max_messages_per_subject,
        &found.max_messages_per_subject,
    );
    compare(&mut all, name, "max_msg_size", &expected.max_message_size, &found.max_message_size);
    compare(&mut all, name, "max_age", &expected.max_age, &found.max_age);
    compare(&mut all, name, "replicas", &expected.num_replicas, &found.num_replicas);
    compare(&mut all, name, "allow_direct", &expected.allow_direct, &found.allow_direct);
    compare(&mut all, name, "allow_atomic", &expected.allow_atomic_publish, &found.allow_atomic_publish);
    compare(&mut all, name, "allow_msg_ttl", &expected.allow_message_ttl, &found.allow_message_ttl);
    compare(&mut all, name, "republish", &expected.republish, &found.republish);
    compare(&mut all, name, "the number of slots", &slots(expected), &slots(found));
    all
}

fn compare<T: PartialEq + std::fmt::Debug>(
    all: &mut Vec<String>,
    stream: &str,
    what: &str,
    expected: &T,
    found: &T,
) {
    if expected != found {
        all.push(format!("{stream}: {what} is {found:?}, configured is {expected:?}"));
    }
}
