//! What clients did and were told, and the judge who compares that with the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::model::Replica;
use super::session::Told;
use super::world::{StoredEvent, World};
use crate::event::{EventRecord, PartitionKey};

/// The greatest number that a note may have, by the stricter rules and by the others.
pub(crate) const NOTES_MAX: [u64; 2] = [50, 100];

/// A note's number, if an event is one.
fn note_of(event: &Value) -> Option<u64> {
    (event["type"] == "note").then(|| event["payload"]["v"].as_u64().unwrap_or(u64::MAX))
}

/// One draft's life, as its client saw it.
#[derive(Debug, Clone)]
pub(crate) struct Life {
    pub partition: PartitionKey,
    /// The event as the model takes it.
    pub event: Value,
    /// The connections it was sent over, and the how-manieth draft it was on each.
    pub sent: Vec<(String, u64)>,
    /// How much of the log there was when it was first sent, and when its end was told.
    pub log_at_first: usize,
    pub end: Option<(Told, usize)>,
}

/// All drafts by their ids.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<BTreeMap<String, Life>>>);

impl History {
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Life>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// What a run came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub accepted: usize,
    pub rejected: usize,
    /// Drafts that were told as rejected over one connection and committed by a copy of an earlier one.
    pub zombies: usize,
    /// Drafts rejected because an earlier copy had been.
    pub decided_before: usize,
    pub findings: Vec<String>,
}

impl Life {
    /// Whether only one connection ever sent it, and once: what every promise holds for to the letter.
    fn is_simple(&self) -> bool {
        self.sent.len() == 1
    }
}

/// Compares what everybody was told with the log.
pub(crate) fn judge(world: &World, history: &History, initial: &Value) -> Verdict {
    let mut verdict = Verdict::default();
    history.with(|lives| {
        world.look(|servers| {
            let places = places(&servers.log, lives, &mut verdict.findings);
            let states = refold(&servers.log, lives, initial, &mut verdict.findings);
            for (id, life) in lives.iter() {
                let at = places.get(id).copied();
                let found = match (&life.end, at) {
                    (None, _) => Some("was never answered".to_owned()),
                    (Some((Told::Accepted(_), _)), None) => {
                        Some("was told as accepted, and is not in the log".to_owned())
                    }
                    (Some((Told::Accepted(told), _)), Some(at)) if told.0 != at as u64 + 1 => {
                        Some(format!("was told as event {told}, and is event {}", at + 1))
                    }
                    (Some((Told::Accepted(_), _)), Some(_)) => {
                        verdict.accepted += 1;
                        None
                    }
                    (Some((Told::Rejected(_), _)), Some(_)) if !life.is_simple() => {
                        verdict.zombies += 1;
                        None
                    }
                    (Some((Told::Rejected(code), _)), Some(at)) => {
                        Some(format!("was told as rejected ({code}), and is event {}", at + 1))
                    }
                    (Some((Told::Rejected(code), until)), None) => {
                        verdict.rejected += 1;
                        verdict.decided_before += usize::from(code == "DECIDED_BEFORE");
                        let why = states[&life.partition].iter().any(|(from, upto, state)| {
                            *upto >= life.log_at_first
                                && *from <= *until
                                && match note_of(&life.event) {
                                    Some(v) => v > NOTES_MAX[0],
                                    None => state.allows(&life.event).is_err(),
                                }
                        });
                        (!why && code != "DECIDED_BEFORE")
                            .then(|| format!("was rejected ({code}), and nothing ever spoke against it"))
                    }
                    (Some((Told::Again, _)), _) => Some("was given up by its client".to_owned()),
                };
                verdict.findings.extend(found.map(|found| format!("{id} {found}")));
            }
            order(lives, &places, &mut verdict.findings);
        });
    });
    verdict
}

/// Where each draft is in the log; it must be there once, and have been sent by somebody.
fn places(
    log: &[StoredEvent],
    lives: &BTreeMap<String, Life>,
    findings: &mut Vec<String>,
) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for (at, stored) in log.iter().enumerate() {
        let record = EventRecord::parse(&stored.body).expect("the log holds records");
        let id = record.draft_id.to_string();
        if record.event_type == "init" || record.is_mark {
            continue;
        }
        if !lives.contains_key(&id) {
            findings.push(format!("event {} is of {id}, which nobody sent", at + 1));
        }
        if let Some(before) = places.insert(id.clone(), at) {
            findings.push(format!("{id} is in the log twice, as events {} and {}", before + 1, at + 1));
        }
    }
    places
}

/// A state, and from which length of the log to which it was the partition's.
type Era = (usize, usize, Replica);

/// Folds every partition with the model, which must allow each event at its place.
fn refold(
    log: &[StoredEvent],
    lives: &BTreeMap<String, Life>,
    initial: &Value,
    findings: &mut Vec<String>,
) -> BTreeMap<PartitionKey, Vec<Era>> {
    let mut eras: BTreeMap<PartitionKey, Vec<Era>> = BTreeMap::new();
    for life in lives.values() {
        let start = (0, usize::MAX, Replica::from(initial.clone()));
        eras.entry(life.partition.clone()).or_insert_with(|| vec![start]);
    }
    for (at, stored) in log.iter().enumerate() {
        let record = EventRecord::parse(&stored.body).expect("the log holds records");
        if record.event_type == "init" || record.is_mark {
            continue;
        }
        let Some(eras) = eras.get_mut(&record.partition) else { continue };
        let event = serde_json::json!({
            "type": record.event_type,
            "payload": serde_json::from_str::<Value>(record.payload.get()).expect("a payload is JSON"),
        });
        let Some((_, upto, state)) = eras.last_mut() else { continue };
        *upto = at;
        let mut next = state.clone();
        let done = match note_of(&event) {
            Some(v) if v > NOTES_MAX[1] => Err(format!("no rules allow a note of {v}")),
            Some(_) => Ok(()),
            None => next.allows(&event).and_then(|()| next.fold(&event)),
        };
        if let Err(why) = done {
            findings.push(format!(
                "event {} ({}) was not valid at its place: {why}",
                at + 1,
                record.draft_id
            ));
        }
        eras.push((at + 1, usize::MAX, next));
    }
    eras
}

/// Drafts of one connection stand in the log in the order sent.
fn order(lives: &BTreeMap<String, Life>, places: &BTreeMap<String, usize>, findings: &mut Vec<String>) {
    let mut connections: BTreeMap<&str, Vec<(u64, usize, &str)>> = BTreeMap::new();
    for (id, life) in lives.iter().filter(|(_, life)| life.is_simple()) {
        if let Some(at) = places.get(id) {
            let (connection, number) = &life.sent[0];
            connections.entry(connection).or_default().push((*number, *at, id));
        }
    }
    for (connection, mut drafts) in connections {
        drafts.sort_unstable();
        for pair in drafts.windows(2) {
            if pair[0].1 > pair[1].1 {
                findings.push(format!(
                    "{connection} sent {} before {}; the log has it behind",
                    pair[0].2, pair[1].2
                ));
            }
        }
    }
}
