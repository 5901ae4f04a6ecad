//! Logs: to standard error, for people or as JSON lines.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Where and how logs are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogOutput {
    /// `human`, or `json` for one object a line.
    pub format: LogFormat,
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or levels by module such as
    /// `info,insieme_backend::validator=debug`.
    pub filter: String,
}

impl Default for LogOutput {
    fn default() -> Self {
        // async_nats logs at info what the log module logs in our own words.
        Self { format: LogFormat::Human, filter: "info,async_nats=warn".to_owned() }
    }
}

impl LogOutput {
    /// The filter, or what is wrong with it.
    pub fn parse_filter(&self) -> Result<EnvFilter, ParseError> {
        EnvFilter::builder().parse(&self.filter)
    }

    /// Sends the process's logs to standard error from now on. Only the first call in a process counts.
    pub fn install(&self) -> Result<(), ParseError> {
        let logs = tracing_subscriber::fmt()
            .with_env_filter(self.parse_filter()?)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        let installed = match self.format {
            LogFormat::Human => logs.with_target(false).try_init(),
            LogFormat::Json => logs.json().flatten_event(true).try_init(),
        };
        if installed.is_err() {
            tracing::debug!("logs were set up already");
        }
        Ok(())
    }
}
