//! What a connection may be told and may hold: a large state goes out in parts, and who is told or holds much is not
//! read from for a while.

use std::sync::Arc;

use crate::frontend::feed::{SerializedState, StateText};
use crate::protocol::StateForm;

/// A state that is being sent in parts.
pub(crate) struct Sending {
    pub(crate) state: Arc<SerializedState>,
    /// The request that it answers.
    pub(crate) reply_to: Option<String>,
    /// How many parts are sent.
    pub(crate) sent: usize,
}

impl Sending {
    /// Sends a state in parts, if it has any.
    pub(crate) fn of(state: Arc<SerializedState>, reply_to: Option<String>) -> Option<Self> {
        matches!(state.text, StateText::Parts(_)).then_some(Self { state, reply_to, sent: 0 })
    }
}

/// How a state is told.
pub(crate) fn form_of(state: &SerializedState) -> StateForm<'_> {
    match &state.text {
        StateText::Whole(json) => StateForm::Whole(json),
        StateText::Parts(parts) => StateForm::InParts { parts: parts.len(), bytes: state.bytes },
    }
}
