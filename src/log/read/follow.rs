//! A partition's events as they come: its history, and then what is committed.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::live::LiveFeed;
use super::replay::{Replay, StoredEvent};
use crate::event::{EventId, Token};
use crate::log::client::{ConnectionState, Log};
use crate::log::error::LogError;

/// How often the head is read, in case the last live event was lost on its way.
const LOOK: Duration = Duration::from_secs(5);
/// The pause after a failed read.
const RETRY: Duration = Duration::from_secs(1);
/// How many looks in a row may find the log to end before the last event that was given. A replica that lags catches
/// up by then.
const BEHIND_LOOKS_MAX: u32 = 6;

/// The events of a partition after one of them, without an end. None is left out and none comes twice, also when the
/// connection to NATS is replaced.
pub struct Follow {
    log: Log,
    token: Token,
    live: LiveFeed,
    state: watch::Receiver<ConnectionState>,
    epoch: u64,
    replay: Option<Replay>,
    last: EventId,
    look_at: Instant,
    behind_looks: u32,
}

impl Log {
    /// Follows a partition's events after `after`.
    pub async fn follow(&self, token: &Token, after: EventId) -> Result<Follow, LogError> {
        let state = self.state();
        let epoch = state.borrow().epoch;
        // The subscription first, then the head: what comes in between is seen twice and given once.
        let live = self.live(token).await?;
        Ok(Follow {
            log: self.clone(),
            token: token.clone(),
            live,
            state,
            epoch,
            replay: None,
            last: after,
            look_at: Instant::now(),
            behind_looks: 0,
        })
    }
}

impl Follow {
    /// The next event. An outage of NATS is waited for. Fails if the log has lost the last event that was given.
    pub async fn next(&mut self) -> Result<StoredEvent, LogError> {
        const WHAT: &str = "following a partition";
        loop {
            if let Some(replay) = &mut self.replay {
                match replay.next().await {
                    Ok(Some(event)) => {
                        self.last = event.id;
                        return Ok(event);
                    }
                    Ok(None) => self.replay = None,
                    Err(error) => self.pause(error)?,
                }
            }
            tokio::select! {
                live = self.live.next() => {
                    let live = live.ok_or_else(|| LogError::unavailable(WHAT, "the connection was closed"))?;
                    let id = live.event.id;
                    if id > self.last && live.previous == self.last {
                        self.last = id;
                        return Ok(live.event);
                    }
                    if id > self.last {
                        self.replay = Some(self.log.replay(&self.token, self.last, id));
                    }
                }
                changed = self.state.changed() => {
                    changed.map_err(|_| LogError::unavailable(WHAT, "the connection ended"))?;
                    let now = *self.state.borrow_and_update();
                    if now.epoch != self.epoch {
                        self.epoch = now.epoch;
                        self.look_at = Instant::now();
                    }
                }
                () = sleep_until(self.look_at) => self.look().await?,
            }
        }
    }

    /// Compares with the head in the log.
    async fn look(&mut self) -> Result<(), LogError> {
        self.look_at = Instant::now() + LOOK;
        let head = match self.log.head(&self.token).await {
            Ok(head) => head.map_or(EventId::NONE, |head| head.id),
            Err(error) => return self.pause(error),
        };
        if head > self.last {
            self.replay = Some(self.log.replay(&self.token, self.last, head));
        }
        self.behind_looks = if head < self.last { self.behind_looks + 1 } else { 0 };
        if self.behind_looks < BEHIND_LOOKS_MAX {
            return Ok(());
        }
        let why = format!("the partition's log ends at event {head}, before event {}", self.last);
        Err(LogError::malformed("following a partition", why))
    }

    /// Looks again after a pause, if the error may pass.
    fn pause(&mut self, error: LogError) -> Result<(), LogError> {
        if !error.is_retryable() {
            return Err(error);
        }
        tracing::warn!(%error, "failed to read the log; retrying");
        self.replay = None;
        self.look_at = Instant::now() + RETRY;
        Ok(())
    }
}
