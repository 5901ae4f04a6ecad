//! An application's rules in a validator: how they are taken, and how it is told that they failed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::log_backend::LogBackend;
use super::shared::Shared;
use crate::app::{Folds, Take};
use crate::event::{Draft, PartitionKey, RulesInForceId, Submission};
use crate::rules::LiveRules;
use crate::util::sync::lock;

/// How often it is told that rules failed.
const FAULT_TOLD_INTERVAL: Duration = Duration::from_secs(1);

/// What loads the rules that were put in force, and has drafts decided by them.
pub(super) fn taking(live: Arc<LiveRules>) -> Arc<Take> {
    Arc::new(move |folds: &Folds, rules: RulesInForceId| {
        folds.load(rules.version)?;
        live.put_app_in_force(rules);
        info!(%rules, "the application's rules decide");
        Ok(())
    })
}

impl<P: LogBackend> Shared<P> {
    /// Says how an application's rules failed, every so often: drafts that make them fail are a client's to send.
    pub(super) fn tell_fault(
        &self,
        partition: &PartitionKey,
        rules: RulesInForceId,
        submission: &Submission,
        draft: &Draft,
        fault: &str,
    ) {
        let mut told = lock(&self.fault_told);
        if told.is_some_and(|told| told.elapsed() < FAULT_TOLD_INTERVAL) {
            return;
        }
        *told = Some(Instant::now());
        let client = &submission.submitter.client_id;
        warn!(
            %partition, %rules, %client, draft = draft.draft_id, event_type = draft.event_type, fault,
            "the application's rules failed on a draft; it is rejected"
        );
    }
}
