//! A partition's state under an application's rules: which version has it, and how it goes from one to the next.
//!
//! **Invariant:** an event is folded by the version that it names. A version's first event in a partition is where the
//! state becomes one of that version.

use super::partition::{App, Staged};
use super::{AppError, AppState, AppVerdict, ApplyError, Fold, FoldError, PartitionState, Prior, WriteSet};
use crate::event::{
    ClientId, ContentHash, DraftKey, EventId, EventRecord, RulesInForceId, RulesVersion, Submitter,
};

impl PartitionState {
    /// The application's rules that decided the last event that is no mark; `None` for the built-in ones.
    pub fn rules(&self) -> Option<RulesInForceId> {
        self.rules
    }

    /// The state in canonical form. May block, under an application's rules.
    pub fn canonical(&self) -> Result<Vec<u8>, AppError> {
        match &self.app {
            None => Ok(self.doc.canonical()),
            Some(App::Written(state)) => Ok(state.clone()),
            Some(App::Live(live)) => live.canonical(),
        }
    }

    /// The SHA-256 of that.
    pub fn hash(&self) -> Result<[u8; 32], AppError> {
        Ok(<sha2::Sha256 as sha2::Digest>::digest(self.canonical()?).into())
    }

    /// Whether an application's rules have the state.
    pub fn is_app(&self) -> bool {
        self.app.is_some()
    }

    /// Whether its drafts are to be decided apart from those of others.
    pub fn is_apart(&self) -> bool {
        matches!(&self.app, Some(App::Live(live)) if live.is_apart())
    }

    /// The bytes of events that are noted and not folded.
    pub fn noted_bytes(&self) -> usize {
        match &self.app {
            Some(App::Live(live)) => live.noted_bytes(),
            _ => 0,
        }
    }

    /// Folds what is noted. May block.
    pub fn settle(&self) -> Result<(), AppError> {
        match &self.app {
            Some(App::Live(live)) => live.settle(),
            _ => Ok(()),
        }
    }

    /// Whether drafts were decided under another version than this one that has no event yet: then the state is not
    /// that of the last event, and must be loaded anew.
    pub fn is_ahead_of_log(&self, version: Option<RulesVersion>) -> bool {
        match &self.app {
            Some(App::Live(live)) => {
                let has = Some(live.version());
                has != self.rules.map(|rules| rules.version) && has != version
            }
            _ => false,
        }
    }

    /// Notes an event that an application's rules decided.
    pub(super) fn note(
        &mut self,
        fold: &dyn Fold,
        id: EventId,
        record: &EventRecord<'_>,
    ) -> Result<(), ApplyError> {
        let failed = |source| ApplyError::Fold { id, source };
        let rules = record.rules.ok_or_else(|| failed(FoldError::BuiltInAgain))?;
        if self.is_ahead_of_log(Some(rules.version)) {
            return Err(ApplyError::Staged(id));
        }
        self.adopt(fold, rules.version).map_err(failed)?.note(record);
        self.rules = Some(rules);
        Ok(())
    }

    /// Has the application's rules decide a draft, and fold it if there is nothing against it. May block.
    pub fn decide_by_app(
        &mut self,
        fold: &dyn Fold,
        event: &EventRecord<'_>,
        submitter: &Submitter,
    ) -> Result<AppVerdict, AppError> {
        let Some(rules) = event.rules else {
            return Err(AppError::Fails("no rules are in force".to_owned()));
        };
        let live =
            self.adopt(fold, rules.version).map_err(|error| AppError::Unavailable(error.to_string()))?;
        live.decide(event, submitter)
    }

    /// Takes note of a draft that [`decide_by_app`](Self::decide_by_app) has folded, before its event id is known.
    pub fn stage_by_app(
        &mut self,
        rules: RulesInForceId,
        (key, content_hash, client): (DraftKey, ContentHash, ClientId),
    ) {
        let rules = Some(rules);
        self.staged.push_back(Staged { key, content_hash, client, touch: WriteSet::Nothing, rules });
    }

    /// Puts the state under a version, if it is not yet.
    fn adopt(&mut self, fold: &dyn Fold, version: RulesVersion) -> Result<&dyn AppState, FoldError> {
        let rules = fold.app_rules().ok_or(FoldError::NoRules(version))?;
        let live = match (self.app.take(), self.rules) {
            (Some(App::Live(live)), _) if live.version() == version => live,
            (Some(App::Live(live)), _) => rules.adopt(version, Prior::App(live)),
            (Some(App::Written(state)), Some(last)) => {
                rules.adopt(version, Prior::Written(last.version, state))
            }
            _ if self.opened => rules.adopt(version, Prior::BuiltIn(std::mem::take(&mut self.doc))),
            _ => rules.adopt(version, Prior::Nothing),
        };
        match self.app.insert(App::Live(live)) {
            App::Live(live) => Ok(&**live),
            App::Written(_) => Err(FoldError::NoRules(version)),
        }
    }
}
