//! The rules in force: replaced as a whole while drafts are being decided.
//!
//! Whoever decides takes the rules once and decides everything that hangs together by them; nobody waits
//! for a replacement, and a replacement waits for nobody. Only what may pass can change: every set of rules
//! that is ever in force here folds alike.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::{Registry, Rules, SchemaSet};
use crate::event::RulesInForceId;

/// The rules in force.
#[derive(Debug)]
pub struct LiveRules {
    rules: ArcSwap<Rules>,
    /// The application's rules that decide in place of the built-in ones.
    app: ArcSwapOption<RulesInForceId>,
}

impl LiveRules {
    /// Puts the first rules in force.
    pub fn new(rules: Rules) -> Self {
        Self { rules: ArcSwap::from_pointee(rules), app: ArcSwapOption::empty() }
    }

    /// The rules that are in force now; they stay as they are for as long as they are held.
    pub fn now(&self) -> Arc<Rules> {
        self.rules.load_full()
    }

    /// What folds events, whatever rules are in force.
    pub fn fold(&self) -> Arc<Registry> {
        self.rules.load().fold()
    }

    /// The application's rules that are in force now; `None` while the built-in ones decide.
    pub fn app(&self) -> Option<RulesInForceId> {
        self.app.load().as_deref().copied()
    }

    /// From now on an application's rules decide.
    pub fn put_app_in_force(&self, rules: RulesInForceId) {
        self.app.store(Some(Arc::new(rules)));
    }

    /// From now on the application's schemas are these.
    pub fn replace_schemas(&self, schemas: SchemaSet) {
        let rules = self.now().with_schemas(schemas);
        self.rules.store(Arc::new(rules));
    }
}
