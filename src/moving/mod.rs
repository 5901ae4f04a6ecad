//! Moving events in and out: an export of the log as JSON lines, and its import into another backend.
//!
//! This stands above `log`, `partition` and `rules`: an import folds every event before it stores the first one.

mod check;
mod error;
mod export;
mod file;
mod import;

pub use check::Checked;
pub use error::MoveError;
pub use export::{Exported, export};
pub use import::{Ids, Import, Imported, Step};
