//! Properties: the product against the naive model, over random drafts.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::CommittedEvent;
use crate::state::{IndexPart, StatePart};

/// Few names, so that drafts meet; odd ones, so that nothing depends on names being nice.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        20 => prop::sample::select(vec!["a", "b", "t", "items", "tree", "x", "y"]),
        5 => prop::sample::select(vec!["", "é", "\u{e000}", "😀", "1", "10", "2", "id", "children", "q\"\n\u{1}"]),
    ]
    .prop_map(str::to_owned)
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof![
        40 => prop::sample::select(vec!["x", "y", "z", "w", "1", "10", "😀", "\u{e000}", "a.b", "items"]),
        1 => prop::sample::select(vec!["__proto__", "_root", "unknown"]),
    ]
    .prop_map(str::to_owned)
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => prop::sample::select(vec!["a", "a.b", "a.b", "a.c", "t.items.x", "t.items", "t.tree", "t", "t.title"])
            .prop_map(str::to_owned),
        6 => vec(key(), 1..4).prop_map(|keys| keys.join(".")).prop_filter("not empty", |path| !path.is_empty()),
        1 => Just("a.__proto__".to_owned()),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..1000).prop_map(Value::from),
        (-9i64..9).prop_map(|n| Value::from(n as f64 / 4.0)),
        key().prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((key(), inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn fields() -> impl Strategy<Value = Value> {
    vec((prop_oneof![9 => key(), 1 => Just("constructor".to_owned())], value()), 0..3)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

/// A node as `set` may bring it: perhaps without children, perhaps with other fields, perhaps broken.
fn node() -> impl Strategy<Value = Value> {
    let leaf = (id(), any::<bool>(), prop::option::weighted(0.2, (key(), scalar())));
    let leaf = leaf.prop_map(|(id, bare, extra)| {
        let mut node = if bare { json!({ "id": id }) } else { json!({ "id": id, "children": [] }) };
        if let Some((key, value)) = extra {
            node[key] = value;
        }
        node
    });
    leaf.prop_recursive(3, 8, 3, |inner| {
        (inner.clone(), vec(inner, 0..3)).prop_map(|(mut node, children)| {
            node["children"] = Value::from(children);
            node
        })
    })
}

fn tree_value() -> impl Strategy<Value = Value> {
    (vec(node(), 0..3), vec((id(), fields()), 0..4), any::<bool>()).prop_map(|(tree, items, titled)| {
        let items: Value = items.into_iter().collect();
        let mut value = json!({ "items": items, "tree": tree });
        if titled {
            value["title"] = json!("t");
        }
        value
    })
}

/// A tree that is one: no id twice, and every node with its item.
pub(crate) fn forest() -> impl Strategy<Value = Value> {
    let nodes = vec((any::<prop::sample::Index>(), prop::option::weighted(0.3, (key(), scalar()))), 0..6);
    (nodes, any::<bool>()).prop_map(|(nodes, bare)| {
        let ids = ["x", "y", "z", "w", "1", "😀"];
        let mut items = json!({});
        let mut tree = json!([]);
        for (id, (parent, extra)) in ids.iter().zip(nodes) {
            items[*id] = json!({ "a": 1 });
            let mut node = if bare { json!({ "id": id }) } else { json!({ "id": id, "children": [] }) };
            if let Some((key, value)) = extra.filter(|(key, _)| key != "id" && key != "children") {
                node[key] = value;
            }
            // The parent is one of the nodes before it, or the top.
            let place = parent.index(ids.iter().position(|known| known == id).unwrap() + 1);
            let parent = if place == 0 { "_root" } else { ids[place - 1] };
            model::siblings_of(&mut tree, parent).unwrap().push(node);
        }
        json!({ "items": items, "tree": tree })
    })
}

fn position() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!("first")),
        Just(json!("last")),
        id().prop_map(|id| json!({ "after": id })),
        id().prop_map(|id| json!({ "before": id })),
    ]
}

/// Some of the fields of `options`.
fn options(
    id: Option<String>,
    parent: Option<String>,
    position: Option<Value>,
    replace: Option<bool>,
) -> Value {
    let mut options = json!({});
    let given = [
        ("id", id.map(Value::from)),
        ("parent", parent.map(Value::from)),
        ("position", position),
        ("replace", replace.map(Value::from)),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            options[key] = value;
        }
    }
    options
}

fn parent() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof![3 => id(), 1 => Just("_root".to_owned())])
}

pub(crate) fn event() -> impl Strategy<Value = (&'static str, Value)> {
    let tree_target = || prop_oneof![9 => Just("t".to_owned()), 3 => Just("a.b".to_owned()), 1 => target()];
    let place = || (parent(), prop::option::of(position()));
    prop_oneof![
        1 => fields().prop_map(|value| ("init", json!({ "value": value }))),
        2 => (target(), value(), prop::option::of(any::<bool>())).prop_map(|(target, value, replace)| {
            let options = options(None, None, None, replace);
            ("set", json!({ "target": target, "value": value, "options": options }))
        }),
        1 => (target(), tree_value()).prop_map(|(target, value)| {
            ("set", json!({ "target": target, "value": value }))
        }),
        1 => (prop::sample::select(vec!["t.tree", "t.items"]), vec(node(), 0..3)).prop_map(|(target, tree)| {
            ("set", json!({ "target": target, "value": tree, "options": { "replace": true } }))
        }),
        1 => target().prop_map(|target| ("unset", json!({ "target": target }))),
        12 => (tree_target(), id(), fields(), place()).prop_map(|(target, id, mut value, (parent, at))| {
            value["id"] = json!(id);
            let options = options(None, parent, at, None);
            ("treePush", json!({ "target": target, "value": value, "options": options }))
        }),
        3 => (tree_target(), id()).prop_map(|(target, id)| {
            ("treeDelete", json!({ "target": target, "options": { "id": id } }))
        }),
        5 => (tree_target(), id(), fields(), prop::option::of(any::<bool>())).prop_map(
            |(target, id, value, replace)| {
                let options = options(Some(id), None, None, replace);
                ("treeUpdate", json!({ "target": target, "value": value, "options": options }))
            }
        ),
        12 => (tree_target(), id(), place()).prop_map(|(target, id, (parent, at))| {
            ("treeMove", json!({ "target": target, "options": options(Some(id), parent, at, None) }))
        }),
    ]
}

fn limits() -> impl Strategy<Value = StateLimits> {
    prop_oneof![
        3 => Just(StateLimits::default()),
        2 => (20usize..500, 3usize..12)
            .prop_map(|(size_bytes_max, depth_max)| StateLimits { size_bytes_max, depth_max }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    /// Verdicts and states are those of the model, the size is that of the canonical form, and folding
    /// again from the start and from any snapshot gives the same.
    #[test]
    fn the_product_agrees_with_the_model(
        start in prop::option::weighted(0.8, forest()),
        events in vec((event(), any::<bool>()), 1..60),
        limits in limits(),
        snapshot_at in any::<prop::sample::Index>(),
    ) {
        let StateLimits { size_bytes_max, depth_max } = limits;
        let mut validator = Validator::new(RulesConfig { limits, ..RulesConfig::default() });
        let submitter = submitter("c1", &["*"]);
        let mut model = json!({});
        let mut first = true;
        let start = start.map(|value| (("init", json!({ "value": { "t": value, "a": { "b": {} } } })), true));
        for (number, ((event_type, payload), commit)) in start.iter().chain(&events).enumerate() {
            let mut found = Vec::new();
            match validator.submit(&submitter, &draft(&format!("d{number}"), event_type, payload)) {
                Decision::Commit(_) => {}
                Decision::Reject { errors, .. } => {
                    found.extend(errors.into_iter().map(|error| (error.code, error.field)));
                    found.sort();
                }
                other => panic!("{other:?}"),
            }
            let expected = model::check(event_type, payload, &model, first, size_bytes_max, depth_max);
            prop_assert_eq!(&found, &expected, "{} {} on {}", event_type, payload, model);
            if found.is_empty() {
                model::fold(event_type, payload, &mut model);
                first = false;
            }
            let canonical = validator.canonical();
            prop_assert_eq!(&canonical, &model::canonical(&model), "{} {}", event_type, payload);
            prop_assert_eq!(validator.state.document().size(), canonical.len());
            if *commit {
                validator.commit();
            }
        }
        validator.commit();

        let (log, fold) = (&validator.log, validator.rules.fold());
        let mut again = PartitionState::new();
        let at = snapshot_at.index(log.len() + 1);
        let mut index = IndexPart::default();
        let mut loaded = None;
        for (number, (id, body)) in log.iter().enumerate() {
            if number == at {
                loaded = Some((again.to_state_part().unwrap(), index.clone()));
            }
            let event = CommittedEvent { id: *id, record: EventRecord::parse(body).unwrap() };
            again.apply(&*fold, &event, body.len()).unwrap();
            index.extend(*id, [(event.record.draft_key(), *id, event.record.content_hash)]);
        }
        prop_assert_eq!(again.document().canonical(), validator.canonical().into_bytes());
        let (state, index) = loaded.unwrap_or_else(|| (again.to_state_part().unwrap(), index));
        let state = StatePart::decode(&state.encode()).unwrap();
        let index = IndexPart::decode(&index.encode()).unwrap();
        let mut loaded = PartitionState::from_snapshot(&state, &index).unwrap();
        for (id, body) in &log[at..] {
            let event = CommittedEvent { id: *id, record: EventRecord::parse(body).unwrap() };
            loaded.replay(&*fold, &event, body.len()).unwrap();
        }
        prop_assert_eq!(loaded.document().canonical(), validator.canonical().into_bytes());
        prop_assert_eq!(loaded.document().size(), validator.canonical().len());
        prop_assert_eq!(loaded.to_state_part().unwrap(), validator.state.to_state_part().unwrap());
        for (_, body) in log {
            let key = EventRecord::parse(body).unwrap().draft_key();
            prop_assert_eq!(loaded.lookup(&key), validator.state.lookup(&key));
        }
    }

    /// What is no payload of its type never makes the core panic, and never folds into half a change.
    #[test]
    fn a_strange_log_is_an_error_and_no_change(
        event_type in prop::sample::select(vec![
            "init", "set", "unset", "treePush", "treeDelete", "treeUpdate", "treeMove", "event", "other",
        ]),
        start in tree_value(),
        payload in value(),
        (_, other) in event(),
    ) {
        use crate::state::{Document, Fold};
        let fold = Registry::built_in().unwrap();
        for payload in [payload, other] {
            let text = json!({ "t": start }).to_string();
            let mut doc = Document::parse(text.as_bytes()).unwrap().unwrap();
            let before = doc.canonical();
            let payload = RawValue::from_string(payload.to_string()).unwrap();
            let folded = fold.fold(event_type, &payload, true, &mut doc);
            let after = doc.canonical();
            prop_assert_eq!(doc.size(), after.len());
            if folded.is_err() {
                prop_assert_eq!(before, after);
            }
        }
    }
}
