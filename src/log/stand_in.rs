//! What a test has in the place of NATS: the simulation (`src/simulation`), in which the frontend runs as it is.
//!
//! It answers what a frontend asks while it works. How an answer comes to be whole out of messages is below it, and
//! tested with NATS.

use std::pin::Pin;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::client::ConnectionState;
use super::error::LogError;
use super::queue::publish::PublishError;
use super::read::live::LiveEvent;
use super::read::replay::StoredEvent;
use crate::event::{Answer, EventId, PartitionKey, Token};

/// An answer that is on its way.
pub(crate) type Reply<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What each is, is said at `Log`'s method of the same name.
pub(crate) trait StandIn: Send + Sync {
    fn state(&self) -> watch::Receiver<ConnectionState>;
    fn now_ms(&self) -> u64;
    fn head(&self, token: &Token) -> Reply<Result<Option<StoredEvent>, LogError>>;
    /// The events, and whether there are more.
    fn page(
        &self,
        token: &Token,
        after: EventId,
        events_max: usize,
    ) -> Reply<Result<(Vec<StoredEvent>, bool), LogError>>;
    fn event(&self, id: EventId) -> Reply<Result<Option<(Token, StoredEvent)>, LogError>>;
    fn last_of_all(&self) -> Reply<Result<EventId, LogError>>;
    fn live(&self, token: &Token) -> Reply<Result<UnboundedReceiver<LiveEvent>, LogError>>;
    fn answers(&self, frontend: &str) -> UnboundedReceiver<Answer>;
    fn publish_draft(
        &self,
        partition: &PartitionKey,
        token: &Token,
        body: Bytes,
    ) -> Reply<Result<(), PublishError>>;
}
