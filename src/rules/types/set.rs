//! `set`: a path becomes a value, or an object there is merged with one.

use serde_json::{Value, json};

use super::{malformed, name_schema, payload_schema, replace, take, target};
use crate::json::Json;
use crate::rules::{Check, EventType};
use crate::state::{Document, FoldError, Node, WriteSet};

pub(crate) struct Set;

impl EventType for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn schema(&self) -> Value {
        let options = json!({
            "type": "object",
            "properties": { "replace": { "type": "boolean" } },
            "additionalProperties": false,
        });
        let properties = json!({ "target": name_schema(), "value": true, "options": options });
        payload_schema(&["target", "value"], properties)
    }

    fn check(&self, payload: &Node, check: &mut Check<'_>) {
        let (Some(target), Some(value), Some(replace)) =
            (target(payload), payload.get("value"), replace(payload))
        else {
            return;
        };
        if matches!(value, Json::Array(_)) && !replace {
            let message = "an array is set only with options.replace: true";
            check.report("payload.value", "ARRAY_REQUIRES_REPLACE", message);
        }
        check.planned(check.doc.plan_set(target, value, replace), "payload.target");
    }

    fn fold(&self, mut payload: Node, _: bool, doc: &mut Document) -> Result<(), FoldError> {
        let value = take(&mut payload, "value");
        match (target(&payload), value, replace(&payload)) {
            (Some(target), Some(value), Some(replace)) => Ok(doc.set(target, value, replace)?),
            _ => Err(malformed(self.name())),
        }
    }

    fn touch(&self, payload: &Node) -> WriteSet {
        target(payload).map_or(WriteSet::Nothing, |target| WriteSet::Path(target.into()))
    }
}
