//! Options that many commands take, where the configuration comes from, and output for people and scripts.

use crate::config;
use crate::config::Override;
use crate::config::error::ConfigError;
use crate::config::settings::Loaded;
use crate::telemetry::LogFormat;
use anyhow::Context;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The configuration file, TOML.
    #[arg(long, global = true, value_name = "FILE", env = "INSIEME_CONFIG")]
    config: Option<PathBuf>,
    /// Sets one configuration key, over file and environment. May be given many times.
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
    /// How log lines on standard error look.
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace, or levels by module.
    #[arg(long = "log", global = true, value_name = "FILTER")]
    log_filter: Option<String>,
}

/// The option of every command that talks to NATS.
#[derive(Debug, Args)]
pub(crate) struct NatsArgs {
    /// NATS servers, with commas between them. [default: nats.urls, nats://127.0.0.1:4222]
    #[arg(long = "nats", value_name = "URL[,URL]")]
    urls: Option<String>,
}

impl NatsArgs {
    pub(crate) fn overrides(&self) -> Vec<Override> {
        flag("--nats", "nats.urls", self.urls.as_ref()).into_iter().collect()
    }
}

/// Where the configuration comes from, so that it can be read again while running.
pub(crate) struct Source {
    file: Option<PathBuf>,
    overrides: Vec<Override>,
}

impl Source {
    pub(crate) fn of(common: Common, flags: Vec<Override>) -> Self {
        let set =
            common.set.into_iter().map(|(key, value)| Override { flag: format!("--set {key}"), key, value });
        let format = common.log_format.map(|format| format!("{format:?}").to_lowercase());
        let overrides = set
            .chain(flags)
            .chain(flag("--log-format", "log.format", format.as_ref()))
            .chain(flag("--log", "log.filter", common.log_filter.as_ref()))
            .collect();
        Self { file: common.config, overrides }
    }

    /// Reads the file and the environment, under the flags.
    pub(crate) fn load(&self) -> Result<Loaded, ConfigError> {
        // What is not Unicode cannot be a variable of ours with a good value; the ones that look like ours
        // are shown as they can be.
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
        config::load(self.file.as_deref(), environment, self.overrides.clone())
    }
}

/// The override that a flag stands for, if it was given.
pub(crate) fn flag(flag: &str, key: &str, value: Option<&impl ToString>) -> Option<Override> {
    value.map(|value| Override { key: key.to_owned(), value: value.to_string(), flag: flag.to_owned() })
}

pub(crate) fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.to_owned())),
        None => Err("it takes a key and a value, such as nats.slots=128".to_owned()),
    }
}

/// Prints lines for people and scripts.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("writing to standard output")
}
