//! The routes of the administration, one file for each resource.

pub(crate) mod clients;
pub(crate) mod closing;
pub(crate) mod connections;
pub(crate) mod events;
pub(crate) mod logs;
mod ordinals;
pub(crate) mod partitions;
pub(crate) mod processes;
pub(crate) mod rejections;
pub(crate) mod revocations;
