//! The state of a partition: the JSON document that its events fold into, and what its validator must
//! remember besides.
//!
//! Nothing here reads a clock, a socket or a file, and nothing here knows an event type by name: what an
//! event does to the document is a [`Fold`], handed in. So a frontend can keep states without the rules.

mod app;
mod document;
mod draft_index;
mod fold;
mod partition;
mod snapshot;
mod tree;
mod write_set;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tree::arena::visits;

use crate::json::{Json, Map};

pub use document::{Document, Effect, OpError};
pub use draft_index::DraftLookup;
pub use fold::{Accepted, AppError, AppRules, AppState, AppVerdict, Fold, FoldError, Prior};
pub use partition::{ApplyError, PartitionState};
pub use snapshot::{IndexEntry, IndexPart, SnapshotError, StatePart};
pub use tree::Tree;
pub use tree::position::Position;
pub(crate) use write_set::{ConflictCheck, below};
pub use write_set::{TOUCHES_MAX, WriteSet};

/// A value in the document: JSON, with objects that tree actions act on kept as indexed [`Tree`]s.
pub type Node = Json<Box<Tree>>;

/// The fields of an object in the document.
pub type Fields = Map<Box<Tree>>;
