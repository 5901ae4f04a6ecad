//! The edge: from a TCP connection to a WebSocket with a place of its own.
//!
//! One loop accepts, one task serves a connection from its first byte to its last. What comes before the
//! upgrade is bounded by itself, in number and in time, so that whoever opens connections and says nothing
//! (slow-loris) takes no place from those who are through; what is refused is refused in HTTP, before any
//! WebSocket exists, with the time after which another try makes sense. It never looks into a frame.

mod address;
mod connection;
mod http;
mod origin;
mod refusal;
mod stream;
mod tls;
mod validity;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

pub(super) use address::{AddressKey, Proxies};
pub(super) use origin::Origins;
pub(super) use refusal::Refusal;
pub(super) use stream::Stream;
pub(super) use tls::{Fingerprint, Tls};

use super::metrics;
use super::session::Hub;

/// The first pause after an accept that failed for want of something; it doubles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// The longest such pause.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The edge of a frontend.
pub(super) struct Edge {
    pub hub: Arc<Hub>,
    /// The tasks of all connections: the frontend does not end before they have.
    pub sessions: TaskTracker,
    /// The number of the last connection.
    pub connections: AtomicU64,
    /// Whom it believes, and whom it lets in.
    pub gate: Gate,
    /// Places for connections that are not upgraded yet.
    handshakes: Arc<Semaphore>,
}

/// Whom an edge believes, and whom it lets in.
pub(super) struct Gate {
    /// Those whose word on a client's address is taken.
    pub proxies: Proxies,
    /// The pages whose visitors may connect.
    pub origins: Origins,
    /// TLS, if connections are to have it.
    pub tls: Option<Arc<Tls>>,
}

impl Edge {
    pub(super) fn new(hub: Arc<Hub>, sessions: TaskTracker, gate: Gate, first_connection: u64) -> Arc<Self> {
        let handshakes = Arc::new(Semaphore::new(hub.settings.handshakes_max));
        Arc::new(Self { hub, sessions, connections: AtomicU64::new(first_connection), gate, handshakes })
    }

    /// Accepts connections until told to stop. No error ends it: what one client does is no reason, and what
    /// the process lacks just now it may have again in a moment.
    pub(super) async fn run(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let mut pause = ACCEPT_PAUSE;
        while let Some(accepted) = stop.run_until_cancelled(self.accept(&listener)).await {
            match accepted {
                Ok((stream, permit)) => {
                    pause = ACCEPT_PAUSE;
                    self.sessions.spawn(connection::serve(self.clone(), stream, permit));
                }
                Err(error) if of_one_client(&error) => debug!(%error, "a connection was gone at once"),
                Err(error) => {
                    metrics::count(metrics::ACCEPT_ERRORS);
                    if pause == ACCEPT_PAUSE {
                        warn!(%error, "cannot accept connections just now; trying on");
                    }
                    if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return;
                    }
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
    }

    /// The next connection, once there is a place for it; until then it waits in the kernel. Cancel safe.
    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let permit = self.handshakes.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        Ok((stream, permit))
    }
}

/// Whether an error of `accept` is about the connection that was to be accepted, and not about us.
fn of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
