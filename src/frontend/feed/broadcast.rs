//! What many connections are to be written alike, put together once.
//!
//! Most connections of a partition stand at the same event when the head moves, and are then written the
//! same frames. The last run of them is kept, so that a connection costs a look at it and one write,
//! however many events came together.

use std::sync::Arc;
use std::time::Instant;

use super::event::Entry;
use crate::event::EventId;
use crate::frontend::websocket::EncodedFrames;
use crate::protocol::Dialect;

/// How long a run gets, in bytes; one event may be longer.
const RUN_BYTES_MAX: usize = 64 * 1024;

/// The frames of some successive events.
#[derive(Clone)]
pub(crate) struct Run {
    /// The position that it follows.
    pub(crate) from: EventId,
    /// The head for which it was made.
    pub(crate) upto: EventId,
    /// The position behind it.
    pub end: EventId,
    /// The ordinal of the last event, if that is where the run ends.
    pub end_ordinal: Option<u64>,
    /// The frames, one behind the other.
    pub wire: EncodedFrames,
    /// How many they are.
    pub frames: usize,
    /// Their payload, in bytes.
    pub bytes: usize,
    /// When the first event came here; `None` where there is none.
    pub received_at: Option<Instant>,
}

impl Run {
    /// Puts together what fits of `entries`: those behind `from`, `max` if there are so many.
    pub(crate) fn of(
        entries: &[Arc<Entry>],
        from: EventId,
        upto: EventId,
        max: usize,
        dialect: Dialect,
    ) -> Self {
        let mut bytes = 0;
        let fits = |entry: &&Arc<Entry>| {
            let first = bytes == 0;
            bytes += entry.encoded(dialect).frame.len();
            entry.id <= upto && (first || bytes <= RUN_BYTES_MAX)
        };
        let frames: Vec<&EncodedFrames> =
            entries.iter().take_while(fits).map(|entry| &entry.encoded(dialect).frame).collect();
        let cut = match entries.get(frames.len()) {
            Some(next) => next.id <= upto,
            // There may be more behind them.
            None => entries.len() >= max,
        };
        let last = frames.len().checked_sub(1).and_then(|last| entries.get(last));
        let end = last.filter(|_| cut).map_or(upto, |last| last.id);
        Self {
            from,
            upto,
            end,
            end_ordinal: last.filter(|last| last.id == end).map(|last| last.ordinal),
            wire: EncodedFrames::joined(&frames),
            frames: frames.len(),
            bytes: frames.iter().map(|frame| frame.len()).sum(),
            received_at: entries.first().map(|entry| entry.received_at),
        }
    }
}

/// The last run of each dialect.
#[derive(Default)]
pub(crate) struct BroadcastCache {
    classic: Option<Run>,
    v1: Option<Run>,
}

impl BroadcastCache {
    pub(crate) fn of(&mut self, dialect: Dialect) -> &mut Option<Run> {
        match dialect {
            Dialect::Classic => &mut self.classic,
            Dialect::V1 => &mut self.v1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::testing::entry;
    use proptest::prelude::*;

    proptest! {
        /// Run by run, a connection is written every event up to the head once, in order, and nothing behind it.
        #[test]
        fn runs_follow_each_other_without_a_gap(
            gaps in proptest::collection::vec(1_u64..4, 0..60),
            upto in 0_u64..100,
            max in 1_usize..8,
            classic in any::<bool>(),
        ) {
            let dialect = if classic { Dialect::Classic } else { Dialect::V1 };
            let entries: Vec<_> = gaps
                .iter()
                .scan(0, |id, gap| { *id += gap; Some(*id) })
                .zip(1..)
                .map(|(id, ordinal)| entry(id, ordinal))
                .collect();
            let upto = EventId(upto);
            let (mut position, mut written, mut frames) = (EventId::NONE, Vec::new(), 0);
            while position < upto {
                let behind: Vec<_> =
                    entries.iter().filter(|entry| entry.id > position).take(max).cloned().collect();
                let run = Run::of(&behind, position, upto, max, dialect);
                prop_assert!(run.end > position && run.end <= upto);
                prop_assert!(run.frames <= max);
                written.extend_from_slice(run.wire.as_bytes());
                frames += run.frames;
                position = run.end;
            }
            let due: Vec<_> = entries.iter().filter(|entry| entry.id <= upto).collect();
            let wanted: Vec<u8> =
                due.iter().flat_map(|entry| entry.encoded(dialect).frame.as_bytes().to_vec()).collect();
            prop_assert_eq!(frames, due.len());
            prop_assert_eq!(written, wanted);
        }
    }

    #[test]
    fn a_run_is_not_longer_than_allowed_but_has_one_event() {
        let entries: Vec<_> = (1..=2000).map(|id| entry(id, id)).collect();
        let run = Run::of(&entries, EventId::NONE, EventId(2000), 4000, Dialect::V1);
        assert!(
            run.bytes <= RUN_BYTES_MAX && run.frames < 2000,
            "{} frames, {} bytes",
            run.frames,
            run.bytes
        );
        assert_eq!(run.end, EventId(run.frames as u64));
    }
}
