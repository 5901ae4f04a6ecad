//! What every listener of ours needs against those who connect and say nothing: seats for connections of which
//! nothing is known yet (`seats`), and an HTTP server for operators that is bounded by them and in time
//! (`http`, over streams that may not stall, `stall`).
//!
//! **Invariant:** knows nothing of clients, of the log, or of what is served.

mod http;
pub(crate) mod seats;
mod stall;

pub use http::{Bounds, serve};
pub use seats::{Seat, Seats};
pub(crate) use stall::Unstalled;
