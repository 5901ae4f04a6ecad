//! Folding events by the rules that decided them: the built-in ones, or a version of an application's.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::bounds::EVENT_CPU_MAX;
use super::event::{Client, Entering};
use super::frame::Kind;
use super::live::Live;
use super::module::read_part;
use super::modules::{Modules, Store};
use super::process::End;
use super::verdict::{Broken, Fault};
use crate::event::{PartitionKey, RulesVersion, Submitter};
use crate::rules::Registry;
use crate::rules::limits::RulesError;
use crate::state::{AppError, AppRules, AppState, Document, Fold, FoldError, Node, Prior, WriteSet};

/// No partition is begun for who only wants to come in.
const NO_SESSION: u64 = 0;

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
        self.modules.pool(version)?.lease(0, 0).map(drop)
    }

    /// Whether a version says who may open a partition. Blocks.
    pub(super) fn authorize(&self, version: RulesVersion) -> Result<bool, AppError> {
        Ok(self.modules.pool(version)?.authorizes())
    }

    /// Whether a version lets somebody into a partition. Blocks.
    pub(super) fn admits(
        &self,
        version: RulesVersion,
        client: &Submitter,
        partition: &PartitionKey,
    ) -> Result<Asked, AppError> {
        let fails = |error: serde_json::Error| AppError::Fails(error.to_string());
        let client = Client::of(client).map_err(fails)?;
        // Every client has a process of his own to be asked in, as far as there are so many.
        let mut hasher = DefaultHasher::new();
        client.client_id.hash(&mut hasher);
        let who = hasher.finish();
        let entering = Entering { client, partition: partition.as_str() };
        let text = serde_json::to_vec(&entering).map_err(fails)?;
        let pool = self.modules.pool(version)?;
        let mut crashed = false;
        loop {
            let mut lease = pool.lease(who as usize, NO_SESSION)?;
            let answer = match lease.ask(Kind::Authorize, [&text], EVENT_CPU_MAX) {
                Ok(answer) => answer,
                // Somebody may have ended the process: whether it is this question shows when it is asked again.
                Err(End::Crashed(_)) if !crashed => {
                    crashed = true;
                    continue;
                }
                Err(End::Io(error)) => return Err(AppError::Unavailable(error.to_string())),
                Err(end) => return Ok(Asked::Failed(Fault::of_process(&end))),
            };
            let unread = |error: Broken| AppError::Unavailable(error.to_string());
            return match answer.kind {
                Kind::Authorized => {
                    let may = read_part(&answer).map_err(unread)?;
                    Ok(if may { Asked::May } else { Asked::MayNot })
                }
                Kind::Fault => Ok(Asked::Failed(read_part(&answer).map_err(unread)?)),
                kind => {
                    lease.end();
                    Err(AppError::Unavailable(format!("the rules' process answered {kind:?}")))
                }
            };
        }
    }
}

/// What rules say of somebody who wants to open a partition.
#[derive(Debug)]
pub(super) enum Asked {
    May,
    MayNot,
    /// They failed, and how.
    Failed(Fault),
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
