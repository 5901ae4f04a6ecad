//! `insieme-backend check-config`

use clap::Args;

use super::common::say;
use crate::config::settings::Loaded;
use crate::config::{defaults_as_toml, effective_as_text};

/// Check the configuration, and the files that it names, and print what is in force and where it was set.
#[derive(Debug, Args)]
pub(crate) struct CheckConfig {
    /// Print a configuration file with every key at its default, described, instead.
    #[arg(long)]
    print_defaults: bool,
}

impl CheckConfig {
    pub(crate) fn run(self, loaded: &Loaded) -> anyhow::Result<()> {
        loaded.config.nats.to_log_settings()?;
        loaded.config.rules.load()?;
        loaded.config.rules.initial_state()?;
        if loaded.config.auth.is_set() {
            loaded.config.auth.authenticator()?;
        }
        let text = if self.print_defaults { defaults_as_toml() } else { effective_as_text(loaded) };
        say(text.trim_end())
    }
}
