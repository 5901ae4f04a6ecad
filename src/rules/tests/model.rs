//! The rules and folds once more, naively, on `serde_json::Value`: written from the spec, sharing nothing
//! with the product, walking and copying as it likes.

use serde_json::{Map, Value, json};

/// A finding: code and field.
pub(crate) type Finding = (String, String);

fn finding(code: &str, field: &str) -> Finding {
    (code.to_owned(), field.to_owned())
}

/// The canonical form, naively.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            format!("[{}]", values.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_by_key(|key| key.encode_utf16().collect::<Vec<u16>>());
            let fields = keys.iter().map(|key| format!("{}:{}", quoted(key), canonical(&fields[*key])));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::String(string) => quoted(string),
        Value::Number(number) => {
            let number = number.as_f64().unwrap();
            if number == 0.0 { "0".to_owned() } else { format!("{number}") }
        }
        other => other.to_string(),
    }
}

fn quoted(string: &str) -> String {
    let mut out = String::from("\"");
    for char in string.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            char if (char as u32) < 32 => out.push_str(&format!("\\u{:04x}", char as u32)),
            char => out.push(char),
        }
    }
    out + "\""
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// All that layer 2 finds; empty where the event is to be committed.
pub(crate) fn check(
    event_type: &str,
    payload: &Value,
    state: &Value,
    first: bool,
    size_max: usize,
    depth_max: usize,
) -> Vec<Finding> {
    let mut found = Vec::new();
    forbidden_keys(payload, "payload", &mut found);
    let bad = |name: &str| ["__proto__", "prototype", "constructor"].contains(&name);
    let target = payload["target"].as_str().unwrap_or("");
    for part in target.split('.') {
        if bad(part) {
            found.push(finding("FORBIDDEN_KEY", "payload.target"));
        }
    }
    for field in
        ["value.id", "options.id", "options.parent", "options.position.after", "options.position.before"]
    {
        let id = field.split('.').fold(payload, |value, key| &value[key]);
        if event_type.starts_with("tree")
            && (event_type == "treePush" || field != "value.id")
            && id.as_str().is_some_and(bad)
        {
            found.push(finding("FORBIDDEN_KEY", &format!("payload.{field}")));
        }
    }
    match event_type {
        "init" if !first => found.push(finding("ALREADY_INITIALIZED", "type")),
        "set" => {
            if payload["value"].is_array() && payload["options"]["replace"] != json!(true) {
                found.push(finding("ARRAY_REQUIRES_REPLACE", "payload.value"));
            }
            path_rule(state, target, true, &mut found);
        }
        "unset" => path_rule(state, target, false, &mut found),
        tree if tree.starts_with("tree") => check_tree(tree, payload, state, &mut found),
        _ => {}
    }
    if found.is_empty() {
        let mut after = state.clone();
        fold(event_type, payload, &mut after);
        if canonical(&after).len() > size_max {
            found.push(finding("STATE_TOO_LARGE", "payload"));
        }
        if depth(&after) > depth_max {
            found.push(finding("STATE_TOO_LARGE", "payload"));
        }
    }
    found.sort();
    found
}

fn forbidden_keys(value: &Value, at: &str, found: &mut Vec<Finding>) {
    match value {
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(i, v)| forbidden_keys(v, &format!("{at}.{i}"), found));
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                let at = format!("{at}.{key}");
                if ["__proto__", "prototype", "constructor"].contains(&key.as_str()) {
                    found.push(finding("FORBIDDEN_KEY", &at));
                }
                forbidden_keys(value, &at, found);
            }
        }
        _ => {}
    }
}

fn path_rule(state: &Value, target: &str, set: bool, found: &mut Vec<Finding>) {
    let parts: Vec<&str> = target.split('.').collect();
    let mut at = state;
    for part in &parts[..parts.len() - 1] {
        match at.get(part) {
            None => return,
            Some(Value::Null) if set => return,
            Some(next @ Value::Object(_)) => at = next,
            Some(_) => return found.push(finding("PATH_NOT_AN_OBJECT", "payload.target")),
        }
    }
}

fn check_tree(event_type: &str, payload: &Value, state: &Value, found: &mut Vec<Finding>) {
    let id_field = if event_type == "treePush" { "payload.value.id" } else { "payload.options.id" };
    let id = if event_type == "treePush" { &payload["value"]["id"] } else { &payload["options"]["id"] };
    let id = id.as_str().unwrap();
    let parent = payload["options"]["parent"].as_str().unwrap_or("_root");
    if event_type == "treePush" && id == "_root" {
        found.push(finding("RESERVED_ID", id_field));
    }
    let target = payload["target"].as_str().unwrap();
    path_rule(state, target, false, found);
    let Some(tree) = target.split('.').try_fold(state, |at, key| at.as_object()?.get(key)) else {
        return found.push(finding("TARGET_NOT_FOUND", "payload.target"));
    };
    if !tree.is_object() {
        return found.push(finding("TARGET_NOT_FOUND", "payload.target"));
    }
    let not_a_tree = finding("TARGET_NOT_A_TREE", "payload.target");
    let empty = json!({});
    let items = tree.get("items").unwrap_or(&empty);
    let no_nodes = json!([]);
    let nodes = tree.get("tree").unwrap_or(&no_nodes);
    let mut ids = Vec::new();
    if !items.is_object() || !collect_ids(nodes, &mut ids) {
        return found.push(not_a_tree);
    }
    let mut unique = ids.clone();
    unique.sort();
    unique.dedup();
    if unique.len() != ids.len() {
        return found.push(not_a_tree);
    }
    let in_tree = |id: &str| ids.iter().any(|found| found == id);
    let in_items = items.get(id).is_some();
    let parent_found = parent == "_root" || in_tree(parent);
    match event_type {
        "treePush" => {
            if in_items || in_tree(id) {
                found.push(finding("DUPLICATE_ID", id_field));
            }
            if !parent_found {
                found.push(finding("PARENT_NOT_FOUND", "payload.options.parent"));
            }
        }
        "treeMove" => {
            if !in_tree(id) {
                found.push(finding("NODE_NOT_FOUND", id_field));
            }
            if !parent_found {
                found.push(finding("PARENT_NOT_FOUND", "payload.options.parent"));
            }
            if in_tree(id) && parent != "_root" {
                let node = find(nodes, id).unwrap();
                if find(&json!([node]), parent).is_some() {
                    found.push(finding("CYCLE", "payload.options.parent"));
                }
            }
        }
        _ if !(in_items || event_type == "treeDelete" && in_tree(id)) => {
            found.push(finding("NODE_NOT_FOUND", id_field))
        }
        "treeUpdate" if payload["options"]["replace"] != json!(true) && !items[id].is_object() => {
            found.push(not_a_tree);
        }
        _ => {}
    }
}

/// The ids of all nodes; false where it is no tree.
fn collect_ids(nodes: &Value, ids: &mut Vec<String>) -> bool {
    let Some(nodes) = nodes.as_array() else { return false };
    nodes.iter().all(|node| {
        let Some(id) = node.as_object().and_then(|node| node.get("id")?.as_str()) else { return false };
        ids.push(id.to_owned());
        node.get("children").is_none_or(|children| collect_ids(children, ids))
    })
}

fn find(nodes: &Value, id: &str) -> Option<Value> {
    nodes
        .as_array()?
        .iter()
        .find_map(|node| if node["id"] == id { Some(node.clone()) } else { find(node.get("children")?, id) })
}

/// Folds an event that passed [`check`].
pub(crate) fn fold(event_type: &str, payload: &Value, state: &mut Value) {
    let target = payload["target"].as_str().unwrap_or("");
    let parts: Vec<&str> = target.split('.').collect();
    let (last, parents) = parts.split_last().unwrap();
    let options = &payload["options"];
    match event_type {
        "init" => *state = payload["value"].clone(),
        "set" => {
            let mut at = state;
            for part in parents {
                let next = at.as_object_mut().unwrap().entry(*part).or_insert(Value::Null);
                if next.is_null() {
                    *next = json!({});
                }
                at = next;
            }
            let value = &payload["value"];
            match at.get_mut(last) {
                Some(Value::Object(old)) if value.is_object() && options["replace"] != json!(true) => {
                    old.extend(value.as_object().unwrap().clone());
                }
                _ => {
                    at.as_object_mut().unwrap().insert((*last).to_owned(), value.clone());
                }
            }
        }
        "unset" => {
            let parent = parents.iter().try_fold(state, |at, part| at.get_mut(part));
            if let Some(parent) = parent.and_then(Value::as_object_mut) {
                parent.remove(*last);
            }
        }
        tree if tree.starts_with("tree") => {
            let tree = parts.iter().fold(state, |at, part| at.get_mut(part).unwrap());
            fold_tree(event_type, payload, tree.as_object_mut().unwrap());
        }
        _ => {}
    }
}

fn fold_tree(event_type: &str, payload: &Value, tree: &mut Map<String, Value>) {
    let options = &payload["options"];
    if matches!(event_type, "treePush" | "treeDelete") {
        tree.entry("items").or_insert(json!({}));
        tree.entry("tree").or_insert(json!([]));
    }
    let id = options["id"].as_str().or_else(|| payload["value"]["id"].as_str()).unwrap();
    match event_type {
        "treePush" => {
            let id = payload["value"]["id"].as_str().unwrap();
            let mut fields = payload["value"].clone();
            fields.as_object_mut().unwrap().remove("id");
            tree["items"][id] = fields;
            insert(&mut tree["tree"], json!({ "id": id, "children": [] }), options);
        }
        "treeDelete" => {
            let mut gone = vec![id.to_owned()];
            if let Some(node) = take_out(&mut tree["tree"], id) {
                gone.clear();
                collect_ids(&json!([node]), &mut gone);
            }
            for id in gone {
                tree["items"].as_object_mut().unwrap().remove(&id);
            }
        }
        "treeUpdate" => {
            let mut fields = payload["value"].as_object().unwrap().clone();
            fields.remove("id");
            let item = &mut tree["items"][id];
            if options["replace"] == json!(true) {
                *item = Value::Object(fields);
            } else {
                item.as_object_mut().unwrap().extend(fields);
            }
        }
        _ => {
            let parent = options["parent"].as_str().unwrap_or("_root");
            let beside = |side: &str| options["position"][side] == id;
            let siblings = siblings_of(&mut tree["tree"], parent);
            if (beside("after") || beside("before"))
                && siblings.is_some_and(|siblings| siblings.iter().any(|sibling| sibling["id"] == id))
            {
                return;
            }
            let node = take_out(&mut tree["tree"], id).unwrap();
            insert(&mut tree["tree"], node, options);
        }
    }
}

fn take_out(nodes: &mut Value, id: &str) -> Option<Value> {
    let nodes = nodes.as_array_mut()?;
    if let Some(at) = nodes.iter().position(|node| node["id"] == id) {
        return Some(nodes.remove(at));
    }
    nodes.iter_mut().find_map(|node| take_out(node.get_mut("children")?, id))
}

fn insert(nodes: &mut Value, node: Value, options: &Value) {
    let parent = options["parent"].as_str().unwrap_or("_root");
    let siblings = siblings_of(nodes, parent).unwrap();
    let place = |id: &Value| siblings.iter().position(|sibling| sibling["id"] == *id);
    let position = &options["position"];
    let at = match position {
        Value::Object(relative) => match relative.get("after") {
            Some(id) => place(id).map_or(siblings.len(), |at| at + 1),
            None => place(&relative["before"]).unwrap_or(0),
        },
        Value::String(last) if last == "last" => siblings.len(),
        _ => 0,
    };
    siblings.insert(at, node);
}

pub(crate) fn siblings_of<'a>(nodes: &'a mut Value, parent: &str) -> Option<&'a mut Vec<Value>> {
    let nodes = nodes.as_array_mut()?;
    if parent == "_root" {
        return Some(nodes);
    }
    for node in nodes {
        if node["id"] == parent {
            if node.get("children").is_none() {
                node["children"] = json!([]);
            }
            return node["children"].as_array_mut();
        }
        if let Some(children) = node.get_mut("children")
            && let Some(found) = siblings_of(children, parent)
        {
            return Some(found);
        }
    }
    None
}
