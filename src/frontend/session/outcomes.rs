//! How a connection hears what became of its drafts. Most connections are silent most of the time, so it is
//! made for the first draft and given up when none has waited for a while.

use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::event::Answer;
use crate::frontend::feed::event::Entry;
use crate::frontend::replies::ReplyReceiver;
use crate::frontend::shared::FrontendShared;

/// Where a connection hears of its drafts.
pub(crate) struct Outcomes {
    pub(crate) committed: mpsc::Receiver<Arc<Entry>>,
    pub(crate) committed_sender: mpsc::Sender<Arc<Entry>>,
    answers: ReplyReceiver,
}

/// What was heard.
pub(crate) enum Outcome {
    /// An event with the key of a draft is in the log.
    Committed(Arc<Entry>),
    /// A validator has answered.
    Answered(Box<Answer>),
}

impl Outcomes {
    pub(crate) fn open(shared: &FrontendShared, connection: u64) -> Box<Self> {
        let (committed_sender, committed) = mpsc::channel(shared.settings.pending_drafts_max);
        Box::new(Self { committed, committed_sender, answers: shared.answers.open(connection) })
    }
}

/// Waits for the next outcome; for ever where none can come. Cancel safe.
pub(crate) async fn next(outcomes: &mut Option<Box<Outcomes>>) -> Outcome {
    if let Some(outcomes) = outcomes {
        tokio::select! {
            biased;
            Some(entry) = outcomes.committed.recv() => return Outcome::Committed(entry),
            Some(answer) = outcomes.answers.next() => return Outcome::Answered(answer),
            else => {}
        }
    }
    std::future::pending().await
}

/// The next outcome, if there is one.
pub(crate) fn poll(outcomes: &mut Option<Box<Outcomes>>, context: &mut Context<'_>) -> Poll<Outcome> {
    let Some(outcomes) = outcomes else { return Poll::Pending };
    if let Poll::Ready(Some(entry)) = outcomes.committed.poll_recv(context) {
        return Poll::Ready(Outcome::Committed(entry));
    }
    match outcomes.answers.poll(context) {
        Poll::Ready(Some(answer)) => Poll::Ready(Outcome::Answered(answer)),
        _ => Poll::Pending,
    }
}
