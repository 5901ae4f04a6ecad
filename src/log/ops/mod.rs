//! What operators do with a log: back it up, remove an event, list partitions.

pub(crate) mod backup;
pub(crate) mod partition_stats;
pub(crate) mod remove_events;
