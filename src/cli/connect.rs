//! Waiting for NATS and for the streams, so that it does not matter which process starts first.

use std::time::Duration;

use anyhow::Context;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::settings::Config;
use crate::log::{BootstrapError, BootstrapReport, Log};
use crate::util::backoff::Backoff;

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Connects to NATS, trying for `nats.connect_wait_ms`. `None` when `shutdown` came first.
pub(crate) async fn connect(
    config: &Config,
    role: &str,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Log>> {
    let settings = config.nats.to_log_settings()?;
    let mut patience = Patience::new(config, shutdown);
    loop {
        let error = match Log::connect(&settings, role).await {
            Ok(log) => return Ok(Some(log)),
            Err(error) if !error.is_retryable() => return Err(error.into()),
            Err(error) => error,
        };
        match patience.pause("NATS", &error).await {
            Next::Again => {}
            Next::Stop => return Ok(None),
            Next::GiveUp => return Err(error).context(patience.gave_up("NATS")),
        }
    }
}

/// Connects, and waits until `bootstrap` has made the streams. `None` when `shutdown` came first.
pub(crate) async fn connect_to_streams(
    config: &Config,
    role: &str,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Log>> {
    let Some(log) = connect(config, role, shutdown).await? else { return Ok(None) };
    let mut patience = Patience::new(config, shutdown);
    loop {
        let error = match look_at_streams(&log, role).await {
            Ok(()) => return Ok(Some(log)),
            Err(error) if !is_retryable(&error) => return Err(error.into()),
            Err(error) => unless_denied(&log, error)?,
        };
        match patience.pause("the streams", &error).await {
            Next::Again => {}
            Next::Stop => return Ok(None),
            Next::GiveUp => return Err(error).context(patience.gave_up("the streams")),
        }
    }
}

/// Whether the streams are there. A validator makes the queue where NATS has lost it: it need not have been there
/// when that happened.
async fn look_at_streams(log: &Log, role: &str) -> Result<(), BootstrapError> {
    match log.check().await {
        Err(BootstrapError::Missing(_)) if role == "validator" => {
            log.open_queue().await?;
            log.check().await
        }
        looked => looked,
    }
}

/// What a command says that was stopped before it could begin.
pub(crate) fn stopped() -> anyhow::Error {
    anyhow::anyhow!("stopped before NATS was there")
}

/// Makes the streams, trying for `nats.connect_wait_ms`: of a cluster that has just been started the servers
/// may not all be there yet. `None` when `shutdown` came first.
pub(crate) async fn make_streams(
    log: &Log,
    config: &Config,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<BootstrapReport>> {
    let mut patience = Patience::new(config, shutdown);
    loop {
        let error = match crate::log::bootstrap(log).await {
            Ok(report) => return Ok(Some(report)),
            Err(error) if !is_retryable(&error) => return Err(error.into()),
            Err(error) => unless_denied(log, error)?,
        };
        match patience.pause("the NATS servers", &error).await {
            Next::Again => {}
            Next::Stop => return Ok(None),
            Next::GiveUp => return Err(error).context(patience.gave_up("the NATS servers")),
        }
    }
}

/// Whoever asks NATS for what his user may not hears nothing, however long he waits.
fn unless_denied(log: &Log, error: BootstrapError) -> anyhow::Result<BootstrapError> {
    let is_silence = matches!(&error, BootstrapError::Log(error) if error.is_retryable());
    match log.denied().filter(|_| is_silence) {
        None => Ok(error),
        Some(said) => Err(error).context(format!(
            "NATS says: {said}. Its user lacks a right that this command needs: see whether nats.user is the one for it \
             (nats/users.conf has one for each role), and nats.api_prefix as its account has it"
        )),
    }
}

fn is_retryable(error: &BootstrapError) -> bool {
    match error {
        BootstrapError::Missing(_) => true,
        BootstrapError::Log(error) => error.is_retryable(),
        BootstrapError::ServerTooOld(_) | BootstrapError::Differs(_) | BootstrapError::Limits(_) => false,
    }
}

/// How long a start is tried again, and how often.
struct Patience<'a> {
    wait: Duration,
    deadline: Instant,
    backoff: Backoff,
    said: String,
    shutdown: &'a CancellationToken,
}

enum Next {
    Again,
    GiveUp,
    Stop,
}

impl<'a> Patience<'a> {
    fn new(config: &Config, shutdown: &'a CancellationToken) -> Self {
        let wait = config.nats.connect_wait();
        Self {
            wait,
            deadline: Instant::now() + wait,
            backoff: Backoff::new(PAUSE_FIRST, PAUSE_MAX),
            said: String::new(),
            shutdown,
        }
    }

    async fn pause(&mut self, what: &str, error: &impl std::error::Error) -> Next {
        if self.shutdown.is_cancelled() {
            return Next::Stop;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Next::GiveUp;
        }
        let why = error.to_string();
        if why != self.said {
            warn!(seconds_left = left.as_secs(), "waiting for {what}: {why}");
            self.said = why;
        }
        let pause = self.backoff.next().min(left);
        tokio::select! {
            () = tokio::time::sleep(pause) => Next::Again,
            () = self.shutdown.cancelled() => {
                info!("stopped while waiting for {what}");
                Next::Stop
            }
        }
    }

    fn gave_up(&self, what: &str) -> String {
        format!(
            "gave up waiting for {what} after {} ms (nats.connect_wait_ms; nats.urls says where NATS is, nats.api_prefix how the account names JetStream's API)",
            self.wait.as_millis()
        )
    }
}
