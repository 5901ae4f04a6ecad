//! What NATS found in the queue when it was started: *leftovers*, which are not to be decided.
//!
//! With one replica NATS keeps what was removed from DRAFTS in memory for a moment before it writes it down. After a
//! crash drafts may be there again whose rejection was confirmed, and told; decided anew, they could be committed.
//! So they are removed unseen, and whoever still waits for one publishes it again.
//!
//! Slots' consumers live in NATS's memory. Where a slot has none, NATS was started since the last owner took it, or
//! the slot is new: then leftovers are all that this process found in the queue when it reached this NATS, but for what
//! says that it was published to just this server since. The consumer that is made says up to where they may be, to
//! the owners that follow, for as long as NATS lives.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::Info;

use super::bootstrap::stream_info;
use super::connection::Log;
use super::error::LogError;
use super::subjects;
use crate::fault;

/// The metadata key under which a slot's consumer says up to which place of the queue there may be leftovers, and on
/// which server.
const METADATA: &str = "insieme-leftovers";

/// The header that says which server a draft was published to.
const SERVER: &str = "Insieme-Server";

/// The last place of the queue as this process found it, and the server process that it found it on.
#[derive(Debug, Default)]
pub(super) struct Leftovers(Mutex<Option<(String, u64)>>);

impl Log {
    /// The NATS process that this one is connected to: another name after every start of a server.
    pub(super) fn server(&self) -> String {
        self.client.server_info().server_id
    }

    /// The last place of the queue as it was when this process first looked, since it reached this server: whatever
    /// the server was started with lies before it.
    pub(super) async fn leftovers_upto(&self, server: &str) -> Result<u64, LogError> {
        const WHAT: &str = "looking where the queue ends";
        if let Some((of, upto)) = &*self.leftovers.0.lock().unwrap_or_else(PoisonError::into_inner)
            && of == server
        {
            return Ok(*upto);
        }
        let upto = match stream_info(self, subjects::DRAFTS_STREAM).await {
            Ok(Some(info)) => info.state.last_sequence,
            Ok(None) => return Err(LogError::unavailable(WHAT, "it is not there")),
            Err(error) => return Err(LogError::unavailable(WHAT, error)),
        };
        if self.server() != server {
            return Err(LogError::unavailable(WHAT, "NATS was reached anew meanwhile"));
        }
        let known = (server.to_owned(), upto);
        *self.leftovers.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(upto)
    }

    /// Up to where there may be leftovers of a slot that has these consumers on this server.
    pub(super) async fn leftovers_after(&self, consumers: &[Info], server: &str) -> Result<u64, LogError> {
        // With replicas nothing is removed that a majority has not written down.
        if self.settings.replicas > 1 || fault::broken("trust_leftovers") {
            return Ok(0);
        }
        let told = |info: &Info| {
            let (of, upto) = info.config.metadata.get(METADATA)?.split_once(' ')?;
            // Of another server: made by somebody who did not know yet that NATS was started anew.
            upto.parse().ok().filter(|_| of == server)
        };
        match consumers.iter().filter_map(told).max() {
            Some(upto) => Ok(upto),
            None => self.leftovers_upto(server).await,
        }
    }
}

/// What a slot's consumer tells the slot's next owner.
pub(super) fn metadata(server: &str, upto: u64) -> HashMap<String, String> {
    HashMap::from([(METADATA.to_owned(), format!("{server} {upto}"))])
}

/// The headers of a draft that is published to this server.
pub(super) fn mark(headers: Option<HeaderMap>, server: &str) -> HeaderMap {
    let mut headers = headers.unwrap_or_default();
    headers.insert(SERVER, server);
    headers
}

/// Whether a draft was. One that says nothing, or was marked just before its frontend learned of the new server, is
/// taken for a leftover: it comes again.
pub(super) fn was_published_to(server: &str, headers: Option<&HeaderMap>) -> bool {
    headers.and_then(|headers| headers.get(SERVER)).is_some_and(|of| of.as_str() == server)
}
