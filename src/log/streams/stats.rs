//! Looking at the streams and the store every so often, for whoever watches the metrics: how many drafts
//! wait, and how much room is left.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tracing::debug;

use crate::log::client::Log;
use crate::log::metrics;
use crate::log::subjects;

/// JetStream's names of all that is ours.
const STREAMS: [&str; 6] = [
    subjects::DRAFTS_STREAM,
    subjects::COMMITTED_STREAM,
    subjects::OWNERSHIP_STREAM,
    subjects::SNAPSHOT_STREAM,
    subjects::REVOKED_STREAM,
    subjects::RULES_STREAM,
];

impl Log {
    /// Looks until it is dropped. A look that fails is counted and leaves the numbers as they are.
    pub async fn watch_store(&self, every: Duration) -> Infallible {
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !self.state().borrow().connected {
                continue;
            }
            for name in STREAMS {
                match self.js.get_stream(name).await {
                    Ok(stream) => {
                        let info = stream.cached_info();
                        let bytes_max = u64::try_from(info.config.max_bytes).ok().filter(|max| *max > 0);
                        metrics::stream(name, info.state.messages, info.state.bytes, bytes_max);
                    }
                    Err(error) => look_failed(name, &error),
                }
            }
            match self.js.query_account().await {
                Ok(account) => {
                    let bytes_max = account
                        .limits
                        .max_storage
                        .and_then(|max| u64::try_from(max).ok())
                        .filter(|max| *max > 0);
                    metrics::store(account.storage, bytes_max);
                }
                Err(error) => look_failed("the account", &error),
            }
        }
    }
}

fn look_failed(what: &str, error: &dyn std::fmt::Display) {
    metrics::look_failed();
    debug!(what, %error, "failed to read the store's statistics; retrying");
}
