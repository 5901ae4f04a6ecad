//! Signals: the first SIGINT or SIGTERM asks everything to end, the second ends it at once. SIGHUP ends no
//! role: it asks for what can be read anew to be read anew, the log filter everywhere.

use std::future::Future;
use std::pin::pin;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::common::Source;
use crate::telemetry::LogControl;

/// How it ended.
pub(crate) enum Ended<T> {
    /// The work returned, asked to or not.
    ByItself(T),
    /// A second signal came before it did.
    Interrupted,
}

/// Runs `work` to its end. SIGINT or SIGTERM cancels the token that it was given; another one drops it.
pub(crate) async fn until_ended<F: Future>(work: impl FnOnce(CancellationToken) -> F) -> Ended<F::Output> {
    let shutdown = CancellationToken::new();
    let mut work = pin!(work(shutdown.clone()));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    loop {
        tokio::select! {
            output = &mut work => return Ended::ByItself(output),
            () = received(&mut interrupt) => {}
            () = received(&mut terminate) => {}
        }
        if shutdown.is_cancelled() {
            warn!("a second signal: ending at once");
            return Ended::Interrupted;
        }
        info!("ending; a second signal ends at once");
        shutdown.cancel();
    }
}

/// The SIGHUPs. While one of these exists, and ever after, the process does not end by them. Each puts the
/// configured log filter in force, whatever else the role reads anew.
pub(crate) struct Hangups {
    signal: Option<Signal>,
    source: Option<Source>,
}

impl Hangups {
    /// Listens from now on.
    pub(crate) fn listen(source: Source) -> Self {
        Self { signal: listen(SignalKind::hangup()), source: Some(source) }
    }

    /// Does not listen: the process ends by them, as by default.
    pub(crate) fn disabled() -> Self {
        Self { signal: None, source: None }
    }

    /// Waits for the next one; those that came since the last count as one. Cancel safe.
    pub(crate) async fn next(&mut self) {
        received(&mut self.signal).await;
        if let Some(source) = &self.source {
            reload_log_filter(source);
        }
    }

    /// Waits for the end of some work, and says of each one meanwhile that nothing comes of it.
    pub(crate) async fn ignored_beside<T>(mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                output = &mut work => return output,
                () = self.next() => info!("SIGHUP: this role has nothing to reload beside the log filter; going on"),
            }
        }
    }
}

/// Puts the log filter in force that the configuration names now; a configuration that is broken changes
/// nothing.
fn reload_log_filter(source: &Source) {
    let Some(control) = LogControl::of_process() else { return };
    let before = control.filter();
    let result = source.load().map_err(anyhow::Error::from).and_then(|loaded| {
        let filter = loaded.config.log.filter;
        control.set_filter(&filter)?;
        Ok(filter)
    });
    match result {
        Ok(filter) if filter == before => info!(filter, "SIGHUP: the log filter is as it was"),
        Ok(filter) => info!(filter, before, "SIGHUP: the log filter was changed"),
        Err(error) => {
            warn!(error = format!("{error:#}"), filter = before, "SIGHUP: the log filter stays as it was");
        }
    }
}

fn listen(kind: SignalKind) -> Option<Signal> {
    signal(kind)
        .inspect_err(
            |error| warn!(%error, "failed to install a signal handler; the signal will kill the process"),
        )
        .ok()
}

async fn received(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}
