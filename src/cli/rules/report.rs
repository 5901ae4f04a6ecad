//! What `rules check` found: for people line by line, for programs as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::app::{Fault, Verdict};
use crate::event::{EventId, FieldError};

/// The most events of a partition that are told one by one, and the most places where states differ.
const EVENTS_TOLD_MAX: usize = 20;
const PLACES_TOLD_MAX: usize = 10;

/// What was found in one partition.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Partition {
    pub partition: String,
    pub events: u64,
    /// How many would be refused now.
    pub refused: u64,
    /// Of these, how many are of types that the rules do not know.
    pub unknown: u64,
    /// How many the rules failed on.
    pub failed: u64,
    /// How many are not in the state, but for those of unknown types.
    pub not_folded: u64,
    /// How many were not checked, because their rules ask for what the token said.
    pub undecided: u64,
    /// By code.
    pub codes: BTreeMap<String, u64>,
    /// The first of those that would be refused, and of those that the rules failed on.
    pub told: Vec<Told>,
    pub state_bytes: usize,
    pub state_sha256: String,
    /// Where the state differs from the one under the other rules.
    pub differs: Vec<String>,
    /// Where the state differs from one that was written and read again on the way.
    pub remembers: Vec<String>,
    /// Why a state of the other version cannot be migrated.
    pub migration: Option<String>,
    /// Why nothing more is known.
    pub broken: Option<String>,
}

/// An event that would be refused.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told {
    event_id: u64,
    #[serde(rename = "type")]
    event_type: String,
    errors: Vec<FieldError>,
    fault: Option<Fault>,
}

impl Partition {
    pub(super) fn take(&mut self, id: EventId, event_type: &str, verdict: Verdict) {
        self.events += 1;
        let Verdict { errors, fault, is_folded, is_undecided, .. } = verdict;
        self.undecided += u64::from(is_undecided);
        for error in &errors {
            *self.codes.entry(error.code.clone()).or_default() += 1;
        }
        let is_unknown = errors.iter().any(|error| error.code == "UNKNOWN_EVENT_TYPE");
        self.refused += u64::from(!errors.is_empty());
        self.unknown += u64::from(is_unknown);
        self.failed += u64::from(errors.iter().any(|error| error.code == "RULE_FAILED"));
        self.not_folded += u64::from(!is_folded && !is_unknown);
        if !errors.is_empty() && self.told.len() < EVENTS_TOLD_MAX {
            self.told.push(Told { event_id: id.0, event_type: event_type.to_owned(), errors, fault });
        }
    }

    /// Whether the rules are not fit for this partition.
    pub(super) fn is_bad(&self) -> bool {
        self.not_folded > 0
            || self.failed > 0
            || !self.remembers.is_empty()
            || self.migration.is_some()
            || self.broken.is_some()
    }

    pub(super) fn lines(&self, others: &str) -> Vec<String> {
        let Self {
            partition, events, refused, unknown, failed, not_folded, state_bytes, state_sha256, ..
        } = self;
        let mut lines = vec![format!(
            "partition {partition:?}: {events} events, {refused} would be refused now ({unknown} of unknown types), the rules \
             failed on {failed}, {not_folded} are not in the state; {state_bytes} bytes, sha256 {state_sha256}"
        )];
        if self.undecided > 0 {
            lines.push(format!(
                "  {} were not checked: their rules ask for roles, permissions or claims, which the log does not keep",
                self.undecided
            ));
        }
        for Told { event_id, event_type, errors, fault } in &self.told {
            for FieldError { field, message, code } in errors {
                lines.push(format!("  event {event_id} ({event_type}): {code} {field}: {message}"));
            }
            lines.extend(fault.iter().map(|fault| format!("    {fault}")));
        }
        if self.refused > self.told.len() as u64 {
            let codes: Vec<String> =
                self.codes.iter().map(|(code, count)| format!("{code} {count}")).collect();
            lines.push(format!("  and more; all by code: {}", codes.join(", ")));
        }
        let places = |what: &str, places: &[String]| {
            places.iter().map(|place| format!("  {what}: {place}")).collect::<Vec<_>>()
        };
        lines.extend(places(&format!("differs from {others}"), &self.differs));
        lines.extend(places("a rule remembers something outside of the state", &self.remembers));
        lines.extend(
            self.migration
                .iter()
                .map(|why| format!("  the state of the other version cannot be migrated: {why}")),
        );
        lines.extend(self.broken.iter().map(|why| format!("  given up: {why}")));
        lines
    }
}

/// Where two states differ, as paths with what stands there.
pub(super) fn differences(ours: &[u8], theirs: &[u8]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    if ours != theirs {
        compare(&serde_json::from_slice(ours)?, &serde_json::from_slice(theirs)?, "state", &mut found);
    }
    Ok(found)
}

fn compare(ours: &Value, theirs: &Value, at: &str, found: &mut Vec<String>) {
    if found.len() >= PLACES_TOLD_MAX || ours == theirs {
        return;
    }
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in ours {
                compare(value, theirs.get(key).unwrap_or(&Value::Null), &format!("{at}.{key}"), found);
            }
            for (key, value) in theirs.iter().filter(|(key, _)| !ours.contains_key(*key)) {
                compare(&Value::Null, value, &format!("{at}.{key}"), found);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                compare(ours, theirs, &format!("{at}[{index}]"), found);
            }
        }
        _ => found.push(format!("{at} is {}, there {}", shown(ours), shown(theirs))),
    }
}

fn shown(value: &Value) -> String {
    const CHARS_MAX: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_named_by_their_paths() {
        let found =
            differences(b"{\"a\":{\"b\":1},\"c\":[1,2],\"d\":0}", b"{\"a\":{\"b\":2},\"c\":[1,3],\"e\":0}")
                .unwrap();
        assert_eq!(
            found,
            [
                "state.a.b is 1, there 2",
                "state.c[1] is 2, there 3",
                "state.d is 0, there null",
                "state.e is null, there 0"
            ]
        );
        assert!(differences(b"{}", b"{}").unwrap().is_empty());
    }
}
