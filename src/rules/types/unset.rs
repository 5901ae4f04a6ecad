//! `unset`: a path is deleted.

use serde_json::{Value, json};

use super::{malformed, name_schema, payload_schema, target};
use crate::rules::{Check, EventType};
use crate::state::{Document, FoldError, Node, WriteSet};

pub(crate) struct Unset;

impl EventType for Unset {
    fn name(&self) -> &'static str {
        "unset"
    }

    fn schema(&self) -> Value {
        payload_schema(&["target"], json!({ "target": name_schema() }))
    }

    fn check(&self, payload: &Node, check: &mut Check<'_>) {
        if let Some(target) = target(payload) {
            check.planned(check.doc.plan_unset(target), "payload.target");
        }
    }

    fn fold(&self, payload: Node, _: bool, doc: &mut Document) -> Result<(), FoldError> {
        Ok(doc.unset(target(&payload).ok_or_else(|| malformed(self.name()))?)?)
    }

    fn touch(&self, payload: &Node) -> WriteSet {
        target(payload).map_or(WriteSet::Nothing, |target| WriteSet::Path(target.into()))
    }
}
