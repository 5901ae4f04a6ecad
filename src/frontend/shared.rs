//! What all connections of a frontend share.

use crate::app::{Entry, Folds, NoEntry};
use crate::auth::{Authenticator, Identity};
use crate::control::{EndConnections, RevocationSync};
use crate::event::PartitionKey;
use crate::frontend::admission::connection_limits::Limits;
use crate::frontend::admission::memory::Memory;
use crate::frontend::admission::outflow::Outflow;
use crate::frontend::admission::reconnects::Reconnects;
use crate::frontend::admission::registry::{ConnectionRegistry, DisconnectReason};
use crate::frontend::feed::Feeds;
use crate::frontend::feed::page_cache::Pages;
use crate::frontend::feed::partition::Shared;
use crate::frontend::log_tail::LogTail;
use crate::frontend::metrics;
use crate::frontend::replies::ReplyRouter;
use crate::frontend::settings::FrontendSettings;
use crate::log::Log;
use crate::util::time;
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
    /// What sessions on this log share, until it is told by the first token to go away, and by the second that it does.
    pub(crate) fn new(
        settings: Arc<FrontendSettings>,
        log: Log,
        folds: Arc<Folds>,
        auth: Authenticator,
        (closing, drain): (CancellationToken, CancellationToken),
    ) -> Arc<Self> {
        let memory = Memory::new(&settings);
        let pages = Pages::new(
            log.clone(),
            memory.shared(),
            settings.page_events_max,
            settings.page_bytes_max,
            settings.page_cache_bytes_max,
        );
        let registry = Arc::<ConnectionRegistry>::default();
        let feeds = Feeds::new(Shared {
            log: log.clone(),
            fold: folds.clone(),
            pages,
            memory: memory.clone(),
            settings: settings.clone(),
            registry: registry.clone(),
            tasks: Default::default(),
            unwatched: Default::default(),
        });
        let keeper = auth.revocations().map(|revocations| {
            let (registry, revocations) = (registry.clone(), revocations.clone());
            let end: EndConnections = Box::new(move |is_revoked| {
                registry.disconnect(|identity, _| is_revoked(identity).then_some(DisconnectReason::Revoked))
            });
            Arc::new(RevocationSync::new(log.clone(), revocations, end))
        });
        Arc::new(Self {
            feeds,
            answers: Arc::default(),
            latest: Arc::new(LogTail::new(log.clone())),
            limits: Limits::new(&settings),
            memory,
            outflow: Arc::new(Outflow::new(settings.bytes_out_per_second_max)),
            reconnects: Reconnects::default(),
            registry,
            keeper,
            auth,
            entry: Arc::new(Entry::new(folds)),
            // Never the numbers of an earlier process of the same id: its late answers must find nobody.
            numbers: AtomicU64::new(time::now_ms() << 20),
            closing,
            drain,
            settings,
            log,
        })
    }

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
