//! Writing a state as the partition's snapshot.

use crate::event::Token;
use crate::log::{Log, LogError, SnapshotInfo, SnapshotPart};
use crate::state::{PartitionState, SnapshotError};

impl Log {
    /// Writes a state in place of the partition's snapshot; gives what it is. Whoever else writes one at the same time
    /// does no harm: a loader reads on from whichever is there.
    pub async fn write_state_snapshot(
        &self,
        token: &Token,
        state: PartitionState,
    ) -> Result<SnapshotInfo, LogError> {
        const WHAT: &str = "encoding a snapshot";
        let info = SnapshotInfo {
            event_id: state.head(),
            ordinal: state.ordinal(),
            log_bytes: state.log_bytes(),
            ..SnapshotInfo::default()
        };
        // A large state is work for the processor.
        let encoding = tokio::task::spawn_blocking(move || {
            let state = state.to_state_part()?;
            #[cfg(feature = "fault-points")]
            let state =
                if crate::faults::broken("snapshot_off_by_one") { one_too_early(state) } else { state };
            Ok::<_, SnapshotError>(state.encode())
        });
        let bytes = encoding.await.map_err(|error| LogError::malformed(WHAT, error))?;
        let bytes = bytes.map_err(|error| LogError::malformed(WHAT, error))?;
        let info = SnapshotInfo { bytes: bytes.len() as u64, ..info };
        self.write_snapshot(token, SnapshotPart::State, info, bytes).await?;
        Ok(info)
    }
}

/// A snapshot that says of itself that it lacks its last event: one of the ways in which a test breaks the
/// product.
#[cfg(feature = "fault-points")]
fn one_too_early(mut state: crate::state::StatePart) -> crate::state::StatePart {
    state.event_id = crate::event::EventId(state.event_id.0.saturating_sub(1));
    state.ordinal = state.ordinal.saturating_sub(1);
    state
}
