//! One file a kind of load.

pub mod history;
pub mod idle;
pub mod steady;
