//! `insieme-backend dev`: the whole backend in one process tree.

mod data_dir;
mod find;
mod install;
mod rules;
mod server;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::data_dir::DataDir;
use self::server::NatsServer;
use super::common::{flag, say};
use super::reload::Reload;
use super::signals::Hangups;
use super::{admin, connect, startup};
use crate::admin::{AdminError, AdminServer};
use crate::auth::Authenticator;
use crate::config::Override;
use crate::config::settings::Config;
use crate::frontend::Site;
use crate::log::{Log, MarkAccess};
use crate::pages;

/// Run the whole backend on this machine: NATS, a frontend and a validator. Takes anyone.
///
/// It serves a demo at its address, and the inspector at /inspector.
///
/// Needs nothing else: a nats-server is looked for on PATH, and installed into the cache folder through
/// Python's pip if there is none. What was committed stays in the data folder, and the next start finds it
/// again.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// The address for clients.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3001")]
    listen: SocketAddr,
    /// Where the data lies. [default: insieme-backend in $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// The nats-server to run, 2.12 or later.
    #[arg(long, value_name = "FILE")]
    nats_server: Option<PathBuf>,
    /// The port of that nats-server on the loopback interface. [default: a free one]
    #[arg(long, value_name = "PORT")]
    nats_port: Option<u16>,
    /// The file of the application's rules. They are in force, and change when the file does.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Print the path of the nats-server that would be run, after installing it if need be, and do no more.
    #[arg(long)]
    print_nats_server: bool,
}

impl Dev {
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let mut overrides = Vec::new();
        overrides.extend(flag("dev --listen", "frontend.listen", Some(&self.listen)));
        overrides.extend(flag("dev", "frontend.allow_anyone", Some(&true)));
        overrides.extend(flag("dev", "admin.allow_anyone", Some(&true)));
        overrides
    }

    pub(crate) async fn run(self, config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
        if self.print_nats_server {
            let found = find::nats_server(self.nats_server.as_deref()).await?;
            return say(&found.display().to_string());
        }
        let dir = match &self.data_dir {
            Some(dir) => dir.clone(),
            None => data_dir::default()?,
        };
        let dir = DataDir::open(dir).await?;
        say(
            "insieme-backend dev: for development only. It takes anyone: no token is asked for, all is permitted.",
        )?;
        let binary = find::nats_server(self.nats_server.as_deref()).await?;
        let mut server = NatsServer::start(&binary, &dir, self.nats_port).await?;
        // Everything below ends by itself or through this; then NATS goes last.
        let stop = shutdown.child_token();
        let result = self.serve(config, &dir, &mut server, stop).await;
        let stopped = server.stop().await;
        result.and(stopped)
    }

    async fn serve(
        &self,
        mut config: Config,
        dir: &DataDir,
        server: &mut NatsServer,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        // Left alone, so that it still ends with its terminal.
        let reload = Reload::start(&config.rules, Hangups::disabled())?;
        config.nats.reach_without_password(server.url());
        let mut side = startup::Side::start(&config, &stop).await?;
        let Some(log) = connect::connect(&config, "dev", &stop).await? else { return side.end().await };
        crate::log::bootstrap(&log).await?;
        startup::check_log(&log).await?;
        side.watch(&log, MarkAccess::Marks);
        let mut parts = JoinSet::new();
        let validator = startup::start_validator(&config, log.clone(), reload.rules(), stop.clone())?;
        let validator_id = validator.id().to_owned();
        parts.spawn(async move { reload.beside(validator.join()).await.context("the validator") });
        let others = async {
            side.obey_as_validator(&config, &log, &validator_id).await?;
            let admin = administration(&config, &log, &stop).await?;
            let inspector = admin.as_ref().map(AdminServer::local_addr);
            let site = Some(Site { pages: pages::DEMO, inspector });
            let frontend = startup::start_frontend(&config, log.clone(), site, stop.clone()).await?;
            side.obey_as_frontend(&config, &log, &frontend).await?;
            if let Some(admin) = &admin {
                side.obey_as_admin(&config, &log, admin).await?;
            }
            Ok((admin, frontend))
        };
        let (admin, frontend) = match others.await {
            Ok(others) => others,
            Err(error) => {
                stop.cancel();
                return ended(&mut parts).await.and(Err(error));
            }
        };
        if let Some(admin) = admin {
            say(&format!("  inspector http://{}/inspector", admin.local_addr()))?;
            parts.spawn(async move { admin.serve().await.context("the administration") });
        }
        let (url, frontend_address) = (frontend.url(), frontend.local_addr());
        parts.spawn(async move { frontend.join().await.context("the frontend") });
        if let Some(file) = self.rules.clone() {
            let (log, stop) = (log.clone(), stop.clone());
            parts.spawn(
                async move { stop.run_until_cancelled(rules::follow(log, file)).await.unwrap_or(Ok(())) },
            );
        }
        let mut result = greet(&url, &frontend_address.to_string(), dir, server.url());
        if result.is_ok() {
            result = tokio::select! {
                () = stop.cancelled() => Ok(()),
                error = server.ended() => Err(error.context("nats-server")),
                error = side.failed() => Err(error),
                Some(part) = parts.join_next() => part.context("a part of the backend").flatten(),
            };
        }
        stop.cancel();
        let ended = ended(&mut parts).await;
        result.and(ended).and(side.end().await)
    }
}

/// The administration: where it is configured, else on the port after the clients', or on a free one. It asks for no
/// token, so it is not there where others than this machine could reach it.
async fn administration(
    config: &Config,
    log: &Log,
    stop: &CancellationToken,
) -> anyhow::Result<Option<AdminServer>> {
    let clients = config.frontend.listen;
    if config.admin.listen.is_some() || !clients.ip().is_loopback() {
        return admin::start(config, Authenticator::Anyone, log.clone(), stop.clone()).await;
    }
    let next = match clients.port() {
        0 => 0,
        port => port.checked_add(1).unwrap_or_default(),
    };
    let mut config = config.clone();
    config.admin.listen = Some(SocketAddr::new(clients.ip(), next));
    match admin::start(&config, Authenticator::Anyone, log.clone(), stop.clone()).await {
        Err(error) if next != 0 && matches!(error.downcast_ref(), Some(AdminError::Listen { .. })) => {
            info!("the inspector takes a free port: {error:#}");
            config.admin.listen = Some(SocketAddr::new(clients.ip(), 0));
            admin::start(&config, Authenticator::Anyone, log.clone(), stop.clone()).await
        }
        started => started,
    }
}

/// Waits for all parts; gives the first thing that went wrong.
async fn ended(parts: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut result = Ok(());
    while let Some(part) = parts.join_next().await {
        result = result.and(part.context("a part of the backend").flatten());
    }
    info!("frontend and validator have ended");
    result
}

/// Says how to reach it and what to try first.
fn greet(url: &str, address: &str, dir: &DataDir, nats: &str) -> anyhow::Result<()> {
    say(&format!(
        r#"
  demo      http://{address}/
  clients   {url}
  NATS      {nats}
  data      {data}

Connect with any WebSocket client, and send this first:
{{"id":"1","type":"connect","timestamp":0,"payload":{{"clientId":"me","version":"0.0.8","partition":"default"}}}}
then submit something; every client of the partition gets it as a broadcast:
{{"id":"2","type":"submit_event","timestamp":0,"payload":{{"draftId":"d1","event":{{"type":"set","payload":{{"target":"greeting","value":"hello"}}}}}}}}

Ctrl-C ends it; the data stays.
dev ready: {url}"#,
        data = dir.path().display(),
    ))
}
