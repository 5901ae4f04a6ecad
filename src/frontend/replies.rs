//! Validators' answers, handed to the connections that they are for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::metrics;
use crate::event::Answer;
use crate::log::{Answers, Log, LogError};
use crate::util::sync::lock;

/// The most answers that wait for one connection. One more is dropped: the frontend asks again.
const INBOX_ANSWERS_MAX: usize = 64;

/// For how long nobody may have decided a draft before validators are called silent.
const SILENCE_MIN: Duration = Duration::from_secs(10);
/// For how long after the last draft was handed in that holds. As long as one waits it is handed in again, every
/// `frontend.answer_wait_ms`.
const SILENCE_KNOWN: Duration = Duration::from_secs(15);

/// Who gets which answers.
#[derive(Default)]
pub(crate) struct ReplyRouter {
    inboxes: Mutex<HashMap<u64, mpsc::Sender<Box<Answer>>>>,
    alive: AtomicBool,
    silence: Silence,
}

/// Since when drafts wait and none was decided.
struct Silence {
    began: Instant,
    /// When the first draft was handed in of which none was decided: milliseconds since then, and one; 0 if there is none.
    since: AtomicU64,
    /// When the last one was.
    asked: AtomicU64,
}

impl Default for Silence {
    fn default() -> Self {
        Self { began: Instant::now(), since: AtomicU64::new(0), asked: AtomicU64::new(0) }
    }
}

/// A connection's place at the desk.
pub(crate) struct ReplyReceiver {
    desk: Arc<ReplyRouter>,
    connection: u64,
    answers: mpsc::Receiver<Box<Answer>>,
}

impl ReplyRouter {
    /// Opens an inbox for a connection, until it is dropped.
    pub(crate) fn open(self: &Arc<Self>, connection: u64) -> ReplyReceiver {
        let (sender, answers) = mpsc::channel(INBOX_ANSWERS_MAX);
        lock(&self.inboxes).insert(connection, sender);
        ReplyReceiver { desk: self.clone(), connection, answers }
    }

    /// Whether answers are being listened to.
    pub(crate) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// A draft was handed in.
    pub(crate) fn asked(&self) {
        let Silence { began, since, asked } = &self.silence;
        let now = began.elapsed().as_millis() as u64 + 1;
        asked.store(now, Ordering::Relaxed);
        if since.load(Ordering::Relaxed) == 0 {
            since.store(now, Ordering::Relaxed);
        }
    }

    /// A draft was decided.
    pub(crate) fn decided(&self) {
        if self.silence.since.load(Ordering::Relaxed) != 0 {
            self.silence.since.store(0, Ordering::Relaxed);
        }
    }

    /// For how long drafts have waited and none was decided, if that is so long that validators are missing.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        let Silence { began, since, asked } = &self.silence;
        let since = since.load(Ordering::Relaxed).checked_sub(1)?;
        let ago = |at: u64| began.elapsed().saturating_sub(Duration::from_millis(at));
        let is_known = ago(asked.load(Ordering::Relaxed)) < SILENCE_KNOWN;
        (is_known && ago(since) >= SILENCE_MIN).then(|| ago(since))
    }

    /// Subscribes.
    pub(crate) async fn subscribe(&self, log: &Log, frontend: &str) -> Result<Answers, LogError> {
        let answers = log.answers(frontend).await?;
        self.alive.store(true, Ordering::Release);
        Ok(answers)
    }

    /// Hands answers out until stopped, or until the connection to NATS is closed for good.
    pub(crate) async fn run(&self, mut answers: Answers, stop: CancellationToken) {
        while let Some(Some(answer)) = stop.run_until_cancelled(answers.next()).await {
            self.hand_out(answer);
        }
        self.alive.store(false, Ordering::Release);
    }

    fn hand_out(&self, answer: Answer) {
        self.decided();
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

impl ReplyReceiver {
    /// The next answer, if there is one.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Box<Answer>>> {
        self.answers.poll_recv(context)
    }

    /// The next answer. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Box<Answer>> {
        self.answers.recv().await
    }
}

impl Drop for ReplyReceiver {
    fn drop(&mut self) {
        lock(&self.desk.inboxes).remove(&self.connection);
    }
}
