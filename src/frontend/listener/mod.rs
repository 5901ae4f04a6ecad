//! The edge: from a TCP connection to a WebSocket with a place of its own.
//!
//! One loop accepts, one task serves a connection from its first byte to its last. What comes before the
//! upgrade is bounded by itself, in number, by address and in time, and the oldest gives way to one more: who
//! opens connections and says nothing (slow-loris) takes no place from those who are through, and none from
//! those who come. What is refused is refused in HTTP, before any
//! WebSocket exists, with the time after which another try makes sense. It never looks into a frame.

mod connection;
mod head;
pub(crate) mod http;
pub(crate) mod policy;
pub(crate) mod refusal;
pub(crate) mod site;

use crate::frontend::listener::policy::{AccessPolicy, Listener};
use crate::serving::seats::per_address_max;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

pub(crate) use head::Head;
pub(crate) use refusal::Refusal;
pub use site::Site;

use super::metrics;
use super::net::AddressKey;
use super::shared::FrontendShared;
use crate::serving::{Seat, Seats};
use crate::util::backoff::Backoff;

/// The first pause after an accept that failed for want of something; it doubles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// The longest such pause.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

impl Listener {
    pub(crate) fn new(
        shared: Arc<FrontendShared>,
        sessions: TaskTracker,
        gate: AccessPolicy,
        site: Option<Site>,
    ) -> Arc<Self> {
        let max = shared.settings.handshakes_max;
        let handshakes = Seats::new(max, per_address_max(max));
        Arc::new(Self { shared, sessions, gate, site, handshakes })
    }

    /// Accepts connections until told to stop. No error ends it: what one client does is no reason, and what
    /// the process lacks just now it may have again in a moment.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let mut backoff = Backoff::new(ACCEPT_PAUSE, ACCEPT_PAUSE_MAX);
        while let Some(accepted) = stop.run_until_cancelled(self.accept(&listener)).await {
            match accepted {
                Ok((stream, peer, seat)) => {
                    backoff.reset();
                    self.sessions.spawn(connection::serve(self.clone(), stream, peer, seat));
                }
                Err(error) if of_one_client(&error) => debug!(%error, "a connection was gone at once"),
                Err(error) => {
                    metrics::count(metrics::ACCEPT_ERRORS);
                    if backoff.is_fresh() {
                        warn!(%error, "failed to accept a connection; retrying");
                    }
                    if stop.run_until_cancelled(tokio::time::sleep(backoff.next())).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// The next connection, once there is a seat for it; until then others wait in the kernel. Cancel safe.
    async fn accept(&self, listener: &TcpListener) -> io::Result<(TcpStream, IpAddr, Seat<AddressKey>)> {
        let (stream, peer) = listener.accept().await?;
        let peer = peer.ip();
        // Whom a proxy speaks for is not known before its request is read.
        let is_bounded = !self.gate.proxies.trusts(peer);
        let seat = self.handshakes.wait(AddressKey::of(peer), is_bounded).await;
        Ok((stream, peer, seat))
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
