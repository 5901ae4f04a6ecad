//! For which copy of its draft an event was committed, as the event itself says, and what that copy's connection
//! was told of it.

use serde_json::Value;

use super::history::{Entry, History};
use super::judge::Rule;

/// A connection's copy of a draft.
#[derive(Debug, Clone)]
pub struct Origin {
    pub client: usize,
    pub connection: usize,
    pub draft: usize,
    /// The submission and the attempt, for a person.
    pub copy: String,
}

/// Which connection's copy of its draft an event was committed for. An `Err` says what is wrong with what the event
/// says of it.
pub fn of(record: &Value, histories: &[History]) -> Result<Origin, String> {
    let told = &record["testOrigin"];
    let Some(number) = told["connection"].as_u64() else {
        return Err("does not say for which copy it was committed".to_owned());
    };
    let port = (number & 0xffff) as u16;
    let copy = format!("submission {}, attempt {}", told["submission"], told["attempt"]);
    let stored = record["storedAt"].as_u64().unwrap_or(u64::MAX);
    let name = record["draftId"].as_str().unwrap_or_default();
    let submission = told["submission"].as_u64();
    let mut best: Option<((bool, u64), Origin)> = None;
    for (client, history) in histories.iter().enumerate() {
        if record["clientId"] != history.client_id.as_str() {
            continue;
        }
        for (connection, made) in history.connections.iter().enumerate().filter(|(_, made)| made.port == port)
        {
            let mut sent = made.entries.iter().filter_map(|(at, entry)| match entry {
                Entry::Submitted { drafts, .. } => Some((*at, drafts)),
                _ => None,
            });
            let copy_of = |drafts: &[usize]| drafts.iter().copied().find(|it| history.drafts[*it].id == name);
            // A port comes again, but not soon: the last connection that had it by then. Not so where it is shared and
            // the partition was left and subscribed to again: there the count of what was submitted tells.
            let is_it = history.is_shared
                && submission.is_some_and(|nth| {
                    let nth = sent.clone().nth(nth.saturating_sub(1) as usize);
                    nth.is_some_and(|(at, drafts)| at <= stored && copy_of(drafts).is_some())
                });
            let first =
                sent.find_map(|(at, drafts)| Some((at, copy_of(drafts)?))).filter(|(at, _)| *at <= stored);
            if let Some((at, draft)) = first
                && best.as_ref().is_none_or(|(before, _)| *before < (is_it, at))
            {
                best = Some(((is_it, at), Origin { client, connection, draft, copy: copy.clone() }));
            }
        }
    }
    best.map(|(_, origin)| origin)
        .ok_or_else(|| format!("was committed for a copy that no connection had sent: {told}"))
}

/// What a connection was told of its copies of a draft that is in the log for one of them, where that cannot be: the
/// draft was rejected there, or all its copies until the event was stored were told as not stored.
pub fn broken_word(history: &History, origin: &Origin, stored: u64) -> Option<(Rule, &'static str)> {
    let mut copies = 0;
    let mut not_stored = 0;
    for (at, entry) in &history.connections[origin.connection].entries {
        match entry {
            Entry::Rejected { draft, .. } | Entry::NotProcessed { draft } if *draft == origin.draft => {
                return Some((Rule::Rejected, "which was told that it is rejected"));
            }
            Entry::Submitted { drafts, .. } if drafts.contains(&origin.draft) => {
                if *at > stored {
                    break;
                }
                copies += 1;
            }
            Entry::Unavailable { draft, sure: true } if *draft == origin.draft => not_stored += 1,
            _ => {}
        }
    }
    (copies > 0 && copies == not_stored)
        .then_some((Rule::Rejected, "which was told of each copy until then that it is not stored"))
}
