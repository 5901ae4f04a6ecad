//! Snapshots, off the hot path: made from the log and the snapshot before, never from the state that
//! commits are being decided on, so that no commit waits for one.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::event::{EventId, Token};
use crate::log::{Log, SnapshotInfo, SnapshotPart};
use crate::partition::{IndexObject, parse};
use crate::state::{Fold, IndexEntry};
use crate::validator::cache::{IndexDue, SnapshotProgress};
use crate::validator::metrics;

#[derive(Clone)]
struct Request {
    token: Token,
    progress: Arc<SnapshotProgress>,
    index: IndexDue,
}

/// For every second that a snapshot took, so many are none made: who commits goes first. Partitions that are written at
/// the same pace come due together, and without a rest each such time was felt by everybody.
const COOLDOWN_FACTOR: u32 = 4;

/// The handle through which snapshots are asked for.
#[derive(Clone)]
pub(crate) struct Snapshotter {
    states: mpsc::Sender<Request>,
    indexes: mpsc::Sender<Request>,
}

impl Snapshotter {
    /// Makes a snapshotter, and the future that does its work until `stop`.
    pub(crate) fn new(
        log: Log,
        fold: Arc<dyn Fold>,
        queue_max: usize,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()>) {
        let (states, of_states) = mpsc::channel(queue_max.max(1));
        let (indexes, of_indexes) = mpsc::channel(queue_max.max(1));
        // Each at its own pace: a long index takes seconds where a state takes milliseconds, and who connects waits for what
        // is not in the state's.
        let working = async move {
            let work = Work { log, fold, stop };
            tokio::join!(
                work.run(SnapshotPart::State, of_states),
                work.run(SnapshotPart::Index(0), of_indexes)
            );
        };
        (Self { states, indexes }, working)
    }

    /// One that never writes any: a simulated log makes its own.
    #[cfg(all(test, feature = "fault-points"))]
    pub(crate) fn idle() -> Self {
        Self { states: mpsc::channel(1).0, indexes: mpsc::channel(1).0 }
    }

    /// Asks for a snapshot. If too many are waiting this one is left for later.
    pub(crate) fn ask(&self, token: Token, progress: Arc<SnapshotProgress>) {
        let request = Request { token, index: progress.index_due(), progress };
        if request.index == IndexDue::Apart && self.indexes.try_send(request.clone()).is_err() {
            request.progress.index_not_written();
            metrics::snapshot_skipped();
        }
        if let Err(TrySendError::Full(request) | TrySendError::Closed(request)) =
            self.states.try_send(request)
        {
            if request.index == IndexDue::WithState {
                request.progress.index_not_written();
            }
            metrics::snapshot_skipped();
        }
    }
}

/// What makes the snapshots of one part, one after the other.
struct Work {
    log: Log,
    fold: Arc<dyn Fold>,
    stop: CancellationToken,
}

impl Work {
    async fn run(&self, part: SnapshotPart, mut requests: mpsc::Receiver<Request>) {
        let stop = &self.stop;
        while let Some(Some(request)) = stop.run_until_cancelled(requests.recv()).await {
            let started = Instant::now();
            let written = stop.run_until_cancelled(async {
                match part {
                    SnapshotPart::State => self.write_state(&request).await,
                    SnapshotPart::Index(_) => self.write_index(&request).await,
                }
            });
            let Some(written) = written.await else { return };
            if let Err(error) = written {
                metrics::snapshot_failed();
                warn!(token = %request.token, ?part, error = format!("{error:#}"), "no snapshot; the next one is tried later");
                if part != SnapshotPart::State || request.index == IndexDue::WithState {
                    request.progress.index_not_written();
                }
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(started.elapsed() * COOLDOWN_FACTOR))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    async fn write_state(&self, Request { token, progress, index }: &Request) -> anyhow::Result<()> {
        let started = Instant::now();
        let (loaded, entries) = match index {
            IndexDue::WithState => self.log.load_state_and_entries(token, &self.fold).await?,
            IndexDue::No | IndexDue::Apart => {
                (self.log.load_partition(token, &self.fold, false).await?, Vec::new())
            }
        };
        // What the state's own reading began with: the entries are those of the events after it.
        let before = loaded.snapshot.event_id;
        if loaded.state.head() <= before {
            progress.written(loaded.snapshot);
            if *index == IndexDue::WithState {
                progress.index_not_written();
            }
            return Ok(());
        }
        let info = self.log.write_state_snapshot(token, loaded.state).await?;
        let events = info.ordinal.saturating_sub(progress.ordinal());
        progress.written(info);
        metrics::snapshot_written(started.elapsed(), info.bytes, events);
        info!(%token, event_id = %info.event_id, bytes = info.bytes, "snapshot written");
        if *index == IndexDue::WithState {
            let upto = (info.event_id, info.ordinal);
            self.extend_index(token, progress, upto, before, entries).await?;
        }
        Ok(())
    }

    async fn write_index(&self, Request { token, progress, .. }: &Request) -> anyhow::Result<()> {
        let Some(head) = self.log.leader_head(token).await? else { return Ok(()) };
        let ordinal = parse(&head)?.record.ordinal;
        self.extend_index(token, progress, (head.id, ordinal), head.id, Vec::new()).await
    }

    /// Writes an index up to event `upto`, which is the partition's `ordinal`th. `entries` are those of the events
    /// after `known_from`.
    async fn extend_index(
        &self,
        token: &Token,
        progress: &SnapshotProgress,
        (upto, ordinal): (EventId, u64),
        known_from: EventId,
        entries: Vec<IndexEntry>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        let usable = progress.in_index();
        let objects = self.log.load_index(token, upto, ordinal, known_from, entries, usable).await?;
        if objects.is_empty() {
            return Ok(());
        }
        // In order: one that is there before the one that it goes on from is none.
        for object in objects {
            let IndexObject { number, after, .. } = object;
            let (event_id, drafts) = (object.index.event_id, object.drafts());
            let bytes = tokio::task::spawn_blocking(move || object.index.encode())
                .await
                .context("encoding a draft index")?;
            let info = SnapshotInfo { event_id, ordinal: drafts, after, ..SnapshotInfo::default() };
            let len = bytes.len();
            self.log.write_snapshot(token, SnapshotPart::Index(number), info, bytes).await?;
            progress.indexed(drafts);
            info!(%token, %event_id, number, drafts, bytes = len, "draft index written");
        }
        metrics::index_written(started.elapsed());
        Ok(())
    }
}
