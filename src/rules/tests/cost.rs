//! What events cost: counted in nodes looked at, not in time, so that the test means the same everywhere.

use serde_json::{Value, json};

use super::*;
use crate::state::visits;

const NODES: usize = 100_000;

/// A tree with 100,000 nodes side by side, and a chain below the first.
fn wide() -> Validator {
    let chain = (0..20).fold(json!([]), |below, n| json!([{ "id": format!("c{n}"), "children": below }]));
    let mut nodes: Vec<Value> =
        (0..NODES).map(|n| json!({ "id": format!("n{n}"), "children": [] })).collect();
    nodes[0]["children"] = chain;
    let ids = (0..NODES).map(|n| format!("n{n}")).chain((0..20).map(|n| format!("c{n}")));
    let items: Value = ids.map(|id| (id, json!({ "title": "a title" }))).collect();
    let mut validator = Validator::new(RulesConfig::default());
    let state = json!({ "value": { "t": { "items": items, "tree": nodes } } });
    validator.try_one("init", &state).unwrap();
    // The first tree action makes the index.
    let options = json!({ "id": "n1", "position": "last" });
    validator.try_one("treeMove", &json!({ "target": "t", "options": options })).unwrap();
    validator
}

#[test]
fn tree_actions_do_not_walk_the_tree() {
    let mut validator = wide();
    let last = format!("n{}", NODES - 1);
    let at = |id: &str, parent: &str, position: Value| json!({ "target": "t", "options": { "id": id, "parent": parent, "position": position } });
    let actions = [
        ("treeMove", at("n50000", "_root", json!("first"))),
        ("treeMove", at("n50000", "_root", json!("last"))),
        ("treeMove", at("n50000", "_root", json!({ "after": last }))),
        ("treeMove", at("n7", "c0", json!("first"))),
        ("treeMove", at("c19", "n9", json!("first"))),
        ("treeMove", at("n9", "n10", json!({ "before": "gone" }))),
        ("treePush", json!({ "target": "t", "value": { "id": "new" }, "options": { "parent": "c0" } })),
        ("treePush", json!({ "target": "t", "value": { "id": "top" } })),
        ("treeUpdate", json!({ "target": "t", "value": { "title": "b" }, "options": { "id": "n60000" } })),
        ("treeDelete", json!({ "target": "t", "options": { "id": "n10" } })),
    ];
    for (event_type, payload) in actions {
        let before = visits();
        validator.try_one(event_type, &payload).unwrap();
        let visited = visits() - before;
        // Ancestors and what is removed, each a few times.
        assert!(visited < 1500, "{event_type} {payload} looked at {visited} nodes");
    }
    for (event_type, payload) in [
        ("treeMove", at("n0", "c5", json!("first"))),
        ("treeMove", at("n0", "gone", json!("first"))),
        ("treePush", json!({ "target": "t", "value": { "id": "n0" } })),
    ] {
        let before = visits();
        validator.try_one(event_type, &payload).ok();
        assert!(visits() - before < 100, "{event_type} {payload}");
    }
}

#[test]
fn a_tree_written_and_read_again_is_the_same() {
    let validator = wide();
    let part = validator.state.to_state_part().unwrap();
    let loaded = PartitionState::from_state_part(&part).unwrap();
    assert_eq!(loaded.document().canonical(), part.state);
    assert_eq!(loaded.document().size(), validator.state.document().size());
}

#[test]
fn an_answer_stays_small_whatever_the_payload() {
    let validator = Validator::new(RulesConfig::default());
    let long = "k".repeat(100_000);
    let many = |name: &str| -> Value { (0..5_000).map(|n| (format!("{name}{n}"), json!(1))).collect() };
    let forbidden: Value = (0..5_000).map(|_| json!({ "__proto__": 1 })).collect();
    let mut unexpected = many("more");
    unexpected["target"] = json!("a");
    unexpected["value"] = json!(1);
    for (event_type, payload) in [
        ("set", json!({ "target": "a", "value": { long.as_str(): forbidden } })),
        ("set", unexpected),
        ("set", json!({ "target": "a", "value": 1, "options": many(&long[..20]) })),
        ("treeDelete", json!({ "target": long, "options": { "id": "x" } })),
        (&long, json!({})),
        ("event", json!({ "schema": long, "data": 1 })),
    ] {
        let draft = draft("d", event_type, &payload);
        let decision = validator.rules.decide(&validator.state, &submitter("c", &["*"]), &draft);
        let Decision::Reject { errors, .. } = decision else { panic!("{decision:?}") };
        assert!(errors.len() <= 100);
        let bytes: usize = errors.iter().map(|error| error.field.len() + error.message.len()).sum();
        assert!(bytes <= 100 * 768, "{bytes}");
    }
}
