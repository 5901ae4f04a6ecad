//! The command line: one file a subcommand. Each takes the configuration and a token that says when to
//! stop, and returns when it is through; signals, logs and exit codes are dealt with here, once.

mod accept_log;
mod admin;
mod backup;
mod bootstrap;
mod check_config;
pub(crate) mod common;
mod connect;
mod dev;
mod diff;
mod export;
mod frontend;
mod health;
mod import;
mod inspect;
mod log;
mod reload;
mod rules;
mod signals;
mod startup;
mod state;
mod token;
mod validator;
mod verify;

use crate::cli::common::{Common, Source};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use clap::Subcommand;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Override;
use crate::config::settings::Loaded;
use signals::Hangups;

/// The exit code after a second signal, as a shell would report the first.
const EXIT_INTERRUPTED: u8 = 130;
/// How long the runtime may take to wind up once everything of ours has ended.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// The authoritative server for offline-first collaborative apps, on NATS JetStream.
///
/// Clients submit drafts over WebSockets to a frontend; a validator decides each against its partition's
/// state and commits what passes to the log in NATS; every frontend broadcasts the log from there.
#[derive(Debug, Parser)]
#[command(name = "insieme-backend", version = crate::version::line(), after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is said to somebody who runs the binary, or the image, without saying as what.
const NO_ROLE: &str = "\
insieme-backend: no role is given. Run it as one of

  dev                                    all of it on this machine, for development
  bootstrap --nats URL                   makes the streams in NATS, once
  validator --nats URL                   decides drafts
  frontend  --nats URL --listen ADDRESS  takes clients' WebSockets; in a container listen on 0.0.0.0:3001
  admin serve --nats URL --listen ADDRESS

for example `docker run IMAGE validator --nats nats://HOST:4222`. `insieme-backend --help` lists all commands.";
/// The exit code of wrong use.
const EXIT_USAGE: u8 = 2;

const EXAMPLES: &str = "\
Try it on this machine, with nothing else installed:
  insieme-backend dev

Run the parts as processes of their own, against a NATS server with JetStream:
  insieme-backend bootstrap --nats nats://127.0.0.1:4222
  insieme-backend validator --nats nats://127.0.0.1:4222
  insieme-backend frontend  --nats nats://127.0.0.1:4222 --listen 127.0.0.1:3001 --allow-anyone

Every setting is a key: in a file (--config), as INSIEME_NATS_SLOTS=128 in the environment, or as
--set nats.slots=128. `insieme-backend check-config --print-defaults` lists them all.";

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Dev),
    Frontend(frontend::Frontend),
    Validator(validator::Validator),
    Bootstrap(bootstrap::Bootstrap),
    Admin(admin::Admin),
    CheckConfig(check_config::CheckConfig),
    State(state::State),
    Diff(diff::Diff),
    Log(log::ShowLog),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Export(export::Export),
    Import(import::Import),
    Verify(verify::Verify),
    Inspect(inspect::Inspect),
    Quarantine(inspect::Quarantine),
    AcceptLog(accept_log::AcceptLog),
    Rules(rules::Rules),
    Health(health::Health),
    Token(Box<token::Token>),
    /// Runs an application's rules for another process of this program.
    #[command(hide = true, name = crate::app::WORKER_COMMAND)]
    RulesWorker,
}

/// The entry point of the binary: parses the command line, runs the command, reports what went wrong.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Nowhere is left to report that standard error cannot be written to.
            let _ = writeln!(std::io::stderr(), "insieme-backend: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { common, command } = cli;
    let Some(command) = command else {
        writeln!(std::io::stderr(), "{NO_ROLE}").context("writing to standard error")?;
        return Ok(ExitCode::from(EXIT_USAGE));
    };
    if matches!(command, Command::RulesWorker) {
        return Ok(crate::app::run_worker());
    }
    let source = Source::of(common, command.overrides());
    let mut loaded = source.load()?;
    if command.prints_only() && !loaded.origins.contains_key("log.filter") {
        // What it prints is for another program to read, and a person wants no lines round it.
        "warn".clone_into(&mut loaded.config.log.filter);
    }
    loaded.config.log.install().context("log.filter")?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let traces = match command.role() {
        Some(role) => loaded.config.traces.start(role).context("traces")?,
        None => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(loaded.config.process.threads())
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let ended = runtime.block_on(signals::until_ended(|shutdown| command.run(loaded, source, shutdown)));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    if let Some(traces) = traces {
        traces.end();
    }
    match ended {
        signals::Ended::ByItself(result) => result,
        signals::Ended::Interrupted => Ok(ExitCode::from(EXIT_INTERRUPTED)),
    }
}

impl Command {
    /// Whether it only prints what it finds.
    fn prints_only(&self) -> bool {
        matches!(
            self,
            Self::State(_)
                | Self::Log(_)
                | Self::Export(_)
                | Self::CheckConfig(_)
                | Self::Health(_)
                | Self::Token(_)
        )
    }

    /// What the process is called in traces; `None` where nothing is traced.
    fn role(&self) -> Option<&'static str> {
        match self {
            Self::Dev(_) => Some("dev"),
            Self::Frontend(_) => Some("frontend"),
            Self::Validator(_) => Some("validator"),
            _ => None,
        }
    }

    /// The configuration keys that this command's own flags set.
    fn overrides(&self) -> Vec<Override> {
        match self {
            Self::Dev(command) => command.overrides(),
            Self::Frontend(command) => command.overrides(),
            Self::Validator(command) => command.overrides(),
            Self::Bootstrap(command) => command.nats.overrides(),
            Self::Admin(command) => command.overrides(),
            Self::State(command) => command.nats.overrides(),
            Self::Diff(command) => command.nats.overrides(),
            Self::Log(command) => command.nats.overrides(),
            Self::Backup(command) => command.nats.overrides(),
            Self::Restore(command) => command.nats.overrides(),
            Self::Export(command) => command.nats.overrides(),
            Self::Import(command) => command.nats.overrides(),
            Self::Verify(command) => command.nats.overrides(),
            Self::Inspect(command) => command.nats.overrides(),
            Self::Quarantine(command) => command.nats.overrides(),
            Self::AcceptLog(command) => command.nats.overrides(),
            Self::Rules(command) => command.overrides(),
            Self::CheckConfig(_) | Self::Health(_) | Self::Token(_) | Self::RulesWorker => Vec::new(),
        }
    }

    async fn run(
        self,
        loaded: Loaded,
        source: Source,
        shutdown: CancellationToken,
    ) -> anyhow::Result<ExitCode> {
        match self {
            Self::Dev(command) => command.run(loaded.config, shutdown).await?,
            Self::Frontend(command) => command.run(loaded.config, Hangups::listen(source), shutdown).await?,
            Self::Validator(command) => command.run(loaded.config, Hangups::listen(source), shutdown).await?,
            Self::Bootstrap(command) => command.run(loaded.config, shutdown).await?,
            Self::Admin(command) => command.run(loaded.config, source, shutdown).await?,
            Self::CheckConfig(command) => command.run(&loaded)?,
            Self::State(command) => command.run(loaded.config, shutdown).await?,
            Self::Diff(command) => command.run(loaded.config, shutdown).await?,
            Self::Log(command) => command.run(loaded.config, shutdown).await?,
            Self::Backup(command) => command.run(loaded.config, shutdown).await?,
            Self::Restore(command) => command.run(loaded.config, shutdown).await?,
            Self::Export(command) => command.run(loaded.config, shutdown).await?,
            Self::Import(command) => command.run(loaded.config, shutdown).await?,
            Self::Verify(command) => command.run(loaded.config, shutdown).await?,
            Self::Inspect(command) => command.run(loaded.config, shutdown).await?,
            Self::Quarantine(command) => command.run(loaded.config, shutdown).await?,
            Self::AcceptLog(command) => command.run(loaded.config, shutdown).await?,
            Self::Rules(command) => command.run(loaded.config, shutdown).await?,
            Self::Health(command) => command.run().await?,
            Self::Token(command) => command.run(&loaded.config)?,
            // It never gets here: it has no use for a configuration and a runtime.
            Self::RulesWorker => return Ok(crate::app::run_worker()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
