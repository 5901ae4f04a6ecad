//! What the judge thinks of a draft: the rules once more, from the specification, for the kinds of drafts
//! that the clients here make. Shares no code with the product.

use serde_json::Value;

use super::log::is_mark;
use super::schemas;
use crate::harness::model::Replica;

/// The part of the state that an event changes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Touch {
    Nothing,
    Path(String),
    Node(String, String),
}

/// A partition's state with what the rules need beside it.
#[derive(Default)]
pub struct Referee {
    replica: Replica,
    events: u64,
    /// Who changed what, in the log's order.
    touches: Vec<(u64, String, Touch)>,
}

impl Referee {
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Why a draft that was based on `base` is to be refused in this state, if it is.
    pub fn refuses(&self, client: &str, event: &Value, base: Option<u64>) -> Option<String> {
        if let Err(why) = self.allows(event) {
            return Some(why);
        }
        let (base, touch) = (base?, touch(event));
        let later = self.touches.iter().rev().take_while(|(id, ..)| *id > base);
        later
            .filter(|(_, other, other_touch)| other != client && overlap(&touch, other_touch))
            .map(|(id, ..)| format!("CONFLICT with event {id} after {base}"))
            .next()
    }

    /// Whether it can be right to refuse it: it is against the rules, or against one of the two sets of schemas that
    /// validators have.
    pub fn may_refuse(&self, client: &str, event: &Value, base: Option<u64>) -> bool {
        is_disputed(event) || self.refuses(client, event, base).is_some()
    }

    fn allows(&self, event: &Value) -> Result<(), String> {
        let payload = &event["payload"];
        match event["type"].as_str().unwrap_or_default() {
            "init" if self.events > 0 => Err("ALREADY_INITIALIZED".to_owned()),
            "init" => Ok(()),
            "set" => self.allows_set(payload),
            "unset" => target(payload).map(drop),
            kind if kind.starts_with("tree") => match self.replica.state.get(target(payload)?) {
                Some(Value::Object(_)) => self.replica.allows(event),
                _ => Err("TARGET_NOT_FOUND".to_owned()),
            },
            "event" | schemas::NAME if size_of(event) > schemas::LENIENT_MAX => {
                Err("SCHEMA_ERROR size".to_owned())
            }
            "nonsense" => Err("UNKNOWN_EVENT_TYPE".to_owned()),
            _ => Ok(()),
        }
    }

    fn allows_set(&self, payload: &Value) -> Result<(), String> {
        let keys: Vec<&str> = target(payload)?.split('.').collect();
        let mut place = Some(&self.replica.state);
        for key in &keys[..keys.len() - 1] {
            place = match place.map(|place| &place[*key]) {
                None | Some(Value::Null) => None,
                Some(child @ Value::Object(_)) => Some(child),
                Some(_) => return Err(format!("PATH_NOT_AN_OBJECT {key}")),
            };
        }
        match payload.get("value") {
            None => Err("SCHEMA_ERROR no value".to_owned()),
            Some(Value::Array(_)) if payload["options"]["replace"] != true => {
                Err("ARRAY_REQUIRES_REPLACE".to_owned())
            }
            Some(_) => Ok(()),
        }
    }

    /// Takes the log's next event in.
    pub fn apply(&mut self, id: u64, client: &str, event: &Value) -> Result<(), String> {
        if is_mark(event) {
            return Ok(());
        }
        self.replica.fold(event)?;
        self.events += 1;
        self.touches.push((id, client.to_owned(), touch(event)));
        Ok(())
    }
}

/// The figure in a domain event that the schemas bound; 0 in any other event.
fn size_of(event: &Value) -> u64 {
    match event["type"].as_str() {
        Some("event") => event["payload"]["data"]["size"].as_u64().unwrap_or(u64::MAX),
        Some(schemas::NAME) => event["payload"]["size"].as_u64().unwrap_or(u64::MAX),
        _ => 0,
    }
}

/// Whether one set of schemas allows it and the other does not.
fn is_disputed(event: &Value) -> bool {
    let size = size_of(event);
    size > schemas::STRICT_MAX && size <= schemas::LENIENT_MAX
}

fn target(payload: &Value) -> Result<&str, String> {
    payload["target"]
        .as_str()
        .filter(|target| !target.is_empty())
        .ok_or_else(|| "SCHEMA_ERROR target".to_owned())
}

fn touch(event: &Value) -> Touch {
    let payload = &event["payload"];
    let Ok(target) = target(payload) else { return Touch::Nothing };
    match event["type"].as_str().unwrap_or_default() {
        "set" | "unset" => Touch::Path(target.to_owned()),
        "treePush" => node(target, &payload["value"]["id"]),
        "treeDelete" | "treeUpdate" | "treeMove" => node(target, &payload["options"]["id"]),
        _ => Touch::Nothing,
    }
}

fn node(target: &str, id: &Value) -> Touch {
    Touch::Node(target.to_owned(), id.as_str().unwrap_or_default().to_owned())
}

fn overlap(one: &Touch, other: &Touch) -> bool {
    let below = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('.'));
    match (one, other) {
        (Touch::Nothing, _) | (_, Touch::Nothing) => false,
        (Touch::Path(a), Touch::Path(b)) => below(a, b) || below(b, a),
        (Touch::Node(tree, _), Touch::Path(path)) | (Touch::Path(path), Touch::Node(tree, _)) => {
            below(tree, path)
        }
        (Touch::Node(a, x), Touch::Node(b, y)) => a == b && x == y,
    }
}
