//! Orders of the administration and reports on them, over plain NATS. Nothing is stored; who is not there does
//! not hear them. Reports go to subjects of their own and not to an order's reply subject, so that they can
//! cross from one NATS account to another, and so that a process may publish nothing else for them.

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{Select, select};

use super::client::Log;
use super::error::LogError;
use super::subjects;
use crate::event::is_plain;

/// A process's subscription to the orders meant for it.
pub struct Orders(Select<Subscriber, Subscriber>);

/// An administration's subscription to reports: those on its orders, and those that nobody asked for.
pub struct Reports(Select<Subscriber, Subscriber>);

impl Log {
    /// Subscribes to the orders for all, and to those for a role. When this returns, the server has the
    /// subscription.
    pub async fn orders(&self, role: &str) -> Result<Orders, LogError> {
        self.both(subjects::order(None), subjects::order(Some(role))).await.map(Orders)
    }

    /// Orders something of all, or of a role.
    pub async fn order(&self, role: Option<&str>, body: Bytes) -> Result<(), LogError> {
        const WHAT: &str = "sending an order";
        let sent = self.client.publish(subjects::order(role), body).await;
        sent.map_err(|error| LogError::unavailable(WHAT, error))
    }

    /// Subscribes to the reports for `asker`, and to those for everybody.
    pub async fn reports(&self, asker: &str) -> Result<Reports, LogError> {
        self.both(subjects::report(None), subjects::report(Some(asker))).await.map(Reports)
    }

    /// Reports to somebody, or to whom it may concern.
    pub async fn report(&self, asker: Option<&str>, body: Bytes) -> Result<(), LogError> {
        const WHAT: &str = "reporting";
        if asker.is_some_and(|asker| !is_plain(asker)) {
            return Err(LogError::refused(WHAT, "the name of who asks cannot stand in a subject"));
        }
        let sent = self.client.publish(subjects::report(asker), body).await;
        sent.map_err(|error| LogError::unavailable(WHAT, error))
    }

    async fn both(&self, one: String, other: String) -> Result<Select<Subscriber, Subscriber>, LogError> {
        const WHAT: &str = "subscribing to orders and reports";
        let failed = |error| LogError::unavailable(WHAT, error);
        let one = self.client.subscribe(one).await.map_err(failed)?;
        let other = self.client.subscribe(other).await.map_err(failed)?;
        self.confirm_subscription("orders and reports").await;
        Ok(select(one, other))
    }
}

impl Orders {
    /// The next order; `None` when the connection was closed for good. Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let message = self.0.next().await?;
            // An answer of the log that somebody had sent here; see `live`. Orders have no headers.
            if message.headers.is_none() {
                return Some(message.payload);
            }
            tracing::warn!("an order that no administration gave; ignored");
        }
    }
}

impl Reports {
    /// The next report; `None` when the connection was closed for good. Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.next().await.map(|message| message.payload)
    }
}
