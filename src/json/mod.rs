//! JSON values: parsing with a depth bound, maps in the writer's order, canonical text (RFC 8785).
//!
//! It reads and writes text, and knows nothing of events.

pub mod canonical;
pub mod diff;
mod map;
pub mod value;

pub use map::Map;
pub use value::{DEPTH_MAX, Json, Opaque};
