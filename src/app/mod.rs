//! An application's rules: the built-in ones, or a JavaScript module of the application's own.
//!
//! The rest of the program knows [`Rulebook`]: a partition's state, and what events do to it. A [`Module`] runs in
//! QuickJS, which is written in C, in a process of its own (`worker.rs`, started and watched by `process.rs`). What that
//! process does, crashes or not, is an answer here. [`BuiltIn`] is the rules of this program.
//!
//! **Invariant:** no type of QuickJS leaves `engine.rs`. A module sees no clock, no randomness, no file and no socket;
//! the same events give the same state everywhere.

mod bounds;
mod built_in;
mod engine;
mod event;
mod frame;
mod meter;
mod module;
mod process;
mod sources;
mod verdict;
mod worker;

#[cfg(test)]
mod tests;

pub use built_in::BuiltIn;
pub use event::AppEvent;
pub use module::{Module, ModuleError};
pub(crate) use process::WORKER_COMMAND;
pub use sources::Folder;
pub use verdict::{Broken, Fault, FaultKind, Rulebook, Verdict};
pub use worker::run as run_worker;
