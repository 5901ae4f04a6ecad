//! The rules in force: replaced as a whole while drafts are being decided.
//!
//! Whoever decides takes the rules once and decides everything that hangs together by them; nobody waits
//! for a replacement, and a replacement waits for nobody. Only what may pass can change: every set of rules
//! that is ever in force here folds alike.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Registry, Rules, SchemaSet};

/// The rules in force.
#[derive(Debug)]
pub struct LiveRules(ArcSwap<Rules>);

impl LiveRules {
    /// Puts the first rules in force.
    pub fn new(rules: Rules) -> Self {
        Self(ArcSwap::from_pointee(rules))
    }

    /// The rules that are in force now; they stay as they are for as long as they are held.
    pub fn now(&self) -> Arc<Rules> {
        self.0.load_full()
    }

    /// What folds events, whatever rules are in force.
    pub fn fold(&self) -> Arc<Registry> {
        self.0.load().fold()
    }

    /// From now on the application's schemas are these.
    pub fn replace_schemas(&self, schemas: SchemaSet) {
        let rules = self.now().with_schemas(schemas);
        self.0.store(Arc::new(rules));
    }
}
