//! `treePush`: a new node, with its item.

use serde_json::{Value, json};

use super::{
    malformed, name_schema, parent, payload_schema, place_ids, position, position_schema, take, target,
    touch_node,
};
use crate::json::Json;
use crate::rules::{Check, EventType};
use crate::state::{Document, FoldError, Node, WriteSet};

pub(crate) struct TreePush;

fn id(payload: &Node) -> Option<&str> {
    payload.get("value")?.get("id")?.as_str()
}

impl EventType for TreePush {
    fn name(&self) -> &'static str {
        "treePush"
    }

    fn schema(&self) -> Value {
        let value = json!({ "type": "object", "properties": { "id": name_schema() }, "required": ["id"] });
        let options = json!({
            "type": "object",
            "properties": { "parent": { "type": "string" }, "position": position_schema() },
        });
        let properties = json!({ "target": name_schema(), "value": value, "options": options });
        payload_schema(&["target", "value"], properties)
    }

    fn ids<'a>(&self, payload: &'a Node) -> Vec<(&'static str, &'a str)> {
        let mut ids = place_ids(payload);
        ids.extend(id(payload).map(|id| ("payload.value.id", id)));
        ids
    }

    fn check(&self, payload: &Node, check: &mut Check<'_>) {
        let (Some(target), Some(id), Some(Json::Object(value)), Some(parent)) =
            (target(payload), id(payload), payload.get("value"), parent(payload))
        else {
            return;
        };
        if id == "_root" {
            check.report("payload.value.id", "RESERVED_ID", "_root stands for the top of a tree");
        }
        check.planned(check.doc.plan_tree_push(target, id, value, parent), "payload.value.id");
    }

    fn fold(&self, mut payload: Node, _: bool, doc: &mut Document) -> Result<(), FoldError> {
        let malformed = || malformed(self.name());
        let Some(Json::Object(mut fields)) = take(&mut payload, "value") else { return Err(malformed()) };
        let Some(Json::String(id)) = fields.remove("id") else { return Err(malformed()) };
        match (target(&payload), parent(&payload), position(&payload)) {
            (Some(target), Some(parent), Some(position)) => {
                Ok(doc.tree_push(target, &id, fields, parent, position)?)
            }
            _ => Err(malformed()),
        }
    }

    fn touch(&self, payload: &Node) -> WriteSet {
        touch_node(target(payload), id(payload))
    }
}
