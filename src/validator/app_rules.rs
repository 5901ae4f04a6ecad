//! Which of an application's rules are in force: read from their bucket, loaded, and only then put in force here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::log_backend::LogBackend;
use super::shared::Shared;
use crate::app::Folds;
use crate::event::{Draft, PartitionKey, RulesInForceId, Submission};
use crate::log::{Log, LogError};
use crate::rules::LiveRules;
use crate::state::AppError;
use crate::util::sync::lock;

/// How often it is looked whether other rules were put in force.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the same trouble is told, and that rules failed.
const TOLD_INTERVAL: Duration = Duration::from_secs(10);
const FAULT_TOLD_INTERVAL: Duration = Duration::from_secs(1);

/// Who follows them.
pub(super) struct Follower {
    pub log: Log,
    pub folds: Arc<Folds>,
    pub rules: Arc<LiveRules>,
}

/// Why the rules in force are not put in force here.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    App(#[from] AppError),
}

impl Follower {
    /// What waits until the rules in force are known, and what follows them from there until `stop`.
    pub(super) fn follow(
        self,
        stop: CancellationToken,
    ) -> (impl Future<Output = ()> + Send + 'static, impl Future<Output = ()> + Send + 'static) {
        let (told, known) = oneshot::channel::<()>();
        let known = async move {
            if known.await.is_err() {
                warn!("the rules in force are not known: the validator is ending");
            }
        };
        let following = async move {
            stop.run_until_cancelled(self.run(told)).await;
        };
        (known, following)
    }

    async fn run(self, told: oneshot::Sender<()>) {
        let (mut first, mut trouble) = (Some(told), None::<Instant>);
        loop {
            match self.look().await {
                Ok(()) => {
                    if let Some(Err(())) = first.take().map(|told| told.send(())) {
                        return;
                    }
                }
                // That NATS is away is told elsewhere; what is known stays in force.
                Err(Trouble::Log(_)) if first.is_none() => {}
                Err(why) if trouble.is_none_or(|told| told.elapsed() > TOLD_INTERVAL) => {
                    trouble = Some(Instant::now());
                    warn!(%why, "the application's rules that are in force are not put in force here");
                }
                Err(_) => {}
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn look(&self) -> Result<(), Trouble> {
        let Some(rules) = self.log.rules_in_force().await? else {
            return Ok(());
        };
        // A replica that lags says what was in force before.
        if self.rules.app().is_some_and(|known| known.activation >= rules.activation) {
            return Ok(());
        }
        let folds = self.folds.clone();
        let loading = tokio::task::spawn_blocking(move || folds.load(rules.version)).await;
        loading.map_err(|error| AppError::Unavailable(error.to_string()))??;
        self.rules.put_app_in_force(rules);
        info!(%rules, "the application's rules decide");
        Ok(())
    }
}

impl<P: LogBackend> Shared<P> {
    /// Says how an application's rules failed, every so often: drafts that make them fail are a client's to send.
    pub(super) fn tell_fault(
        &self,
        partition: &PartitionKey,
        rules: RulesInForceId,
        submission: &Submission,
        draft: &Draft,
        fault: &str,
    ) {
        let mut told = lock(&self.fault_told);
        if told.is_some_and(|told| told.elapsed() < FAULT_TOLD_INTERVAL) {
            return;
        }
        *told = Some(Instant::now());
        let client = &submission.submitter.client_id;
        warn!(
            %partition, %rules, %client, draft = draft.draft_id, event_type = draft.event_type, fault,
            "the application's rules failed on a draft; it is rejected"
        );
    }
}
