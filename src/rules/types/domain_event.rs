//! `event`: something that happened in the application's domain. It changes no state here.

use serde_json::{Value, json};

use super::payload_schema;
use crate::rules::{Check, EventType};
use crate::state::{Document, FoldError, Node, WriteSet};

pub(crate) struct DomainEvent;

impl EventType for DomainEvent {
    fn name(&self) -> &'static str {
        "event"
    }

    fn schema(&self) -> Value {
        payload_schema(&["schema", "data"], json!({ "schema": { "type": "string" }, "data": true }))
    }

    fn target<'a>(&self, _: &'a Node) -> Option<&'a str> {
        None
    }

    fn has_target(&self) -> bool {
        false
    }

    fn domain_data<'a>(&self, payload: &'a Node) -> Option<(&'a str, &'a Node)> {
        Some((payload.get("schema")?.as_str()?, payload.get("data")?))
    }

    fn check(&self, _: &Node, _: &mut Check<'_>) {}

    fn fold(&self, _: Node, _: bool, _: &mut Document) -> Result<(), FoldError> {
        Ok(())
    }

    fn touch(&self, _: &Node) -> WriteSet {
        WriteSet::Nothing
    }
}
