//! What the roles have in common: starting a part with what the configuration says, and metrics and health
//! beside it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connect;
use crate::admin::AdminServer;
use crate::app::Folds;
use crate::auth::Authenticator;
use crate::config::settings::Config;
use crate::control::{CommandHandler, ControlAgent, NoCommands, Role};
use crate::frontend::{Frontend, FrontendError, RunningFrontend, Site};
use crate::log::{Log, LogDamage, MarkAccess};
use crate::rules::LiveRules;
use crate::state::Fold;
use crate::telemetry;
use crate::telemetry::{Metrics, Readiness};
use crate::validator::{RunningValidator, Validator};

/// Starts a frontend as configured, with pages beside it if some are given.
pub(crate) async fn start_frontend(
    config: &Config,
    log: Log,
    site: Option<Site>,
    shutdown: CancellationToken,
) -> anyhow::Result<RunningFrontend> {
    let mut settings = config.frontend.clone();
    settings.open_empty_partitions |= config.rules.initial_state_file.is_some();
    // A frontend needs none of the application's schemas, and its rules only to fold.
    let folds = Arc::new(Folds::new(log.clone())?);
    let auth = if settings.allow_anyone { Authenticator::Anyone } else { config.auth.authenticator()? };
    Frontend::start(settings, &config.control, log, folds, auth, site, shutdown).await.map_err(|error| {
        match error {
            FrontendError::Listen { .. } => anyhow!("{error}; choose another address with --listen"),
            error => anyhow::Error::new(error).context("starting the frontend"),
        }
    })
}

/// What folds events of this log, whoever decided them.
pub(crate) fn folds(log: &Log) -> anyhow::Result<Arc<dyn Fold>> {
    Ok(Arc::new(Folds::new(log.clone())?))
}

/// Whoever forgets about authentication must not find out from strangers.
pub(crate) fn check_frontend_auth(config: &Config) -> anyhow::Result<()> {
    match (config.auth.is_set(), config.frontend.allow_anyone) {
        (true, true) => bail!(
            "both who may connect (auth.secret_file, auth.public_key_file, auth.jwks_file, auth.jwks_url or \
             auth.hook_url) and frontend.allow_anyone are set; to ask for tokens, unset the latter"
        ),
        (true, false) => {
            config.auth.authenticator()?;
            Ok(())
        }
        (false, true) => Ok(()),
        (false, false) => bail!(
            "nothing says who may connect, so the frontend does not start. Give it the key that tokens are \
             signed with, auth.secret_file, auth.public_key_file, auth.jwks_file or auth.jwks_url; or have it ask \
             your application, auth.hook_url; or to take anyone, with all permissions, say so: --allow-anyone, or \
             frontend.allow_anyone = true"
        ),
    }
}

/// Starts a validator as configured.
pub(crate) fn start_validator(
    config: &Config,
    log: Log,
    rules: Arc<LiveRules>,
    shutdown: CancellationToken,
) -> anyhow::Result<RunningValidator> {
    let initial = config.rules.initial_state()?;
    Validator::start(config.validator.clone(), log, rules, initial, shutdown)
        .context("starting the validator")
}

/// Metrics and health of a process, served beside its work if `metrics.listen` is set.
pub(crate) struct Side {
    tasks: JoinSet<anyhow::Result<()>>,
    log: watch::Sender<Option<Log>>,
    /// Whether the work itself is ready, where it has something to say about that.
    work: watch::Sender<Option<Readiness>>,
    stop: CancellationToken,
    /// How often the store is looked at, if anybody can see it.
    look_every: Option<Duration>,
}

impl Side {
    /// Starts serving, if so configured; at first not ready.
    pub(crate) async fn start(config: &Config, shutdown: &CancellationToken) -> anyhow::Result<Self> {
        let (log, seen) = watch::channel(None::<Log>);
        let (work, asked) = watch::channel(None::<Readiness>);
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        if let Some(listen) = config.metrics.listen {
            let metrics = Metrics::install().context("collecting metrics")?;
            let ending = shutdown.clone();
            let readiness = move || match seen.borrow().as_ref() {
                _ if ending.is_cancelled() => Err("going away".to_owned()),
                None => Err("waiting for NATS".to_owned()),
                Some(log) if !log.state().borrow().connected => Err("NATS cannot be reached".to_owned()),
                Some(log) => match log.damages().into_iter().find(LogDamage::stops_work) {
                    Some(damage) => Err(damage.to_string()),
                    None => asked.borrow().as_ref().map_or(Ok(()), |is_ready| is_ready()),
                },
            };
            let (address, serving) = telemetry::serve(listen, metrics, Arc::new(readiness), stop.clone())
                .await
                .with_context(|| format!("metrics.listen: cannot listen on {listen}"))?;
            info!(%address, "metrics and health are served");
            tasks.spawn(async move { serving.await.context(SERVING) });
        }
        let look_every = config.metrics.listen.map(|_| Duration::from_millis(config.metrics.store_look_ms));
        Ok(Self { tasks, log, work, stop, look_every })
    }

    /// Starts serving, and connects `role` to the log; `None` if it was told to stop before that was done.
    pub(crate) async fn connected(
        config: &Config,
        role: &'static str,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Option<(Self, Log)>> {
        let mut side = Self::start(config, shutdown).await?;
        match connect::connect_to_streams(config, role, shutdown).await? {
            Some(log) => {
                check_log(&log).await?;
                if role == "frontend" {
                    side.ready_when(|| Err("starting".to_owned()));
                }
                let looker = if role == "validator" { MarkAccess::Marks } else { MarkAccess::Reads };
                side.watch(&log, looker);
                Ok(Some((side, log)))
            }
            None => side.end().await.map(|()| None),
        }
    }

    /// From now on ready when the connection to NATS stands and the streams are as they should be; looks at
    /// both, and at the store, every so often. Fails when the log is not the one any more that it was.
    pub(crate) fn watch(&mut self, log: &Log, looker: MarkAccess) {
        self.log.send_replace(Some(log.clone()));
        if matches!(looker, MarkAccess::Marks) {
            let (log, stop) = (log.clone(), self.stop.clone());
            self.tasks.spawn(async move {
                stop.run_until_cancelled(log.drop_strays(2 * log.look_every())).await;
                Ok(())
            });
        }
        let (watched, stop) = (log.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let watching = watched.watch_integrity(watched.look_every(), looker);
            match stop.run_until_cancelled(watching).await {
                Some(damage) => Err(LogDamaged(damage).into()),
                None => Ok(()),
            }
        });
        if let Some(every) = self.look_every {
            let (log, stop) = (log.clone(), self.stop.clone());
            self.tasks.spawn(async move {
                stop.run_until_cancelled(log.watch_store(every)).await;
                Ok(())
            });
        }
    }

    /// From now on not ready either when the work says so.
    pub(crate) fn ready_when(&self, is_ready: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.work.send_replace(Some(Arc::new(is_ready)));
    }

    /// From now on takes orders of the administration, under the name that the process has in its role.
    pub(crate) async fn obey(
        &mut self,
        config: &Config,
        log: &Log,
        (role, id): (Role, &str),
        obey: impl CommandHandler,
    ) -> anyhow::Result<()> {
        let station = ControlAgent::open(log.clone(), role, id, config.control.clone()).await;
        let station = station.context("listening to the administration's orders")?;
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            station.run(Arc::new(obey), stop).await;
            Ok(())
        });
        Ok(())
    }

    /// The same for a validator, which does what every process does.
    pub(crate) async fn obey_as_validator(
        &mut self,
        config: &Config,
        log: &Log,
        id: &str,
    ) -> anyhow::Result<()> {
        self.obey(config, log, (Role::Validator, id), NoCommands).await
    }

    /// The same for an administration, which can be asked as everybody.
    pub(crate) async fn obey_as_admin(
        &mut self,
        config: &Config,
        log: &Log,
        admin: &AdminServer,
    ) -> anyhow::Result<()> {
        self.obey(config, log, (Role::Admin, admin.id()), NoCommands).await
    }

    /// The same for a frontend.
    pub(crate) async fn obey_as_frontend(
        &mut self,
        config: &Config,
        log: &Log,
        frontend: &RunningFrontend,
    ) -> anyhow::Result<()> {
        self.obey(config, log, (Role::Frontend, frontend.id()), frontend.controls()).await
    }

    /// Waits for the end of the work beside which this serves; stops both when either fails.
    pub(crate) async fn beside<E: Into<anyhow::Error>>(
        mut self,
        work: impl Future<Output = Result<(), E>>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mut work = std::pin::pin!(work);
        let result = tokio::select! {
            result = &mut work => result.map_err(Into::into),
            error = self.failed() => {
                if error.is::<LogDamaged>() {
                    // At once: nothing that the work holds of the log is to be served or built on.
                    return Err(error);
                }
                shutdown.cancel();
                work.await.map_err(Into::into).and(Err(error))
            }
        };
        result.and(self.end().await)
    }

    /// Waits until serving fails, which it should not. Cancel safe.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(ended) => ended_early(ended),
            None => std::future::pending().await,
        }
    }

    /// Stops serving.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.context(SERVING)??;
        }
        Ok(())
    }
}

fn ended_early(ended: Result<anyhow::Result<()>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow!("it ended by itself").context(SERVING),
        Ok(Err(error)) => error,
        Err(error) => anyhow::Error::new(error).context(SERVING),
    }
}

const SERVING: &str = "serving metrics and health";

/// The log is not the one that it was.
#[derive(Debug, thiserror::Error)]
#[error("the log is damaged: {0}")]
struct LogDamaged(LogDamage);

/// A process that has just started does not go on where the log has lost what others have seen.
pub(crate) async fn check_log(log: &Log) -> anyhow::Result<()> {
    match log.inspect().await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(damage)) => Err(LogDamaged(damage).into()),
        // It is looked at again in a moment, and then every so often.
        Err(error) if error.is_retryable() => {
            warn!(%error, "the log could not be compared with what is known of it");
            Ok(())
        }
        Err(error) => Err(error).context("comparing the log with what is known of it"),
    }
}
