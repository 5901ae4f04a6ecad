//! Looking at all of a file before anything of it is stored: whether it is whole, and whether every event folds.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::error::MoveError;
use super::file::{Content, ExportReader, ForeignEvent};
use crate::event::{EventId, EventRecord, RulesInForceId, Token};
use crate::json::canonical::content_hash;
use crate::log::StoredEvent;
use crate::partition::{LoadError, apply, settle};
use crate::rules::{Decision, Rules};
use crate::state::{Fold, PartitionState};

/// The most problems that are told.
const PROBLEMS_MAX: usize = 20;

/// What a file holds.
#[derive(Debug, Default)]
pub struct Checked {
    /// How many events.
    pub events: u64,
    /// The ids of the first and the last one.
    pub first: EventId,
    /// See `first`.
    pub last: EventId,
    /// How many there are of each partition.
    pub(super) partitions: HashMap<Token, u64>,
    /// The longest record, in bytes.
    pub(super) bytes_max: usize,
    /// The latest rules of an application's that an event names.
    pub(super) rules: Option<RulesInForceId>,
    /// Whether events of another server are among them.
    pub(super) is_foreign: bool,
}

/// Checks files, and makes records of their events.
pub(super) struct Checker<'a> {
    pub(super) rules: &'a Rules,
    pub(super) fold: &'a Arc<dyn Fold>,
}

impl Checker<'_> {
    /// Reads the file to its end.
    pub(super) fn check(
        &self,
        reader: &mut ExportReader,
        mut progress: impl FnMut(u64) -> Result<(), MoveError>,
    ) -> Result<Checked, MoveError> {
        let mut checked = Checked::default();
        let mut states: HashMap<Token, PartitionState> = HashMap::new();
        let mut problems = Vec::new();
        while let Some((id, content)) = reader.next()? {
            let (token, body) = match self.take(&mut states, &mut checked, id, &content) {
                Ok(placed) => placed,
                Err(Taken::Wrong(why)) => {
                    problems.push(format!("event {id}: {why}"));
                    if problems.len() == PROBLEMS_MAX {
                        // That a file is not whole is what there is to say first.
                        while reader.next()?.is_some() {}
                        break;
                    }
                    continue;
                }
                Err(Taken::Failed(error)) => return Err(error),
            };
            if checked.events == 0 {
                checked.first = id;
            }
            checked.events += 1;
            checked.last = id;
            checked.bytes_max = checked.bytes_max.max(body.len());
            *checked.partitions.entry(token).or_default() += 1;
            progress(checked.events)?;
        }
        match problems.is_empty() {
            true => Ok(checked),
            false => Err(MoveError::Refused(format!(
                "events of the file do not pass the rules of this backend; nothing was imported.\n{}",
                problems.join("\n")
            ))),
        }
    }

    fn take(
        &self,
        states: &mut HashMap<Token, PartitionState>,
        checked: &mut Checked,
        id: EventId,
        content: &Content,
    ) -> Result<(Token, Bytes), Taken> {
        let (token, body) = match content {
            Content::Record(body) => {
                let record = EventRecord::parse(body).map_err(|error| Taken::Wrong(error.to_string()))?;
                let later = |rules: &RulesInForceId| {
                    checked.rules.is_none_or(|known| known.activation < rules.activation)
                };
                if let Some(rules) = record.rules.filter(later) {
                    checked.rules = Some(rules);
                }
                (record.partition.token(), body.clone())
            }
            Content::Foreign(event) => {
                checked.is_foreign = true;
                let token = event.partition.token();
                let state = states.entry(token.clone()).or_default();
                (token, self.decide(state, event)?)
            }
        };
        let state = states.entry(token.clone()).or_default();
        let stored = StoredEvent { id, body: body.clone() };
        let folded = apply(self.fold.as_ref(), state, &stored).and_then(|()| settle(state));
        match folded {
            Ok(()) => Ok((token, body)),
            Err(LoadError::Broken { why, .. }) => Err(Taken::Wrong(why)),
            Err(error) => Err(Taken::Failed(error.into())),
        }
    }

    /// Decides an event of another server as if it were submitted here.
    fn decide(&self, state: &PartitionState, event: &ForeignEvent) -> Result<Bytes, Taken> {
        event.draft.check().map_err(|error| Taken::Wrong(error.to_string()))?;
        match self.rules.decide(state, &event.submitter(), &event.draft) {
            Decision::Commit(accepted) => event
                .record(accepted.content_hash, accepted.ordinal)
                .map_err(|error| Taken::Wrong(error.to_string())),
            Decision::Reject { errors, .. } => {
                let told: Vec<String> =
                    errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
                Err(Taken::Wrong(told.join("; ")))
            }
            _ => Err(Taken::Wrong(format!("{:?} is in the file twice", event.draft.draft_id))),
        }
    }
}

enum Taken {
    Wrong(String),
    Failed(MoveError),
}

/// Makes the records of a file that was checked.
#[derive(Default)]
pub(super) struct Records {
    ordinals: HashMap<Token, u64>,
}

impl Records {
    /// The partition and the record of the next event.
    pub(super) fn next(
        &mut self,
        reader: &mut ExportReader,
    ) -> Result<Option<(EventId, Token, Bytes)>, MoveError> {
        let Some((id, content)) = reader.next()? else { return Ok(None) };
        let (token, body) = match content {
            Content::Record(body) => {
                let record = EventRecord::parse(&body).map_err(|error| reader.damaged(&error.to_string()))?;
                (record.partition.token(), body)
            }
            Content::Foreign(event) => {
                let token = event.partition.token();
                let ordinal = self.ordinals.entry(token.clone()).or_default();
                *ordinal += 1;
                let hash = content_hash(&event.draft).map_err(|error| reader.damaged(&error.to_string()))?;
                let body =
                    event.record(hash, *ordinal).map_err(|error| reader.damaged(&error.to_string()))?;
                (token, body)
            }
        };
        Ok(Some((id, token, body)))
    }
}
