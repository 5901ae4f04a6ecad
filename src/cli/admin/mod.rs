//! `insieme-backend admin`: the administration, served and asked.

mod ask;
mod commands;
mod serve;
mod table;

pub(crate) use serve::start;
pub(crate) use table::escape_control;

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

use super::common::{Source, flag};
use super::signals::Hangups;
use crate::config::Override;
use crate::config::settings::Config;

/// Serve the administration over HTTP, or ask it.
///
/// Everything but `serve` asks one that is served, at --url, with the token in --token-file, whose permissions
/// must hold `admin`.
#[derive(Debug, Args)]
pub(crate) struct Admin {
    /// Where the administration is. [default: admin.url, http://127.0.0.1:8090]
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// A file with the token to show. [default: admin.token_file, none]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print answers as the administration gives them, in JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    #[command(flatten)]
    Ask(commands::Ask),
}

impl Admin {
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let file = self.token_file.as_ref().map(|file| file.display().to_string());
        let mut overrides = match &self.command {
            Command::Serve(command) => command.overrides(),
            Command::Ask(_) => Vec::new(),
        };
        overrides.extend(flag("--url", "admin.url", self.url.as_ref()));
        overrides.extend(flag("--token-file", "admin.token_file", file.as_ref()));
        overrides
    }

    pub(crate) async fn run(
        self,
        config: Config,
        source: Source,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(command) => command.run(config, Hangups::listen(source), shutdown).await,
            Command::Ask(command) => {
                match shutdown.run_until_cancelled(command.run(&config, self.json)).await {
                    Some(result) => result,
                    None => bail!("stopped before there was a whole answer"),
                }
            }
        }
    }
}
