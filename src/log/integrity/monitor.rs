//! Whether the log is still the one that it was: not purged, not made anew, not restored from an older backup,
//! with the settings that it needs.
//!
//! Ids of events are given out once. If the log goes back, its next events get ids that others had before them, and
//! whoever holds those others would never know: every process holds events, states and positions of the log that it
//! has seen. So each looks at the stream every so often and compares with what it saw before, and with the *mark*:
//! how far the log had come, kept by validators beside the snapshots, so that a process which has just started knows
//! it too. What is wrong for good ends the process; what can be put right makes it not ready until it is.
//!
//! Nothing here changes a stream. An operator who means it says so with `insieme-backend accept-log`, which writes
//! the mark anew.

use crate::log::integrity::damage::{DAMAGE_KINDS, LogDamage};
use crate::log::integrity::mark::{HighWaterMark, MARK_OBJECT};
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, Info};
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info};

use crate::event::EventId;
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::streams::bootstrap::{differences_of, stream_info};
use crate::log::{metrics, subjects};

/// How often, and for how long, damage to the log is looked at again before it counts, where the stream has
/// replicas: one that has just become the leader may not have applied all of its log yet, and one that is cut off
/// may believe that it leads.
const LOOKS_WITH_REPLICAS: u32 = 60;
const LOOKS: u32 = 2;
const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// How often the mark follows the commits. If the log loses its last events while no process is running, what was
/// committed in this time before cannot be told from what never was.
const MARK_EVERY: Duration = Duration::from_millis(500);

/// Who looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkAccess {
    /// One that may write the mark.
    Marks,
    /// One that only reads it.
    Reads,
}

impl Log {
    /// Takes note of an event that was seen: the log must not end before it any more.
    pub fn observe(&self, event: EventId) {
        self.newest.fetch_max(event.0, Ordering::AcqRel);
    }

    /// What is wrong with the log just now, as last looked at.
    pub fn damages(&self) -> Vec<LogDamage> {
        self.damages.borrow().clone()
    }

    /// Compares the log with its mark. Damage that is there for good is an error, other damage is reported.
    /// Called at the start, when the process holds nothing of the log yet.
    pub async fn inspect(&self) -> Result<Result<(), LogDamage>, LogError> {
        let mut seen = None;
        self.check_confirmed(&mut seen).await
    }

    /// Looks every so often, until the log is damaged for good; gives that.
    pub async fn watch_integrity(&self, every: Duration, looker: MarkAccess) -> LogDamage {
        let mut ticks = tokio::time::interval(every.max(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut mark_ticks = tokio::time::interval(MARK_EVERY);
        mark_ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut state = self.state();
        let mut seen = None;
        let mut marked = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = mark_ticks.tick(), if looker == MarkAccess::Marks => {
                    if let Some(seen) = seen {
                        self.keep_mark_logged(seen, &mut marked).await;
                    }
                    continue;
                }
                // Whatever is behind the new connection may be another server, on another store.
                Ok(()) = state.changed() => {}
            }
            if !state.borrow_and_update().connected {
                continue;
            }
            if let Err(error) = self.read_clock().await {
                debug!(%error, "failed to ask NATS for the time");
            }
            match self.check_confirmed(&mut seen).await {
                Ok(Ok(())) => {}
                Ok(Err(damage)) => return damage,
                Err(error) => debug!(%error, "failed to check the log; retrying"),
            }
            if looker == MarkAccess::Marks
                && let Some(seen) = seen
            {
                self.keep_mark_logged(seen, &mut marked).await;
            }
        }
    }

    /// Notes how far the log has come, if it has come further than `marked`. A mark that was not written is written
    /// next time.
    async fn keep_mark_logged(&self, seen: HighWaterMark, marked: &mut u64) {
        let last = seen.last.max(self.newest.load(Ordering::Acquire));
        if last <= *marked || !self.state().borrow().connected {
            return;
        }
        match self.keep_mark(HighWaterMark { last, ..seen }).await {
            Ok(()) => *marked = last,
            Err(error) => debug!(%error, "failed to write the log's mark"),
        }
    }

    /// The log's mark, and what is wrong with the log by it. For whoever is to accept the log as it is.
    pub async fn compare_with_mark(
        &self,
    ) -> Result<(Option<HighWaterMark>, Option<HighWaterMark>, Vec<LogDamage>), LogError> {
        let mark = self.mark().await?.map(|(mark, _)| mark);
        let Some(info) = self.stream_info(subjects::COMMITTED_STREAM).await? else {
            return Ok((mark, None, vec![LogDamage::Gone { stream: subjects::COMMITTED_STREAM }]));
        };
        let now = HighWaterMark::of(&info);
        let damages = mark.unwrap_or(now.pristine()).compare(&now);
        Ok((mark, Some(now), damages))
    }

    /// From now on the log is as it should be. Snapshots of a log that is no more are deleted; tells how many
    /// objects.
    pub async fn accept(&self, before: Option<HighWaterMark>, now: HighWaterMark) -> Result<u64, LogError> {
        let is_another = before.is_some_and(|before| before.created_ns != now.created_ns);
        let deleted = self.delete_snapshots_behind(if is_another { 0 } else { now.last }).await?;
        self.write_mark(now, None).await?;
        Ok(deleted)
    }

    /// The log was restored with its mark: it is the same log in another stream. What the mark says of missing events
    /// stays.
    pub(crate) async fn mark_restored(&self) -> Result<(), LogError> {
        match self.compare_with_mark().await? {
            (Some(mark), Some(now), _) => {
                self.write_mark(HighWaterMark { created_ns: now.created_ns, last: now.last, ..mark }, None)
                    .await
            }
            // Without a mark the first validator makes one.
            _ => Ok(()),
        }
    }

    /// Looks until what is found is sure.
    async fn check_confirmed(
        &self,
        seen: &mut Option<HighWaterMark>,
    ) -> Result<Result<(), LogDamage>, LogError> {
        let looks = if self.settings.replicas > 1 { LOOKS_WITH_REPLICAS } else { LOOKS };
        for look in 1.. {
            let damages = self.look(seen).await?;
            let Some(damage) = damages.iter().find(|damage| damage.is_final()).cloned() else {
                self.note_damages(damages);
                return Ok(Ok(()));
            };
            if look >= looks {
                self.note_damages(damages);
                return Ok(Err(damage));
            }
            debug!(%damage, look, "the log looks damaged; looking again");
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Ok(Ok(()))
    }

    async fn look(&self, seen: &mut Option<HighWaterMark>) -> Result<Vec<LogDamage>, LogError> {
        // Before the log is asked: what is seen meanwhile may be newer than the answer.
        let newest = self.newest.load(Ordering::Acquire);
        if let Some(seen) = seen {
            seen.last = seen.last.max(newest);
        }
        let mut damages = Vec::new();
        let mut different = Vec::new();
        for (expected, stream) in [
            (self.settings.drafts_stream(), subjects::DRAFTS_STREAM),
            (self.settings.committed_stream(), subjects::COMMITTED_STREAM),
        ] {
            let Some(info) = self.stream_info(stream).await? else {
                // The queue may be in memory: it is made anew after NATS was restarted.
                if stream != subjects::DRAFTS_STREAM {
                    damages.push(LogDamage::Gone { stream });
                }
                continue;
            };
            different.extend(needed_differences(expected, &info.config));
            if stream != subjects::COMMITTED_STREAM {
                continue;
            }
            let now = HighWaterMark::of(&info);
            let mark = self.mark().await?.map_or(now.pristine(), |(mark, _)| mark);
            let mut found: Vec<LogDamage> =
                [Some(mark), *seen].into_iter().flatten().flat_map(|mark| mark.compare(&now)).collect();
            // By what was seen and by the mark it may be the same.
            found.dedup_by_key(|damage| damage.kind());
            if !found.iter().any(LogDamage::is_final) {
                // What was deleted is told by the mark alone, which says what of that is meant.
                *seen = Some(HighWaterMark { first: u64::MAX, deleted: u64::MAX, ..now });
            }
            damages.extend(found);
        }
        if !different.is_empty() {
            damages.push(LogDamage::Settings(different));
        }
        Ok(damages)
    }

    /// Says what has changed.
    fn note_damages(&self, damages: Vec<LogDamage>) {
        for kind in DAMAGE_KINDS {
            metrics::damaged(kind, damages.iter().any(|damage| damage.kind() == kind));
        }
        self.damages.send_if_modified(|known| {
            if *known == damages {
                return false;
            }
            for damage in damages.iter().filter(|damage| !known.contains(damage)) {
                error!(kind = damage.kind(), "{damage}");
            }
            if damages.is_empty() {
                info!("the log is as it should be again");
            }
            *known = damages;
            true
        });
    }

    pub(crate) async fn stream_info(&self, name: &str) -> Result<Option<Info>, LogError> {
        let info = stream_info(self, name).await;
        info.map_err(|error| LogError::unavailable("looking at a stream", format!("{name}: {error}")))
    }

    /// The mark, and its place in the stream of snapshots.
    async fn mark(&self) -> Result<Option<(HighWaterMark, u64)>, LogError> {
        const WHAT: &str = "reading the log's mark";
        match self.object_metadata(WHAT, MARK_OBJECT).await? {
            None => Ok(None),
            Some((metadata, place)) => HighWaterMark::from_metadata(&metadata)
                .map(|mark| Some((mark, place)))
                .ok_or_else(|| LogError::malformed(WHAT, format!("{metadata:?}"))),
        }
    }

    /// Notes how far the log has come, if nobody has yet. A mark of another log is left as it is: only an operator
    /// says which one is meant.
    async fn keep_mark(&self, seen: HighWaterMark) -> Result<(), LogError> {
        match self.mark().await? {
            Some((mark, _)) if mark.last >= seen.last || mark.created_ns != seen.created_ns => Ok(()),
            Some((mark, place)) => {
                self.write_mark(HighWaterMark { last: seen.last, ..mark }, Some(place)).await
            }
            // The first one, of a log to which nothing has happened that could be seen.
            None => self.write_mark(seen.pristine(), None).await,
        }
    }

    /// Writes the mark; with a place, only if the mark that is there is the one that was read at that place.
    async fn write_mark(&self, mark: HighWaterMark, read_at: Option<u64>) -> Result<(), LogError> {
        const WHAT: &str = "writing the log's mark";
        self.write_metadata(WHAT, MARK_OBJECT, mark.to_metadata(), read_at).await.map(drop)
    }
}

/// Where a stream has not the settings that the pipeline rests on. How many replicas there are is the operator's
/// to change while all is running.
fn needed_differences(expected: Config, found: &Config) -> Vec<String> {
    differences_of(&Config { num_replicas: found.num_replicas, ..expected }, found)
}
