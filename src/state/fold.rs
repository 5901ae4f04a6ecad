//! Folding: what makes an event change a document, as seen from the document's side.

use serde_json::value::RawValue;

use super::{Document, Node, OpError, WriteSet};
use crate::event::{ClientId, ContentHash, DraftKey, EventRecord, FieldError, RulesVersion, Submitter};
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
    /// The event was decided by rules that this program was not given.
    #[error("it was decided by the application's rules {0}, which are not at hand here")]
    NoRules(RulesVersion),
    /// The event was decided by the built-in rules, behind one that an application's decided.
    #[error("it was decided by the built-in rules, behind events that the application's rules decided")]
    BuiltInAgain,
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

    /// What folds events that an application's rules decided; `None` where those cannot be had.
    fn app_rules(&self) -> Option<&dyn AppRules> {
        None
    }
}

/// An application's rules, of whichever version.
pub trait AppRules {
    /// Begins a state under this version. What it takes is done when the state is first asked for.
    fn adopt(&self, version: RulesVersion, prior: Prior) -> Box<dyn AppState>;
}

/// What was there before a version's first event in a partition.
#[derive(Debug)]
pub enum Prior {
    /// No event but marks.
    Nothing,
    /// A state under the built-in rules.
    BuiltIn(Document),
    /// A state under a version, in canonical form; the same version goes on with it.
    Written(RulesVersion, Vec<u8>),
    /// A state under another version.
    App(Box<dyn AppState>),
}

/// A state under one version of an application's rules. It is wherever the rules run; here is what it can be made of
/// again. All but [`note`](Self::note) may block, for as long as rules run.
pub trait AppState: std::fmt::Debug + Send + Sync {
    /// The version.
    fn version(&self) -> RulesVersion;

    /// Takes an event that this version decided, to be folded when the state is next asked for.
    fn note(&self, event: &EventRecord<'_>);

    /// Whether its drafts are to be decided apart from those of others, which one of them has held up.
    fn is_apart(&self) -> bool {
        false
    }

    /// Decides a draft, as the event that it would be. If there are no errors, it is folded.
    fn decide(&self, event: &EventRecord<'_>, submitter: &Submitter) -> Result<AppVerdict, AppError>;

    /// Folds what was noted.
    fn settle(&self) -> Result<(), AppError>;

    /// The state in canonical form.
    fn canonical(&self) -> Result<Vec<u8>, AppError>;

    /// The bytes of events that are noted and not folded.
    fn noted_bytes(&self) -> usize;

    /// About how many bytes it takes here.
    fn memory_bytes(&self) -> usize;
}

/// What an application's rules say of a draft. It is accepted if there are no errors.
#[derive(Debug, Default)]
pub struct AppVerdict {
    /// What stands against it.
    pub errors: Vec<FieldError>,
    /// Whether that is who submits it.
    pub is_forbidden: bool,
    /// How the rules failed on it, for their author.
    pub fault: Option<String>,
}

/// Why there is no state under an application's rules.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppError {
    /// The rules, or what they run in, cannot be had just now.
    #[error("the application's rules cannot be run just now: {0}")]
    Unavailable(String),
    /// The rules fail on what they have accepted, or do not load.
    #[error("the application's rules fail: {0}")]
    Fails(String),
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
