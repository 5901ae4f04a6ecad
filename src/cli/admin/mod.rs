//! `insieme-backend admin`: the administration, served and asked.

mod serve;

pub(super) use serve::start;

use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use super::Source;
use super::signals::Hangups;
use crate::config::{Config, Override};

/// Serve the administration over HTTP.
#[derive(Debug, Args)]
pub(super) struct Admin {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
}

impl Admin {
    pub(super) fn overrides(&self) -> Vec<Override> {
        match &self.command {
            Command::Serve(command) => command.overrides(),
        }
    }

    pub(super) async fn run(
        self,
        config: Config,
        source: Source,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(command) => command.run(config, Hangups::listen(source), shutdown).await,
        }
    }
}
