//! What is different between two JSON values, as changes that make one out of the other.
//!
//! The changes are a JSON Patch (RFC 6902): applied in their order to the first value, they give the second. They are
//! not the fewest that do: two arrays are compared element by element between what they have in common at both ends.

use super::canonical::{in_order, write_string};
use super::{Json, Map};

/// A change at a path, which is a JSON Pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq)]
pub struct Change<'a> {
    /// Where.
    pub path: String,
    /// What is there before; `None` if the change adds it.
    pub before: Option<&'a Json>,
    /// What is there after; `None` if the change removes it.
    pub after: Option<&'a Json>,
}

impl Change<'_> {
    /// The change as an operation of a JSON Patch. What was there before stands under `was`, which patches ignore.
    pub fn to_json(&self) -> Vec<u8> {
        let op = match (self.before, self.after) {
            (None, _) => "add",
            (_, None) => "remove",
            _ => "replace",
        };
        let mut out = format!("{{\"op\":\"{op}\",\"path\":").into_bytes();
        write_string(&self.path, &mut out);
        for (key, value) in [("was", self.before), ("value", self.after)] {
            if let Some(value) = value {
                out.extend_from_slice(format!(",\"{key}\":").as_bytes());
                value.write(&mut out);
            }
        }
        out.push(b'}');
        out
    }
}

/// The changes that make `after` out of `before`.
pub fn diff<'a>(before: &'a Json, after: &'a Json) -> Vec<Change<'a>> {
    let root = Change { path: String::new(), before: Some(before), after: Some(after) };
    // A stack of its own: values may be nested deeper than a thread's stack takes.
    let (mut changes, mut left) = (Vec::new(), vec![root]);
    while let Some(next) = left.pop() {
        let first = left.len();
        match (next.before, next.after) {
            (Some(Json::Object(old)), Some(Json::Object(new))) => fields(&next.path, old, new, &mut left),
            (Some(Json::Array(old)), Some(Json::Array(new))) => elements(&next.path, old, new, &mut left),
            (before, after) if before == after => {}
            _ => changes.push(next),
        }
        // What was put there last is taken first.
        if let Some(inner) = left.get_mut(first..) {
            inner.reverse();
        }
    }
    changes
}

/// Adds what is to be compared of two objects.
fn fields<'a>(path: &str, old: &'a Map, new: &'a Map, left: &mut Vec<Change<'a>>) {
    for (key, value) in in_order(old).filter(|(key, _)| !new.contains_key(key)) {
        left.push(Change { path: inner(path, key), before: Some(value), after: None });
    }
    for (key, value) in in_order(new) {
        left.push(Change { path: inner(path, key), before: old.get(key), after: Some(value) });
    }
}

/// Adds what is to be compared of two arrays.
fn elements<'a>(path: &str, old: &'a [Json], new: &'a [Json], left: &mut Vec<Change<'a>>) {
    let start = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old, new) = (old.get(start..).unwrap_or_default(), new.get(start..).unwrap_or_default());
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let old = old.get(..old.len() - end).unwrap_or_default();
    let new = new.get(..new.len() - end).unwrap_or_default();
    for (index, value) in new.iter().enumerate() {
        let path = inner(path, &(start + index).to_string());
        left.push(Change { path, before: old.get(index), after: Some(value) });
    }
    // Each removal moves the next element to its place.
    for value in old.iter().skip(new.len()) {
        let path = inner(path, &(start + new.len()).to_string());
        left.push(Change { path, before: Some(value), after: None });
    }
}

/// The path of a field or an element.
fn inner(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// The change as a line for people, such as `~ /title: "a" -> "b"`.
impl std::fmt::Display for Change<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |value: &Json| String::from_utf8_lossy(&value.canonical()).into_owned();
        let path = if self.path.is_empty() { "(all)" } else { &self.path };
        match (self.before, self.after) {
            (None, after) => write!(out, "+ {path}: {}", after.map(text).unwrap_or_default()),
            (Some(before), None) => write!(out, "- {path}: {}", text(before)),
            (Some(before), Some(after)) => {
                write!(out, "~ {path}: {}", text(before))?;
                out.write_str(" -> ")?;
                out.write_str(&text(after))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::json::DEPTH_MAX;

    fn parse(value: &Value) -> Json {
        Json::parse(value.to_string().as_bytes()).unwrap()
    }

    /// Applies a change as RFC 6902 says, by the text that is printed.
    fn apply(doc: &mut Value, change: &Value) {
        let path = change["path"].as_str().unwrap();
        if path.is_empty() {
            *doc = change["value"].clone();
            return;
        }
        assert_eq!(change.get("was"), doc.pointer(path).filter(|_| change["op"] != "add"), "{change}");
        let (parent, key) = path.rsplit_once('/').unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        match (doc.pointer_mut(parent).unwrap(), change["op"].as_str().unwrap()) {
            (Value::Object(fields), "remove") => drop(fields.remove(&key)),
            (Value::Object(fields), _) => drop(fields.insert(key, change["value"].clone())),
            (Value::Array(values), "remove") => drop(values.remove(key.parse().unwrap())),
            (Value::Array(values), "add") => values.insert(key.parse().unwrap(), change["value"].clone()),
            (Value::Array(values), _) => values[key.parse::<usize>().unwrap()] = change["value"].clone(),
            (other, _) => panic!("{other}"),
        }
    }

    fn lines(before: &Value, after: &Value) -> Vec<String> {
        diff(&parse(before), &parse(after)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn changes_are_told_by_their_paths() {
        let before = json!({ "a": 1, "gone": [true], "list": [1, 2, 3, 4], "in": { "x/y~z": "old" } });
        let after = json!({ "a": 1, "list": [1, 9, 4], "in": { "x/y~z": "new" }, "more": null });
        assert_eq!(
            lines(&before, &after),
            [
                "- /gone: [true]",
                "~ /in/x~1y~0z: \"old\" -> \"new\"",
                "~ /list/1: 2 -> 9",
                "- /list/2: 3",
                "+ /more: null"
            ]
        );
        assert_eq!(lines(&json!([]), &json!({})), ["~ (all): [] -> {}"]);
        assert!(lines(&after, &after).is_empty());
    }

    #[test]
    fn the_deepest_values_are_compared() {
        let deep = |leaf: &str| {
            let text = format!("{}{leaf}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
            Json::parse(text.as_bytes()).unwrap()
        };
        let (before, after) = (deep("1"), deep("2"));
        let changes = diff(&before, &after);
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].path.len(), 2 * DEPTH_MAX);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            Just(json!(true)),
            (0..4).prop_map(|n| json!(n)),
            "[a~/]{0,2}".prop_map(|s| json!(s))
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                prop::collection::btree_map("[ab~/]{0,2}", inner, 0..5).prop_map(|fields| json!(fields)),
            ]
        })
    }

    proptest! {
        #[test]
        fn changes_make_one_value_out_of_the_other(before in value(), after in value()) {
            let mut doc = before.clone();
            for change in diff(&parse(&before), &parse(&after)) {
                apply(&mut doc, &serde_json::from_slice(&change.to_json()).unwrap());
            }
            prop_assert_eq!(doc, after);
        }
    }
}
