//! Reads of the log: batched direct gets, long reads, replays, reads at the leader, and the live feed.

pub(crate) mod batch_get;
pub(crate) mod follow;
mod leader;
pub(crate) mod live;
mod long_read;
pub(crate) mod replay;
pub(crate) mod server_time;
