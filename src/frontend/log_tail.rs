//! How far the log was when a connection began.
//!
//! What a client sends again may have been committed for another of its connections, and its frontend, whose
//! feed lags, does not know of that. A submission that says `since` what it is new would then take the old
//! commit for its own, and the drafts before it for rejected (`validator/round/decide.rs`, `decided_before`). So a
//! connection asks the log's leader once, before its first draft is published: whatever its client can have
//! been told of on other connections is not after that. That it is the leader, `Log::last_of_all` makes sure.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::debug;

use crate::event::EventId;
use crate::log::Log;

/// The pause after a question that was not answered.
const PAUSE: Duration = Duration::from_millis(100);

/// The last event of all partitions, as last asked for.
pub(crate) struct LogTail {
    log: Log,
    known: Mutex<Option<(Instant, EventId)>>,
}

impl LogTail {
    pub(crate) fn new(log: Log) -> Self {
        Self { log, known: Mutex::default() }
    }

    /// The last event at some time at or after `time`, which is past. Waits until NATS answers.
    pub(crate) async fn since(&self, time: Instant) -> EventId {
        // Locked while it is asked for: those who connect at once ask once.
        let mut known = self.known.lock().await;
        loop {
            if let Some((_, last)) = known.filter(|(asked, _)| *asked >= time) {
                return last;
            }
            let asked = Instant::now();
            match self.log.last_of_all().await {
                Ok(last) => *known = Some((asked, last)),
                Err(error) => {
                    debug!(%error, "failed to read the stream's last sequence");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}
