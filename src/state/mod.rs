//! The state of a partition: the JSON document that its events fold into, and what its validator must
//! remember besides.
//!
//! Nothing here reads a clock, a socket or a file, and nothing here knows an event type by name: what an
//! event does to the document is a [`Fold`], handed in. So a frontend can keep states without the rules.

mod arena;
mod document;
mod drafts;
mod fold;
mod partition;
mod snapshot;
mod touch;
mod tree;
mod tree_ops;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use arena::visits;

use crate::event::json::{self, Json};

pub use document::{Document, Effect, OpError};
pub use drafts::DraftLookup;
pub use fold::{Accepted, Fold, FoldError};
pub use partition::{ApplyError, PartitionState};
pub use snapshot::{IndexEntry, IndexPart, SnapshotError, StatePart};
pub(crate) use touch::{Since, below};
pub use touch::{TOUCHES_MAX, Touch};
pub use tree::Tree;
pub use tree_ops::Position;

/// A value in the document: JSON, with objects that tree actions act on kept as indexed [`Tree`]s.
pub type Node = Json<Box<Tree>>;

/// The fields of an object in the document.
pub type Fields = json::Map<Box<Tree>>;
