//! What the clients write: a small state that everybody works on, so that many drafts are refused, for many
//! reasons, and whether one is depends on what came just before it.

use serde_json::{Value, json};

use crate::harness::rng::Rng;

/// Nodes of the tree.
const NODES: usize = 10;
/// Keys beside it.
const KEYS: usize = 4;

/// An event's type and payload. `tag` is unique, so that what stands in the log can be told apart.
pub fn event(rng: &mut Rng, tag: &str) -> (&'static str, Value) {
    match rng.below(100) {
        0..22 => ("treePush", push(rng, tag)),
        22..34 => {
            let (id, replace) = (node(rng), rng.one_in(4));
            let value = json!({ format!("f{}", rng.below(3)): tag });
            (
                "treeUpdate",
                json!({ "target": "t", "value": value, "options": { "id": id, "replace": replace } }),
            )
        }
        34..46 => {
            let (id, parent) = (node(rng), parent(rng));
            let options = json!({ "id": id, "parent": parent, "position": position(rng) });
            ("treeMove", json!({ "target": "t", "options": options }))
        }
        46..57 => ("treeDelete", json!({ "target": "t", "options": { "id": node(rng) } })),
        57..63 => ("set", json!({ "target": "t", "value": {} })),
        63..64 => ("unset", json!({ "target": "t" })),
        64..76 => ("set", json!({ "target": key(rng), "value": { "by": tag } })),
        76..80 => ("set", json!({ "target": key(rng), "value": tag, "options": { "replace": true } })),
        80..88 => {
            let target = format!("{}.{}", key(rng), rng.below(3));
            ("set", json!({ "target": target, "value": tag }))
        }
        88..91 => ("unset", json!({ "target": key(rng) })),
        91..93 => ("set", json!({ "target": key(rng), "value": [tag] })),
        93..95 => ("set", json!({ "target": 7, "value": tag })),
        95..97 => ("init", json!({ "value": { "opened": tag } })),
        _ => ("set", json!({ "target": "last", "value": tag })),
    }
}

fn push(rng: &mut Rng, tag: &str) -> Value {
    let (id, parent) = (node(rng), parent(rng));
    json!({
        "target": "t",
        "value": { "id": id, "by": tag },
        "options": { "parent": parent, "position": position(rng) },
    })
}

fn node(rng: &mut Rng) -> String {
    format!("n{}", rng.below(NODES))
}

fn parent(rng: &mut Rng) -> String {
    if rng.one_in(2) { "_root".to_owned() } else { node(rng) }
}

fn position(rng: &mut Rng) -> Value {
    match rng.below(4) {
        0 => json!("first"),
        1 => json!({ "after": node(rng) }),
        2 => json!({ "before": node(rng) }),
        _ => json!("last"),
    }
}

fn key(rng: &mut Rng) -> String {
    format!("k{}", rng.below(KEYS))
}
