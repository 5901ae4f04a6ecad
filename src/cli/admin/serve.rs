//! `insieme-backend admin serve`

use std::net::SocketAddr;

use anyhow::{Context, bail};
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::admin::AdminServer;
use crate::auth::Authenticator;
use crate::cli::common::{NatsArgs, flag, say};
use crate::cli::signals::Hangups;
use crate::cli::startup;
use crate::config::Override;
use crate::config::settings::Config;
use crate::log::Log;

/// Serve the administration over HTTP: partitions, slots, states and events.
///
/// One is enough, anywhere near NATS, as NATS's user `operator`; it keeps nothing, so it may be started when
/// it is needed. Every request needs a token with the permission `admin`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    nats: NatsArgs,
    /// The address to listen on; port 0 takes a free one, which the ready line tells. [default: admin.listen]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Ask for no token; only on the loopback interface. For development only.
    #[arg(long)]
    allow_anyone: bool,
}

impl Serve {
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let anyone = self.allow_anyone.then_some(true);
        let mut overrides = self.nats.overrides();
        overrides.extend(flag("--listen", "admin.listen", self.listen.as_ref()));
        overrides.extend(flag("--allow-anyone", "admin.allow_anyone", anyone.as_ref()));
        overrides
    }

    pub(crate) async fn run(
        self,
        config: Config,
        hangups: Hangups,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        if config.admin.listen.is_none() {
            bail!(
                "there is no address to listen on; give one with --listen 127.0.0.1:8090, or as admin.listen"
            );
        }
        let auth = authenticator(&config)?;
        let Some((mut side, log)) = startup::Side::connected(&config, "admin", &shutdown).await? else {
            return Ok(());
        };
        let Some(server) = start(&config, auth, log.clone(), shutdown.clone()).await? else {
            return side.end().await;
        };
        side.obey_as_admin(&config, &log, &server).await?;
        say(&format!("admin ready: http://{}", server.local_addr()))?;
        side.beside(hangups.ignored_beside(server.serve()), &shutdown).await
    }
}

/// Starts the administration, if it is configured.
pub(crate) async fn start(
    config: &Config,
    auth: Authenticator,
    log: Log,
    shutdown: CancellationToken,
) -> anyhow::Result<Option<AdminServer>> {
    let Some(listen) = config.admin.listen else { return Ok(None) };
    let fold = startup::folds(&log)?;
    let auth = (auth, config.auth.tokens_live_s_max());
    let server = AdminServer::bind(config.admin.clone(), &config.control, listen, log, fold, auth, shutdown);
    Ok(Some(server.await.context("starting the administration")?))
}

/// Who may ask. Whoever forgets about it must not find out from strangers.
fn authenticator(config: &Config) -> anyhow::Result<Authenticator> {
    // The application is not asked about operators.
    match (config.auth.has_keys(), config.admin.allow_anyone) {
        (true, true) => bail!(
            "both a key for tokens (auth) and admin.allow_anyone are set; to ask for tokens, unset the latter"
        ),
        (true, false) => Ok(config.auth.authenticator()?),
        (false, true) => Ok(Authenticator::Anyone),
        (false, false) => bail!(
            "nothing says who may administrate, so this does not start. Give it the key that tokens are signed \
             with, as frontends have it (auth.secret_file or another of auth); or to take anyone on this \
             machine, say so: --allow-anyone, or admin.allow_anyone = true"
        ),
    }
}
