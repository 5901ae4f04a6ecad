//! Damage of the log, and the monitor that finds it.

pub(crate) mod damage;
pub(crate) mod mark;
pub(crate) mod monitor;
