//! Snapshots, off the hot path: made from the log and the snapshot before, never from the state that
//! commits are being decided on, so that no commit waits for one.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cache::SnapshotProgress;
use super::metrics;
use crate::event::Token;
use crate::log::{Log, SnapshotInfo, SnapshotPart};
use crate::state::Fold;

struct Request {
    token: Token,
    progress: Arc<SnapshotProgress>,
}

/// The handle through which snapshots are asked for.
#[derive(Clone)]
pub(crate) struct Snapshotter {
    requests: mpsc::Sender<Request>,
}

impl Snapshotter {
    /// Makes a snapshotter, and the future that does its work until `stop`.
    pub(crate) fn new(
        log: Log,
        fold: Arc<dyn Fold>,
        queue_max: usize,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (requests, receiver) = mpsc::channel(queue_max.max(1));
        (Self { requests }, run(log, fold, receiver, stop))
    }

    /// One that never writes any: a simulated log makes its own.
    #[cfg(all(test, feature = "fault-points"))]
    pub(crate) fn idle() -> Self {
        Self { requests: mpsc::channel(1).0 }
    }

    /// Asks for a snapshot. If too many are waiting this one is left for later.
    pub(super) fn ask(&self, token: Token, progress: Arc<SnapshotProgress>) {
        if self.requests.try_send(Request { token, progress }).is_err() {
            metrics::snapshot_skipped();
        }
    }
}

async fn run(log: Log, fold: Arc<dyn Fold>, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
    loop {
        let request = tokio::select! {
            _ = stop.cancelled() => return,
            request = requests.recv() => match request {
                Some(request) => request,
                None => return,
            },
        };
        let started = Instant::now();
        let written = tokio::select! {
            _ = stop.cancelled() => return,
            written = write(&log, &fold, &request.token) => written,
        };
        match written {
            Ok(info) => {
                let events = info.ordinal.saturating_sub(request.progress.ordinal());
                request.progress.written(info);
                metrics::snapshot_written(started.elapsed(), info.bytes, events);
                info!(token = %request.token, event_id = %info.event_id, bytes = info.bytes, "snapshot written");
            }
            Err(error) => {
                metrics::snapshot_failed();
                warn!(token = %request.token, error = format!("{error:#}"), "no snapshot; the next one is tried later");
            }
        }
    }
}

async fn write(log: &Log, fold: &Arc<dyn Fold>, token: &Token) -> anyhow::Result<SnapshotInfo> {
    let loaded = log.load_partition(token, fold, true).await?;
    if loaded.state.head() <= loaded.snapshot.event_id {
        return Ok(loaded.snapshot);
    }
    let info = SnapshotInfo {
        event_id: loaded.state.head(),
        ordinal: loaded.state.ordinal(),
        log_bytes: loaded.state.log_bytes(),
        bytes: 0,
    };
    let (state, index) = tokio::task::spawn_blocking(move || {
        let snapshot = loaded.state.to_snapshot()?;
        #[cfg(feature = "fault-points")]
        let snapshot =
            if crate::fault::broken("snapshot_off_by_one") { one_too_early(snapshot) } else { snapshot };
        Ok::<_, crate::state::SnapshotError>((snapshot.state.encode(), snapshot.index.encode()))
    })
    .await
    .context("encoding a snapshot")??;
    let info = SnapshotInfo { bytes: state.len() as u64, ..info };
    // The index first: a reader that finds it newer than the state loses nothing.
    log.write_snapshot(token, SnapshotPart::Index, info, index).await?;
    log.write_snapshot(token, SnapshotPart::State, info, state).await?;
    Ok(info)
}

/// A snapshot that says of itself that it lacks its last event: one of the ways in which a test breaks the
/// product.
#[cfg(feature = "fault-points")]
fn one_too_early(mut snapshot: crate::state::Snapshot) -> crate::state::Snapshot {
    snapshot.state.event_id = crate::event::EventId(snapshot.state.event_id.0.saturating_sub(1));
    snapshot.state.ordinal = snapshot.state.ordinal.saturating_sub(1);
    snapshot
}
