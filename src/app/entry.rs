//! Whom the application's rules in force let into which partition.
//!
//! Frontends ask when somebody connects, subscribes or brings a fresh token, and of everybody when other rules come in
//! force; validators ask the same of every draft.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Semaphore, watch};
use tracing::{info, warn};

use super::fold::{Asked, Folds};
use super::follow::Take;
use crate::auth::Identity;
use crate::event::{PartitionKey, RulesInForceId};
use crate::state::AppError;
use crate::util::sync::lock;

/// How many are asked about at once: the rules' processes have one at a time each.
const ASKED_AT_ONCE: usize = 8;
/// How often it is told that the rules fail.
const TOLD_INTERVAL: Duration = Duration::from_secs(1);

/// Who may open a partition, by the rules in force.
#[derive(Debug)]
pub struct Entry {
    folds: Arc<Folds>,
    rules: ArcSwapOption<InForce>,
    /// The activation that put the last ones in force that are to be asked; 0 before the first.
    taken: watch::Sender<u64>,
    places: Semaphore,
    told: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct InForce {
    rules: RulesInForceId,
    /// Whether they say who may open a partition. Otherwise every client may that the token admits.
    authorize: bool,
}

/// Why somebody may not open a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry {
    /// The rules say so.
    #[error("the application's rules do not let this client into this partition")]
    Refused,
    /// The rules failed on the client.
    #[error("the application's rules failed on this client; it was reported")]
    Failed,
    /// The rules cannot be asked just now.
    #[error("the application's rules cannot be asked just now; retry")]
    Unavailable,
}

impl Entry {
    /// Nobody is asked until rules are taken.
    pub fn new(folds: Arc<Folds>) -> Self {
        let (rules, told) = (ArcSwapOption::empty(), Mutex::new(None));
        Self { folds, rules, taken: watch::Sender::new(0), places: Semaphore::new(ASKED_AT_ONCE), told }
    }

    /// By which activation the last rules came in force that are to be asked; 0 for none.
    pub fn activation(&self) -> u64 {
        *self.taken.borrow()
    }

    /// Hears whenever others are to be asked.
    pub fn activations(&self) -> watch::Receiver<u64> {
        self.taken.subscribe()
    }

    /// What puts rules in force here.
    pub(crate) fn takes(self: &Arc<Self>) -> Arc<Take> {
        let entry = Arc::clone(self);
        Arc::new(move |folds: &Folds, rules: RulesInForceId| {
            let authorize = folds.authorize(rules.version)?;
            entry.rules.store(Some(Arc::new(InForce { rules, authorize })));
            if authorize {
                entry.taken.send_replace(rules.activation);
                info!(%rules, "the application's rules say who may open a partition");
            }
            Ok(())
        })
    }

    /// Whether a client may open a partition, as far as rules say anything of it.
    pub async fn check(&self, client: &Identity, partition: &PartitionKey) -> Result<(), NoEntry> {
        let in_force = self.rules.load_full();
        let Some(rules) = in_force.filter(|known| known.authorize).map(|known| known.rules) else {
            return Ok(());
        };
        let client = client.submitter();
        let Ok(_place) = self.places.acquire().await else { return Err(NoEntry::Unavailable) };
        let (folds, of) = (Arc::clone(&self.folds), partition.clone());
        let who = client.client_id.clone();
        let asking = tokio::task::spawn_blocking(move || folds.admits(rules.version, &client, &of)).await;
        let asked = asking.unwrap_or_else(|error| Err(AppError::Unavailable(error.to_string())));
        let (no, why) = match asked {
            Ok(Asked::May) => return Ok(()),
            Ok(Asked::MayNot) => return Err(NoEntry::Refused),
            Ok(Asked::Failed(fault)) => (NoEntry::Failed, fault.to_string()),
            Err(error) => (NoEntry::Unavailable, error.to_string()),
        };
        let mut told = lock(&self.told);
        if told.is_none_or(|told| told.elapsed() >= TOLD_INTERVAL) {
            *told = Some(Instant::now());
            warn!(%partition, %rules, client = %who, why, "the application's rules did not say whether a client may come in");
        }
        Err(no)
    }
}
