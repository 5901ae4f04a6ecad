//! Folding events by the rules that decided them: the built-in ones, or a version of an application's.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::live::Live;
use super::modules::{Modules, Store};
use crate::event::RulesVersion;
use crate::rules::Registry;
use crate::rules::limits::RulesError;
use crate::state::{AppError, AppRules, AppState, Document, Fold, FoldError, Node, Prior, WriteSet};

/// What folds events, whoever decided them.
#[derive(Debug)]
pub struct Folds {
    built_in: Arc<Registry>,
    modules: Arc<Modules>,
}

impl Folds {
    /// Folds what the built-in rules decided by those, and the rest by what is in the store.
    pub fn new(store: impl Store + 'static) -> Result<Self, RulesError> {
        let modules = Arc::new(Modules::new(Box::new(store)));
        Ok(Self { built_in: Arc::new(Registry::built_in()?), modules })
    }

    /// Loads a version, so that the first draft does not wait for it, and what does not load is seen. Blocks.
    pub fn load(&self, version: RulesVersion) -> Result<(), AppError> {
        self.modules.pool(version)?.lease(0).map(drop)
    }
}

impl Fold for Folds {
    fn fold(
        &self,
        event_type: &str,
        payload: &RawValue,
        first: bool,
        doc: &mut Document,
    ) -> Result<WriteSet, FoldError> {
        self.built_in.fold(event_type, payload, first, doc)
    }

    fn fold_parsed(
        &self,
        event_type: &str,
        payload: Node,
        first: bool,
        doc: &mut Document,
    ) -> Result<(), FoldError> {
        self.built_in.fold_parsed(event_type, payload, first, doc)
    }

    fn touch(&self, event_type: &str, payload: &RawValue) -> WriteSet {
        self.built_in.touch(event_type, payload)
    }

    fn app_rules(&self) -> Option<&dyn AppRules> {
        Some(self)
    }
}

impl AppRules for Folds {
    fn adopt(&self, version: RulesVersion, prior: Prior) -> Box<dyn AppState> {
        Box::new(Live::new(Arc::clone(&self.modules), version, prior))
    }
}
