//! What the clients write: a small state that everybody works on, so that many drafts are refused, for many
//! reasons, and whether one is depends on what came just before it.

use serde_json::{Value, json};

use super::history::Dialect;
use super::schemas;
use crate::harness::rng::Rng;

/// Nodes of the tree.
const NODES: usize = 10;
/// Keys beside it.
const KEYS: usize = 4;

/// How seldom an event is nearly as large as a frame may be, and how large.
const LARGE_ONE_IN: usize = 2_500;
const LARGE_BYTES: std::ops::Range<usize> = 180_000..260_000;

/// An event's type and payload. `tag` is unique, so that what stands in the log can be told apart.
pub fn event(rng: &mut Rng, tag: &str, dialect: Dialect) -> (&'static str, Value) {
    if rng.one_in(LARGE_ONE_IN) {
        let text = tag.repeat((LARGE_BYTES.start + rng.below(LARGE_BYTES.len())) / tag.len());
        return match dialect {
            // An application's own type: the state stays small.
            Dialect::V1 => ("note", json!({ "text": text })),
            Dialect::Classic => ("set", json!({ "target": "last", "value": text })),
        };
    }
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
        95..96 => ("init", json!({ "value": { "opened": tag } })),
        96..98 => measure(rng, dialect),
        _ => ("set", json!({ "target": "last", "value": tag })),
    }
}

/// A domain event whose figure some validators allow and others do not.
fn measure(rng: &mut Rng, dialect: Dialect) -> (&'static str, Value) {
    let data = json!({ "size": rng.below(25) });
    match dialect {
        Dialect::V1 => (schemas::NAME, data),
        Dialect::Classic => ("event", json!({ "schema": schemas::NAME, "data": data })),
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
