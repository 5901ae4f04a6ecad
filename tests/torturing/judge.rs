//! The judge: reads the log and what the clients were told, and says what cannot be. Knows nothing of how the
//! product works.
//!
//! One leniency. A client whose connection broke submits the same draft again on another one, where it may be
//! rejected, while the first copy is still on its way: held by a frontend that was stopped or cut off, it may be
//! decided later, on another state, and be committed. Nobody on the second connection can know of it; the
//! client learns it from the log, like everybody. Every event of the log says for which connection's copy it was
//! committed (the fault point `tell_origin`), so a late copy is excused only where that is an earlier connection
//! than the one that told of the rejection, and where the earlier one was told nothing. On one connection a
//! rejection is final, and so is `unavailable`: that copy is not stored, at any time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::history::{Accounts, Dialect, Entry, History, Manner, same_content};
use super::log::{PartitionLog, is_mark};
use super::origins::{self, Origin};
use super::rules::Referee;
use crate::harness::v1::{as_classic, as_v1};

/// What must hold, in the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Every event answered as accepted is in the log exactly once, with the id that was answered.
    Accepted,
    /// Nothing answered as rejected is in the log, nothing that no client submitted; and every rejection was
    /// right at some place of the log that it can have been decided at.
    Rejected,
    /// Every commit was valid against the state at its place.
    Valid,
    /// Every connection's stream is without gaps and repeats and in order; everyone has the state.
    Stream,
    /// Drafts of one client were decided in the order sent.
    Order,
    /// After healing all of it quiesces, and resources return.
    Quiet,
    /// In a rolling restart everybody is told before a connection ends, and is answered in time.
    Rolling,
}

/// Something that cannot be.
#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
    /// Whose, and which drafts.
    pub client: Option<usize>,
    pub drafts: Vec<usize>,
    pub ids: Vec<u64>,
}

impl Violation {
    pub fn new(rule: Rule, what: String) -> Self {
        Self { rule, what, client: None, drafts: Vec::new(), ids: Vec::new() }
    }

    fn of(mut self, client: usize, draft: usize) -> Self {
        self.client = Some(client);
        self.drafts.push(draft);
        self
    }

    fn at(mut self, id: u64) -> Self {
        self.ids.push(id);
        self
    }
}

/// What the judge says of a partition.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    pub events: u64,
    pub accepted: u64,
    pub rejected: u64,
    pub late_copies: u64,
    pub broadcasts: u64,
    pub pages: u64,
    /// Copies of drafts that were told as not stored.
    pub not_stored: u64,
}

/// What the judge looks at.
pub struct Case<'a> {
    /// From the partition's first event on.
    pub log: &'a PartitionLog,
    /// The last event of the rounds before, which are judged already; 0 for a partition of this round's own.
    pub before: u64,
    pub histories: &'a [History],
    pub accounts: &'a Accounts,
    /// The state as newcomers got it at the end: the event it stands at, and its hash.
    pub newcomers: &'a [(u64, String)],
    /// The partition's last event when the clients were told to catch up.
    pub head: u64,
}

/// A rejection that waits for a place in the log at which it is right.
struct Open {
    client: usize,
    draft: usize,
    /// Decided behind this event,
    known: u64,
    /// and no later than this, in Unix milliseconds.
    until: u64,
    code: String,
    /// The event that was known when its connection first sent it.
    first_known: u64,
    /// What its connection had sent behind it since then.
    behind: Vec<usize>,
}

/// After how long without the next `sync` a classic cycle of pages ends. The frontend counts from when it sent the page,
/// which is not before it was asked for.
const CYCLE_IDLE_MS: u64 = 1_000;

/// How far an event's time may be after the time at which NATS stored it; and before it, which is how long a validator
/// may sleep between a decision and its commit.
const AHEAD_MS_MAX: u64 = 3_000;
const BEHIND_MS_MAX: u64 = 90_000;

/// Judges one partition.
pub fn judge(case: &Case<'_>) -> Verdict {
    let mut court = Court {
        case,
        verdict: Verdict::default(),
        committed: HashMap::new(),
        origins: HashMap::new(),
        late: HashSet::new(),
    };
    court.verdict.events = case.log.range(case.before + 1..).count() as u64;
    court.log_holds_what_was_submitted();
    court.copies_keep_their_word();
    let open = court.answers_are_true();
    court.log_is_valid(open);
    court.accounts_agree();
    for client in 0..case.histories.len() {
        court.streams(client);
        court.order(client);
        court.ended(client);
    }
    court.verdict
}

struct Court<'a> {
    case: &'a Case<'a>,
    verdict: Verdict,
    /// Where each draft id is in the log.
    committed: HashMap<&'a str, u64>,
    /// For which connection's copy of its draft each event was committed.
    origins: HashMap<u64, Origin>,
    /// Drafts that are in the log by a late copy.
    late: HashSet<(usize, usize)>,
}

impl<'a> Court<'a> {
    fn find(&mut self, violation: Violation) {
        self.verdict.violations.push(violation);
    }

    /// Whether a log record says what a draft said.
    fn is_draft(&self, record: &Value, client: usize, draft: usize) -> bool {
        let history = &self.case.histories[client];
        let event = &history.drafts[draft].event;
        match history.dialect {
            Dialect::Classic => record["type"] == event["type"] && record["payload"] == event["payload"],
            Dialect::V1 => {
                let mut stored = as_v1(record);
                stored["serverTs"].take();
                same_content(&stored, event)
            }
        }
    }

    fn log_holds_what_was_submitted(&mut self) {
        let case = self.case;
        let mut made: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
        for (client, history) in case.histories.iter().enumerate() {
            for (place, draft) in history.drafts.iter().enumerate() {
                made.entry(&draft.id).or_default().push((client, place));
            }
        }
        for (id, record) in case.log.iter().filter(|(_, record)| !is_mark(record)) {
            let name = record["draftId"].as_str().unwrap_or_default();
            let drafts = made.get(name).map_or(&[][..], |drafts| drafts);
            let whose = drafts.first().copied();
            let fault = |what: String| {
                let violation = Violation::new(Rule::Accepted, what).at(*id);
                whose.map_or(violation.clone(), |(client, draft)| violation.of(client, draft))
            };
            if let Some(first) = self.committed.insert(name, *id) {
                self.find(
                    fault(format!("draft {name:?} is in the log twice, as event {first} and as {id}"))
                        .at(first),
                );
            }
            if *id <= case.before {
                continue;
            }
            match origins::of(record, case.histories) {
                Ok(origin) => drop(self.origins.insert(*id, origin)),
                Err(why) => self.find(fault(format!("event {id}, draft {name:?}, {why}"))),
            }
            let same = drafts.iter().find(|(client, draft)| self.is_draft(record, *client, *draft));
            match same {
                None => {
                    let mut violation =
                        fault(format!("event {id} is in the log, and nobody submitted it: {record}"));
                    violation.rule = Rule::Rejected;
                    self.find(violation);
                }
                Some((client, draft)) if case.histories[*client].drafts[*draft].altered => {
                    self.find(fault(format!(
                        "event {id} has the id of a draft that was committed with other content"
                    )));
                }
                Some((client, _)) if record["clientId"] != case.histories[*client].client_id.as_str() => {
                    self.find(fault(format!("event {id} is another client's: {record}")));
                }
                Some(_) => {}
            }
        }
    }

    /// What a connection was told of its copy of a draft holds for that copy: told as rejected, or as not stored,
    /// it is never committed, whatever other copies do.
    fn copies_keep_their_word(&mut self) {
        let mut found = Vec::new();
        for (id, origin) in &self.origins {
            let history = &self.case.histories[origin.client];
            let stored = self.case.log[id]["storedAt"].as_u64().unwrap_or(u64::MAX);
            if let Some((rule, why)) = origins::broken_word(history, origin, stored) {
                let what = format!(
                    "{}: draft {} is in the log as event {id}, committed for its connection {} ({}), {why}",
                    history.client, origin.draft, origin.connection, origin.copy
                );
                found.push(Violation::new(rule, what).of(origin.client, origin.draft).at(*id));
            }
        }
        self.verdict.violations.append(&mut found);
    }

    /// Checks every answer against the log; gives the rejections, to be looked at in the log's order.
    fn answers_are_true(&mut self) -> Vec<Open> {
        let case = self.case;
        let mut open = Vec::new();
        for (client, history) in case.histories.iter().enumerate() {
            let name = &history.client;
            let mut last_sent: HashMap<usize, u64> = HashMap::new();
            let mut answered: HashMap<usize, u64> = HashMap::new();
            // What the connection sent, each with what was known when it first did.
            let mut sent_here: (usize, Vec<(usize, u64)>) = (0, Vec::new());
            for (connection, at, entry) in history.entries() {
                match entry {
                    Entry::Submitted { drafts, known } => {
                        if sent_here.0 != connection {
                            sent_here = (connection, Vec::new());
                        }
                        for draft in drafts {
                            sent_here.1.push((*draft, *known));
                            last_sent.insert(*draft, *known);
                        }
                    }
                    Entry::Accepted { draft, id } => {
                        self.verdict.accepted += 1;
                        let fault = |what| Violation::new(Rule::Accepted, what).of(client, *draft).at(*id);
                        if let Some(first) = answered.insert(*draft, *id)
                            && first != *id
                        {
                            self.find(
                                fault(format!("{name}: draft {draft} was accepted as {first} and as {id}"))
                                    .at(first),
                            );
                        }
                        if history.drafts[*draft].altered {
                            self.find(fault(format!(
                                "{name}: a draft id was accepted with a second content, as {id}"
                            )));
                            continue;
                        }
                        match case.log.get(id) {
                            Some(record) if self.is_draft(record, client, *draft) => {}
                            Some(record) => self.find(fault(format!(
                                "{name}: draft {draft} was accepted as {id}, where the log has {record}"
                            ))),
                            None => self.find(fault(format!(
                                "{name}: draft {draft} was accepted as {id}, which is not in the log"
                            ))),
                        }
                    }
                    Entry::Rejected { draft, code, .. } => {
                        self.verdict.rejected += 1;
                        let known = last_sent.get(draft).copied().unwrap_or(0);
                        let code = code.clone();
                        // Behind the first copy: one that was answered as not known, and sent again, keeps its place.
                        let own = sent_here.1.iter().position(|(sent, _)| sent == draft);
                        let sent = own.map_or(&[][..], |own| &sent_here.1[own..]);
                        let first_known = sent.first().map_or(known, |(_, known)| *known);
                        let behind = sent.iter().skip(1).map(|(draft, _)| *draft).collect();
                        open.push(Open {
                            client,
                            draft: *draft,
                            known,
                            first_known,
                            until: at,
                            code,
                            behind,
                        });
                        self.not_in_the_log(client, *draft, connection);
                    }
                    Entry::NotProcessed { draft } => self.not_in_the_log(client, *draft, connection),
                    Entry::Unavailable { sure: true, .. } => self.verdict.not_stored += 1,
                    _ => {}
                }
            }
        }
        open.sort_by_key(|open| open.known);
        open
    }

    /// A draft was told as rejected on a connection. It may be in the log only for an earlier connection's copy.
    fn not_in_the_log(&mut self, client: usize, draft: usize, connection: usize) {
        let made = &self.case.histories[client].drafts[draft];
        let Some(id) = self.committed.get(&*made.id).filter(|_| !made.altered).copied() else { return };
        let origin = self.origins.get(&id);
        if origin.is_some_and(|origin| origin.client == client && origin.connection < connection) {
            if self.late.insert((client, draft)) {
                self.verdict.late_copies += 1;
            }
            return;
        }
        if origin.is_some_and(|origin| origin.connection == connection) {
            // Found already, as a copy that was told as rejected.
            return;
        }
        let what = format!(
            "{}: draft {draft} was answered as rejected on connection {connection} and is in the log as event {id}, committed for {origin:?}",
            self.case.histories[client].client
        );
        self.find(Violation::new(Rule::Rejected, what).of(client, draft).at(id));
    }

    /// Folds the log with the judge's own rules, and looks for the place at which each rejection was right.
    fn log_is_valid(&mut self, open: Vec<Open>) {
        let case = self.case;
        let mut drafts: HashMap<&str, (usize, usize)> = HashMap::new();
        for (client, history) in case.histories.iter().enumerate() {
            let own = history.drafts.iter().enumerate().filter(|(_, draft)| !draft.altered);
            drafts.extend(own.map(|(place, draft)| (&*draft.id, (client, place))));
        }
        let wanted = self.states_told();
        for id in wanted.keys().filter(|id| **id > 0 && !case.log.contains_key(id)) {
            self.find(Violation::new(
                Rule::Stream,
                format!("a state was given as of event {id}, which is not in the log"),
            ));
        }
        let mut referee = Referee::default();
        let (mut waiting, mut coming) = (Vec::new(), open.into_iter().peekable());
        let (mut head, mut ordinal, mut last_timestamp) = (0, 0, 0);
        let mut log = case.log.iter();
        loop {
            let next = log.next();
            let next_id = next.map_or(u64::MAX, |(id, _)| *id);
            while let Some(open) = coming.next_if(|open| open.known < next_id) {
                waiting.push(open);
            }
            // An event after this one may have been decided on up to the moment of the answer. By the time at which
            // NATS stored it: a validator's clock may be off.
            let next_timestamp =
                next.map_or(u64::MAX, |(_, record)| record["storedAt"].as_u64().unwrap_or(0));
            waiting.retain(|open: &Open| {
                let history = &case.histories[open.client];
                let draft = &history.drafts[open.draft];
                let duplicate = draft.altered && self.committed.get(&*draft.id).is_some_and(|id| *id <= head);
                // What was rejected in a crash's wake because something that its connection sent later is
                // committed since: not what the client made later, since it may send things anew in
                // another order; nor what was committed before it was sent here.
                let overtaken = open.code == "DECIDED_BEFORE"
                    && open.behind.iter().any(|later| {
                        let committed = self.committed.get(&*history.drafts[*later].id);
                        committed.is_some_and(|id| *id > open.first_known && *id <= head)
                    });
                if duplicate || overtaken || referee.may_refuse(&history.client_id, &draft.event, draft.base) {
                    return false;
                }
                if open.until < next_timestamp {
                    let what = format!("{}: draft {} was rejected ({}), and nothing stood against it between event {} and the answer", history.client, open.draft, open.code, open.known);
                    self.verdict.violations.push(Violation::new(Rule::Rejected, what).of(open.client, open.draft).at(head).at(open.known));
                    return false;
                }
                true
            });
            for (client, hash) in wanted.get(&head).into_iter().flatten() {
                if **hash != referee.replica().hash() {
                    let name = client.map_or("a newcomer", |client| &case.histories[client].client);
                    let what =
                        format!("{name} was given another state as of event {head} than the log folds to");
                    let mut violation = Violation::new(Rule::Stream, what).at(head);
                    violation.client = *client;
                    self.find(violation);
                }
            }
            let Some((id, record)) = next else { break };
            (head, ordinal) = (*id, ordinal + 1);
            let client = record["clientId"].as_str().unwrap_or_default();
            let draft = drafts.get(record["draftId"].as_str().unwrap_or_default()).copied();
            let fault = |what: String| {
                let violation = Violation::new(Rule::Valid, what).at(*id);
                draft.map_or(violation.clone(), |(client, draft)| violation.of(client, draft))
            };
            let base = draft.and_then(|(client, draft)| case.histories[client].drafts[draft].base);
            let is_new = *id > case.before && !is_mark(record);
            if is_new && let Some(why) = referee.refuses(client, record, base) {
                self.find(fault(format!("event {id} was committed against the rules: {why}: {record}")));
            }
            if record["ordinal"] != ordinal {
                self.find(fault(format!(
                    "event {id} is the partition's {ordinal}th and says {}",
                    record["ordinal"]
                )));
            }
            let timestamp = record["timestamp"].as_u64().unwrap_or(0);
            if timestamp < last_timestamp {
                self.find(fault(format!("event {id} has an earlier time than the one before it")));
            }
            let stored = record["storedAt"].as_u64().unwrap_or(timestamp);
            if is_new && (timestamp > stored + AHEAD_MS_MAX || timestamp + BEHIND_MS_MAX < stored) {
                self.find(fault(format!(
                    "event {id} says {timestamp}, and NATS stored it at {stored}: {} ms apart",
                    timestamp.abs_diff(stored)
                )));
            }
            last_timestamp = timestamp;
            if let Err(why) = referee.apply(*id, client, record) {
                self.find(fault(format!("event {id} does not fold: {why}: {record}")));
                return;
            }
        }
    }

    /// The states that clients were given, by the event they stand at.
    fn states_told(&self) -> BTreeMap<u64, Vec<(Option<usize>, &'a String)>> {
        let mut told: BTreeMap<u64, Vec<_>> = BTreeMap::new();
        for (client, history) in self.case.histories.iter().enumerate() {
            for (_, _, entry) in history.entries() {
                match entry {
                    Entry::Connected { head, state: Some(hash), .. } => {
                        told.entry(*head).or_default().push((Some(client), hash));
                    }
                    Entry::Page { snapshot: Some((id, hash)), .. } => {
                        told.entry(*id).or_default().push((Some(client), hash));
                    }
                    _ => {}
                }
            }
        }
        for (id, hash) in self.case.newcomers {
            told.entry(*id).or_default().push((None, hash));
        }
        told
    }

    /// What was told of events is what stands in the log.
    fn accounts_agree(&mut self) {
        let log = self.case.log;
        for (dialect, shown) in [(Dialect::Classic, as_classic as fn(&Value) -> Value), (Dialect::V1, as_v1)]
        {
            for (id, what) in self.case.accounts.differing(dialect, log, shown) {
                self.find(Violation::new(Rule::Stream, format!("event {id}: {what}")).at(id));
            }
        }
    }

    fn streams(&mut self, client: usize) {
        let case = self.case;
        let history = &case.histories[client];
        for (number, connection) in history.connections.iter().enumerate() {
            let name = format!("{}#{number}", history.client);
            let own = Own::of(history, number, &self.committed);
            let literal = history.manner == Manner::Literal;
            let mut position = 0;
            let mut cycle = false;
            // In the classic dialect any other message ends a cycle, and so does a second without the next `sync`.
            // Then the broadcasts go on from the end of the last page.
            let (mut sent_else, mut asked_at, mut paged_at, mut paged_to) = (false, 0, 0, None);
            let mut seen_here = HashSet::new();
            for (at, entry) in &connection.entries {
                match entry {
                    Entry::SyncAsked { since, .. } => {
                        // Nor does a page from elsewhere go on with it.
                        cycle &= history.dialect == Dialect::V1 || paged_to == Some(*since);
                        (sent_else, asked_at) = (false, *at);
                    }
                    Entry::Submitted { .. } if history.dialect == Dialect::Classic => {
                        (sent_else, cycle) = (true, false);
                    }
                    Entry::Connected { since, head, .. } => position = since.unwrap_or(*head),
                    Entry::Broadcast { id } => {
                        self.verdict.broadcasts += 1;
                        let fault = |what| {
                            let mut violation = Violation::new(Rule::Stream, what).at(*id);
                            violation.client = Some(client);
                            violation
                        };
                        let idle = history.dialect == Dialect::Classic && *at >= paged_at + CYCLE_IDLE_MS;
                        if cycle && !idle {
                            self.find(fault(format!(
                                "{name}: event {id} was broadcast inside a cycle of pages"
                            )));
                        }
                        if own.answered_first_here.contains(id) {
                            self.find(fault(format!("{name}: its own event {id} came back as a broadcast")));
                        }
                        position = paged_to.take().unwrap_or(position);
                        if *id <= position {
                            // What came between `connected` and the one page may come again after it.
                            if literal && seen_here.contains(id) {
                                continue;
                            }
                            self.find(fault(format!("{name}: event {id} was broadcast after {position}")));
                            continue;
                        }
                        let missed = between(case.log, position, *id - 1);
                        let seen = |id: &u64| literal && seen_here.contains(id);
                        let missed: Vec<u64> =
                            missed.filter(|id| !own.may_be_missing(*id) && !seen(id)).collect();
                        if let Some(first) = missed.first() {
                            let what = format!(
                                "{name}: event {id} was broadcast after {position}, without {} events in between",
                                missed.len()
                            );
                            self.find(fault(what).at(*first));
                        }
                        position = *id;
                        if literal {
                            seen_here.insert(*id);
                        }
                    }
                    Entry::Page { since, ids, next, upto, more, snapshot } => {
                        self.verdict.pages += 1;
                        (cycle, paged_at) = (*more && !literal && !sent_else, asked_at);
                        paged_to = (*more && history.dialect == Dialect::Classic).then_some(*next);
                        let from = snapshot.as_ref().map_or(*since, |(id, _)| *id);
                        let expected: Vec<u64> = between(case.log, from, *next).collect();
                        if expected != *ids {
                            let what = format!(
                                "{name}: the page from {from} to {next} has the events {ids:?}, the log {expected:?}"
                            );
                            let mut violation = Violation::new(Rule::Stream, what);
                            violation.client = Some(client);
                            let told: BTreeSet<u64> = ids.iter().copied().collect();
                            let kept: BTreeSet<u64> = expected.iter().copied().collect();
                            violation.ids = told.symmetric_difference(&kept).take(3).copied().collect();
                            self.find(violation);
                        }
                        if literal {
                            if let Some((id, _)) = snapshot {
                                let what = format!(
                                    "{name}: asked for the events after {since}, it was given a state as of event {id}, which a client that does not page cannot use"
                                );
                                let mut violation = Violation::new(Rule::Stream, what);
                                violation.client = Some(client);
                                self.find(violation);
                            }
                            // It goes on from the end of the page, whether there is more or not.
                            position = if *more { *next } else { (*upto).max(*next) };
                            continue;
                        }
                        // A client that asks for what comes after an event that this frontend has not seen yet is
                        // told to go on from there, and may be sent what lies between.
                        position = position.max(if *more {
                            *next
                        } else {
                            (*upto).max(snapshot.as_ref().map_or(0, |(id, _)| *id))
                        });
                    }
                    _ => {}
                }
            }
        }
    }

    /// Drafts that were sent on one connection only are in the log in the order sent. One that was sent on two
    /// may be decided for each: rejected for the first, whose client never heard of it, and committed for the
    /// second, when what came after it is committed already.
    fn order(&mut self, client: usize) {
        let history = &self.case.histories[client];
        let mut sent: HashMap<usize, BTreeSet<usize>> = HashMap::new();
        let mut accepted = HashSet::new();
        for (connection, _, entry) in history.entries() {
            match entry {
                Entry::Submitted { drafts, .. } => {
                    for draft in drafts.iter().filter(|draft| !accepted.contains(draft)) {
                        sent.entry(*draft).or_default().insert(connection);
                    }
                }
                Entry::Accepted { draft, .. } => drop(accepted.insert(draft)),
                _ => {}
            }
        }
        let mut last: HashMap<usize, (usize, u64)> = HashMap::new();
        let mut found = Vec::new();
        for (place, draft) in history.drafts.iter().enumerate() {
            let Some(id) = self.committed.get(&*draft.id) else { continue };
            // What was committed when it was sent again does not count as sent on that connection.
            let Some(on) = sent.get(&place).filter(|on| on.len() == 1).and_then(BTreeSet::first) else {
                continue;
            };
            if draft.altered || draft.requeued {
                continue;
            }
            if let Some((before, earlier)) = last.insert(*on, (place, *id))
                && earlier > *id
            {
                let what = format!(
                    "{}: draft {place} was committed as {id}, before draft {before}, which it sent earlier, as {earlier}",
                    history.client
                );
                found.push(
                    Violation::new(Rule::Order, what)
                        .of(client, before)
                        .of(client, place)
                        .at(*id)
                        .at(earlier),
                );
            }
        }
        self.verdict.violations.append(&mut found);
    }

    fn ended(&mut self, client: usize) {
        let history = &self.case.histories[client];
        let fault = |rule, what| {
            let mut violation = Violation::new(rule, format!("{}: {what}", history.client));
            violation.client = Some(client);
            violation
        };
        for (defect, about) in &history.defects {
            let mut violation = fault(Rule::Stream, defect.clone());
            if let Some((draft, id)) = about {
                violation.drafts.push(*draft);
                violation.ids.push(*id);
            }
            self.verdict.violations.push(violation);
        }
        let head = self.case.head;
        if history.reached < head {
            let what =
                format!("it knows all up to event {}, and the partition ends at {head}", history.reached);
            self.verdict.violations.push(fault(Rule::Quiet, what));
        }
        let mut open = BTreeSet::new();
        for (_, _, entry) in history.entries() {
            match entry {
                Entry::Submitted { drafts, .. } => open.extend(drafts.iter().copied()),
                Entry::Accepted { draft, .. }
                | Entry::Rejected { draft, .. }
                | Entry::NotProcessed { draft } => {
                    open.remove(draft);
                }
                _ => {}
            }
        }
        if let Some(first) = open.first() {
            let what = format!("{} drafts were never answered", open.len());
            let mut violation = fault(Rule::Quiet, what);
            violation.drafts.push(*first);
            self.verdict.violations.push(violation);
        }
    }
}

/// The ids of the log's events after `after`, up to and including `upto`, that clients are shown.
fn between(log: &PartitionLog, after: u64, upto: u64) -> impl Iterator<Item = u64> {
    let stretch = (after < upto).then(|| log.range(after + 1..=upto));
    stretch.into_iter().flatten().filter(|(_, record)| !is_mark(record)).map(|(id, _)| *id)
}

/// What of a v1 client's own events may or must be missing from the broadcasts of one of its connections.
struct Own {
    /// Sent here, and answered as committed here or not answered at all.
    may_miss: HashSet<u64>,
    /// Sent nowhere before, and answered as committed here.
    answered_first_here: HashSet<u64>,
}

impl Own {
    fn of(history: &History, number: usize, committed: &HashMap<&str, u64>) -> Self {
        let mut own = Own { may_miss: HashSet::new(), answered_first_here: HashSet::new() };
        if history.dialect == Dialect::Classic {
            return own;
        }
        let mut before = HashSet::new();
        for (connection, _, entry) in history.entries() {
            match entry {
                _ if connection > number => break,
                Entry::Submitted { drafts, .. } if connection < number => {
                    before.extend(drafts.iter().copied())
                }
                Entry::Submitted { drafts, .. } => {
                    let ids = drafts.iter().filter_map(|draft| committed.get(&*history.drafts[*draft].id));
                    own.may_miss.extend(ids.copied());
                }
                Entry::NotProcessed { draft } | Entry::Rejected { draft, .. } if connection == number => {
                    let made = &history.drafts[*draft];
                    if let Some(id) = committed.get(&*made.id).filter(|_| !made.altered) {
                        own.may_miss.remove(id);
                    }
                }
                Entry::Accepted { draft, id } if connection == number && !before.contains(draft) => {
                    own.answered_first_here.insert(*id);
                }
                _ => {}
            }
        }
        own
    }

    fn may_be_missing(&self, id: u64) -> bool {
        self.may_miss.contains(&id)
    }
}
