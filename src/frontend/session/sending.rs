//! What a connection may be told and may hold: a large state goes out in parts, and who is told or holds much is not
//! read from for a while.

use std::sync::Arc;

use tokio::time::Instant;

use super::Session;
use super::socket::End;
use crate::frontend::admission::memory;
use crate::frontend::feed::{StateAt, StateText};
use crate::protocol::{Notice, StateForm};

/// A state that is being sent in parts.
pub(crate) struct Sending {
    state: Arc<StateAt>,
    /// The request that it answers.
    reply_to: Option<String>,
    /// How many parts are sent.
    sent: usize,
}

impl Sending {
    /// Sends a state in parts, if it has any.
    pub(crate) fn of(state: Arc<StateAt>, reply_to: Option<String>) -> Option<Self> {
        matches!(state.text, StateText::Parts(_)).then_some(Self { state, reply_to, sent: 0 })
    }
}

/// How a state is told.
pub(crate) fn form_of(state: &StateAt) -> StateForm<'_> {
    match &state.text {
        StateText::Whole(json) => StateForm::Whole(json),
        StateText::Parts(parts) => StateForm::InParts { parts: parts.len(), bytes: state.bytes },
    }
}

impl Session {
    /// Sends the next part of a state, if one is being sent. Between parts all else goes on but the events behind it.
    pub(crate) async fn send_part(&mut self) -> Result<bool, End> {
        let Some(Sending { state, reply_to, sent }) = &mut self.sending else { return Ok(false) };
        let StateText::Parts(parts) = &state.text else { return Ok(false) };
        let Some(text) = parts.get(*sent) else {
            self.sending = None;
            return Ok(false);
        };
        *sent += 1;
        let notice = Notice::StatePart {
            partition: self.feed.partition().as_str(),
            event_id: state.event_id,
            part: *sent,
            parts: parts.len(),
            text,
        };
        self.socket.send(reply_to.as_deref(), &notice).await?;
        Ok(true)
    }

    /// The client was answered with so many bytes.
    pub(crate) fn answered_with(&mut self, bytes: usize) {
        let client = &self.identity.client_id;
        self.hub.outflow.take(client, bytes);
        self.answered_until = self.hub.outflow.not_before(client).map(Instant::from_std);
    }

    /// Says what the connection holds, and whether it may be read from. If not, when that is to be looked at again.
    pub(crate) fn may_read(&mut self) -> Result<(), Instant> {
        // Each draft as it came, and once more in what is published of it.
        self.hold.set(2 * (self.pending.bytes() + self.held_bytes));
        let now = Instant::now();
        self.answered_until = self.answered_until.filter(|until| *until > now);
        match self.answered_until {
            Some(until) => Err(until),
            None if self.account.is_full() => Err(now + memory::LOOK_EVERY),
            None => Ok(()),
        }
    }
}
