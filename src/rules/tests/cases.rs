//! Cases per rule: accepted at the border, refused just past it.

use serde_json::{Value, json};

use super::*;
use crate::state::IndexPart;

/// A state with a tree `t`: x with children y and z, and w; and what is no tree.
fn state() -> Value {
    json!({ "value": {
        "t": {
            "items": { "x": { "n": 1 }, "y": {}, "z": {}, "w": {}, "s": "text", "orphan": {} },
            "tree": [
                { "id": "x", "children": [{ "id": "y", "children": [] }, { "id": "z" }] },
                { "id": "w", "note": { "k": [1] }, "a": 1, "zz": 2 },
                { "id": "bare" },
            ],
        },
        "empty": {},
        "twice": { "items": {}, "tree": [{ "id": "x" }, { "id": "y", "children": [{ "id": "x" }] }] },
        "noid": { "tree": [{ "children": [] }] },
        "numberid": { "tree": [{ "id": 1 }] },
        "array": [1, 2],
        "null": null,
        "five": 5,
        "items5": { "items": 5 },
        "tree5": { "tree": {} },
        "children5": { "tree": [{ "id": "x", "children": null }] },
    } })
}

fn validator() -> Validator {
    let mut validator = Validator::new(RulesConfig::default());
    validator.try_one("init", &state()).unwrap();
    validator
}

/// Each case on a state of its own: type, payload, and what is found (nothing: accepted).
fn check(cases: &[(&str, Value, &[&str])]) {
    for (event_type, payload, expected) in cases {
        let mut validator = validator();
        let before = validator.canonical();
        match validator.try_one(event_type, payload) {
            Ok(_) => assert!(expected.is_empty(), "{event_type} {payload} was accepted"),
            Err(found) => {
                assert_eq!(&found, expected, "{event_type} {payload}");
                assert_eq!(validator.canonical(), before);
            }
        }
    }
}

#[test]
fn schema_rules() {
    const TARGET: &[&str] = &["SCHEMA_ERROR payload.target"];
    const VALUE: &[&str] = &["SCHEMA_ERROR payload.value"];
    const POSITION: &[&str] = &["SCHEMA_ERROR payload.options.position"];
    let at = |position: Value| json!({ "target": "t", "options": { "id": "x", "position": position } });
    check(&[
        ("set", json!({ "target": "a", "value": null }), &[]),
        ("set", json!({ "target": "a" }), VALUE),
        ("set", json!({}), &["SCHEMA_ERROR payload.target", "SCHEMA_ERROR payload.value"]),
        ("set", json!({ "target": "", "value": 1 }), TARGET),
        ("set", json!({ "target": 5, "value": 1 }), TARGET),
        ("set", json!({ "target": "a", "value": 1, "more": 1 }), &["SCHEMA_ERROR payload.more"]),
        ("set", json!({ "target": "a", "value": 1, "options": {} }), &[]),
        (
            "set",
            json!({ "target": "a", "value": 1, "options": { "replace": 1 } }),
            &["SCHEMA_ERROR payload.options.replace"],
        ),
        (
            "set",
            json!({ "target": "a", "value": 1, "options": { "deep": true } }),
            &["SCHEMA_ERROR payload.options.deep"],
        ),
        ("set", json!({ "target": "a", "value": 1, "options": null }), &["SCHEMA_ERROR payload.options"]),
        ("set", json!([]), &["SCHEMA_ERROR payload"]),
        ("unset", json!({ "target": "a", "value": 1 }), &["SCHEMA_ERROR payload.value"]),
        ("treePush", json!({ "target": "t", "value": { "id": "new" }, "options": { "more": 1 } }), &[]),
        ("treePush", json!({ "target": "t", "value": { "id": "" } }), &["SCHEMA_ERROR payload.value.id"]),
        ("treePush", json!({ "target": "t", "value": {} }), &["SCHEMA_ERROR payload.value.id"]),
        ("treePush", json!({ "target": "t", "value": { "id": 7 } }), &["SCHEMA_ERROR payload.value.id"]),
        (
            "treePush",
            json!({ "target": "t", "value": { "id": "n" }, "options": { "parent": null } }),
            &["SCHEMA_ERROR payload.options.parent"],
        ),
        ("treeDelete", json!({ "target": "t" }), &["SCHEMA_ERROR payload.options"]),
        ("treeDelete", json!({ "target": "t", "options": {} }), &["SCHEMA_ERROR payload.options.id"]),
        ("treeUpdate", json!({ "target": "t", "value": [], "options": { "id": "x" } }), VALUE),
        (
            "treeUpdate",
            json!({ "target": "t", "value": {}, "options": { "id": "x", "replace": 0 } }),
            &["SCHEMA_ERROR payload.options.replace"],
        ),
        ("treeMove", at(json!("first")), &[]),
        ("treeMove", at(json!("last")), &[]),
        ("treeMove", at(json!("middle")), POSITION),
        ("treeMove", at(json!({ "after": "w" })), &[]),
        ("treeMove", at(json!({ "before": "gone" })), &[]),
        ("treeMove", at(json!({ "after": "" })), POSITION),
        ("treeMove", at(json!({ "after": "w", "before": "w" })), POSITION),
        ("treeMove", at(json!({})), POSITION),
        ("treeMove", at(json!(1)), POSITION),
        ("event", json!({ "schema": "nobody", "data": 1 }), &["SCHEMA_ERROR payload.schema"]),
        ("event", json!({ "schema": "nobody" }), &["SCHEMA_ERROR payload.data"]),
        ("treeRename", json!({}), &["UNKNOWN_EVENT_TYPE type"]),
        ("init", json!({ "value": [] }), VALUE),
    ]);
}

#[test]
fn business_rules() {
    const MISSING: &[&str] = &["TARGET_NOT_FOUND payload.target"];
    const NO_TREE: &[&str] = &["TARGET_NOT_A_TREE payload.target"];
    const THROUGH: &[&str] = &["PATH_NOT_AN_OBJECT payload.target"];
    const NO_NODE: &[&str] = &["NODE_NOT_FOUND payload.options.id"];
    let set = |target: &str| json!({ "target": target, "value": 1 });
    let unset = |target: &str| json!({ "target": target });
    let push = |target: &str, id: &str, parent: &str| json!({ "target": target, "value": { "id": id }, "options": { "parent": parent } });
    let delete = |id: &str| json!({ "target": "t", "options": { "id": id } });
    let update = |id: &str, replace: bool| json!({ "target": "t", "value": { "k": 1 }, "options": { "id": id, "replace": replace } });
    let shift = |id: &str, parent: &str| json!({ "target": "t", "options": { "id": id, "parent": parent } });
    check(&[
        ("treePush", push("t", "new", "_root"), &[]),
        ("treePush", push("t", "new", "bare"), &[]),
        ("treePush", push("empty", "new", "_root"), &[]),
        ("treePush", push("gone", "new", "_root"), MISSING),
        ("treePush", push("five", "new", "_root"), MISSING),
        ("treePush", push("null", "new", "_root"), MISSING),
        ("treePush", push("t.tree", "new", "_root"), MISSING),
        (
            "treePush",
            push("five.a", "new", "_root"),
            &["TARGET_NOT_FOUND payload.target", "PATH_NOT_AN_OBJECT payload.target"],
        ),
        ("treePush", push("twice", "new", "_root"), NO_TREE),
        ("treePush", push("noid", "new", "_root"), NO_TREE),
        ("treePush", push("numberid", "new", "_root"), NO_TREE),
        ("treePush", push("items5", "new", "_root"), NO_TREE),
        ("treePush", push("tree5", "new", "_root"), NO_TREE),
        ("treePush", push("children5", "new", "_root"), NO_TREE),
        ("treePush", push("t", "x", "_root"), &["DUPLICATE_ID payload.value.id"]),
        ("treePush", push("t", "orphan", "_root"), &["DUPLICATE_ID payload.value.id"]),
        ("treePush", push("t", "bare", "_root"), &["DUPLICATE_ID payload.value.id"]),
        ("treePush", push("t", "new", "orphan"), &["PARENT_NOT_FOUND payload.options.parent"]),
        (
            "treePush",
            push("t", "x", "gone"),
            &["DUPLICATE_ID payload.value.id", "PARENT_NOT_FOUND payload.options.parent"],
        ),
        ("treePush", push("t", "_root", "_root"), &["RESERVED_ID payload.value.id"]),
        ("treeDelete", delete("x"), &[]),
        ("treeDelete", delete("orphan"), &[]),
        ("treeDelete", delete("bare"), &[]),
        ("treeDelete", delete("gone"), NO_NODE),
        ("treeUpdate", update("orphan", false), &[]),
        ("treeUpdate", update("bare", false), NO_NODE),
        ("treeUpdate", update("s", true), &[]),
        ("treeUpdate", update("s", false), NO_TREE),
        ("treeMove", shift("bare", "z"), &[]),
        ("treeMove", shift("orphan", "_root"), NO_NODE),
        (
            "treeMove",
            shift("gone", "gone"),
            &["NODE_NOT_FOUND payload.options.id", "PARENT_NOT_FOUND payload.options.parent"],
        ),
        ("treeMove", shift("x", "x"), &["CYCLE payload.options.parent"]),
        ("treeMove", shift("x", "z"), &["CYCLE payload.options.parent"]),
        ("treeMove", shift("z", "x"), &[]),
        ("set", set("new.path.here"), &[]),
        ("set", set("null.path"), &[]),
        ("set", set("five"), &[]),
        ("set", set("five.a"), THROUGH),
        ("set", set("array.0"), THROUGH),
        ("set", set("t.tree.0"), THROUGH),
        ("set", json!({ "target": "a", "value": [1], "options": { "replace": true } }), &[]),
        ("set", json!({ "target": "a", "value": [1] }), &["ARRAY_REQUIRES_REPLACE payload.value"]),
        (
            "set",
            json!({ "target": "five.a", "value": [1] }),
            &["ARRAY_REQUIRES_REPLACE payload.value", "PATH_NOT_AN_OBJECT payload.target"],
        ),
        ("unset", unset("five"), &[]),
        ("unset", unset("gone.path"), &[]),
        ("unset", unset("five.a"), THROUGH),
        ("unset", unset("null.a"), THROUGH),
        ("init", json!({ "value": {} }), &["ALREADY_INITIALIZED type"]),
    ]);
}

#[test]
fn forbidden_keys() {
    for name in ["__proto__", "prototype", "constructor"] {
        let named = |field: &str| vec![format!("FORBIDDEN_KEY {field}")];
        let cases = [
            ("set", json!({ "target": "a", "value": { name: 1 } }), named(&format!("payload.value.{name}"))),
            (
                "set",
                json!({ "target": "a", "value": { "b": [0, { name: 1 }] } }),
                named(&format!("payload.value.b.1.{name}")),
            ),
            ("set", json!({ "target": format!("a.{name}.b"), "value": 1 }), named("payload.target")),
            ("unset", json!({ "target": name }), named("payload.target")),
            ("treePush", json!({ "target": "t", "value": { "id": name } }), named("payload.value.id")),
            (
                "treePush",
                json!({ "target": "t", "value": { "id": "n" }, "options": { "parent": name } }),
                vec![
                    "FORBIDDEN_KEY payload.options.parent".to_owned(),
                    "PARENT_NOT_FOUND payload.options.parent".to_owned(),
                ],
            ),
            (
                "treeMove",
                json!({ "target": "t", "options": { "id": "x", "position": { "after": name } } }),
                named("payload.options.position.after"),
            ),
            (
                "treeMove",
                json!({ "target": "t", "options": { "id": "x", "position": { "before": name } } }),
                named("payload.options.position.before"),
            ),
            (
                "treeUpdate",
                json!({ "target": "t", "value": { name: 1 }, "options": { "id": "x" } }),
                named(&format!("payload.value.{name}")),
            ),
            (
                "treeDelete",
                json!({ "target": "t", "options": { "id": name } }),
                vec![
                    "FORBIDDEN_KEY payload.options.id".to_owned(),
                    "NODE_NOT_FOUND payload.options.id".to_owned(),
                ],
            ),
            (
                "init",
                json!({ "value": { name: 1 } }),
                vec![format!("FORBIDDEN_KEY payload.value.{name}"), "ALREADY_INITIALIZED type".to_owned()],
            ),
        ];
        for (event_type, payload, mut expected) in cases {
            let mut found = validator().try_one(event_type, &payload).unwrap_err();
            found.sort();
            expected.sort();
            assert_eq!(found, expected, "{event_type} {payload}");
        }
        // As a value it is a string like any other.
        validator().try_one("set", &json!({ "target": "a", "value": name })).unwrap();
    }
}

#[test]
fn state_limits_hold_to_the_byte_and_the_level() {
    let tight = |size_bytes_max, depth_max| {
        let limits = StateLimits { size_bytes_max, depth_max };
        let mut validator = Validator::new(RulesConfig { limits, ..RulesConfig::default() });
        validator.try_one("init", &json!({ "value": { "t": {} } })).unwrap();
        validator
    };
    const TOO_LARGE: &[&str] = &["STATE_TOO_LARGE payload"];
    let events = [
        ("set", json!({ "target": "a.b.c", "value": "é\u{1}" }), r#"{"a":{"b":{"c":"é\u0001"}},"t":{}}"#, 3),
        (
            "treePush",
            json!({ "target": "t", "value": { "id": "x", "k": {} } }),
            r#"{"t":{"items":{"x":{"k":{}}},"tree":[{"children":[],"id":"x"}]}}"#,
            5,
        ),
    ];
    for (event_type, payload, after, depth) in events {
        let mut fits = tight(after.len(), depth);
        fits.try_one(event_type, &payload).unwrap();
        assert_eq!(fits.canonical(), after);
        assert_eq!(tight(after.len() - 1, depth).try_one(event_type, &payload).unwrap_err(), TOO_LARGE);
        assert_eq!(tight(after.len(), depth - 1).try_one(event_type, &payload).unwrap_err(), TOO_LARGE);
    }
}

#[test]
fn limits_lowered_later_let_a_state_shrink() {
    let mut validator = validator();
    let limits = StateLimits { size_bytes_max: 100, depth_max: 3 };
    validator.rules = Rules::new(RulesConfig { limits, ..RulesConfig::default() }).unwrap();
    validator.try_one("set", &json!({ "target": "a", "value": 1 })).unwrap_err();
    validator.try_one("treeDelete", &json!({ "target": "t", "options": { "id": "x" } })).unwrap();
    validator.try_one("unset", &json!({ "target": "twice" })).unwrap();
}

#[test]
fn trees_keep_what_they_came_with() {
    let mut validator = validator();
    let tree = |validator: &Validator| {
        let state: Value = serde_json::from_str(&validator.canonical()).unwrap();
        state["t"]["tree"].clone()
    };
    let before = tree(&validator);
    // To the bottom and back: x had the first place.
    let options = |position: &str| json!({ "target": "t", "options": { "id": "x", "position": position } });
    validator.try_one("treeMove", &options("last")).unwrap();
    assert_eq!(tree(&validator)[2]["id"], "x");
    validator.try_one("treeMove", &options("first")).unwrap();
    assert_eq!(tree(&validator), before);
    // A sibling that is not there: after is last, before is first; itself is no sibling.
    for (position, place) in [("after", 2), ("before", 0)] {
        for sibling in ["gone", "y", "w"] {
            let position = json!({ position: sibling });
            let options = json!({ "id": "w", "position": position });
            validator.try_one("treeMove", &json!({ "target": "t", "options": options })).unwrap();
            assert_eq!(tree(&validator)[place]["id"], "w", "{options}");
        }
    }
    // A bare node gets children with its first child, and keeps them.
    let options = json!({ "id": "y", "parent": "bare" });
    validator.try_one("treeMove", &json!({ "target": "t", "options": options })).unwrap();
    validator.try_one("treeDelete", &json!({ "target": "t", "options": { "id": "y" } })).unwrap();
    assert_eq!(tree(&validator)[2], json!({ "id": "bare", "children": [] }));
    assert_eq!(tree(&validator)[0], json!({ "id": "w", "note": { "k": [1] }, "a": 1, "zz": 2 }));
}

#[test]
fn permissions_come_before_the_rules() {
    let validator = validator();
    let decide = |permissions: &[&str], event_type: &str, payload: Value| {
        validator.rules.decide(
            &validator.state,
            &submitter("c2", permissions),
            &draft("d", event_type, &payload),
        )
    };
    let set = || json!({ "target": "a.b", "value": 1 });
    for permissions in [&["set"][..], &["*"], &["read", "set:a.*"], &["*:a.b"]] {
        assert!(matches!(decide(permissions, "set", set()), Decision::Commit(_)), "{permissions:?}");
    }
    for permissions in [&[][..], &["read"], &["unset"], &["set:b"], &["set:a"]] {
        let decision = decide(permissions, "set", set());
        let Decision::Reject { reason: Reason::Forbidden, errors } = decision else {
            panic!("{permissions:?}: {decision:?}")
        };
        assert_eq!((errors[0].code.as_str(), errors[0].field.as_str()), ("FORBIDDEN", "payload.target"));
    }
    // Whoever may not do it does not learn what the state would say to it.
    let broken = || json!({ "target": "five.a", "value": 1 });
    let refused = decide(&["read"], "set", broken());
    assert!(matches!(refused, Decision::Reject { reason: Reason::Forbidden, .. }));
    let refused = decide(&["set"], "set", broken());
    assert!(matches!(refused, Decision::Reject { reason: Reason::ValidationFailed, .. }));

    let mut fresh = Validator::new(RulesConfig::default());
    let init = draft("d", "init", &json!({ "value": {} }));
    for (permissions, commits) in [(&["set"][..], false), (&["init:a"], false), (&["init"], true)] {
        let decision = fresh.submit(&submitter("c", permissions), &init);
        assert_eq!(matches!(decision, Decision::Commit(_)), commits, "{decision:?}");
    }
}

#[test]
fn a_draft_is_committed_once() {
    let mut validator = validator();
    let (c2, c3) = (submitter("c2", &["*"]), submitter("c3", &[]));
    let push = draft("d", "treePush", &json!({ "target": "t", "value": { "id": "n" } }));
    assert!(matches!(validator.submit(&c2, &push), Decision::Commit(_)));
    let Decision::Wait = validator.rules.decide(&validator.state, &c2, &push) else { panic!() };
    validator.commit();
    let head = validator.state.head();
    // The same again, in another spelling: the rules would refuse it now.
    let again = raw_draft("d", "treePush", r#"{"value":{"id":"\u006e"}, "target":"t"}"#);
    let Decision::AlreadyCommitted(id) = validator.submit(&c2, &again) else { panic!() };
    assert_eq!(id, head);
    let other = draft("d", "treePush", &json!({ "target": "t", "value": { "id": "m" } }));
    let Decision::Reject { reason: Reason::DuplicateDraft, errors } = validator.submit(&c2, &other) else {
        panic!()
    };
    assert_eq!((errors[0].code.as_str(), errors[0].field.as_str()), ("DUPLICATE_DRAFT", "draftId"));
    // Another client's draft of that name is another draft.
    assert!(matches!(validator.submit(&c3, &other), Decision::Reject { reason: Reason::Forbidden, .. }));
}

#[test]
fn conflicts_count_by_base_client_and_path() {
    let mut validator = validator();
    let base = validator.state.head();
    let client = |name: &str| submitter(name, &["*"]);
    let on = |id: &str, target: &str, base: Option<EventId>| {
        let mut draft = draft(id, "set", &json!({ "target": target, "value": {} }));
        draft.base_event_id = base;
        draft
    };
    assert!(matches!(validator.submit(&client("c2"), &on("1", "a.b", None)), Decision::Commit(_)));
    // Staged, without an id yet: whoever it concerns waits, nobody else.
    let decide = |validator: &Validator, name: &str, target: &str, base| {
        validator.rules.decide(&validator.state, &client(name), &on("2", target, Some(base)))
    };
    assert!(matches!(decide(&validator, "c3", "a.b.c", base), Decision::Wait));
    assert!(matches!(decide(&validator, "c3", "a.c", base), Decision::Commit(_)));
    assert!(matches!(decide(&validator, "c2", "a.b", base), Decision::Commit(_)));
    validator.commit();
    let head = validator.state.head();
    for target in ["a", "a.b", "a.b.c"] {
        let Decision::Reject { reason: Reason::Conflict, errors } = decide(&validator, "c3", target, base)
        else {
            panic!("{target}")
        };
        assert_eq!((errors[0].code.as_str(), errors[0].field.as_str()), ("CONFLICT", "baseEventId"));
        assert!(errors[0].message.contains(&head.to_string()), "{}", errors[0].message);
        assert!(matches!(decide(&validator, "c3", target, head), Decision::Commit(_)));
        assert!(matches!(decide(&validator, "c2", target, base), Decision::Commit(_)));
    }
    assert!(matches!(decide(&validator, "c3", "a.bc", base), Decision::Commit(_)));

    // From a snapshot the touches are not known before they are read again.
    let part = validator.state.to_state_part().unwrap();
    validator.state = PartitionState::from_snapshot(&part, &IndexPart::default()).unwrap();
    let Decision::NeedHistory { from } = decide(&validator, "c3", "a.b", base) else { panic!() };
    let fold = validator.rules.fold();
    for (id, body) in validator.log.iter().filter(|(id, _)| *id > from) {
        let event = crate::event::CommittedEvent { id: *id, record: EventRecord::parse(body).unwrap() };
        assert!(!validator.state.add_older_touch(&*fold, from, &event));
    }
    assert!(matches!(decide(&validator, "c3", "a.b", base), Decision::Reject { .. }));
    assert!(matches!(decide(&validator, "c3", "b", base), Decision::Commit(_)));
}

#[test]
fn policies_go_by_the_longest_prefix() {
    let conflicts = ConflictPolicies {
        default: ConflictPolicy::Optional,
        by_prefix: vec![
            ("a".to_owned(), ConflictPolicy::Mandatory),
            ("a.free".to_owned(), ConflictPolicy::Ignored),
        ],
    };
    let mut validator = Validator::new(RulesConfig { conflicts, ..RulesConfig::default() });
    for target in ["ab", "a.free", "a.free.more", "b"] {
        validator.try_one("set", &json!({ "target": target, "value": {} })).ok();
    }
    assert_eq!(validator.canonical(), r#"{"a":{"free":{"more":{}}},"ab":{},"b":{}}"#);
    for target in ["a", "a.freedom"] {
        let refused = validator.try_one("set", &json!({ "target": target, "value": {} })).unwrap_err();
        assert_eq!(refused, ["CONFLICT baseEventId"]);
    }
    // Ignored: even a base that is long past.
    let mut late = draft("late", "set", &json!({ "target": "a.free", "value": 1 }));
    late.base_event_id = Some(EventId::NONE);
    assert!(matches!(validator.submit(&submitter("c2", &["*"]), &late), Decision::Commit(_)));
}

#[test]
fn application_schemas() {
    let order = json!({
        "type": "object",
        "properties": { "lines": { "type": "array", "items": { "type": "integer" } } },
        "required": ["lines"],
    });
    let files = [
        ("order.json".to_owned(), order.to_string()),
        ("order@2.json".to_owned(), "false".to_owned()),
        ("only@1.json".to_owned(), r#"{"type":"string"}"#.to_owned()),
        ("only@3.json".to_owned(), r#"{"type":"number"}"#.to_owned()),
    ];
    let schemas = SchemaSet::from_files(files).unwrap();
    assert_eq!(schemas.len(), 4);
    let mut validator = Validator::new(RulesConfig { schemas, ..RulesConfig::default() });
    let event = |schema: &str, data: Value| json!({ "schema": schema, "data": data });
    let before = validator.canonical();
    let cases: &[(&str, Value, &[&str])] = &[
        ("event", event("order", json!({ "lines": [1, 2.0] })), &[]),
        (
            "event",
            event("order", json!({ "lines": [1, "x", 1.5] })),
            &["SCHEMA_ERROR payload.data.lines.1", "SCHEMA_ERROR payload.data.lines.2"],
        ),
        ("event", event("order", json!({})), &["SCHEMA_ERROR payload.data.lines"]),
        ("event", event("order@1", json!({ "lines": [] })), &[]),
        ("event", event("order@2", json!({ "lines": [] })), &["SCHEMA_ERROR payload.data"]),
        ("event", event("only", json!(1)), &[]),
        ("event", event("only@1", json!("s")), &[]),
        ("event", event("only@2", json!(1)), &["SCHEMA_ERROR payload.schema"]),
        (
            "event",
            event("order", json!({ "lines": [], "__proto__": 1 })),
            &["FORBIDDEN_KEY payload.data.__proto__"],
        ),
        ("order", json!({ "lines": [] }), &[]),
        ("order", json!({}), &["SCHEMA_ERROR payload.lines"]),
        ("orders", json!({}), &["UNKNOWN_EVENT_TYPE type"]),
    ];
    for (event_type, payload, expected) in cases {
        let found = validator.try_one(event_type, payload).err().unwrap_or_default();
        assert_eq!(&found, expected, "{event_type} {payload}");
    }
    assert_eq!(validator.canonical(), before, "domain events change no state");
}

#[test]
fn what_cannot_be_read_is_refused_and_not_thrown() {
    let validator = validator();
    for payload in [r#"{"target":"a","value":1e400}"#, r#"{"target":"a","value":"\ud800"}"#] {
        let decision = validator.rules.decide(
            &validator.state,
            &submitter("c", &["*"]),
            &raw_draft("d", "set", payload),
        );
        let Decision::Reject { reason: Reason::ValidationFailed, errors } = decision else { panic!() };
        assert_eq!((errors[0].code.as_str(), errors[0].field.as_str()), ("SCHEMA_ERROR", "payload"));
    }
}

#[test]
fn what_was_accepted_for_another_state_is_not_staged() {
    let mut validator = validator();
    let c1 = submitter("c1", &["*"]);
    let accept = |validator: &Validator, id: &str| {
        let draft = draft(id, "set", &json!({ "target": "a", "value": 1 }));
        match validator.rules.decide(&validator.state, &c1, &draft) {
            Decision::Commit(accepted) => *accepted,
            other => panic!("{other:?}"),
        }
    };
    let fold = validator.rules.fold();
    let (first, second) = (accept(&validator, "1"), accept(&validator, "2"));
    validator.state.stage(&*fold, first).unwrap();
    assert!(validator.state.stage(&*fold, second).is_err());
    assert_eq!(validator.state.staged(), 1);
    assert!(validator.state.to_state_part().is_err());
}
