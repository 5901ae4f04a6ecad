//! The frontend: clients' connections on one side, the log on the other.
//!
//! It decides nothing and keeps nothing that could not be rebuilt from the log. `session` is a connection,
//! `pending` its drafts until they are answered, `feed` a watched partition that its connections read at
//! their own pace, `pages` the history behind it, `answers` what validators say. It never imports `rules` or
//! the validator: they meet in the log.

pub(crate) mod admission;
#[doc(hidden)]
pub mod bench_support;
pub(crate) mod controls;
pub(crate) mod feed;
pub(crate) mod listener;
pub(crate) mod log_tail;
pub mod metrics;
pub(crate) mod net;
pub(crate) mod plain;
pub(crate) mod replies;
mod session;
pub(crate) mod settings;
pub(crate) mod shared;
mod websocket;

#[cfg(test)]
pub(crate) mod testing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

pub use controls::Controls;
pub use listener::Site;
pub use settings::FrontendSettings;

use self::listener::policy::{AccessPolicy, Listener};
use self::net::{Origins, Proxies, Tls};
use self::shared::FrontendShared;
use crate::app::{Folds, Follower};
use crate::auth::Authenticator;
use crate::control::ControlSettings;
use crate::log::{Log, LogError};

/// How often clients whose allowance is whole again are forgotten.
const FORGET_CLIENTS: Duration = Duration::from_secs(60);

/// How many connections may wait to be accepted; the system's own limit (`net.core.somaxconn`) bounds it too. When
/// all clients come back at once, one that finds no room here tries again only after a second.
const BACKLOG: u32 = 4096;

/// Why a frontend cannot run.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// A setting cannot work.
    #[error("frontend settings: {0}")]
    Settings(String),
    /// The address cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The connection to NATS was closed for good.
    #[error("the answers of validators can no longer be heard: the connection to NATS was closed for good")]
    AnswersEnded,
    /// A task of the frontend panicked.
    #[error("a task of the frontend failed: {0}")]
    Task(tokio::task::JoinError),
}

/// The frontend.
pub struct Frontend;

/// A frontend that runs. [`RunningFrontend::join`] waits for its orderly end; who drops it has it go away
/// without waiting.
pub struct RunningFrontend {
    address: SocketAddr,
    tasks: JoinSet<Result<(), FrontendError>>,
    shared: Arc<FrontendShared>,
    sessions: TaskTracker,
    stop: CancellationToken,
}

impl Frontend {
    /// Says what is wrong with the files that the settings name, before anything is started.
    pub fn check_files(settings: &FrontendSettings) -> Result<(), FrontendError> {
        gate(settings).map(|_| ()).map_err(FrontendError::Settings)
    }

    /// Starts a frontend; when this returns, it listens. It goes away when `shutdown` is cancelled: takes no
    /// more connections, answers what is under way for a while, and closes every connection.
    pub async fn start(
        mut settings: FrontendSettings,
        control: &ControlSettings,
        log: Log,
        folds: Arc<Folds>,
        auth: Authenticator,
        site: Option<Site>,
        shutdown: CancellationToken,
    ) -> Result<RunningFrontend, FrontendError> {
        settings.check().map_err(FrontendError::Settings)?;
        if settings.id.is_empty() {
            settings.id = format!("f-{:016x}", rand::random::<u64>());
        }
        metrics::describe();
        crate::auth::metrics::describe();
        let settings = Arc::new(settings);
        let (closing, drain) = (shutdown.child_token(), CancellationToken::new());
        let (gate, known) = gate(&settings).map_err(FrontendError::Settings)?;
        let tls = gate.tls.clone();
        let listener = listen(settings.listen)
            .map_err(|error| FrontendError::Listen { address: settings.listen, error })?;
        let address = listener
            .local_addr()
            .map_err(|error| FrontendError::Listen { address: settings.listen, error })?;
        let going = (closing.clone(), drain.clone());
        let shared = FrontendShared::new(settings, log, folds.clone(), auth, going);
        let answers = shared.answers.subscribe(&shared.log, &shared.settings.id).await?;
        let (desk, limits, memory) = (shared.answers.clone(), shared.limits.clone(), shared.memory.clone());
        let (outflow, keeper) = (shared.outflow.clone(), shared.keeper.clone());
        let entry_changes = shared.entry.activations();
        let follower = Follower { log: shared.log.clone(), folds, take: shared.entry.takes() };
        if let Some(keeper) = &keeper {
            // Before anybody is accepted: until then connections wait in the kernel.
            keeper.begin().await;
        }
        let (stop, sessions) = (CancellationToken::new(), TaskTracker::new());
        let edge = Listener::new(shared.clone(), sessions.clone(), gate, site);
        let mut tasks = JoinSet::new();
        let (rules_known, following) = follower.follow(stop.clone());
        tasks.spawn(async move {
            following.await;
            Ok(())
        });
        let (asking, until) = (admission::rules::ask_again(shared.clone(), entry_changes), stop.clone());
        tasks.spawn(async move {
            until.run_until_cancelled(asking).await;
            Ok(())
        });
        // Until it is known who may open a partition, connections wait as well.
        closing.run_until_cancelled(rules_known).await;
        let until = drain.clone();
        tasks.spawn(async move {
            edge.run(listener, until).await;
            Ok(())
        });
        let wait = Duration::from_millis(shared.settings.drain_wait_ms);
        tasks.spawn(async move {
            drain.run_until_cancelled(closing.cancelled()).await;
            drain.run_until_cancelled(tokio::time::sleep(wait)).await;
            drain.cancel();
            Ok(())
        });
        if let (Some(tls), Some(known)) = (tls, known) {
            let (every, until) = (Duration::from_millis(shared.settings.tls_poll_ms), stop.clone());
            tasks.spawn(async move {
                tls.reload_loop(known, every, until).await;
                Ok(())
            });
        }
        let until = stop.clone();
        tasks.spawn(async move {
            desk.run(answers, until.clone()).await;
            if until.is_cancelled() { Ok(()) } else { Err(FrontendError::AnswersEnded) }
        });
        let until = stop.clone();
        tasks.spawn(async move {
            while until.run_until_cancelled(tokio::time::sleep(FORGET_CLIENTS)).await.is_some() {
                limits.forget_idle();
                outflow.forget_idle();
            }
            Ok(())
        });
        let (until, feeds) = (stop.clone(), shared.feeds.clone());
        tasks.spawn(async move {
            memory.keep_room(feeds, until).await;
            Ok(())
        });
        if let Some(keeper) = keeper {
            let (every, until) = (Duration::from_millis(control.revocations_look_ms), stop.clone());
            tasks.spawn(async move {
                keeper.run(every, &until).await;
                Ok(())
            });
        }
        let (until, keys) = (stop.clone(), shared.auth.clone());
        tasks.spawn(async move {
            keys.keep_current(&until).await;
            Ok(())
        });
        info!(%address, id = shared.settings.id, "frontend listens");
        if matches!(shared.auth, Authenticator::Anyone) {
            warn!("this frontend takes anyone, with all permissions");
        }
        Ok(RunningFrontend { address, tasks, shared, sessions, stop })
    }
}

impl RunningFrontend {
    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The name by which it goes among all frontends.
    pub fn id(&self) -> &str {
        &self.shared.settings.id
    }

    /// Says whether clients should be sent here just now; if not, why.
    pub fn readiness(&self) -> impl Fn() -> Result<(), String> + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || shared.unready().map_or(Ok(()), |why| Err(why.to_owned()))
    }

    /// What it does for the administration.
    pub fn controls(&self) -> Controls {
        Controls(self.shared.clone())
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        let scheme = if self.shared.settings.tls_cert_file.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}/ws", self.address)
    }

    /// Waits until it has gone away, because it was told to or because something failed.
    pub async fn join(mut self) -> Result<(), FrontendError> {
        let failed = tokio::select! {
            () = self.shared.drain.cancelled() => None,
            ended = self.tasks.join_next() => ended.and_then(|ended| flat(ended).err()),
        };
        // Whatever the reason, the connections are told, and all tasks end.
        self.shared.drain.cancel();
        self.sessions.close();
        self.sessions.wait().await;
        self.stop.cancel();
        self.shared.feeds.stop().await;
        let mut result = failed.map_or(Ok(()), Err);
        while let Some(ended) = self.tasks.join_next().await {
            result = result.and(flat(ended));
        }
        info!("frontend ended");
        result
    }
}

impl Drop for RunningFrontend {
    fn drop(&mut self) {
        self.shared.drain.cancel();
        self.stop.cancel();
        self.shared.feeds.cancel();
    }
}

/// How much of what a connection is written the kernel keeps. As much as it likes would be megabytes for each that does
/// not read, and a slow one would be seen to get on once in many seconds.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;

/// Whom the edge believes and lets in, and by what its certificate is known.
fn gate(settings: &FrontendSettings) -> Result<(AccessPolicy, Option<self::net::Fingerprint>), String> {
    let (tls, known) = match (&settings.tls_cert_file, &settings.tls_key_file) {
        (Some(certificates), Some(key)) => {
            let (tls, known) = Tls::load(certificates, key).map_err(|why| format!("TLS: {why}"))?;
            (Some(Arc::new(tls)), Some(known))
        }
        _ => (None, None),
    };
    let gate = AccessPolicy {
        proxies: Proxies::parse(&settings.trusted_proxies)?,
        origins: Origins::parse(&settings.allowed_origins)?,
        tls,
    };
    Ok((gate, known))
}

fn flat(ended: Result<Result<(), FrontendError>, tokio::task::JoinError>) -> Result<(), FrontendError> {
    ended.unwrap_or_else(|error| Err(FrontendError::Task(error)))
}

/// Listens, as `TcpListener::bind` does but for the length of the queue.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Its connections have it too.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
