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
    let mut best: Option<(u64, Origin)> = None;
    for (client, history) in histories.iter().enumerate() {
        if record["clientId"] != history.client_id.as_str() {
            continue;
        }
        for (connection, made) in history.connections.iter().enumerate().filter(|(_, made)| made.port == port)
        {
            let sent = made.entries.iter().find_map(|(at, entry)| {
                let Entry::Submitted { drafts, .. } = entry else { return None };
                let draft = drafts.iter().find(|draft| history.drafts[**draft].id == name)?;
                (*at <= stored).then_some((*at, *draft))
            });
            // A port comes again, but not soon: the last connection that had it by then. Where it is shared, and the
            // partition was left and subscribed to again, no draft was without an answer in between.
            if let Some((at, draft)) = sent
                && best.as_ref().is_none_or(|(before, _)| *before < at)
            {
                best = Some((at, Origin { client, connection, draft, copy: copy.clone() }));
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
