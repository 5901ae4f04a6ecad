//! The authoritative server for offline-first collaborative apps, on NATS JetStream.
//!
//! A draft comes in over a WebSocket ([`frontend`]), goes to its partition's validator ([`validator`]),
//! is decided against the partition's state ([`rules`], [`state`]), gets its place in the log ([`log`])
//! and reaches everyone from there. `docs/ARCHITECTURE.md` walks that path.

#![warn(missing_docs)]

pub mod admin;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod control;
pub mod event;
pub mod faults;
pub mod frontend;
#[cfg(test)]
mod fuzzing;
#[cfg(test)]
mod house_rules;
pub mod json;
pub mod log;
pub mod moving;
mod outbox;
pub mod pages;
pub mod partition;
pub mod protocol;
pub mod rules;
pub mod serving;
#[cfg(all(test, feature = "fault-points"))]
mod simulation;
pub mod state;
pub mod telemetry;
mod util;
pub mod validator;
pub mod version;
