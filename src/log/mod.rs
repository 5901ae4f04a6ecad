//! JetStream, behind one door.
//!
//! Only this module knows NATS. To the rest it speaks of drafts, commits, live events, replay, snapshots
//! and ownership; subjects and headers stand in `subjects`, what the streams must look like in `settings`.
//! It moves bytes and decides nothing. How the parts play together, and why that is safe, is in
//! `docs/ARCHITECTURE.md` and, as the contract, in the pipeline specification.

mod answers;
mod backup;
mod batch_get;
mod bootstrap;
mod clock;
mod commit;
mod connection;
mod control;
mod drafts;
mod error;
mod integrity;
mod leader;
mod limits;
mod live;
mod metrics;
mod ownership;
mod partition_load;
mod repair;
mod replay;
mod revocations;
mod settings;
mod snapshots;
mod state_at;
mod strays;
mod subjects;
mod survey;
mod trace_headers;
mod watch;

pub use answers::Answers;
pub use backup::{BackedUp, BackupError};
pub use bootstrap::{BootstrapError, BootstrapReport, bootstrap};
pub use commit::{BATCH_EVENTS_MAX, COMMIT_HEADERS_BYTES, CommitError, CommitPart};
pub use connection::{ConnectionState, Log};
pub use control::{Orders, Reports};
pub use drafts::{DraftMessage, PublishError, SlotConsumer};
pub use error::LogError;
pub use integrity::{Damage, Looker, Mark};
pub use live::{LiveEvent, LiveFeed};
pub use ownership::{OwnedSlot, OwnershipChanges, OwnershipView, SlotKey};
pub use partition_load::{LoadError, Loaded, apply, parse};
pub use repair::TakenOut;
pub use replay::{PageReader, Replay, StoredEvent};
pub use revocations::StoredRevocation;
pub use settings::LogSettings;
pub use snapshots::{SnapshotInfo, SnapshotPart};
pub use state_at::StateAtError;
pub use survey::{PartitionPage, SurveyedPartition};
pub use trace_headers::PlacedTrace;
