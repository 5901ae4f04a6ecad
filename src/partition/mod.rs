//! Partitions read from the log: load, catch up, state at an event, lookup of one draft, verification.
//!
//! This module stands above `log` and `state`: it folds what the log stores, so that `log` decides nothing.

mod index;
mod load;
mod snapshot;
mod state_at;
mod verify;
mod write_index;

pub use load::{LoadError, Loaded, app_error, apply, parse, settle, settle_all};
pub use state_at::StateAtError;
pub use verify::Verified;
pub use write_index::IndexObject;
