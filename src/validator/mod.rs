//! The validator: decides the drafts of the slots that it owns and commits what passes.
//!
//! `ownership` holds slots and runs a worker on each; `slot` takes drafts off the queue and sorts them by
//! partition; `round` decides, commits and answers one partition's drafts; `committer` puts many
//! partitions' commits together; `cache` keeps states; `snapshotter` writes snapshots. What is valid is
//! decided in `rules`, and nowhere here. `acknowledger` takes off the queue what is decided. `hold` writes a slot's
//! key, and `floor` knows what it must say of decided drafts.
//!
//! Nothing here has to be believed for safety: a commit is checked by JetStream against the event it was
//! decided after, and a rejection is told only after two writes that a validator without the slot cannot make: an
//! event in the partition, and the slot's key. Why that is enough is in `docs/ARCHITECTURE.md`.

mod app_rules;
mod cache;
mod commit;
pub(crate) mod log_backend;
pub mod metrics;
mod round;
mod settings;
pub(crate) mod shared;
mod slots;
mod snapshots;

use crate::validator::shared::Shared;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use settings::ValidatorSettings;

use self::commit::committer::Committer;
use self::log_backend::LogBackend;
use self::slots::acknowledger::Acknowledger;
use self::slots::manager::SlotManager;
use self::slots::stale_filter::StalePublishFilter;
use crate::app::{Folds, Follower};
use crate::event::ClientId;
use crate::event::Draft;
use crate::event::Submitter;
use crate::log::{Log, LogError};
use crate::rules::LiveRules;
use crate::rules::limits::RulesError;
use crate::state::Fold;
use cache::PartitionCache;
pub(crate) use snapshots::snapshotter::Snapshotter;

/// How many slots' drafts are taken over at the same time. Each makes a consumer, which a cluster agrees on and
/// syncs to disk one after the other: asked for all at once, the last would wait longer than
/// `nats.request_timeout_ms`, be given up, and be asked for again.
const TAKEOVERS_AT_ONCE: usize = 8;

/// How many rounds an application's rules decide at once: enough for its processes to have work always.
const BY_APP_AT_ONCE: usize = 16;

/// Why a validator did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ValidatorError {
    /// NATS failed for good.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The validator's id cannot stand in a subject.
    #[error("validator.id is {0:?}; it takes 1 to 64 letters, digits, '-' and '_'")]
    BadId(String),
    /// The rules do not compile; a defect.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A task of the validator died; a defect.
    #[error("a task of the validator died: {0}")]
    Died(#[from] JoinError),
}

/// A running validator.
pub struct RunningValidator {
    id: String,
    tasks: JoinSet<Result<(), ValidatorError>>,
    background: CancellationToken,
}

/// The entry point.
pub struct Validator;

impl Validator {
    /// Starts a validator. It works until `shutdown`, then finishes what is in flight and hands its slots
    /// over. The `rules` may be replaced meanwhile: each round is decided by those in force at its start.
    /// `initial_state` is committed as every partition's first event.
    ///
    /// That the streams are there and as configured is the caller's to make sure of ([`Log::check`]), with
    /// whatever patience it has; from here on NATS may go away at any moment.
    pub fn start(
        settings: ValidatorSettings,
        log: Log,
        rules: Arc<LiveRules>,
        initial_state: Option<Box<RawValue>>,
        shutdown: CancellationToken,
    ) -> Result<RunningValidator, ValidatorError> {
        metrics::describe();
        let id = match settings.id.as_str() {
            "" => format!("{:016x}", rand::random::<u64>()),
            id => id.to_owned(),
        };
        if id.len() > 64 || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(ValidatorError::BadId(id));
        }
        let background = CancellationToken::new();
        let folds = Arc::new(Folds::new(log.clone())?);
        let fold: Arc<dyn Fold> = folds.clone();
        let snapshots =
            Snapshotter::new(log.clone(), fold.clone(), settings.snapshot_queue_max, background.clone());
        let follower = Follower { log: log.clone(), folds, take: app_rules::taking(rules.clone()) };
        let ownership_ttl = log.ownership_ttl();
        let parts = Parts { id, settings, log, rules, fold, initial_state, ownership_ttl };
        let (known, following) = follower.follow(background.clone());
        Ok(launch(parts, snapshots, (known, following), background, shutdown))
    }
}

/// What a validator is made of.
pub(crate) struct Parts<P> {
    pub id: String,
    pub settings: ValidatorSettings,
    pub log: P,
    pub rules: Arc<LiveRules>,
    pub fold: Arc<dyn Fold>,
    pub initial_state: Option<Box<RawValue>>,
    pub ownership_ttl: Duration,
}

/// Starts all tasks of a validator, on whichever log.
pub(crate) fn launch<P: LogBackend>(
    parts: Parts<P>,
    (snapshotter, snapshotting): (Snapshotter, impl Future<Output = ()> + Send + 'static),
    // Until the rules in force are known; and as long as they are followed.
    (known, following): (
        impl Future<Output = ()> + Send + 'static,
        impl Future<Output = ()> + Send + 'static,
    ),
    background: CancellationToken,
    shutdown: CancellationToken,
) -> RunningValidator {
    let Parts { id, settings, log, rules, fold, initial_state, ownership_ttl } = parts;
    let (committer, committing) = Committer::new(log.clone(), &settings);
    let shared = Arc::new(Shared {
        id: id.clone(),
        ownership_ttl,
        log,
        fold,
        rules,
        initial: initial_state.map(initial_draft),
        committer,
        acknowledger: Acknowledger::new(Duration::from_millis(settings.acknowledge_after_ms)),
        snapshotter,
        cache: PartitionCache::new(settings.cache_bytes_max),
        stale_publishes: Mutex::new(StalePublishFilter::new()),
        confirms: AtomicBool::new(true),
        takeovers: Semaphore::new(TAKEOVERS_AT_ONCE),
        heavy: Semaphore::new(heavy_at_once()),
        by_app: Semaphore::new(BY_APP_AT_ONCE),
        fault_told: Mutex::new(None),
        settings,
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        committing.await;
        Ok(())
    });
    tasks.spawn(async move {
        snapshotting.await;
        Ok(())
    });
    tasks.spawn(async move {
        following.await;
        Ok(())
    });
    let (acknowledging, stop) = (Arc::clone(&shared), background.clone());
    tasks.spawn(async move {
        acknowledging.acknowledger.run(stop).await;
        Ok(())
    });
    let stop = background.clone();
    tasks.spawn(async move {
        shutdown.run_until_cancelled(known).await;
        let result = SlotManager::new(shared).run(shutdown).await;
        stop.cancel();
        result.map_err(ValidatorError::from)
    });
    RunningValidator { id, tasks, background }
}

impl RunningValidator {
    /// The name under which it owns slots.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits until the validator has ended: after `shutdown`, or because it cannot go on.
    pub async fn join(mut self) -> Result<(), ValidatorError> {
        let mut first_error = None;
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended.map_err(ValidatorError::from).flatten() {
                self.background.cancel();
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// How many rounds that may take long are decided at the same time: one core is left to all else.
fn heavy_at_once() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).saturating_sub(1).max(1)
}

fn initial_draft(state: Box<RawValue>) -> (Submitter, Draft) {
    let submitter = Submitter {
        client_id: ClientId::server(),
        user_id: None,
        permissions: vec!["*".to_owned()],
        roles: Vec::new(),
        claims: None,
    };
    let payload = format!("{{\"value\":{}}}", state.get());
    let draft = Draft {
        draft_id: "init".to_owned(),
        event_type: "init".to_owned(),
        payload: RawValue::from_string(payload).unwrap_or(state),
        base_event_id: None,
        v1: None,
    };
    (submitter, draft)
}
