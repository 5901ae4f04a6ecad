//! The streams themselves: their settings, creation, limits and statistics.

pub(crate) mod bootstrap;
mod limits;
pub(crate) mod settings;
mod stats;
mod strays;
