//! The registry: the event types there are, by name.

use crate::rules::check::EventType;
use std::collections::HashMap;
use std::fmt;

use serde_json::value::RawValue;

use super::limits::RulesError;
use super::schema::Schema;
use super::types;
use crate::state::{Document, Fold, FoldError, Node, WriteSet};

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
    ) -> Result<WriteSet, FoldError> {
        let Some(entry) = self.get(event_type) else { return Ok(WriteSet::Nothing) };
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

    fn touch(&self, event_type: &str, payload: &RawValue) -> WriteSet {
        match (self.get(event_type), Node::of(payload)) {
            (Some(entry), Ok(payload)) => entry.event_type.touch(&payload),
            _ => WriteSet::Nothing,
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.types.keys()).finish()
    }
}
