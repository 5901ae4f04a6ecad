//! Configuration: flags over environment over file over defaults.
//!
//! Every key is `area.key`, declared once as a field of the structs here. Its environment variable is
//! `INSIEME_` and that path in capitals with underscores (`INSIEME_NATS_URLS`); its description is the
//! field's doc comment, which `check-config --print-defaults` prints. An unknown key or variable is an
//! error that names the closest known one, so that a misspelt limit never silently stays at its default.

mod auth;
mod describe;
mod layers;
mod nats;
mod process;
mod rules;
mod schema_folder;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use auth::AuthSettings;
pub use describe::{defaults_as_toml, effective_as_text};
pub use layers::Override;
pub use nats::NatsConfig;
pub use process::ProcessConfig;
pub use rules::{BaseEventId, RulesSettings, UnknownTypes};
pub use schema_folder::{Fingerprint, SchemaFolder, SchemaFolderError};

use crate::admin::AdminSettings;
use crate::control::ControlSettings;
use crate::frontend::FrontendSettings;
use crate::telemetry::{LogOutput, TracesConfig};
use crate::validator::ValidatorSettings;

/// All that an operator can set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How to reach NATS, and the streams' settings.
    pub nats: NatsConfig,
    /// Clients' tokens.
    pub auth: AuthSettings,
    /// A frontend's limits.
    pub frontend: FrontendSettings,
    /// A validator's limits.
    pub validator: ValidatorSettings,
    /// What validators refuse.
    pub rules: RulesSettings,
    /// Where and how logs are written.
    pub log: LogOutput,
    /// Metrics and health over HTTP.
    pub metrics: MetricsConfig,
    /// The administration over HTTP.
    pub admin: AdminSettings,
    /// Orders of the administration to all processes.
    pub control: ControlSettings,
    /// Where traces go, and how many.
    pub traces: TracesConfig,
    /// What a process takes of its machine.
    pub process: ProcessConfig,
}

/// Metrics and health over HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// The address that serves `/metrics` (Prometheus), `/livez` and `/readyz`. Off unless set. Not for the
    /// open internet.
    pub listen: Option<SocketAddr>,
    /// How often a process with metrics asks NATS how full the streams and the store are, in milliseconds.
    pub store_look_ms: u64,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: None, store_look_ms: 15_000 }
    }
}

/// Everything that is wrong with a configuration, each with its key and where it was set.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be used:\n  {}", .0.join("\n  "))]
pub struct ConfigError(pub Vec<String>);

/// A configuration, and where each key that is not at its default was set.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Key to origin, as a person would say it.
    pub origins: BTreeMap<String, String>,
}

/// Loads the configuration: the defaults, under `file`, under the `INSIEME_` variables of `environment`,
/// under `flags`.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Vec<Override>,
) -> Result<Loaded, ConfigError> {
    let mut problems = Vec::new();
    let mut leaves = Vec::new();
    if let Some(path) = file {
        match std::fs::read_to_string(path) {
            Ok(text) => leaves.extend(layers::from_toml(&path.display().to_string(), &text, &mut problems)),
            Err(error) => problems.push(format!("{}: {error}", path.display())),
        }
    }
    leaves.extend(layers::from_environment(environment, &mut problems));
    leaves.extend(layers::from_overrides(flags, &mut problems));
    let loaded = layers::apply(leaves, &mut problems);
    loaded.config.check(&mut problems);
    if problems.is_empty() { Ok(loaded) } else { Err(ConfigError(problems)) }
}

impl Config {
    /// Says what cannot work, though every single value is of the right kind.
    fn check(&self, problems: &mut Vec<String>) {
        self.nats.check(problems);
        self.rules.check(problems);
        self.auth.check(problems);
        if let Err(error) = self.frontend.check() {
            problems.push(format!("frontend: {error}"));
        }
        self.traces.check(problems);
        self.process.check(problems);
        if self.metrics.store_look_ms < 100 {
            problems.push("metrics.store_look_ms: at least 100".to_owned());
        }
        if let Err(error) = self.admin.check() {
            problems.push(format!("admin.{error}"));
        }
        if let Err(error) = self.control.check() {
            problems.push(format!("control.{error}"));
        }
        if let Err(error) = self.log.parse_filter() {
            problems.push(format!("log.filter: {error}"));
        }
    }
}
