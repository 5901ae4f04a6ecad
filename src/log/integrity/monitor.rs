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

use std::collections::HashMap;
use std::fmt;
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

/// The object that holds the mark. No partition's snapshot has such a name.
const MARK_OBJECT: &str = "log.mark";

/// What is wrong with the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A stream is not there.
    Gone {
        /// Its name.
        stream: &'static str,
    },
    /// A stream does not have the settings that everything rests on.
    Settings(Vec<String>),
    /// Somebody deleted single events. Their partitions notice by themselves.
    Deleted {
        /// How many more than when the log was last accepted.
        events: u64,
    },
    /// The first events are gone.
    Purged {
        /// The first id that there is, or would be.
        first: u64,
        /// The first that there should be.
        expected: u64,
    },
    /// The last events are gone: ids that were given out would be given out again.
    WentBack {
        /// The last id that there is.
        last: u64,
        /// The last that there was.
        seen: u64,
    },
    /// The stream is another one of the same name.
    MadeAnew {
        /// The last id that the one before had.
        seen: u64,
    },
}

impl Damage {
    /// The name by which metrics call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Gone { .. } => "gone",
            Self::Settings(_) => "settings",
            Self::Deleted { .. } => "deleted",
            Self::Purged { .. } => "purged",
            Self::WentBack { .. } => "went_back",
            Self::MadeAnew { .. } => "made_anew",
        }
    }

    /// Whether nothing that a process holds may be relied on any more, nor served.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Purged { .. } | Self::WentBack { .. } | Self::MadeAnew { .. })
    }

    /// Whether clients are better off elsewhere until it is put right.
    pub fn stops_work(&self) -> bool {
        !matches!(self, Self::Deleted { .. })
    }
}

/// All that [`Damage::kind`] says.
pub(crate) const DAMAGE_KINDS: [&str; 6] =
    ["gone", "settings", "deleted", "purged", "went_back", "made_anew"];

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = subjects::COMMITTED_STREAM;
        match self {
            Self::Gone { stream } => write!(
                f,
                "the stream {stream} is gone; restore it, or if it was never needed make it with `insieme-backend bootstrap`"
            ),
            Self::Settings(all) => write!(
                f,
                "the streams' settings were changed: {}; change them back with the `nats` command line, or the configuration to match",
                all.join("; ")
            ),
            Self::Deleted { events } => write!(
                f,
                "{events} events were deleted from the middle of {log}; partitions with a hole are stopped, \
                 `insieme-backend inspect` shows which"
            ),
            Self::Purged { first, expected } => write!(
                f,
                "{log} begins with event {first} and not {expected}: earlier events were purged. {RESTORE}"
            ),
            Self::WentBack { last, seen } => write!(
                f,
                "{log} ends with event {last}, and event {seen} was in it: it has lost events, or is an older copy. \
                 Going on would give out ids a second time. {RESTORE}"
            ),
            Self::MadeAnew { seen } => write!(
                f,
                "{log} is another stream than the one that had event {seen}: it was deleted and created again. {RESTORE}"
            ),
        }
    }
}

const RESTORE: &str = "Restore the log as it was; or if it is meant to be as it is, say so with \
                       `insieme-backend accept-log`";

/// How far the log has come, and what it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// When the stream was made, in Unix nanoseconds: two streams of one name differ in it.
    pub created_ns: i128,
    /// Its first id.
    pub first: u64,
    /// Its last id.
    pub last: u64,
    /// How many events between these are missing.
    pub deleted: u64,
}

impl Mark {
    fn of(info: &Info) -> Self {
        Self {
            created_ns: info.created.unix_timestamp_nanos(),
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            deleted: info.state.deleted_count.unwrap_or(0),
        }
    }

    fn to_metadata(self) -> HashMap<String, String> {
        [
            ("created-ns", self.created_ns.to_string()),
            ("first", self.first.to_string()),
            ("last", self.last.to_string()),
            ("deleted", self.deleted.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    fn from_metadata(metadata: &HashMap<String, String>) -> Option<Self> {
        let number = |key: &str| metadata.get(key)?.parse().ok();
        Some(Self {
            created_ns: metadata.get("created-ns")?.parse().ok()?,
            first: number("first")?,
            last: number("last")?,
            deleted: number("deleted")?,
        })
    }

    /// What has happened to the log since this was its mark.
    fn compare(&self, now: &Self) -> Vec<Damage> {
        if now.created_ns != self.created_ns {
            return vec![Damage::MadeAnew { seen: self.last }];
        }
        if now.last < self.last {
            return vec![Damage::WentBack { last: now.last, seen: self.last }];
        }
        let mut damages = Vec::new();
        // An empty stream says that its first id is 0; the first that it gets is 1.
        if now.first.max(1) > self.first.max(1) {
            damages.push(Damage::Purged { first: now.first, expected: self.first.max(1) });
        }
        if now.deleted > self.deleted {
            damages.push(Damage::Deleted { events: now.deleted - self.deleted });
        }
        damages
    }

    /// What a log looks like to which nothing has happened, as far as can be seen without having known it.
    fn untouched(self) -> Self {
        Self { first: 1, deleted: 0, ..self }
    }
}

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
pub enum Looker {
    /// One that may write the mark.
    Marks,
    /// One that only reads it.
    Reads,
}

impl Log {
    /// Takes note of an event that was seen: the log must not end before it any more.
    pub fn note_seen(&self, event: EventId) {
        self.newest.fetch_max(event.0, Ordering::AcqRel);
    }

    /// What is wrong with the log just now, as last looked at.
    pub fn damages(&self) -> Vec<Damage> {
        self.damages.borrow().clone()
    }

    /// Compares the log with its mark. Damage that is there for good is an error, other damage is reported.
    /// Called at the start, when the process holds nothing of the log yet.
    pub async fn inspect(&self) -> Result<Result<(), Damage>, LogError> {
        let mut seen = None;
        self.look_surely(&mut seen).await
    }

    /// Looks every so often, until the log is damaged for good; gives that.
    pub async fn watch_integrity(&self, every: Duration, looker: Looker) -> Damage {
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
                _ = mark_ticks.tick(), if looker == Looker::Marks => {
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
            match self.look_surely(&mut seen).await {
                Ok(Ok(())) => {}
                Ok(Err(damage)) => return damage,
                Err(error) => debug!(%error, "failed to check the log; retrying"),
            }
            if looker == Looker::Marks
                && let Some(seen) = seen
            {
                self.keep_mark_logged(seen, &mut marked).await;
            }
        }
    }

    /// Notes how far the log has come, if it has come further than `marked`. A mark that was not written is written
    /// next time.
    async fn keep_mark_logged(&self, seen: Mark, marked: &mut u64) {
        let last = seen.last.max(self.newest.load(Ordering::Acquire));
        if last <= *marked || !self.state().borrow().connected {
            return;
        }
        match self.keep_mark(Mark { last, ..seen }).await {
            Ok(()) => *marked = last,
            Err(error) => debug!(%error, "failed to write the log's mark"),
        }
    }

    /// The log's mark, and what is wrong with the log by it. For whoever is to accept the log as it is.
    pub async fn compare_with_mark(&self) -> Result<(Option<Mark>, Option<Mark>, Vec<Damage>), LogError> {
        let mark = self.mark().await?.map(|(mark, _)| mark);
        let Some(info) = self.stream_info(subjects::COMMITTED_STREAM).await? else {
            return Ok((mark, None, vec![Damage::Gone { stream: subjects::COMMITTED_STREAM }]));
        };
        let now = Mark::of(&info);
        let damages = mark.unwrap_or(now.untouched()).compare(&now);
        Ok((mark, Some(now), damages))
    }

    /// From now on the log is as it should be. Snapshots of a log that is no more are deleted; tells how many
    /// objects.
    pub async fn accept(&self, before: Option<Mark>, now: Mark) -> Result<u64, LogError> {
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
                self.write_mark(Mark { created_ns: now.created_ns, last: now.last, ..mark }, None).await
            }
            // Without a mark the first validator makes one.
            _ => Ok(()),
        }
    }

    /// Looks until what is found is sure.
    async fn look_surely(&self, seen: &mut Option<Mark>) -> Result<Result<(), Damage>, LogError> {
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

    async fn look(&self, seen: &mut Option<Mark>) -> Result<Vec<Damage>, LogError> {
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
                    damages.push(Damage::Gone { stream });
                }
                continue;
            };
            different.extend(needed_differences(expected, &info.config));
            if stream != subjects::COMMITTED_STREAM {
                continue;
            }
            let now = Mark::of(&info);
            let mark = self.mark().await?.map_or(now.untouched(), |(mark, _)| mark);
            let mut found: Vec<Damage> =
                [Some(mark), *seen].into_iter().flatten().flat_map(|mark| mark.compare(&now)).collect();
            // By what was seen and by the mark it may be the same.
            found.dedup_by_key(|damage| damage.kind());
            if !found.iter().any(Damage::is_final) {
                // What was deleted is told by the mark alone, which says what of that is meant.
                *seen = Some(Mark { first: u64::MAX, deleted: u64::MAX, ..now });
            }
            damages.extend(found);
        }
        if !different.is_empty() {
            damages.push(Damage::Settings(different));
        }
        Ok(damages)
    }

    /// Says what has changed.
    fn note_damages(&self, damages: Vec<Damage>) {
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

    async fn stream_info(&self, name: &str) -> Result<Option<Info>, LogError> {
        let info = stream_info(self, name).await;
        info.map_err(|error| LogError::unavailable("looking at a stream", format!("{name}: {error}")))
    }

    /// The mark, and its place in the stream of snapshots.
    async fn mark(&self) -> Result<Option<(Mark, u64)>, LogError> {
        const WHAT: &str = "reading the log's mark";
        match self.object_metadata(WHAT, MARK_OBJECT).await? {
            None => Ok(None),
            Some((metadata, place)) => Mark::from_metadata(&metadata)
                .map(|mark| Some((mark, place)))
                .ok_or_else(|| LogError::malformed(WHAT, format!("{metadata:?}"))),
        }
    }

    /// Notes how far the log has come, if nobody has yet. A mark of another log is left as it is: only an operator
    /// says which one is meant.
    async fn keep_mark(&self, seen: Mark) -> Result<(), LogError> {
        match self.mark().await? {
            Some((mark, _)) if mark.last >= seen.last || mark.created_ns != seen.created_ns => Ok(()),
            Some((mark, place)) => self.write_mark(Mark { last: seen.last, ..mark }, Some(place)).await,
            // The first one, of a log to which nothing has happened that could be seen.
            None => self.write_mark(seen.untouched(), None).await,
        }
    }

    /// Writes the mark; with a place, only if the mark that is there is the one that was read at that place.
    async fn write_mark(&self, mark: Mark, read_at: Option<u64>) -> Result<(), LogError> {
        const WHAT: &str = "writing the log's mark";
        self.write_metadata(WHAT, MARK_OBJECT, mark.to_metadata(), read_at).await.map(drop)
    }
}

/// Where a stream has not the settings that the pipeline rests on. How many replicas there are is the operator's
/// to change while all is running.
fn needed_differences(expected: Config, found: &Config) -> Vec<String> {
    differences_of(&Config { num_replicas: found.num_replicas, ..expected }, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { created_ns: 7, first: 1, last: 100, deleted: 2 };

    #[test]
    fn a_log_that_only_grew_is_as_it_should_be() {
        assert_eq!(MARK.compare(&MARK), []);
        assert_eq!(MARK.compare(&Mark { last: 101, ..MARK }), []);
        let empty = Mark { first: 0, last: 0, deleted: 0, ..MARK };
        assert_eq!(empty.compare(&empty), []);
        assert_eq!(empty.compare(&Mark { first: 1, last: 5, ..empty }), []);
        assert_eq!(empty.untouched().compare(&empty), []);
    }

    #[test]
    fn every_damage_is_told_from_the_others() {
        let went_back = Damage::WentBack { last: 99, seen: 100 };
        assert_eq!(MARK.compare(&Mark { last: 99, ..MARK }), [went_back]);
        let purged = Damage::Purged { first: 50, expected: 1 };
        assert_eq!(MARK.compare(&Mark { first: 50, ..MARK }), [purged]);
        // Purged whole: the first id is the one behind the last.
        let all = Mark { first: 101, deleted: 0, ..MARK };
        assert_eq!(MARK.compare(&all), [Damage::Purged { first: 101, expected: 1 }]);
        assert_eq!(MARK.compare(&Mark { deleted: 5, ..MARK }), [Damage::Deleted { events: 3 }]);
        let anew = Mark { created_ns: 8, last: 500, ..MARK };
        assert_eq!(MARK.compare(&anew), [Damage::MadeAnew { seen: 100 }]);
        assert!(MARK.compare(&anew)[0].is_final());
        // Who comes to a log that was never seen before, and sees that its beginning is missing.
        let first = Mark { first: 50, deleted: 0, ..MARK };
        assert_eq!(first.untouched().compare(&first)[0].kind(), "purged");
    }

    #[test]
    fn a_mark_is_what_was_written() {
        assert_eq!(Mark::from_metadata(&MARK.to_metadata()), Some(MARK));
        assert_eq!(Mark::from_metadata(&HashMap::new()), None);
    }
}
