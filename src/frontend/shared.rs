//! What all connections of a frontend share.

use crate::app::{Entry, NoEntry};
use crate::auth::{Authenticator, Identity};
use crate::control::RevocationSync;
use crate::event::PartitionKey;
use crate::frontend::admission::connection_limits::Limits;
use crate::frontend::admission::memory::Memory;
use crate::frontend::admission::outflow::Outflow;
use crate::frontend::admission::reconnects::Reconnects;
use crate::frontend::admission::registry::ConnectionRegistry;
use crate::frontend::feed::Feeds;
use crate::frontend::log_tail::LogTail;
use crate::frontend::metrics;
use crate::frontend::replies::ReplyRouter;
use crate::frontend::settings::FrontendSettings;
use crate::log::Log;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// What all sessions share.
pub(crate) struct FrontendShared {
    pub settings: Arc<FrontendSettings>,
    pub log: Log,
    pub feeds: Arc<Feeds>,
    pub answers: Arc<ReplyRouter>,
    pub latest: Arc<LogTail>,
    pub limits: Arc<Limits>,
    pub memory: Arc<Memory>,
    pub outflow: Arc<Outflow>,
    pub reconnects: Reconnects,
    pub registry: Arc<ConnectionRegistry>,
    /// Keeps what was revoked; `None` where no tokens are asked for.
    pub keeper: Option<Arc<RevocationSync>>,
    pub auth: Authenticator,
    /// Whom the application's rules let in.
    pub entry: Arc<Entry>,
    /// The last number that a connection has, or a partition of one that names its partitions.
    pub numbers: AtomicU64,
    /// Cancelled when the frontend is told to go away.
    pub closing: CancellationToken,
    /// Cancelled when it does.
    pub drain: CancellationToken,
}

impl FrontendShared {
    /// A number that nobody had.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether the application's rules let somebody into a partition.
    pub(crate) async fn admit(&self, identity: &Identity, partition: &PartitionKey) -> Result<(), NoEntry> {
        let admitted = self.entry.check(identity, partition).await;
        match &admitted {
            Ok(()) => {}
            Err(NoEntry::Refused) => metrics::count_by(metrics::NO_ENTRY, "reason", "refused"),
            Err(NoEntry::Failed) => metrics::count_by(metrics::NO_ENTRY, "reason", "failed"),
            Err(NoEntry::Unavailable) => metrics::count_by(metrics::NO_ENTRY, "reason", "unavailable"),
        }
        admitted
    }

    /// Why nobody should be sent here just now; `None` if there is no reason.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        if self.closing.is_cancelled() || self.drain.is_cancelled() {
            return Some("going away");
        }
        if !self.log.state().borrow().connected {
            return Some("NATS cannot be reached");
        }
        if !self.answers.is_alive() {
            return Some("no answers can be heard");
        }
        if self.answers.silent_for().is_some() {
            return Some("no validator decides: drafts have waited for seconds, and none was decided");
        }
        self.auth.unready()
    }
}
