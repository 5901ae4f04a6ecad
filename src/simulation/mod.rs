//! The decision, commit and take-over logic on simulated servers, in simulated time, by seed.
//!
//! What runs is the validator as it is, and the frontend as it is but for its listener, on a model of what JetStream
//! does (`world`), over connections that lose, delay and double (`net`). Clients speak both dialects over WebSockets
//! (`session`). One thread and tokio's paused clock make a run a function of its seed, and hours pass in a second. At
//! the end a judge compares what clients were told and shown with the log, by a model of the rules that shares no code
//! with the product.
//!
//!     cargo nextest run --features fault-points simulation
//!     INSIEME_TEST_SIMULATION_SEEDS=0..5000 cargo nextest run --features fault-points whatever_fails
//!
//! A finding names its seed, and the story of the run is written to a file.

// A test: it stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod frontend;
mod history;
#[allow(dead_code)]
mod model;
pub(crate) mod net;
pub(crate) mod port;
mod rng;
mod run;
mod session;
mod tests;
pub(crate) mod world;
