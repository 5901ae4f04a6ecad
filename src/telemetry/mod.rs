//! Logs, metrics, traces and health, for whoever runs this.

mod flood;
mod lines;
mod logs;
mod metrics;
mod process;
#[cfg(test)]
mod tests;
mod text;
pub mod traces;

pub use lines::LogFormat;
pub use logs::{FilterError, LogControl, LogControlError, LogOutput, tells_of_us};
pub use metrics::{Metrics, Readiness, serve};
pub use traces::TracesConfig;
