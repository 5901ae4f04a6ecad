//! `insieme-backend frontend`

use std::net::SocketAddr;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::common::{NatsArgs, flag, say};
use super::signals::Hangups;
use super::startup;
use crate::config::Override;
use crate::config::settings::Config;

/// Run a frontend: take clients' WebSockets, pass their drafts on, broadcast the log.
///
/// Any number may run side by side behind a load balancer; none keeps anything that is not in the log.
#[derive(Debug, Args)]
pub(crate) struct Frontend {
    #[command(flatten)]
    nats: NatsArgs,
    /// The address to listen on; port 0 takes a free one, which the ready line tells. [default: frontend.listen]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Take anyone, with all permissions, asking for no token. For development and closed networks only.
    #[arg(long)]
    allow_anyone: bool,
}

impl Frontend {
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let anyone = self.allow_anyone.then_some(true);
        let mut overrides = self.nats.overrides();
        overrides.extend(flag("--listen", "frontend.listen", self.listen.as_ref()));
        overrides.extend(flag("--allow-anyone", "frontend.allow_anyone", anyone.as_ref()));
        overrides
    }

    pub(crate) async fn run(
        self,
        config: Config,
        hangups: Hangups,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        startup::check_frontend_auth(&config)?;
        crate::frontend::Frontend::check_files(&config.frontend)?;
        let Some((mut side, log)) = startup::Side::connected(&config, "frontend", &shutdown).await? else {
            return Ok(());
        };
        log.warn_of_limits(config.frontend.frame_bytes_max, config.frontend.submission_bytes_max);
        let frontend = startup::start_frontend(&config, log.clone(), None, shutdown.clone()).await?;
        side.obey_as_frontend(&config, &log, &frontend).await?;
        side.ready_when(frontend.readiness());
        say(&format!("frontend ready: {}", frontend.url()))?;
        side.beside(hangups.ignored_beside(frontend.join()), &shutdown).await
    }
}
