//! `init`: the state becomes a value. A partition's first event, or none.

use serde_json::{Value, json};

use super::{malformed, payload_schema, take};
use crate::rules::{Check, EventType};
use crate::state::{Document, FoldError, Node, WriteSet};

pub(crate) struct Init;

impl EventType for Init {
    fn name(&self) -> &'static str {
        "init"
    }

    fn schema(&self) -> Value {
        payload_schema(&["value"], json!({ "value": { "type": "object" } }))
    }

    fn target<'a>(&self, _: &'a Node) -> Option<&'a str> {
        None
    }

    fn has_target(&self) -> bool {
        false
    }

    fn check(&self, payload: &Node, check: &mut Check<'_>) {
        if !check.first {
            check.report("type", "ALREADY_INITIALIZED", "init is only a partition's first event");
        }
        if let Some(value) = payload.get("value") {
            check.planned(check.doc.plan_init(value), "payload.value");
        }
    }

    fn fold(&self, mut payload: Node, first: bool, doc: &mut Document) -> Result<(), FoldError> {
        if !first {
            return Err(FoldError::NotFirst);
        }
        Ok(doc.init(take(&mut payload, "value").ok_or_else(|| malformed(self.name()))?)?)
    }

    fn touch(&self, _: &Node) -> WriteSet {
        WriteSet::Everything
    }
}
