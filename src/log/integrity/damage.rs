//! What can be wrong with the log.

use crate::log::subjects;
use std::fmt;

/// What is wrong with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDamage {
    /// A stream is not there.
    Gone {
        /// Its name.
        stream: &'static str,
    },
    /// A stream does not have the settings that everything rests on.
    Settings(Vec<String>),
    /// Somebody deleted single events. Their partitions notice by themselves.
    Deleted {
        /// How many more than when the log was last accepted.
        events: u64,
    },
    /// The first events are gone.
    Purged {
        /// The first id that there is, or would be.
        first: u64,
        /// The first that there should be.
        expected: u64,
    },
    /// The last events are gone: ids that were given out would be given out again.
    Truncated {
        /// The last id that there is.
        last: u64,
        /// The last that there was.
        seen: u64,
    },
    /// The stream is another one of the same name.
    Recreated {
        /// The last id that the one before had.
        seen: u64,
    },
}

impl LogDamage {
    /// The name by which metrics call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gone { .. } => "gone",
            Self::Settings(_) => "settings",
            Self::Deleted { .. } => "deleted",
            Self::Purged { .. } => "purged",
            Self::Truncated { .. } => "went_back",
            Self::Recreated { .. } => "made_anew",
        }
    }

    /// Whether nothing that a process holds may be relied on any more, nor served.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Purged { .. } | Self::Truncated { .. } | Self::Recreated { .. })
    }

    /// Whether clients are better off elsewhere until it is put right.
    pub fn stops_work(&self) -> bool {
        !matches!(self, Self::Deleted { .. })
    }
}

/// All that [`LogDamage::kind`] says.
pub(crate) const DAMAGE_KINDS: [&str; 6] =
    ["gone", "settings", "deleted", "purged", "went_back", "made_anew"];

impl fmt::Display for LogDamage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = subjects::COMMITTED_STREAM;
        match self {
            Self::Gone { stream } => write!(
                f,
                "the stream {stream} is gone; restore it, or if it was never needed make it with `insieme-backend bootstrap`"
            ),
            Self::Settings(all) => write!(
                f,
                "the streams' settings were changed: {}; change them back with the `nats` command line, or the configuration to match",
                all.join("; ")
            ),
            Self::Deleted { events } => write!(
                f,
                "{events} events were deleted from the middle of {log}; partitions with a hole are stopped, \
                 `insieme-backend inspect` shows which"
            ),
            Self::Purged { first, expected } => write!(
                f,
                "{log} begins with event {first} and not {expected}: earlier events were purged. {RESTORE}"
            ),
            Self::Truncated { last, seen } => write!(
                f,
                "{log} ends with event {last}, and event {seen} was in it: it has lost events, or is an older copy. \
                 Going on would give out ids a second time. {RESTORE}"
            ),
            Self::Recreated { seen } => write!(
                f,
                "{log} is another stream than the one that had event {seen}: it was deleted and created again. {RESTORE}"
            ),
        }
    }
}

pub(crate) const RESTORE: &str = "Restore the log as it was; or if it is meant to be as it is, say so with \
                       `insieme-backend accept-log`";
