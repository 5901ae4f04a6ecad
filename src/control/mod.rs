//! What operators ask of all processes at once, over plain NATS and with nothing stored.
//!
//! The administration sends an *order*; every process that it is for carries it out and *reports*. A process
//! also reports every so often that it is there, so that the administration knows whose answer is missing: one
//! that is stopped where it stands, or cut off, is named and not waited for beyond a bound.
//!
//! `words` is what is said, `station` a process's ear, `survey` the asking side, `keeper` keeps what a process knows
//! to be revoked as it is in the log's bucket. Everybody who answers
//! implements [`CommandHandler`]. Nothing here has to arrive for anything that the log promises, and no order concerns
//! the log.

mod agent;
mod client;
mod membership;
mod messages;
mod revocation_sync;
mod settings;
#[cfg(test)]
mod tests;

pub use agent::{CommandHandler, ControlAgent, NoCommands};
pub use client::{ControlClient, Gathered, PresentProcess};
pub use messages::{
    Answer, Audience, ClientFilter, Closing, Command, CommandEnvelope, CommandReply, ConnectionFilter,
    ConnectionPlace, FoundClient, FoundClients, FoundConnection, FoundConnections, LogFilter, Process, Role,
    UserClosing,
};
pub use revocation_sync::{EndConnections, RevocationSync};
pub use settings::ControlSettings;
