//! Which of an application's rules are in force: read from their bucket, made ready, and only then put in force here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::fold::Folds;
use crate::event::RulesInForceId;
use crate::log::{Log, LogError};
use crate::state::AppError;

/// How often it is looked whether other rules were put in force.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the same trouble is told.
const TOLD_INTERVAL: Duration = Duration::from_secs(10);

/// Makes rules ready and puts them in force in this process. May block. What it refuses is tried again.
pub(crate) type Take = dyn Fn(&Folds, RulesInForceId) -> Result<(), AppError> + Send + Sync;

/// Who follows them.
pub(crate) struct Follower {
    pub log: Log,
    pub folds: Arc<Folds>,
    pub take: Arc<Take>,
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
    pub(crate) fn follow(
        self,
        stop: CancellationToken,
    ) -> (impl Future<Output = ()> + Send + 'static, impl Future<Output = ()> + Send + 'static) {
        let (told, known) = oneshot::channel::<()>();
        let known = async move {
            if known.await.is_err() {
                warn!("the rules in force are not known: the process is ending");
            }
        };
        let following = async move {
            stop.run_until_cancelled(self.run(told)).await;
        };
        (known, following)
    }

    async fn run(self, told: oneshot::Sender<()>) {
        let (mut first, mut trouble) = (Some(told), None::<Instant>);
        let mut taken = None;
        loop {
            match self.look(&mut taken).await {
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

    async fn look(&self, taken: &mut Option<RulesInForceId>) -> Result<(), Trouble> {
        let Some(rules) = self.log.rules_in_force().await? else {
            return Ok(());
        };
        // A replica that lags says what was in force before.
        if taken.is_some_and(|known| known.activation >= rules.activation) {
            return Ok(());
        }
        let (folds, take) = (self.folds.clone(), self.take.clone());
        let taking = tokio::task::spawn_blocking(move || take(&folds, rules)).await;
        taking.map_err(|error| AppError::Unavailable(error.to_string()))??;
        *taken = Some(rules);
        Ok(())
    }
}
