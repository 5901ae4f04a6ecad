//! A second, naive implementation of the fold, written from the specification alone: plain JSON values,
//! trees walked from the root, its own canonical form. It shares no code with the product, so that an
//! error in one shows against the other. `tests/js/fold.mjs` is a third, in JavaScript.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// A partition's state as a client computes it.
#[derive(Debug, Clone)]
pub struct Replica {
    pub state: Value,
}

impl Default for Replica {
    fn default() -> Self {
        Self { state: json!({}) }
    }
}

impl From<Value> for Replica {
    fn from(state: Value) -> Self {
        assert!(state.is_object(), "a state is an object, not {state}");
        Self { state }
    }
}

impl Replica {
    /// The state after an event.
    pub fn fold(&mut self, event: &Value) -> Result<(), String> {
        let payload = &event["payload"];
        match event["type"].as_str().ok_or("an event without a type")? {
            "init" => {
                self.state = payload["value"].clone();
                Ok(())
            }
            "set" => self.set(payload),
            "unset" => self.unset(payload),
            "treePush" => self.tree_push(payload),
            "treeDelete" => self.tree_delete(payload),
            "treeUpdate" => self.tree_update(payload),
            "treeMove" => self.tree_move(payload),
            // A domain event, or an application's own type: the built-in fold leaves the state as it is.
            _ => Ok(()),
        }
    }

    fn set(&mut self, payload: &Value) -> Result<(), String> {
        let keys = path(payload)?;
        let (last, parents) = keys.split_last().ok_or("an empty path")?;
        let mut place = &mut self.state;
        for key in parents {
            let object = place.as_object_mut().ok_or_else(|| format!("{key} is not in an object"))?;
            let child = object.entry(*key).or_insert(Value::Null);
            if child.is_null() {
                *child = json!({});
            }
            place = child;
        }
        let object = place.as_object_mut().ok_or_else(|| format!("{last} is not in an object"))?;
        let value = payload["value"].clone();
        let replace = payload["options"]["replace"] == true;
        match (object.get_mut(*last), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !replace => old.extend(new),
            (_, value) => {
                object.insert((*last).to_owned(), value);
            }
        }
        Ok(())
    }

    fn unset(&mut self, payload: &Value) -> Result<(), String> {
        let keys = path(payload)?;
        let (last, parents) = keys.split_last().ok_or("an empty path")?;
        let mut place = &mut self.state;
        for key in parents {
            match place.as_object_mut().and_then(|object| object.get_mut(*key)) {
                Some(child) => place = child,
                None => return Ok(()),
            }
        }
        if let Some(object) = place.as_object_mut() {
            object.remove(*last);
        }
        Ok(())
    }

    fn tree_push(&mut self, payload: &Value) -> Result<(), String> {
        let (items, tree) = self.tree(payload)?;
        let mut fields = payload["value"].as_object().ok_or("a node that is no object")?.clone();
        let id = fields.remove("id").ok_or("a node without id")?;
        let id = id.as_str().ok_or("an id that is no string")?;
        items.insert(id.to_owned(), Value::Object(fields));
        insert(tree, json!({ "id": id, "children": [] }), &payload["options"])
    }

    fn tree_delete(&mut self, payload: &Value) -> Result<(), String> {
        let (items, tree) = self.tree(payload)?;
        let id = payload["options"]["id"].as_str().ok_or("no id")?;
        match take(tree, id) {
            Some(node) => {
                for id in ids(&node) {
                    items.remove(&id);
                }
            }
            None => {
                items.remove(id);
            }
        }
        Ok(())
    }

    fn tree_update(&mut self, payload: &Value) -> Result<(), String> {
        let (items, _) = self.tree(payload)?;
        let id = payload["options"]["id"].as_str().ok_or("no id")?;
        let mut new = payload["value"].as_object().ok_or("a value that is no object")?.clone();
        new.remove("id");
        let replace = payload["options"]["replace"] == true;
        match items.get_mut(id) {
            Some(Value::Object(old)) if !replace => old.extend(new),
            _ => {
                items.insert(id.to_owned(), Value::Object(new));
            }
        }
        Ok(())
    }

    fn tree_move(&mut self, payload: &Value) -> Result<(), String> {
        let (_, tree) = self.tree(payload)?;
        let id = payload["options"]["id"].as_str().ok_or("no id")?;
        let options = &payload["options"];
        let beside = |side: &str| options["position"][side] == id;
        if beside("after") || beside("before") {
            let parent = options["parent"].as_str().unwrap_or("_root");
            let siblings = match parent {
                "_root" => Some(&tree[..]),
                parent => find(tree, parent).and_then(|node| node["children"].as_array()).map(Vec::as_slice),
            };
            if siblings.is_some_and(|siblings| siblings.iter().any(|sibling| sibling["id"] == id)) {
                return Ok(());
            }
        }
        let node = take(tree, id).ok_or_else(|| format!("{id} is not in the tree"))?;
        insert(tree, node, &payload["options"])
    }

    /// A tree's `items` and `tree`, made where they are missing.
    fn tree(&mut self, payload: &Value) -> Result<(&mut Map<String, Value>, &mut Vec<Value>), String> {
        let mut place = &mut self.state;
        for key in path(payload)? {
            place = place
                .as_object_mut()
                .and_then(|object| object.get_mut(key))
                .ok_or_else(|| format!("no target: {key}"))?;
        }
        let target = place.as_object_mut().ok_or("the target is no object")?;
        target.entry("items").or_insert_with(|| json!({}));
        target.entry("tree").or_insert_with(|| json!([]));
        let mut items = None;
        let mut tree = None;
        for (key, value) in target.iter_mut() {
            match key.as_str() {
                "items" => items = value.as_object_mut(),
                "tree" => tree = value.as_array_mut(),
                _ => {}
            }
        }
        Ok((items.ok_or("items is no object")?, tree.ok_or("tree is no array")?))
    }

    /// Whether the rules for tree actions would take this event in this state: what a commit on a stale
    /// state would break.
    pub fn allows(&self, event: &Value) -> Result<(), String> {
        let kind = event["type"].as_str().unwrap_or_default();
        if !kind.starts_with("tree") {
            return Ok(());
        }
        let mut copy = self.clone();
        let payload = &event["payload"];
        let options = &payload["options"];
        let (items, tree) = copy.tree(payload)?;
        let parent = options["parent"].as_str().unwrap_or("_root");
        if matches!(kind, "treePush" | "treeMove") && parent != "_root" && find(tree, parent).is_none() {
            return Err(format!("PARENT_NOT_FOUND {parent}"));
        }
        if kind == "treePush" {
            let id = payload["value"]["id"].as_str().unwrap_or_default();
            return if items.contains_key(id) { Err(format!("DUPLICATE_ID {id}")) } else { Ok(()) };
        }
        let id = options["id"].as_str().unwrap_or_default();
        let is_there = items.contains_key(id) || kind == "treeDelete" && find(tree, id).is_some();
        if !is_there {
            return Err(format!("NODE_NOT_FOUND {id}"));
        }
        if kind == "treeMove" {
            let node = find(tree, id).ok_or_else(|| format!("NODE_NOT_FOUND {id}"))?;
            if ids(node).iter().any(|below| below == parent) {
                return Err(format!("CYCLE {parent}"));
            }
        }
        Ok(())
    }

    /// The SHA-256 of the canonical form, in hexadecimal.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(canonical(&self.state)))
    }
}

fn path(payload: &Value) -> Result<Vec<&str>, String> {
    Ok(payload["target"].as_str().ok_or("no target")?.split('.').collect())
}

fn children(node: &mut Value) -> Option<&mut Vec<Value>> {
    let node = node.as_object_mut()?;
    let children = node.entry("children").or_insert_with(|| json!([]));
    if !children.is_array() {
        *children = json!([]);
    }
    children.as_array_mut()
}

fn find<'a>(nodes: &'a [Value], id: &str) -> Option<&'a Value> {
    nodes.iter().find_map(
        |node| {
            if node["id"] == id { Some(node) } else { find(node["children"].as_array()?, id) }
        },
    )
}

fn take(nodes: &mut Vec<Value>, id: &str) -> Option<Value> {
    if let Some(at) = nodes.iter().position(|node| node["id"] == id) {
        return Some(nodes.remove(at));
    }
    nodes.iter_mut().find_map(|node| take(node.get_mut("children")?.as_array_mut()?, id))
}

/// The ids of a node and all below it.
fn ids(node: &Value) -> Vec<String> {
    let mut all: Vec<String> = node["id"].as_str().map(str::to_owned).into_iter().collect();
    for child in node["children"].as_array().into_iter().flatten() {
        all.extend(ids(child));
    }
    all
}

/// The list of siblings under a parent.
fn siblings<'a>(nodes: &'a mut Vec<Value>, parent: &str) -> Option<&'a mut Vec<Value>> {
    if parent == "_root" {
        return Some(nodes);
    }
    nodes.iter_mut().find_map(|node| {
        if node["id"] == parent {
            children(node)
        } else {
            siblings(node.get_mut("children")?.as_array_mut()?, parent)
        }
    })
}

fn insert(tree: &mut Vec<Value>, node: Value, options: &Value) -> Result<(), String> {
    let parent = options["parent"].as_str().unwrap_or("_root");
    let siblings = siblings(tree, parent).ok_or_else(|| format!("no parent {parent}"))?;
    let at = |id: &Value| siblings.iter().position(|sibling| sibling["id"] == *id);
    let place = match &options["position"] {
        Value::Null => 0,
        Value::String(word) if word == "first" => 0,
        Value::String(word) if word == "last" => siblings.len(),
        Value::Object(position) => match (position.get("after"), position.get("before")) {
            (Some(id), None) => at(id).map_or(siblings.len(), |at| at + 1),
            (None, Some(id)) => at(id).unwrap_or(0),
            _ => return Err(format!("position {position:?}")),
        },
        other => return Err(format!("position {other}")),
    };
    siblings.insert(place, node);
    Ok(())
}

/// The canonical form (RFC 8785).
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(bool) => out.push_str(if *bool { "true" } else { "false" }),
        Value::Number(number) => {
            let number = number.as_f64().unwrap();
            // ECMAScript prints minus zero as 0.
            out.push_str(ryu_js::Buffer::new().format_finite(if number == 0.0 { 0.0 } else { number }));
        }
        Value::String(string) => write_string(string, out),
        Value::Array(array) => {
            out.push('[');
            for (index, value) in array.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(value, out);
            }
            out.push(']');
        }
        Value::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write(&object[key], out);
            }
            out.push('}');
        }
    }
}

fn write_string(string: &str, out: &mut String) {
    out.push('"');
    for char in string.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            control if control < ' ' => out.push_str(&format!("\\u{:04x}", control as u32)),
            char => out.push(char),
        }
    }
    out.push('"');
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
