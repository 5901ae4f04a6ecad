//! What the requests of the administration share.

use crate::admin::settings::AdminSettings;
use crate::auth::Authenticator;
use crate::control::ControlClient;
use crate::control::RevocationSync;
use crate::log::Log;
use crate::state::Fold;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// What the requests share.
pub(crate) struct AdminState {
    pub(crate) settings: AdminSettings,
    /// For how long any token can be good, in seconds; `None` for ever.
    pub(crate) tokens_live_s_max: Option<u64>,
    pub(crate) log: Log,
    pub(crate) fold: Arc<dyn Fold>,
    pub(crate) auth: Authenticator,
    /// Keeps what was revoked; `None` where no tokens are asked for.
    pub(crate) keeper: Option<Arc<RevocationSync>>,
    /// Changes whenever something was revoked.
    pub(crate) revoked: watch::Receiver<()>,
    /// Asks all processes.
    pub(crate) control: Arc<ControlClient>,
    /// Places for requests at work.
    pub(crate) places: Arc<Semaphore>,
    /// Cancelled when the process goes away.
    pub(crate) stop: CancellationToken,
}
