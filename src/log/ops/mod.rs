//! What operators do with a log: back it up, import events, remove an event, list partitions.

pub(crate) mod backup;
pub(crate) mod import;
pub(crate) mod partition_stats;
pub(crate) mod remove_events;
