//! The versions of an application's rules that run here, taken from where they are kept.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use super::pool::Pool;
use super::published::Published;
use crate::event::RulesVersion;
use crate::log::Log;
use crate::state::AppError;
use crate::util::sync::lock;

/// The versions whose workers are kept. Folding a log of more goes from one to the next.
const POOLS_MAX: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

/// This program, which is the worker too; also when its file was replaced or is gone, as in an upgrade.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Where versions are kept.
pub trait Store: Send + Sync {
    /// What was published as this version. May block.
    fn fetch(&self, version: RulesVersion) -> Result<Vec<u8>, AppError>;
}

impl Store for Log {
    fn fetch(&self, version: RulesVersion) -> Result<Vec<u8>, AppError> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|error| AppError::Unavailable(error.to_string()))?;
        match runtime.block_on(self.rules_of(version)) {
            Ok(Some(body)) => Ok(body.into()),
            // A replica that lags may not have it yet; where it is gone, nothing of it can be folded.
            Ok(None) => Err(AppError::Unavailable(format!("NATS does not have version {version}"))),
            Err(error) => Err(AppError::Unavailable(error.to_string())),
        }
    }
}

/// The versions of an application's rules that run here.
pub(super) struct Modules {
    store: Box<dyn Store>,
    pools: Mutex<LruCache<RulesVersion, Arc<Pool>>>,
}

impl std::fmt::Debug for Modules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Modules").finish_non_exhaustive()
    }
}

impl Modules {
    pub(super) fn new(store: Box<dyn Store>) -> Self {
        Self { store, pools: Mutex::new(LruCache::new(POOLS_MAX)) }
    }

    pub(super) fn pool(&self, version: RulesVersion) -> Result<Arc<Pool>, AppError> {
        let known = || lock(&self.pools).get(&version).cloned();
        if let Some(pool) = known() {
            return Ok(pool);
        }
        let body = self.store.fetch(version)?;
        let published = Published::read(version, &body).map_err(AppError::Fails)?;
        let pool = Arc::new(Pool::new(version, Path::new(THIS_PROGRAM), published));
        let mut pools = lock(&self.pools);
        let pool = pools.get(&version).cloned().unwrap_or(pool);
        // Dropping the workers of another one may take a moment: not under the lock.
        let other = pools.push(version, Arc::clone(&pool));
        drop(pools);
        drop(other);
        Ok(pool)
    }
}
