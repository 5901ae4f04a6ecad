//! `insieme-backend validator`

use std::net::SocketAddr;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::common::{NatsArgs, flag, say};
use super::reload::Reload;
use super::signals::Hangups;
use super::startup;
use crate::config::Override;
use crate::config::settings::Config;

/// Run a validator: decide drafts and commit what passes.
///
/// Any number may run side by side; they share the slots out among themselves, and take over those of one
/// that dies. SIGHUP makes it read the schemas in rules.schema_dir anew, as a change there does, and the log
/// filter.
#[derive(Debug, Args)]
pub(crate) struct Validator {
    #[command(flatten)]
    nats: NatsArgs,
    /// The address that serves /livez, /readyz and /metrics. [default: metrics.listen, off]
    #[arg(long, value_name = "ADDRESS")]
    health_listen: Option<SocketAddr>,
}

impl Validator {
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let mut overrides = self.nats.overrides();
        overrides.extend(flag("--health-listen", "metrics.listen", self.health_listen.as_ref()));
        overrides
    }

    pub(crate) async fn run(
        self,
        config: Config,
        hangups: Hangups,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let reload = Reload::start(&config.rules, hangups)?;
        let Some((mut side, log)) = startup::Side::connected(&config, "validator", &shutdown).await? else {
            return Ok(());
        };
        let validator = startup::start_validator(&config, log.clone(), reload.rules(), shutdown.clone())?;
        side.obey_as_validator(&config, &log, validator.id()).await?;
        say(&format!("validator ready: {}", validator.id()))?;
        side.beside(reload.beside(validator.join()), &shutdown).await
    }
}
