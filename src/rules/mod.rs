//! The rules: what a validator refuses, and what each event type does.
//!
//! [`Rules::decide`] is the one step in which it is settled whether a draft becomes an event. It is a
//! function of a partition's state, a submitter and a draft; it reads no clock and changes nothing.

mod check;
mod conflict;
mod decide;
mod finding;
mod live;
mod registry;
mod schema;
mod types;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use crate::event::{EventId, FieldError, Reason};
use crate::state::Accepted;

pub use check::Check;
pub use conflict::{ConflictPolicies, ConflictPolicy};
pub(crate) use finding::{FINDINGS_MAX, finding};
pub use live::RulesInForce;
pub use registry::{EventType, Registry};
pub(crate) use schema::Schema;
pub use schema::set::{SchemaError, SchemaSet};

/// How large and how deep a partition's state may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateLimits {
    /// The bytes of the canonical form.
    pub size_bytes_max: usize,
    /// How many arrays and objects may lie inside each other, the state itself counted.
    pub depth_max: usize,
}

impl Default for StateLimits {
    fn default() -> Self {
        Self { size_bytes_max: 16 << 20, depth_max: 256 }
    }
}

/// The largest [`StateLimits::size_bytes_max`]: what is indexed counts its bytes and nodes in 32 bits.
pub const SIZE_BYTES_MAX: usize = 1 << 30;
/// The largest [`StateLimits::depth_max`]: a snapshot must be readable again.
pub const DEPTH_MAX: usize = crate::json::DEPTH_MAX;

/// What an operator configures of the rules.
#[derive(Debug, Default)]
pub struct RulesConfig {
    /// How large and how deep a state may get.
    pub limits: StateLimits,
    /// What becomes of `baseEventId`.
    pub conflicts: ConflictPolicies,
    /// Whether v1 events of types that are neither built in nor registered are refused.
    pub refuse_unknown_v1_types: bool,
    /// Whether v1 events are refused whose type has schemas, but none for their version.
    pub refuse_unknown_v1_versions: bool,
    /// The application's schemas.
    pub schemas: SchemaSet,
}

/// Why a configuration of the rules was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The size limit is 0 or over [`SIZE_BYTES_MAX`].
    #[error("a state's size limit is 2 to {SIZE_BYTES_MAX} bytes, not {0}")]
    Size(usize),
    /// The depth limit is 0 or over [`DEPTH_MAX`].
    #[error("a state's depth limit is 1 to {DEPTH_MAX}, not {0}")]
    Depth(usize),
    /// A built-in type's own schema does not compile: a defect of this program.
    #[error("the schema of the built-in type {0} does not compile: {1}")]
    BuiltIn(&'static str, String),
}

/// The rules, ready to decide.
#[derive(Debug)]
pub struct Rules {
    registry: Arc<Registry>,
    config: RulesConfig,
}

impl Rules {
    /// Makes the rules, with the built-in event types.
    pub fn new(config: RulesConfig) -> Result<Self, RulesError> {
        let StateLimits { size_bytes_max, depth_max } = config.limits;
        if !(2..=SIZE_BYTES_MAX).contains(&size_bytes_max) {
            return Err(RulesError::Size(size_bytes_max));
        }
        if !(1..=DEPTH_MAX).contains(&depth_max) {
            return Err(RulesError::Depth(depth_max));
        }
        Ok(Self { registry: Arc::new(Registry::built_in()?), config })
    }

    /// The same rules with other schemas of the application's: other drafts pass, and what passed folds as
    /// before.
    pub fn with_schemas(&self, schemas: SchemaSet) -> Self {
        let RulesConfig {
            limits,
            ref conflicts,
            refuse_unknown_v1_types,
            refuse_unknown_v1_versions,
            schemas: _,
        } = self.config;
        let conflicts = conflicts.clone();
        let config =
            RulesConfig { limits, conflicts, refuse_unknown_v1_types, refuse_unknown_v1_versions, schemas };
        Self { registry: self.registry.clone(), config }
    }

    /// The application's schemas.
    pub fn schemas(&self) -> &SchemaSet {
        &self.config.schemas
    }

    /// What folds events: to apply and stage them, and for who keeps states without deciding anything.
    pub fn fold(&self) -> Arc<Registry> {
        self.registry.clone()
    }
}

/// What becomes of a draft.
#[derive(Debug)]
pub enum Decision {
    /// It is to be staged and committed.
    Commit(Box<Accepted>),
    /// It was committed before, as this event.
    AlreadyCommitted(EventId),
    /// It is refused.
    Reject {
        /// The layer.
        reason: Reason,
        /// All that this layer found.
        errors: Vec<FieldError>,
    },
    /// It depends on the event ids of staged events: commit those, then decide again.
    Wait,
    /// It may be committed already: the log must be asked. See
    /// [`PartitionState::draft_candidates`](crate::state::PartitionState::draft_candidates).
    NeedDraft,
    /// It is based on an event so far back that what came after must be read again: see
    /// [`PartitionState::add_older_touch`](crate::state::PartitionState::add_older_touch).
    NeedHistory {
        /// Its `baseEventId`.
        from: EventId,
    },
}
