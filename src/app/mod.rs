//! An application's rules: the built-in ones, or a JavaScript module of the application's own.
//!
//! The rest of the program folds by [`Folds`], and decides by the state that it gives (`crate::state::AppState`);
//! `rules check` knows [`Rulebook`]: a partition's state, and what events do to it. A [`Module`] runs in
//! QuickJS, which is written in C, in a process of its own (`worker.rs`, started and watched by `process.rs`). What that
//! process does, crashes or not, is an answer here. [`BuiltIn`] is the rules of this program.
//!
//! **Invariant:** no type of QuickJS leaves `engine.rs`. A module sees no clock, no randomness, no file and no socket;
//! the same events give the same state everywhere.

mod bounds;
mod built_in;
mod engine;
mod entry;
mod event;
mod fold;
mod follow;
mod frame;
mod live;
mod meter;
mod module;
mod modules;
mod pool;
mod process;
mod published;
mod sources;
mod verdict;
mod worker;

#[cfg(test)]
mod tests;

pub use built_in::BuiltIn;
pub use entry::{Entry, NoEntry};
pub use event::AppEvent;
pub use fold::Folds;
pub(crate) use follow::{Follower, Take};
pub use module::{Module, ModuleError};
pub use modules::Store;
pub(crate) use process::WORKER_COMMAND;
pub use published::Published;
pub use sources::Folder;
pub use verdict::{Broken, Fault, FaultKind, Rulebook, Verdict};
pub use worker::run as run_worker;
