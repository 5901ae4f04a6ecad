//! Validators' answers, handed to the connections that they are for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{lock, metrics};
use crate::event::Answer;
use crate::log::{Answers, Log, LogError};

/// The most answers that wait for one connection. One more is dropped: the frontend asks again.
const INBOX_ANSWERS_MAX: usize = 64;

/// Who gets which answers.
#[derive(Default)]
pub(super) struct AnswerDesk {
    inboxes: Mutex<HashMap<u64, mpsc::Sender<Box<Answer>>>>,
    alive: AtomicBool,
}

/// A connection's place at the desk.
pub(super) struct AnswerInbox {
    desk: Arc<AnswerDesk>,
    connection: u64,
    answers: mpsc::Receiver<Box<Answer>>,
}

impl AnswerDesk {
    /// Opens an inbox for a connection, until it is dropped.
    pub(super) fn open(self: &Arc<Self>, connection: u64) -> AnswerInbox {
        let (sender, answers) = mpsc::channel(INBOX_ANSWERS_MAX);
        lock(&self.inboxes).insert(connection, sender);
        AnswerInbox { desk: self.clone(), connection, answers }
    }

    /// Whether answers are being listened to.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Subscribes.
    pub(super) async fn subscribe(&self, log: &Log, frontend: &str) -> Result<Answers, LogError> {
        let answers = log.answers(frontend).await?;
        self.alive.store(true, Ordering::Release);
        Ok(answers)
    }

    /// Hands answers out until stopped, or until the connection to NATS is closed for good.
    pub(super) async fn run(&self, mut answers: Answers, stop: CancellationToken) {
        while let Some(Some(answer)) = stop.run_until_cancelled(answers.next()).await {
            self.hand_out(answer);
        }
        self.alive.store(false, Ordering::Release);
    }

    fn hand_out(&self, answer: Answer) {
        let inboxes = lock(&self.inboxes);
        let Some(inbox) = inboxes.get(&answer.connection) else {
            debug!(connection = answer.connection, "an answer for a connection that is gone");
            return;
        };
        if inbox.try_send(Box::new(answer)).is_err() {
            metrics::count(metrics::INBOX_FULL);
        }
    }
}

impl AnswerInbox {
    /// The next answer. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Box<Answer>> {
        self.answers.recv().await
    }
}

impl Drop for AnswerInbox {
    fn drop(&mut self) {
        lock(&self.desk.inboxes).remove(&self.connection);
    }
}
