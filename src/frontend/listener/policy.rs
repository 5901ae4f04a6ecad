//! What a listener holds, and whom it believes and lets in.

use crate::frontend::listener::site::Site;
use crate::frontend::net::{AddressKey, Origins, Proxies, Tls};
use crate::frontend::shared::FrontendShared;
use crate::serving::Seats;
use std::sync::Arc;
use tokio_util::task::TaskTracker;

/// The edge of a frontend.
pub(crate) struct Listener {
    pub shared: Arc<FrontendShared>,
    /// The tasks of all connections: the frontend does not end before they have.
    pub sessions: TaskTracker,
    /// Whom it believes, and whom it lets in.
    pub gate: AccessPolicy,
    /// Pages beside the WebSocket.
    pub site: Option<Site>,
    /// Seats for connections that are not upgraded yet.
    pub(crate) handshakes: Arc<Seats<AddressKey>>,
}

/// Whom an edge believes, and whom it lets in.
pub(crate) struct AccessPolicy {
    /// Those whose word on a client's address is taken.
    pub proxies: Proxies,
    /// The pages whose visitors may connect.
    pub origins: Origins,
    /// TLS, if connections are to have it.
    pub tls: Option<Arc<Tls>>,
}
