//! `insieme-backend rules`: an application's rules, as a JavaScript module.

mod check;
mod events;
mod lints;
mod new;
mod report;
pub(super) mod store;

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
    Publish(store::Publish),
    Activate(store::Activate),
    Rollback(store::Rollback),
    List(store::List),
    Show(store::Show),
}

impl Rules {
    pub(super) fn overrides(&self) -> Vec<Override> {
        match &self.command {
            Command::New(_) => Vec::new(),
            Command::Check(command) => command.overrides(),
            Command::Publish(command) => command.overrides(),
            Command::Activate(command) => command.overrides(),
            Command::Rollback(command) => command.overrides(),
            Command::List(command) => command.overrides(),
            Command::Show(command) => command.overrides(),
        }
    }

    pub(super) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        match self.command {
            Command::New(command) => command.run(),
            Command::Check(command) => command.run(config, shutdown).await,
            Command::Publish(command) => command.run(config, shutdown).await,
            Command::Activate(command) => command.run(config, shutdown).await,
            Command::Rollback(command) => command.run(config, shutdown).await,
            Command::List(command) => command.run(config, shutdown).await,
            Command::Show(command) => command.run(config, shutdown).await,
        }
    }
}
