//! What happened, as the clients saw it: every request, answer, broadcast and page, with its time.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::log::is_mark;
use crate::harness::v1::content;

/// The two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Classic,
    V1,
}

/// Something a client did or was told. Drafts go by their place in the client's list.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// It was let in. `head` is the last event that the server named, `state` the hash of the state it gave.
    Connected {
        since: Option<u64>,
        head: u64,
        state: Option<String>,
    },
    /// It was not let in.
    Refused(String),
    /// Drafts sent, in the classic dialect one, in v1 a batch. `known` is the partition's last event that any
    /// client here had heard of.
    Submitted {
        drafts: Vec<usize>,
        known: u64,
    },
    Accepted {
        draft: usize,
        id: u64,
    },
    Rejected {
        draft: usize,
        reason: String,
        code: String,
    },
    NotProcessed {
        draft: usize,
    },
    /// To be sent again. Either it was not stored and will not be (`sure`), or nobody knows.
    Unavailable {
        draft: usize,
        sure: bool,
    },
    Broadcast {
        id: u64,
    },
    SyncAsked {
        since: u64,
        limit: u64,
    },
    /// `upto` is where the cycle ends, `next` where it goes on.
    Page {
        since: u64,
        ids: Vec<u64>,
        next: u64,
        upto: u64,
        more: bool,
        snapshot: Option<(u64, String)>,
    },
    /// The connection is over.
    Gone(String),
}

/// One connection.
#[derive(Debug, Default, Clone)]
pub struct Connection {
    pub frontend: usize,
    /// The client's port; 0 where there was no connection.
    pub port: u16,
    /// With Unix milliseconds.
    pub entries: Vec<(u64, Entry)>,
}

/// An event that a client made.
#[derive(Debug, Clone)]
pub struct Draft {
    pub id: String,
    /// The event as it was sent.
    pub event: Value,
    pub base: Option<u64>,
    /// Whether its id belongs to an earlier draft with other content: it must never be accepted.
    pub altered: bool,
    /// Whether it was sent again after later ones, when the server had said that it was not stored.
    pub requeued: bool,
}

impl Draft {
    pub fn new(id: String, event: Value, base: Option<u64>) -> Self {
        Self { id, event, base, altered: false, requeued: false }
    }
}

/// How a client asks for what it missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Page by page until nothing is missing.
    Pages,
    /// As the design document's client: one `sync` after `connected`, of which it applies the events, and no other
    /// page. Classic only.
    Literal,
    /// Page by page, from far back, again and again; it writes nothing.
    Reads,
}

/// All of one client.
#[derive(Debug, Clone)]
pub struct History {
    /// The client's name in reports; no two have the same.
    pub client: String,
    /// The client id that it connects under; two of v1 may share one.
    pub client_id: String,
    pub manner: Manner,
    pub dialect: Dialect,
    pub partition: String,
    /// Whether its connections are shared with clients of other partitions.
    pub is_shared: bool,
    pub drafts: Vec<Draft>,
    pub connections: Vec<Connection>,
    /// What it noticed by itself that must not be, and the draft and event that it is about.
    pub defects: Vec<(String, Option<(usize, u64)>)>,
    /// Up to where it knew everything at the end.
    pub reached: u64,
}

impl History {
    pub fn entries(&self) -> impl Iterator<Item = (usize, u64, &Entry)> {
        let numbered = self.connections.iter().enumerate();
        numbered.flat_map(|(number, connection)| {
            connection.entries.iter().map(move |(at, entry)| (number, *at, entry))
        })
    }

    /// Requests made: connections, events submitted, pages asked for.
    pub fn operations(&self) -> u64 {
        self.entries()
            .map(|(_, _, entry)| match entry {
                Entry::Connected { .. } | Entry::Refused(_) | Entry::SyncAsked { .. } => 1,
                Entry::Submitted { drafts, .. } => drafts.len() as u64,
                _ => 0,
            })
            .sum()
    }

    /// Times that it was let in.
    pub fn connected(&self) -> u64 {
        self.entries().filter(|(_, _, entry)| matches!(entry, Entry::Connected { .. })).count() as u64
    }

    /// Times that it was let in again after its first connection.
    pub fn reconnects(&self) -> u64 {
        self.connected().saturating_sub(1)
    }

    /// Pages that it was given.
    pub fn pages(&self) -> u64 {
        self.entries().filter(|(_, _, entry)| matches!(entry, Entry::Page { .. })).count() as u64
    }

    /// Only what concerns some drafts and events: the shortest account of what went wrong.
    pub fn cut_to(&self, drafts: &[usize], ids: &[u64], whose: bool, out: &mut String) {
        for (number, connection) in self.connections.iter().enumerate() {
            let concerns = |entry: &Entry| match entry {
                Entry::Submitted { drafts: sent, .. } => sent.iter().any(|draft| drafts.contains(draft)),
                Entry::Accepted { draft, id } => drafts.contains(draft) || ids.contains(id),
                Entry::Rejected { draft, .. }
                | Entry::NotProcessed { draft }
                | Entry::Unavailable { draft, .. } => drafts.contains(draft),
                Entry::Broadcast { id } => ids.contains(id),
                Entry::Page { since, ids: page, next, .. } => {
                    page.iter().any(|id| ids.contains(id)) || ids.iter().any(|id| since < id && id <= next)
                }
                // What a cycle of pages does to the broadcasts around it.
                Entry::SyncAsked { since, .. } => whose && ids.iter().any(|id| since.abs_diff(*id) < 300),
                Entry::Connected { .. } | Entry::Refused(_) | Entry::Gone(_) => false,
            };
            let last = connection.entries.len().saturating_sub(1);
            let any = connection.entries.iter().any(|(_, entry)| concerns(entry));
            for (place, (at, entry)) in connection.entries.iter().enumerate() {
                if concerns(entry) || any && (place == 0 || place == last) {
                    let name = format!("{}#{number}@frontend-{}", self.client, connection.frontend);
                    writeln!(out, "{at} {name:<28} {place:>6} {entry:?}").expect("writing to a string");
                }
            }
        }
        for draft in drafts {
            if let Some(made) = self.drafts.get(*draft) {
                writeln!(out, "  draft {draft} of {}: {made:?}", self.client).expect("writing to a string");
            }
        }
    }
}

/// All that was ever told of a partition's events: whoever tells of one says the same of it.
#[derive(Default)]
pub struct Accounts {
    known: AtomicU64,
    classic: Mutex<BTreeMap<u64, Value>>,
    v1: Mutex<BTreeMap<u64, Value>>,
}

impl Accounts {
    /// Takes note of what somebody was told. An `Err` shows both accounts where they differ.
    pub fn take(&self, dialect: Dialect, id: u64, event: Value) -> Result<(), String> {
        self.known.fetch_max(id, Ordering::Relaxed);
        let mut accounts = self.of(dialect).lock().expect("an account panicked");
        let Some(first) = accounts.get(&id) else {
            accounts.insert(id, event);
            return Ok(());
        };
        if *first == event {
            Ok(())
        } else {
            Err(format!("event {id} is {first} to one and {event} to another"))
        }
    }

    /// Takes note that there is an event.
    pub fn heard_of(&self, id: u64) {
        self.known.fetch_max(id, Ordering::Relaxed);
    }

    /// The last event that anybody has heard of.
    pub fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    /// The accounts that differ from what the log holds.
    pub fn differing(
        &self,
        dialect: Dialect,
        log: &BTreeMap<u64, Value>,
        shown: fn(&Value) -> Value,
    ) -> Vec<(u64, String)> {
        let accounts = self.of(dialect).lock().expect("an account panicked");
        let told = accounts.iter().filter_map(|(id, told)| match log.get(id).map(shown) {
            _ if log.get(id).is_some_and(is_mark) => Some((*id, format!("told as {told}, but it is a mark"))),
            Some(stored) if stored == *told => None,
            Some(stored) => Some((*id, format!("told as {told}, but the log has {stored}"))),
            None => Some((*id, format!("told as {told}, but it is not in the log"))),
        });
        told.collect()
    }

    fn of(&self, dialect: Dialect) -> &Mutex<BTreeMap<u64, Value>> {
        match dialect {
            Dialect::Classic => &self.classic,
            Dialect::V1 => &self.v1,
        }
    }
}

/// Whether two v1 events say the same.
pub fn same_content(one: &Value, other: &Value) -> bool {
    content(one) == content(other)
}
