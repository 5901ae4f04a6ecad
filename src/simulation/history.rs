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

/// A note's number, if an event is one, in either dialect's form.
fn note_of(event: &Value) -> Option<u64> {
    let payload = &event["payload"];
    let data = match event["type"].as_str() {
        Some("note") => payload,
        Some("event") if payload["schema"] == "note" => &payload["data"],
        _ => return None,
    };
    Some(data["v"].as_u64().unwrap_or(u64::MAX))
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

/// The events that one connection was shown.
#[derive(Debug, Clone)]
pub(crate) struct Stream {
    pub connection: String,
    pub client: String,
    pub partition: PartitionKey,
    /// After which event it begins, once the connection is let in.
    pub from: Option<u64>,
    /// Whether the client is shown its own events.
    pub shows_own: bool,
    pub ids: Vec<u64>,
}

/// All drafts by their ids, and all that was shown.
#[derive(Clone, Default)]
pub(crate) struct History {
    lives: Arc<Mutex<BTreeMap<String, Life>>>,
    streams: Arc<Mutex<Vec<Stream>>>,
    /// What was seen on the way that must not be.
    seen: Arc<Mutex<Vec<String>>>,
}

impl History {
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Life>) -> T) -> T {
        f(&mut lock(&self.lives))
    }

    /// Takes note of something that must not be.
    pub(crate) fn find(&self, what: String) {
        lock(&self.seen).push(what);
    }

    /// Begins a stream; gives its number.
    pub(crate) fn open_stream(&self, stream: Stream) -> usize {
        let mut streams = lock(&self.streams);
        streams.push(stream);
        streams.len() - 1
    }

    pub(crate) fn stream<T>(&self, number: usize, f: impl FnOnce(&mut Stream) -> T) -> T {
        f(&mut lock(&self.streams)[number])
    }

    /// The last event that a client was shown, of those that are shown its own, too.
    pub(crate) fn seen_by(&self, client: &str) -> u64 {
        let streams = lock(&self.streams);
        let own = streams.iter().filter(|stream| stream.client == client);
        own.filter_map(|stream| stream.ids.last().copied().or(stream.from)).max().unwrap_or(0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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
    /// Events that clients were shown.
    pub shown: usize,
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
    let mut verdict = Verdict { findings: lock(&history.seen).clone(), ..Verdict::default() };
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
            for stream in lock(&history.streams).iter() {
                verdict.shown += stream.ids.len();
                verdict.findings.extend(gap_in(stream, &servers.log));
            }
        });
    });
    verdict
}

/// The last event of a partition that clients are shown.
pub(crate) fn last_shown(log: &[StoredEvent], partition: &PartitionKey) -> u64 {
    let token = partition.token();
    let is_shown = |stored: &StoredEvent| stored.token == token && !record_of(stored).is_mark;
    log.iter().rposition(is_shown).map_or(0, |at| at as u64 + 1)
}

fn record_of(stored: &StoredEvent) -> EventRecord<'_> {
    EventRecord::parse(&stored.body).expect("the log holds records")
}

/// What is wrong with a stream: it has every event after its beginning once and in order, as far as it goes.
fn gap_in(stream: &Stream, log: &[StoredEvent]) -> Option<String> {
    let token = stream.partition.token();
    let Some(from) = stream.from else {
        let first = stream.ids.first()?;
        return Some(format!("{} was shown event {first} before it was let in", stream.connection));
    };
    let is_own = |id: u64| {
        let stored = log.get((id as usize).checked_sub(1)?)?;
        Some(record_of(stored).client_id.as_str() == stream.client)
    };
    // Of a client's own events the answer tells, wherever that came from.
    let counts = |id: &u64| stream.shows_own || is_own(*id) != Some(true);
    let of_partition = log.iter().enumerate().skip(from as usize).filter(|(_, stored)| stored.token == token);
    let due = of_partition.filter(|(_, stored)| !record_of(stored).is_mark).map(|(at, _)| at as u64 + 1);
    let shown: Vec<u64> = stream.ids.iter().copied().filter(counts).collect();
    let due: Vec<u64> = due.filter(counts).take(shown.len()).collect();
    let at = (0..shown.len()).find(|at| due.get(*at) != Some(&shown[*at]))?;
    Some(format!(
        "{} ({}) was shown event {}, where {:?} was due",
        stream.connection,
        stream.client,
        shown[at],
        due.get(at)
    ))
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
