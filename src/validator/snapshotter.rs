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
use crate::state::{Fold, SnapshotError};

struct Request {
    token: Token,
    progress: Arc<SnapshotProgress>,
}

/// For every second that a snapshot took, so many are none made: who commits goes first. Partitions that are written at
/// the same pace come due together, and without a rest each such time was felt by everybody.
const REST: u32 = 4;

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
            written = write(&log, &fold, &request) => written,
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
        tokio::select! {
            _ = stop.cancelled() => return,
            _ = tokio::time::sleep(started.elapsed() * REST) => {}
        }
    }
}

async fn write(log: &Log, fold: &Arc<dyn Fold>, request: &Request) -> anyhow::Result<SnapshotInfo> {
    let Request { token, progress } = request;
    let with_index = progress.index_is_due();
    let (loaded, index) = log.load_for_snapshot(token, fold, with_index).await?;
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
        let state = loaded.state.to_state_part()?;
        #[cfg(feature = "fault-points")]
        let state = if crate::fault::broken("snapshot_off_by_one") { one_too_early(state) } else { state };
        Ok::<_, SnapshotError>((state.encode(), index.map(|index| index.encode())))
    })
    .await
    .context("encoding a snapshot")??;
    let info = SnapshotInfo { bytes: state.len() as u64, ..info };
    // The index first: a reader that finds it newer than the state loses nothing.
    if let Some(index) = index {
        log.write_snapshot(token, SnapshotPart::Index, info, index).await?;
        progress.indexed(info.ordinal);
    }
    log.write_snapshot(token, SnapshotPart::State, info, state).await?;
    Ok(info)
}

/// A snapshot that says of itself that it lacks its last event: one of the ways in which a test breaks the
/// product.
#[cfg(feature = "fault-points")]
fn one_too_early(mut state: crate::state::StatePart) -> crate::state::StatePart {
    state.event_id = crate::event::EventId(state.event_id.0.saturating_sub(1));
    state.ordinal = state.ordinal.saturating_sub(1);
    state
}
