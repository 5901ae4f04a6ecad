//! The administration over HTTP: what operators ask and do.
//!
//! A process of its own (`insieme-backend admin serve`), beside frontends and validators and not in them: it
//! works as NATS's user `operator`, whose rights no process that faces clients should have. It keeps nothing:
//! what it tells is read from the log, or asked of the processes (`control`) when somebody wants to know. It is above
//! `frontend` and `log`, and nothing is above it but the command line.

mod access;
mod body;
mod place;
mod problem;
mod query;
mod request;
pub(crate) mod response;
mod router;
mod routes;
mod settings;
pub(crate) mod state;

use crate::admin::state::AdminState;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use settings::AdminSettings;

use crate::auth::Authenticator;
use crate::control::{ControlClient, ControlSettings, EndConnections, RevocationSync};
use crate::log::{Log, LogError};
use crate::serving::{self, Bounds};
use crate::state::Fold;

/// How long answers under way at the end may still take.
const SHUTDOWN_LINGER: Duration = Duration::from_secs(2);

/// The most connections without a request that was let in. The oldest gives way to one more.
const UNKNOWN_CONNECTIONS_MAX: usize = 64;
/// How long the head of a request, and then its body, may take to come, and how long an answer may stand still because
/// nobody reads it. Operators' tools need a moment.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const STALL_MAX: Duration = Duration::from_secs(10);

/// The administration, listening.
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    hub: Arc<AdminState>,
    listening: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Why the administration does not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address cannot be had.
    #[error("admin.listen: cannot listen on {address}: {error}; choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: std::io::Error,
    },
    /// The processes cannot be heard.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl AdminServer {
    /// Listens on `admin.listen`.
    pub async fn bind(
        settings: AdminSettings,
        control: &ControlSettings,
        listen: SocketAddr,
        log: Log,
        fold: Arc<dyn Fold>,
        (auth, tokens_live_s_max): (Authenticator, Option<u64>),
        stop: CancellationToken,
    ) -> Result<Self, AdminError> {
        let failed = |error| AdminError::Listen { address: listen, error };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let gather = Duration::from_millis(settings.gather_ms);
        let look = Duration::from_millis(control.revocations_look_ms);
        let (control, listening) = ControlClient::open(log.clone(), control, gather).await?;
        info!(%address, "administration listens");
        if matches!(auth, Authenticator::Anyone) {
            warn!(
                "the administration requires no token: everyone who can reach it on this machine may do everything"
            );
        }
        let places = Arc::new(Semaphore::new(settings.requests_max));
        let (revoking, revoked) = watch::channel(());
        let keeper = auth.revocations().map(|revocations| {
            // Whoever follows events looks then whether it is still let in.
            let end: EndConnections = Box::new(move |_| {
                revoking.send_replace(());
                0
            });
            Arc::new(RevocationSync::new(log.clone(), revocations.clone(), end))
        });
        if let Some(keeper) = &keeper {
            keeper.begin().await;
        }
        let kept = keeper.clone();
        let until = stop.clone();
        let listening = async move {
            let keeping = async {
                match kept {
                    Some(keeper) => keeper.run(look, &until).await,
                    None => until.cancelled().await,
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = listening => {}
                () = keeping => {}
            }
        };
        let hub = AdminState {
            settings,
            tokens_live_s_max,
            log,
            fold,
            auth,
            keeper,
            revoked,
            control,
            places,
            stop,
        };
        let hub = Arc::new(hub);
        Ok(Self { listener, address, hub, listening: Box::pin(listening) })
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The name by which it goes among all processes.
    pub fn id(&self) -> &str {
        self.hub.control.name()
    }

    /// Answers until told to stop, and then for a moment what is under way. Ends too when the connection to NATS
    /// is closed for good.
    pub async fn serve(self) -> std::io::Result<()> {
        let stop = self.hub.stop.clone();
        let bounds = Bounds {
            // Those that nobody has let in yet have as many seats again.
            connections_max: self.hub.settings.requests_max + UNKNOWN_CONNECTIONS_MAX,
            head_time_max: HEAD_TIME_MAX,
            stall_max: STALL_MAX,
        };
        tokio::select! {
            () = serving::serve(self.listener, router::routes(self.hub), bounds, stop.clone()) => Ok(()),
            () = self.listening => Err(std::io::Error::other("the connection to NATS was closed for good")),
            () = async {
                stop.cancelled().await;
                tokio::time::sleep(SHUTDOWN_LINGER).await;
            } => Ok(()),
        }
    }
}
