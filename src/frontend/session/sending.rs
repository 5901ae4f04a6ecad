//! A large state goes out in parts.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::frontend::feed::{SerializedState, StateText};
use crate::protocol::StateForm;

/// A state that is being sent in parts.
pub(crate) struct Sending {
    pub(crate) state: Arc<SerializedState>,
    /// The request that it answers.
    pub(crate) reply_to: Option<String>,
    /// How many parts are sent.
    pub(crate) sent: usize,
    /// Until it is sent, no other state takes its seat.
    _seat: Option<OwnedSemaphorePermit>,
}

impl Sending {
    /// Sends a state in parts, if it has any.
    pub(crate) fn of(
        state: Arc<SerializedState>,
        reply_to: Option<String>,
        seat: Option<OwnedSemaphorePermit>,
    ) -> Option<Self> {
        let has_parts = matches!(state.text, StateText::Parts(_));
        has_parts.then_some(Self { state, reply_to, sent: 0, _seat: seat })
    }
}

/// How a state is told.
pub(crate) fn form_of(state: &SerializedState) -> StateForm<'_> {
    match &state.text {
        StateText::Whole(json) => StateForm::Whole(json),
        StateText::Parts(parts) => StateForm::InParts { parts: parts.len(), bytes: state.bytes },
    }
}
