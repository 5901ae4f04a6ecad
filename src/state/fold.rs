//! Folding: what makes an event change a document, as seen from the document's side.

use serde_json::value::RawValue;

use super::{Document, Node, OpError, WriteSet};
use crate::event::{ClientId, ContentHash, DraftKey};
use crate::json::value::CanonicalError;

/// Why an event does not fold. In a log that only this program wrote it never happens.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// The payload is not of its type's shape.
    #[error("the payload is not that of a {0}")]
    Payload(String),
    /// The payload is JSON that no client could hold.
    #[error(transparent)]
    Json(#[from] CanonicalError),
    /// Something in the state stands against it.
    #[error(transparent)]
    Op(#[from] OpError),
    /// An `init` that is not its partition's first event.
    #[error("init is not the first event")]
    NotFirst,
    /// The draft was accepted against another state.
    #[error("accepted against a state of {accepted} events, staged on one of {found}")]
    Stale {
        /// The events in the state it was decided against.
        accepted: u64,
        /// The events in the state it met.
        found: u64,
    },
}

/// What events do to a document. The registry of event types is one.
pub trait Fold: Send + Sync {
    /// Folds an event as it stands in the log; `first` says whether it is its partition's first. An event
    /// of a type that changes no state folds to nothing. On an error the document is unchanged.
    fn fold(
        &self,
        event_type: &str,
        payload: &RawValue,
        first: bool,
        doc: &mut Document,
    ) -> Result<WriteSet, FoldError>;

    /// Folds an event whose payload is parsed already.
    fn fold_parsed(
        &self,
        event_type: &str,
        payload: Node,
        first: bool,
        doc: &mut Document,
    ) -> Result<(), FoldError>;

    /// What an event in the log touched, without folding it; [`WriteSet::Nothing`] for what cannot be read.
    fn touch(&self, event_type: &str, payload: &RawValue) -> WriteSet;
}

/// A draft that passed every layer against one state, and what is needed to stage it there.
#[derive(Debug)]
pub struct Accepted {
    /// Its key.
    pub key: DraftKey,
    /// The hash of what it says.
    pub content_hash: ContentHash,
    /// Who submitted it.
    pub client: ClientId,
    /// The event type.
    pub event_type: String,
    /// The payload, parsed.
    pub payload: Node,
    /// What it touches.
    pub touch: WriteSet,
    /// The ordinal that the event will have; the state must be just before it.
    pub ordinal: u64,
}
