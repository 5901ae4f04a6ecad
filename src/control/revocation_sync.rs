//! Keeps what a process knows to be revoked as the bucket is.
//!
//! It looks every so often for what was written since, and is told by an order when there is something, so that
//! whoever revokes hears when that is in force. After a reconnect, and once in a while, it reads everything
//! anew: the bucket may have been made anew, or a note that an entry was taken back be gone. A look that fails
//! changes nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::auth::{Identity, Revocation, Revocations, RevokedSet, metrics};
use crate::log::{Log, LogError, StoredRevocation};
use crate::util::time;

/// After how many looks everything is read anew.
const LOOKS_PER_WHOLE: u32 = 600;
/// The pause before the first read is tried again, and before a replica that lags is asked again.
const PAUSE: Duration = Duration::from_millis(50);
/// Of how many revocations it is remembered how many connections they ended.
const ENDED_KEPT: usize = 256;

/// Ends the connections of whomever a test says; tells how many.
pub type EndConnections = Box<dyn Fn(&dyn Fn(&Identity) -> bool) -> u64 + Send + Sync>;

/// Keeps a process's revocations.
pub struct RevocationSync {
    log: Log,
    revocations: Arc<Revocations>,
    end: EndConnections,
    read: Mutex<Read>,
}

/// How far the bucket was read.
#[derive(Default)]
struct Read {
    upto: u64,
    /// How many connections ended by the revocation at a place.
    ended: VecDeque<(u64, u64)>,
}

impl RevocationSync {
    /// One that has read nothing yet. `end` is called for whatever is new.
    pub fn new(log: Log, revocations: Arc<Revocations>, end: EndConnections) -> Self {
        Self { log, revocations, end, read: Mutex::default() }
    }

    /// Tries once to read what there is, so that whoever comes first need not be told to come again. What goes wrong
    /// is said, and tried again, by [`RevocationSync::run`].
    pub async fn begin(&self) {
        if let Err(error) = self.read_all().await {
            debug!(%error, "cannot read yet what was revoked");
        }
    }

    /// Keeps them until told to stop.
    pub async fn run(&self, every: Duration, stop: &CancellationToken) {
        stop.run_until_cancelled(self.keep(every)).await;
    }

    async fn keep(&self, every: Duration) {
        let mut state = self.log.state();
        let mut epoch = None;
        let (mut looks, mut failing) = (0_u32, false);
        loop {
            let now = *state.borrow_and_update();
            let whole = epoch != Some(now.epoch) || looks >= LOOKS_PER_WHOLE;
            let looked = match now.connected {
                true if whole => self.read_all().await,
                true => self.read_new().await,
                false => Err(LogError::Unavailable {
                    what: "reading revocations",
                    why: "there is no connection to NATS".to_owned(),
                }),
            };
            metrics::revocations_looked(looked.is_ok());
            match looked {
                Ok(()) => {
                    looks = if whole { 0 } else { looks + 1 };
                    epoch = Some(now.epoch);
                    failing = false;
                }
                Err(error) if !failing => {
                    warn!(%error, "cannot see what was revoked since; what is known stays in force");
                    failing = true;
                }
                Err(_) => {}
            }
            let pause = if self.revocations.is_known() { every } else { PAUSE.min(every) };
            tokio::select! {
                () = sleep(pause) => {}
                // What this cannot tell of ends all else too; it only looks on.
                Ok(()) = state.changed() => {}
            }
        }
    }

    /// Reads up to a place, waiting for a replica that lags; gives how many connections the revocation there ended.
    pub async fn read_upto(&self, sequence: u64, wait: Duration) -> Result<u64, LogError> {
        let reading = async {
            loop {
                self.read_new().await?;
                let read = self.read.lock().await;
                if read.upto >= sequence {
                    return Ok(read
                        .ended
                        .iter()
                        .find(|(at, _)| *at == sequence)
                        .map_or(0, |(_, ended)| *ended));
                }
                drop(read);
                sleep(PAUSE).await;
            }
        };
        timeout(wait, reading).await.unwrap_or_else(|_| {
            let why = format!("not found within {} ms", wait.as_millis());
            Err(LogError::Unavailable { what: "reading a revocation", why })
        })
    }

    /// Takes what was written since the last look.
    async fn read_new(&self) -> Result<(), LogError> {
        if !self.revocations.is_known() {
            return self.read_all().await;
        }
        let mut read = self.read.lock().await;
        loop {
            let entries = self.log.revocations(read.upto).await?;
            if entries.is_empty() {
                self.revocations.change(|set| set.forget_past(time::now_s()));
                return Ok(());
            }
            for entry in entries {
                read.upto = entry.sequence;
                let new = put(entry, |change| self.revocations.change(change));
                let Some(revocation) = new.filter(|new| new.until.is_none_or(|until| time::now_s() <= until))
                else {
                    continue;
                };
                let ended = (self.end)(&|identity| revocation.of.covers(identity));
                info!(key = revocation.of.key(), ended, by = revocation.by, "revoked");
                let at = read.upto;
                read.ended.push_back((at, ended));
                if read.ended.len() > ENDED_KEPT {
                    read.ended.pop_front();
                }
            }
        }
    }

    /// Takes everything there is, in the place of what is known.
    async fn read_all(&self) -> Result<(), LogError> {
        let mut read = self.read.lock().await;
        let began = Instant::now();
        let (mut all, mut upto) = (RevokedSet::default(), 0);
        loop {
            let entries = self.log.revocations(upto).await?;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                upto = entry.sequence;
                put(entry, |change| change(&mut all));
            }
        }
        all.forget_past(time::now_s());
        let (count, was_known) = (all.len(), self.revocations.is_known());
        self.revocations.replace(all);
        read.upto = upto;
        let ended = (self.end)(&|identity| self.revocations.cover(identity));
        if !was_known || ended > 0 {
            info!(count, ended, ms = began.elapsed().as_millis() as u64, "revocations read");
        }
        Ok(())
    }
}

/// Puts an entry into a set, through `change`; gives the revocation, if it is one.
fn put(
    entry: StoredRevocation,
    change: impl FnOnce(Box<dyn FnOnce(&mut RevokedSet) + '_>),
) -> Option<Revocation> {
    let StoredRevocation { key, body, .. } = entry;
    let Some(body) = body else {
        change(Box::new(|set| set.lift(&key)));
        return None;
    };
    match Revocation::parse(&key, &body) {
        Ok(revocation) => {
            change(Box::new(|set| set.put(&revocation)));
            Some(revocation)
        }
        Err(error) => {
            // Whoever wrote it meant something by it, and it is not in force.
            warn!(key, %error, "skipping an invalid revocation entry");
            None
        }
    }
}
