//! What clients may use: connections, rates, memory and bytes sent, with the registry of connections.

mod clients;
pub(crate) mod connection_limits;
pub(crate) mod memory;
pub(crate) mod outflow;
pub(crate) mod reconnects;
pub(crate) mod registry;
pub(crate) mod rules;
mod submission_limit;
