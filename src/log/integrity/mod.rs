//! Damage of the log, and the monitor that finds it.

pub(crate) mod monitor;
