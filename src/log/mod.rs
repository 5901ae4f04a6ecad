//! JetStream, behind one door.
//!
//! Only this module knows NATS. To the rest it speaks of drafts, commits, live events, replay, snapshots
//! and ownership; subjects and headers stand in `subjects`, what the streams must look like in `settings`.
//! It moves bytes and decides nothing. How the parts play together, and why that is safe, is in
//! `docs/ARCHITECTURE.md` and, as the contract, in the pipeline specification.

pub(crate) mod api;
mod append;
pub(crate) mod client;
mod clock;
mod control;
mod credentials;
pub(crate) mod error;
mod integrity;
pub(crate) mod metrics;
mod ops;
mod ownership;
mod queue;
pub(crate) mod read;
mod replies;
mod revocations;
mod rules;
pub(crate) mod snapshots;
#[cfg(test)]
pub(crate) mod stand_in;
pub(crate) mod streams;
mod subjects;
mod trace_headers;

pub use append::{BATCH_EVENTS_MAX, COMMIT_HEADERS_BYTES, CommitError, CommitPart};
pub use client::{ConnectionState, Log};
pub use control::{Orders, Reports};
pub use credentials::{Credentials, Password};
pub use error::LogError;
pub use integrity::damage::LogDamage;
pub use integrity::mark::HighWaterMark;
pub use integrity::monitor::MarkAccess;
pub use ops::backup::{BackedUp, BackupError};
pub use ops::import::{EndOfLog, ImportedEvent};
pub use ops::partition_stats::{PartitionPage, PartitionStats};
pub use ops::remove_events::RemovedEvent;
pub use ownership::{OwnedSlot, OwnershipChanges, OwnershipView, SlotKey};
pub use queue::consumer::{DraftMessage, SlotConsumer};
pub use queue::publish::PublishError;
pub use read::follow::Follow;
pub use read::live::{LiveEvent, LiveFeed};
pub use read::replay::{PageReader, Replay, StoredEvent};
pub use replies::{Answers, HeardAnswers};
pub use revocations::StoredRevocation;
pub use rules::{Activation, RulesPublished};
pub(crate) use snapshots::snapshot_bytes_max;
pub use snapshots::{SnapshotInfo, SnapshotPart};
pub use streams::bootstrap::{BootstrapError, BootstrapReport, bootstrap};
pub use streams::settings::LogSettings;
pub use trace_headers::PlacedTrace;
