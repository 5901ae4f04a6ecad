//! Tests of the rules and the folds: cases per rule, and properties against a naive model.

mod cases;
mod cost;
mod model;
pub(crate) mod properties;
mod schema_cost;
mod schemas;

use serde_json::Value;
use serde_json::value::RawValue;

use super::*;
use crate::event::{ClientId, Draft, EventRecord, PartitionKey, Submitter};
use crate::state::PartitionState;

pub(crate) fn submitter(client: &str, permissions: &[&str]) -> Submitter {
    Submitter {
        client_id: ClientId::new(client).unwrap(),
        user_id: None,
        permissions: permissions.iter().map(|&permission| permission.to_owned()).collect(),
        roles: Vec::new(),
        claims: None,
    }
}

pub(crate) fn draft(id: &str, event_type: &str, payload: &Value) -> Draft {
    raw_draft(id, event_type, &payload.to_string())
}

pub(crate) fn raw_draft(id: &str, event_type: &str, payload: &str) -> Draft {
    Draft {
        draft_id: id.to_owned(),
        event_type: event_type.to_owned(),
        payload: RawValue::from_string(payload.to_owned()).unwrap(),
        base_event_id: None,
        v1: None,
    }
}

/// What a validator does around the core: it decides, stages, commits and keeps the log.
pub(crate) struct Validator {
    pub(crate) rules: Rules,
    pub(crate) state: PartitionState,
    pub(crate) log: Vec<(EventId, Vec<u8>)>,
    /// The records of what is staged.
    staged: Vec<Vec<u8>>,
    drafts: u64,
}

impl Validator {
    pub(crate) fn new(config: RulesConfig) -> Self {
        let rules = Rules::new(config).unwrap();
        Self { rules, state: PartitionState::new(), log: Vec::new(), staged: Vec::new(), drafts: 0 }
    }

    /// Decides a draft; what is accepted is staged. What is staged is committed where it must be.
    pub(crate) fn submit(&mut self, submitter: &Submitter, draft: &Draft) -> Decision {
        let mut decision = self.rules.decide(&self.state, submitter, draft);
        if matches!(decision, Decision::Wait) {
            assert!(self.state.staged() > 0, "nothing to wait for");
            self.commit();
            decision = self.rules.decide(&self.state, submitter, draft);
        }
        if let Decision::Commit(accepted) = decision {
            let partition = PartitionKey::new("p").unwrap();
            let (hash, ordinal) = (accepted.content_hash, accepted.ordinal);
            let record = EventRecord::of_draft(draft, &partition, submitter, hash, ordinal, 7);
            self.staged.push(record.to_json().unwrap());
            let (key, touch, client) = (accepted.key, accepted.touch.clone(), accepted.client.clone());
            self.state.stage(&*self.rules.fold(), *accepted).expect("what is accepted folds");
            let (event_type, payload) = (String::new(), crate::json::Json::Null);
            let accepted = Accepted { key, content_hash: hash, client, event_type, payload, touch, ordinal };
            return Decision::Commit(Box::new(accepted));
        }
        decision
    }

    /// Commits what is staged, with a gap in the event ids before it.
    pub(crate) fn commit(&mut self) {
        let first = EventId(self.state.head().0 + 5);
        let lengths: Vec<usize> = self.staged.iter().map(Vec::len).collect();
        self.state.confirm(first, 7, &lengths);
        self.log.extend((first.0..).map(EventId).zip(self.staged.drain(..)));
        assert_eq!(self.state.staged(), 0);
    }

    /// Submits and commits a draft of `c1`, who may do anything, under an id of its own.
    pub(crate) fn try_one(&mut self, event_type: &str, payload: &Value) -> Result<EventId, Vec<String>> {
        self.drafts += 1;
        let draft = draft(&format!("auto-{}", self.drafts), event_type, payload);
        match self.submit(&submitter("c1", &["*"]), &draft) {
            Decision::Commit(_) => {
                self.commit();
                Ok(self.state.head())
            }
            Decision::Reject { errors, .. } => {
                Err(errors.into_iter().map(|error| format!("{} {}", error.code, error.field)).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn canonical(&self) -> String {
        String::from_utf8(self.state.document().canonical()).unwrap()
    }
}
