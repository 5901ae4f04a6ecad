//! The rules: what a validator refuses, and what each event type does.
//!
//! [`Rules::decide`] is the one step in which it is settled whether a draft becomes an event. It is a
//! function of a partition's state, a submitter and a draft; it reads no clock and changes nothing.

mod check;
mod conflict;
mod decide;
mod finding;
pub(crate) mod limits;
mod live;
mod registry;
mod schema;
mod types;

#[cfg(test)]
pub(crate) mod tests;

use crate::rules::limits::{DEPTH_MAX, RulesError, SIZE_BYTES_MAX, StateLimits};
use std::sync::Arc;

use crate::event::{EventId, FieldError, Reason};
use crate::state::Accepted;

pub use check::Check;
pub use check::EventType;
pub use conflict::{ConflictPolicies, ConflictPolicy};
pub(crate) use finding::{FINDINGS_MAX, finding};
pub use live::LiveRules;
pub use registry::Registry;
pub(crate) use schema::Schema;
pub use schema::set::{SchemaError, SchemaSet};

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
