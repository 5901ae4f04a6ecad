//! `treeDelete`: a node goes, with all below it and their items.

use serde_json::{Value, json};

use super::{id, malformed, name_schema, payload_schema, target, touch_node};
use crate::rules::{Check, EventType};
use crate::state::{Document, FoldError, Node, WriteSet};

pub(crate) struct TreeDelete;

impl EventType for TreeDelete {
    fn name(&self) -> &'static str {
        "treeDelete"
    }

    fn schema(&self) -> Value {
        let options = json!({ "type": "object", "properties": { "id": name_schema() }, "required": ["id"] });
        payload_schema(&["target", "options"], json!({ "target": name_schema(), "options": options }))
    }

    fn ids<'a>(&self, payload: &'a Node) -> Vec<(&'static str, &'a str)> {
        id(payload).map(|id| ("payload.options.id", id)).into_iter().collect()
    }

    fn check(&self, payload: &Node, check: &mut Check<'_>) {
        if let (Some(target), Some(id)) = (target(payload), id(payload)) {
            check.planned(check.doc.plan_tree_delete(target, id), "payload.options.id");
        }
    }

    fn fold(&self, payload: Node, _: bool, doc: &mut Document) -> Result<(), FoldError> {
        match (target(&payload), id(&payload)) {
            (Some(target), Some(id)) => Ok(doc.tree_delete(target, id)?),
            _ => Err(malformed(self.name())),
        }
    }

    fn touch(&self, payload: &Node) -> WriteSet {
        touch_node(target(payload), id(payload))
    }
}
