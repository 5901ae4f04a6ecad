//! The registry: the event types there are, by name.

use std::collections::HashMap;
use std::fmt;

use serde_json::value::RawValue;

use super::check::Check;
use super::schema::Schema;
use super::{RulesError, types};
use crate::state::{Document, Fold, FoldError, Node, Touch};

/// An event type: its payload's schema, its rules and its fold.
///
/// `check` sees payloads that satisfy the schema, `fold` and `touch` whatever stands in a log. What `check`
/// lets pass, `fold` must fold.
pub trait EventType: Send + Sync {
    /// The type's name, as events carry it.
    fn name(&self) -> &'static str;

    /// The JSON Schema (draft 2020-12) of the payload.
    fn schema(&self) -> serde_json::Value;

    /// The path that the event acts on, for permissions and policies.
    fn target<'a>(&self, payload: &'a Node) -> Option<&'a str> {
        payload.get("target")?.as_str()
    }

    /// Whether every payload of the type names a target.
    fn has_target(&self) -> bool {
        true
    }

    /// The ids in the payload that become, or stand for, keys of the state, each with its field.
    fn ids<'a>(&self, payload: &'a Node) -> Vec<(&'static str, &'a str)> {
        let _ = payload;
        Vec::new()
    }

    /// For a domain event the name of its schema, and the data that must satisfy it.
    fn domain_data<'a>(&self, payload: &'a Node) -> Option<(&'a str, &'a Node)> {
        let _ = payload;
        None
    }

    /// Reports all that stands against the event in this state.
    fn check(&self, payload: &Node, check: &mut Check<'_>);

    /// Does what the event says; `first` says whether it is its partition's first. On an error the document
    /// is unchanged.
    fn fold(&self, payload: Node, first: bool, doc: &mut Document) -> Result<(), FoldError>;

    /// The part of the state that the event changes.
    fn touch(&self, payload: &Node) -> Touch;
}

/// The event types, with their schemas compiled.
pub struct Registry {
    types: HashMap<&'static str, Entry>,
}

pub(crate) struct Entry {
    pub(crate) event_type: Box<dyn EventType>,
    pub(crate) schema: Schema,
}

impl Registry {
    /// The built-in types.
    pub fn built_in() -> Result<Self, RulesError> {
        Self::of(vec![
            Box::new(types::Init),
            Box::new(types::Set),
            Box::new(types::Unset),
            Box::new(types::TreePush),
            Box::new(types::TreeDelete),
            Box::new(types::TreeUpdate),
            Box::new(types::TreeMove),
            Box::new(types::DomainEvent),
        ])
    }

    fn of(all: Vec<Box<dyn EventType>>) -> Result<Self, RulesError> {
        let mut types = HashMap::new();
        for event_type in all {
            let name = event_type.name();
            let schema = Schema::compile(&event_type.schema())
                .map_err(|why| RulesError::BuiltIn(name, why.to_string()))?;
            types.insert(name, Entry { event_type, schema });
        }
        Ok(Self { types })
    }

    pub(crate) fn get(&self, event_type: &str) -> Option<&Entry> {
        self.types.get(event_type)
    }
}

impl Fold for Registry {
    fn fold(
        &self,
        event_type: &str,
        payload: &RawValue,
        first: bool,
        doc: &mut Document,
    ) -> Result<Touch, FoldError> {
        let Some(entry) = self.get(event_type) else { return Ok(Touch::Nothing) };
        let payload = Node::of(payload)?;
        let touch = entry.event_type.touch(&payload);
        entry.event_type.fold(payload, first, doc)?;
        Ok(touch)
    }

    fn fold_parsed(
        &self,
        event_type: &str,
        payload: Node,
        first: bool,
        doc: &mut Document,
    ) -> Result<(), FoldError> {
        match self.get(event_type) {
            Some(entry) => entry.event_type.fold(payload, first, doc),
            None => Ok(()),
        }
    }

    fn touch(&self, event_type: &str, payload: &RawValue) -> Touch {
        match (self.get(event_type), Node::of(payload)) {
            (Some(entry), Ok(payload)) => entry.event_type.touch(&payload),
            _ => Touch::Nothing,
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.types.keys()).finish()
    }
}
