//! Snapshots of partitions, made beside the commits.

pub(crate) mod snapshotter;
