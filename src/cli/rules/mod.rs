//! `insieme-backend rules`: an application's rules, as a JavaScript module.

mod check;
mod events;
mod lints;
mod new;
mod report;

use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::config::Override;
use crate::config::settings::Config;

/// Write and try an application's rules, a JavaScript module that clients use too.
#[derive(Debug, Args)]
pub(super) struct Rules {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    New(new::New),
    Check(Box<check::Check>),
}

impl Rules {
    pub(super) fn overrides(&self) -> Vec<Override> {
        match &self.command {
            Command::New(_) => Vec::new(),
            Command::Check(command) => command.overrides(),
        }
    }

    pub(super) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        match self.command {
            Command::New(command) => command.run(),
            Command::Check(command) => command.run(config, shutdown).await,
        }
    }
}
