//! Metrics in Prometheus's text format, with liveness and readiness beside them, on a listener of their
//! own.
//!
//! Each area declares its metrics in a `metrics.rs` of its own; this only collects and serves them.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::process;
use crate::serving::{self, Bounds};

/// Upper bounds of the buckets of histograms of durations, in seconds.
const SECONDS_BUCKETS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Upper bounds of the buckets of histograms of sizes, in bytes.
const BYTES_BUCKETS: [f64; 8] = [1e3, 1e4, 1e5, 1e6, 5e6, 2e7, 1e8, 1e9];
/// Upper bounds of the buckets of all other histograms: numbers of things.
const COUNT_BUCKETS: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 1000.0];
/// How often samples that nobody fetches are folded into their histograms.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long answers under way at the end may still take.
const SHUTDOWN_LINGER: Duration = Duration::from_secs(1);

/// What connections to metrics and health may take: those who ask are few, and ask for little.
const BOUNDS: Bounds = Bounds {
    connections_max: 64,
    head_time_max: Duration::from_secs(10),
    stall_max: Duration::from_secs(10),
};

/// Says whether the process can do its work just now; if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Collects the process's metrics from now on. Once a process.
    pub fn install() -> Result<Self, BuildError> {
        let handle = PrometheusBuilder::new()
            .set_buckets(&COUNT_BUCKETS)?
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)?
            .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES_BUCKETS)?
            .install_recorder()?;
        process::describe();
        Ok(Self { handle })
    }

    /// The metrics of a recorder that is not the process's.
    #[cfg(test)]
    pub(crate) fn of(handle: PrometheusHandle) -> Self {
        Self { handle }
    }

    /// All metrics as they stand, in Prometheus's text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

/// Serves `/metrics`, `/livez` and `/readyz` until `shutdown`. Binds before it returns the future that
/// serves, so that a port in use is an error at the start.
pub async fn serve(
    listen: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> std::io::Result<(SocketAddr, impl Future<Output = std::io::Result<()>> + Send)> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let routes = Router::new()
        .route("/metrics", get(scrape))
        .with_state((metrics.clone(), readiness.clone()))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(move || readyz(readiness.clone())));
    let serving = async move {
        tokio::select! {
            () = serving::serve(listener, routes, BOUNDS, shutdown.clone()) => Ok(()),
            () = upkeep(metrics) => Ok(()),
            () = linger(shutdown) => Ok(()),
        }
    };
    Ok((address, serving))
}

async fn scrape(State((metrics, readiness)): State<(Metrics, Readiness)>) -> String {
    process::sample(readiness().is_ok());
    metrics.render()
}

/// Ends some time after `shutdown`, however slowly a client reads.
async fn linger(shutdown: CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(SHUTDOWN_LINGER).await;
}

async fn readyz(readiness: Readiness) -> (StatusCode, String) {
    match readiness() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

/// Never ends. Without it, histograms that nobody fetches would grow without bound.
async fn upkeep(metrics: Metrics) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics.handle.run_upkeep();
    }
}
