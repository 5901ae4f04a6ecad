//! What whoever is known takes of a frontend, until it is dropped: a place, and one of its client's; a line on the list
//! of those who can be found and ended; an account of what it makes the process hold.

use std::sync::Arc;

use super::socket::End;
use super::token;
use crate::auth::Identity;
use crate::event::PartitionKey;
use crate::frontend::admission::connection_limits::{Admission, Entrance};
use crate::frontend::admission::memory::Account;
use crate::frontend::admission::registry::{ClientInfo, DisconnectReason, Disconnects, Registration};
use crate::frontend::listener::Refusal;
use crate::frontend::shared::FrontendShared;
use crate::protocol::{CloseCode, ErrorCode};

/// What it has.
pub(crate) struct LetIn {
    pub admission: Admission,
    pub listed: Registration,
    pub dismissals: Disconnects,
    pub account: Arc<Account>,
}

/// Lets somebody in who has shown who he is; or says why not. `speaks` is what operators are told.
pub(crate) fn let_in(
    shared: &FrontendShared,
    connection: u64,
    entrance: &Entrance,
    identity: &Arc<Identity>,
    partitions: Vec<PartitionKey>,
    speaks: &'static str,
    info: ClientInfo,
) -> Result<LetIn, End> {
    let mut admission = match entrance.admit() {
        Ok(admission) => admission,
        Err(Refusal::Address) => {
            let why = "this address has as many connections as it may have";
            return Err(End::Close(ErrorCode::RateLimited, why.into(), CloseCode::Policy));
        }
        Err(_) => {
            let why = "this frontend has as many connections as it takes";
            return Err(End::Close(ErrorCode::Unavailable, why.into(), CloseCode::TryAgainLater));
        }
    };
    if !admission.claim(&identity.client_id) {
        let why = "this client has as many connections as it may have";
        return Err(End::Close(ErrorCode::RateLimited, why.into(), CloseCode::Policy));
    }
    let address = admission.address();
    let (listed, dismissals) = shared.registry.list(connection, identity, partitions, speaks, address, info);
    // Whoever revokes finds it from here on; what was revoked before that is found here.
    if shared.auth.is_revoked(identity) {
        return Err(token::end_of(DisconnectReason::Revoked));
    }
    let account = shared.memory.account(connection, &identity.client_id);
    Ok(LetIn { admission, listed, dismissals, account })
}
