//! The whole configuration, and how it was read.

use crate::admin::AdminSettings;
use crate::config::auth::AuthSettings;
use crate::config::nats::NatsConfig;
use crate::config::process::ProcessConfig;
use crate::config::rules::RulesSettings;
use crate::control::ControlSettings;
use crate::frontend::FrontendSettings;
use crate::telemetry::{LogOutput, TracesConfig, tells_of_us};
use crate::validator::ValidatorSettings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;

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

/// A configuration, and where each key that is not at its default was set.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Key to origin, as a person would say it.
    pub origins: BTreeMap<String, String>,
    /// What looks like a mistake and may be none.
    pub warnings: Vec<String>,
}

impl Config {
    /// What can work, and was hardly meant.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let mut doubts = self.auth.doubts();
        if !tells_of_us(&self.log.filter) {
            doubts.push(format!("log.filter: {:?} lets no line of ours through", self.log.filter));
        }
        doubts
    }

    /// Says what cannot work, though every single value is of the right kind.
    pub(crate) fn check(&self, problems: &mut Vec<String>) {
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
