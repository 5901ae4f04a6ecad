//! The built-in event types, one a file.

mod domain_event;
mod init;
mod set;
mod tree_delete;
mod tree_move;
mod tree_push;
mod tree_update;
mod unset;

pub(crate) use domain_event::DomainEvent;
pub(crate) use init::Init;
pub(crate) use set::Set;
pub(crate) use tree_delete::TreeDelete;
pub(crate) use tree_move::TreeMove;
pub(crate) use tree_push::TreePush;
pub(crate) use tree_update::TreeUpdate;
pub(crate) use unset::Unset;

use serde_json::{Value, json};

use crate::json::Json;
use crate::state::{FoldError, Node, Position, WriteSet};

/// Takes the field `key` out of a payload.
fn take(payload: &mut Node, key: &str) -> Option<Node> {
    match payload {
        Json::Object(fields) => fields.remove(key),
        _ => None,
    }
}

fn target(payload: &Node) -> Option<&str> {
    payload.get("target")?.as_str()
}

/// The option `key`.
fn option<'a>(payload: &'a Node, key: &str) -> Option<&'a Node> {
    payload.get("options")?.get(key)
}

/// The option `id` of a tree action.
fn id(payload: &Node) -> Option<&str> {
    option(payload, "id")?.as_str()
}

/// The option `replace`; not given, it is no. `None` when it is no boolean.
fn replace(payload: &Node) -> Option<bool> {
    match option(payload, "replace") {
        None => Some(false),
        Some(Json::Bool(replace)) => Some(*replace),
        Some(_) => None,
    }
}

/// The option `parent`; not given, it is the root. `None` when it is no string.
fn parent(payload: &Node) -> Option<&str> {
    option(payload, "parent").map_or(Some("_root"), Json::as_str)
}

/// The option `position`; not given, it is first. `None` when it is none of the four.
fn position(payload: &Node) -> Option<Position<'_>> {
    match option(payload, "position") {
        None => Some(Position::First),
        Some(Json::String(name)) => match &**name {
            "first" => Some(Position::First),
            "last" => Some(Position::Last),
            _ => None,
        },
        Some(relative) => {
            let after = relative.get("after").and_then(Json::as_str).map(Position::After);
            after.or_else(|| relative.get("before").and_then(Json::as_str).map(Position::Before))
        }
    }
}

/// The ids in `parent` and `position`, with their fields.
fn place_ids(payload: &Node) -> Vec<(&'static str, &str)> {
    let mut ids = Vec::new();
    if let Some(parent) = option(payload, "parent").and_then(Json::as_str) {
        ids.push(("payload.options.parent", parent));
    }
    match position(payload) {
        Some(Position::After(id)) => ids.push(("payload.options.position.after", id)),
        Some(Position::Before(id)) => ids.push(("payload.options.position.before", id)),
        _ => {}
    }
    ids
}

/// What a tree action on a node touches.
fn touch_node(target: Option<&str>, id: Option<&str>) -> WriteSet {
    match (target, id) {
        (Some(target), Some(id)) => WriteSet::Node { target: target.into(), id: id.into() },
        _ => WriteSet::Nothing,
    }
}

/// What is not the payload of its type.
fn malformed(event_type: &str) -> FoldError {
    FoldError::Payload(event_type.to_owned())
}

/// The schema of a payload: these properties and no others. Those named in `required` must be there.
fn payload_schema(required: &[&str], properties: Value) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The schema of a target or an id.
fn name_schema() -> Value {
    json!({ "type": "string", "minLength": 1 })
}

/// The schema of a position.
fn position_schema() -> Value {
    let relative = |key: &str| {
        json!({
            "type": "object",
            "properties": { key: name_schema() },
            "required": [key],
            "additionalProperties": false,
        })
    };
    json!({ "anyOf": [{ "enum": ["first", "last"] }, relative("after"), relative("before")] })
}
