//! The high-water mark: how far the log had come, kept beside the snapshots.

use crate::log::integrity::damage::LogDamage;
use async_nats::jetstream::stream::Info;
use std::collections::HashMap;

/// The object that holds the mark. No partition's snapshot has such a name.
pub(crate) const MARK_OBJECT: &str = "log.mark";

/// How far the log has come, and what it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HighWaterMark {
    /// When the stream was made, in Unix nanoseconds: two streams of one name differ in it.
    pub created_ns: i128,
    /// Its first id.
    pub first: u64,
    /// Its last id.
    pub last: u64,
    /// How many events between these are missing.
    pub deleted: u64,
}

impl HighWaterMark {
    pub(crate) fn of(info: &Info) -> Self {
        Self {
            created_ns: info.created.unix_timestamp_nanos(),
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            deleted: info.state.deleted_count.unwrap_or(0),
        }
    }

    pub(crate) fn to_metadata(self) -> HashMap<String, String> {
        [
            ("created-ns", self.created_ns.to_string()),
            ("first", self.first.to_string()),
            ("last", self.last.to_string()),
            ("deleted", self.deleted.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    pub(crate) fn from_metadata(metadata: &HashMap<String, String>) -> Option<Self> {
        let number = |key: &str| metadata.get(key)?.parse().ok();
        Some(Self {
            created_ns: metadata.get("created-ns")?.parse().ok()?,
            first: number("first")?,
            last: number("last")?,
            deleted: number("deleted")?,
        })
    }

    /// What has happened to the log since this was its mark.
    pub(crate) fn compare(&self, now: &Self) -> Vec<LogDamage> {
        if now.created_ns != self.created_ns {
            return vec![LogDamage::Recreated { seen: self.last }];
        }
        if now.last < self.last {
            return vec![LogDamage::Truncated { last: now.last, seen: self.last }];
        }
        let mut damages = Vec::new();
        // An empty stream says that its first id is 0; the first that it gets is 1.
        if now.first.max(1) > self.first.max(1) {
            damages.push(LogDamage::Purged { first: now.first, expected: self.first.max(1) });
        }
        if now.deleted > self.deleted {
            damages.push(LogDamage::Deleted { events: now.deleted - self.deleted });
        }
        damages
    }

    /// What a log looks like to which nothing has happened, as far as can be seen without having known it.
    pub(crate) fn pristine(self) -> Self {
        Self { first: 1, deleted: 0, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: HighWaterMark = HighWaterMark { created_ns: 7, first: 1, last: 100, deleted: 2 };

    #[test]
    fn a_log_that_only_grew_is_as_it_should_be() {
        assert_eq!(MARK.compare(&MARK), []);
        assert_eq!(MARK.compare(&HighWaterMark { last: 101, ..MARK }), []);
        let empty = HighWaterMark { first: 0, last: 0, deleted: 0, ..MARK };
        assert_eq!(empty.compare(&empty), []);
        assert_eq!(empty.compare(&HighWaterMark { first: 1, last: 5, ..empty }), []);
        assert_eq!(empty.pristine().compare(&empty), []);
    }

    #[test]
    fn every_damage_is_told_from_the_others() {
        let went_back = LogDamage::Truncated { last: 99, seen: 100 };
        assert_eq!(MARK.compare(&HighWaterMark { last: 99, ..MARK }), [went_back]);
        let purged = LogDamage::Purged { first: 50, expected: 1 };
        assert_eq!(MARK.compare(&HighWaterMark { first: 50, ..MARK }), [purged]);
        // Purged whole: the first id is the one behind the last.
        let all = HighWaterMark { first: 101, deleted: 0, ..MARK };
        assert_eq!(MARK.compare(&all), [LogDamage::Purged { first: 101, expected: 1 }]);
        assert_eq!(MARK.compare(&HighWaterMark { deleted: 5, ..MARK }), [LogDamage::Deleted { events: 3 }]);
        let anew = HighWaterMark { created_ns: 8, last: 500, ..MARK };
        assert_eq!(MARK.compare(&anew), [LogDamage::Recreated { seen: 100 }]);
        assert!(MARK.compare(&anew)[0].is_final());
        // Who comes to a log that was never seen before, and sees that its beginning is missing.
        let first = HighWaterMark { first: 50, deleted: 0, ..MARK };
        assert_eq!(first.pristine().compare(&first)[0].kind(), "purged");
    }

    #[test]
    fn a_mark_is_what_was_written() {
        assert_eq!(HighWaterMark::from_metadata(&MARK.to_metadata()), Some(MARK));
        assert_eq!(HighWaterMark::from_metadata(&HashMap::new()), None);
    }
}
