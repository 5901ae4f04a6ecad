//! What a frontend does when the administration orders something.

use std::sync::Arc;
use std::time::Duration;

use tracing::info;

use super::admission::registry::DisconnectReason;
use super::shared::FrontendShared;
use crate::auth::Identity;
use crate::control::{Answer, Closing, Command, CommandHandler, UserClosing};
use crate::event::PartitionKey;

/// How long an order may wait at most, in milliseconds, whatever it says.
const WAIT_MS_MAX: u64 = 60_000;

/// A frontend, as far as it takes orders.
pub struct Controls(pub(crate) Arc<FrontendShared>);

impl Controls {
    /// Ends connections of a partition, or of any; tells how many.
    fn close(
        &self,
        partition: Option<PartitionKey>,
        reconnect: bool,
        is_meant: impl Fn(&Identity) -> bool,
    ) -> u64 {
        let why = if reconnect { DisconnectReason::Reconnect } else { DisconnectReason::Closed };
        self.0.registry.disconnect(|identity, of| {
            let is_there = partition.as_ref().is_none_or(|partition| of.contains(partition));
            (is_there && is_meant(identity)).then_some(why)
        })
    }
}

impl CommandHandler for Controls {
    async fn obey(&self, demand: Command) -> Answer {
        let shared = &self.0;
        match demand {
            Command::Connections(filter) | Command::UserConnections(filter) => {
                // Half of what NATS takes: the estimate of what an answer comes to is rough.
                let bytes_max = shared.log.message_bytes_max() / 2;
                Answer::Connections(shared.registry.find(&filter, &shared.settings.id, bytes_max))
            }
            Command::Clients(filter) => {
                Answer::Clients(shared.registry.clients(&filter, shared.log.message_bytes_max() / 2))
            }
            Command::Close(Closing { client, partition, reconnect }) => {
                let closed = self.close(partition, reconnect, |identity| identity.client_id == client);
                info!(%client, closed, reconnect, "the administration closes a client's connections");
                Answer::Closed(closed)
            }
            Command::CloseUser(UserClosing { user, partition, reconnect }) => {
                let closed =
                    self.close(partition, reconnect, |identity| identity.user_id.as_ref() == Some(&user));
                info!(user, closed, reconnect, "the administration closes a user's connections");
                Answer::Closed(closed)
            }
            Command::Revocations { sequence, wait_ms } => {
                // Who asks for no tokens has nothing to refuse.
                let Some(keeper) = &shared.keeper else { return Answer::Closed(0) };
                match keeper.read_upto(sequence, Duration::from_millis(wait_ms.min(WAIT_MS_MAX))).await {
                    Ok(ended) => Answer::Closed(ended),
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
            _ => Answer::NotUnderstood,
        }
    }
}
