//! How a connection hears what became of its drafts. Most connections are silent most of the time, so it is
//! made for the first draft and given up when none has waited for a while.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Hub, Session};
use crate::event::{Answer, DraftKey};
use crate::frontend::feed::event::Entry;
use crate::frontend::replies::AnswerInbox;

/// Where a connection hears of its drafts.
pub(crate) struct Outcomes {
    committed: mpsc::Receiver<Arc<Entry>>,
    committed_sender: mpsc::Sender<Arc<Entry>>,
    answers: AnswerInbox,
}

/// What was heard.
pub(crate) enum Outcome {
    /// An event with the key of a draft is in the log.
    Committed(Arc<Entry>),
    /// A validator has answered.
    Answered(Box<Answer>),
}

impl Outcomes {
    fn open(hub: &Hub, connection: u64) -> Box<Self> {
        let (committed_sender, committed) = mpsc::channel(hub.settings.pending_drafts_max);
        Box::new(Self { committed, committed_sender, answers: hub.answers.open(connection) })
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

impl Session {
    /// Looks out for a draft's commit.
    pub(crate) fn look_out(&mut self, key: DraftKey) {
        let outcomes = self.outcomes.get_or_insert_with(|| Outcomes::open(&self.hub, self.connection));
        self.feed.look_out(key, self.connection, &outcomes.committed_sender);
    }

    /// An event that was found for a draft, if one was.
    pub(crate) fn found(&mut self) -> Option<Arc<Entry>> {
        self.outcomes.as_mut()?.committed.try_recv().ok()
    }
}
