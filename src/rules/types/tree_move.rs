//! `treeMove`: a node goes elsewhere in its tree, with all below it.

use serde_json::{Value, json};

use super::{
    id, malformed, name_schema, parent, payload_schema, place_ids, position, position_schema, target,
    touch_node,
};
use crate::rules::{Check, EventType};
use crate::state::{Document, FoldError, Node, WriteSet};

pub(crate) struct TreeMove;

impl EventType for TreeMove {
    fn name(&self) -> &'static str {
        "treeMove"
    }

    fn schema(&self) -> Value {
        let options = json!({
            "type": "object",
            "properties": {
                "id": name_schema(),
                "parent": { "type": "string" },
                "position": position_schema(),
            },
            "required": ["id"],
        });
        payload_schema(&["target", "options"], json!({ "target": name_schema(), "options": options }))
    }

    fn ids<'a>(&self, payload: &'a Node) -> Vec<(&'static str, &'a str)> {
        let mut ids = place_ids(payload);
        ids.extend(id(payload).map(|id| ("payload.options.id", id)));
        ids
    }

    fn check(&self, payload: &Node, check: &mut Check<'_>) {
        if let (Some(target), Some(id), Some(parent)) = (target(payload), id(payload), parent(payload)) {
            let plan = check.doc.plan_tree_move(target, id, parent, check.limits.depth_max);
            check.planned(plan, "payload.options.id");
        }
    }

    fn fold(&self, payload: Node, _: bool, doc: &mut Document) -> Result<(), FoldError> {
        match (target(&payload), id(&payload), parent(&payload), position(&payload)) {
            (Some(target), Some(id), Some(parent), Some(position)) => {
                Ok(doc.tree_move(target, id, parent, position)?)
            }
            _ => Err(malformed(self.name())),
        }
    }

    fn touch(&self, payload: &Node) -> WriteSet {
        touch_node(target(payload), id(payload))
    }
}
