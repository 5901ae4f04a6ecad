//! `treeUpdate`: a node's item changes.

use serde_json::{Value, json};

use super::{id, malformed, name_schema, payload_schema, replace, take, target, touch_node};
use crate::json::Json;
use crate::rules::{Check, EventType};
use crate::state::{Document, FoldError, Node, WriteSet};

pub(crate) struct TreeUpdate;

impl EventType for TreeUpdate {
    fn name(&self) -> &'static str {
        "treeUpdate"
    }

    fn schema(&self) -> Value {
        let options = json!({
            "type": "object",
            "properties": { "id": name_schema(), "replace": { "type": "boolean" } },
            "required": ["id"],
        });
        let properties =
            json!({ "target": name_schema(), "value": { "type": "object" }, "options": options });
        payload_schema(&["target", "value", "options"], properties)
    }

    fn ids<'a>(&self, payload: &'a Node) -> Vec<(&'static str, &'a str)> {
        id(payload).map(|id| ("payload.options.id", id)).into_iter().collect()
    }

    fn check(&self, payload: &Node, check: &mut Check<'_>) {
        let (Some(target), Some(id), Some(Json::Object(value)), Some(replace)) =
            (target(payload), id(payload), payload.get("value"), replace(payload))
        else {
            return;
        };
        let plan = check.doc.plan_tree_update(target, id, value, replace);
        check.planned(plan, "payload.options.id");
    }

    fn fold(&self, mut payload: Node, _: bool, doc: &mut Document) -> Result<(), FoldError> {
        let Some(Json::Object(value)) = take(&mut payload, "value") else {
            return Err(malformed(self.name()));
        };
        match (target(&payload), id(&payload), replace(&payload)) {
            (Some(target), Some(id), Some(replace)) => Ok(doc.tree_update(target, id, value, replace)?),
            _ => Err(malformed(self.name())),
        }
    }

    fn touch(&self, payload: &Node) -> WriteSet {
        touch_node(target(payload), id(payload))
    }
}
