//! What a frontend does when the administration orders something.

use std::sync::Arc;

use super::session::Hub;
use crate::control::{Answer, Demand, Obey};

/// A frontend, as far as it takes orders.
pub struct Controls(pub(super) Arc<Hub>);

impl Obey for Controls {
    async fn obey(&self, demand: Demand) -> Answer {
        let hub = &self.0;
        match demand {
            Demand::Connections(filter) => {
                // Half of what NATS takes: the estimate of what an answer comes to is rough.
                let bytes_max = hub.log.message_bytes_max() / 2;
                Answer::Connections(hub.roster.find(&filter, &hub.settings.id, bytes_max))
            }
            _ => Answer::NotUnderstood,
        }
    }
}
