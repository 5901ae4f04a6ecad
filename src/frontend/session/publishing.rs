//! The one publish that a connection has under way.

use crate::event::EventId;
use crate::outbox::Published;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The publish that is under way, if one is, or what the first one waits for.
#[derive(Default)]
pub(crate) struct Publishing(pub(crate) Option<Pin<Box<dyn Future<Output = Progress> + Send>>>);

/// What has become of it.
pub(crate) enum Progress {
    /// How far the log was is known: the first publish may go.
    TailKnown(EventId),
    /// The publish has ended.
    Published(Published),
}

impl Publishing {
    /// Whether there is none.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.is_none()
    }

    /// Waits for it; for ever when there is none. Cancel safe.
    pub(crate) fn done(&mut self) -> impl Future<Output = Progress> {
        std::future::poll_fn(|context: &mut Context<'_>| self.poll(context))
    }

    /// Its end, if it has ended.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Progress> {
        let Some(publish) = &mut self.0 else { return Poll::Pending };
        let result = publish.as_mut().poll(context);
        if result.is_ready() {
            self.0 = None;
        }
        result
    }
}
