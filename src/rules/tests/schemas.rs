//! The application's schemas: which one is asked, and what becomes of events that have none.

use serde_json::json;

use super::*;
use crate::event::V1Fields;

/// A set of one-line files.
fn set(files: &[(&str, &str)]) -> SchemaSet {
    SchemaSet::from_files(files.iter().map(|(name, text)| (name.to_string(), text.to_string()))).unwrap()
}

fn broken(files: &[(&str, &str)]) -> Vec<String> {
    SchemaSet::from_files(files.iter().map(|(name, text)| (name.to_string(), text.to_string())))
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn v1(id: &str, event_type: &str, version: u64, payload: &Value) -> Draft {
    let meta = RawValue::from_string("{}".to_owned()).unwrap();
    let fields = V1Fields { label: "l".to_owned(), schema_version: version, user_id: None, meta };
    Draft { v1: Some(fields), ..draft(id, event_type, payload) }
}

/// What is found wrong with one v1 event, as `code field`.
fn found(validator: &mut Validator, event_type: &str, version: u64, payload: &Value) -> Vec<String> {
    let id = format!("{event_type}@{version} {payload}");
    match validator.submit(&submitter("c1", &["*"]), &v1(&id, event_type, version, payload)) {
        Decision::Commit(_) | Decision::AlreadyCommitted(_) => Vec::new(),
        Decision::Reject { reason: Reason::ValidationFailed, errors } => {
            errors.iter().map(|error| format!("{} {}", error.code, error.field)).collect()
        }
        other => panic!("{other:?}"),
    }
}

const FILES: &[(&str, &str)] = &[
    ("any.json", r#"{"required":["lines"]}"#),
    ("any@2.json", "false"),
    ("only@1.json", r#"{"type":"string"}"#),
    ("only@3.json", r#"{"type":"number"}"#),
    ("set.json", "false"),
];

#[test]
fn a_v1_event_is_checked_by_type_and_version() {
    let mut validator = Validator::new(RulesConfig { schemas: set(FILES), ..RulesConfig::default() });
    for (event_type, version, payload, expected) in [
        ("any", 1, json!({ "lines": [] }), &[] as &[&str]),
        ("any", 7, json!({}), &["SCHEMA_ERROR payload.lines"]),
        ("any", 2, json!({ "lines": [] }), &["SCHEMA_ERROR payload"]),
        ("only", 1, json!("s"), &[]),
        ("only", 1, json!(1), &["SCHEMA_ERROR payload"]),
        ("only", 3, json!(1), &[]),
        ("only", 3, json!("s"), &["SCHEMA_ERROR payload"]),
        // Unknown types and versions are accepted unless the operator says otherwise.
        ("only", 2, json!([]), &[]),
        ("nobody.knows", 1, json!([]), &[]),
        // The version is asked for apart from the name.
        ("only@1", 3, json!([]), &[]),
    ] {
        let found = found(&mut validator, event_type, version, &payload);
        assert_eq!(found, expected, "{event_type} {version} {payload}");
    }
    assert_eq!(validator.canonical(), "{}", "domain events change no state");
}

#[test]
fn unknown_types_and_unknown_versions_are_refused_each_for_itself() {
    for (types, versions) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut validator = Validator::new(RulesConfig {
            schemas: set(FILES),
            refuse_unknown_v1_types: types,
            refuse_unknown_v1_versions: versions,
            ..RulesConfig::default()
        });
        let refused = |yes: bool, what: &str| yes.then(|| what.to_owned()).into_iter().collect::<Vec<_>>();
        let unknown = found(&mut validator, "nobody.knows", 1, &json!({}));
        assert_eq!(unknown, refused(types, "UNKNOWN_EVENT_TYPE type"));
        let unknown = found(&mut validator, "only", 2, &json!("s"));
        assert_eq!(unknown, refused(versions, "UNKNOWN_SCHEMA_VERSION schemaVersion"));
        // What is known is none the worse for it.
        assert!(found(&mut validator, "only", 1, &json!("s")).is_empty());
        assert!(found(&mut validator, "any", 9, &json!({ "lines": 1 })).is_empty());
    }
}

#[test]
fn a_v1_event_of_a_built_in_type_is_that_whatever_its_version_and_the_schemas_say() {
    let mut validator = Validator::new(RulesConfig {
        schemas: set(FILES),
        refuse_unknown_v1_types: true,
        refuse_unknown_v1_versions: true,
        ..RulesConfig::default()
    });
    assert!(found(&mut validator, "set", 9, &json!({ "target": "t", "value": {} })).is_empty());
    let push = json!({ "target": "t", "value": { "id": "a", "name": "A" } });
    assert!(found(&mut validator, "treePush", 1, &push).is_empty());
    assert_eq!(
        validator.canonical(),
        r#"{"t":{"items":{"a":{"name":"A"}},"tree":[{"children":[],"id":"a"}]}}"#
    );
    let errors = found(&mut validator, "treePush", 2, &push);
    assert_eq!(errors, ["DUPLICATE_ID payload.value.id"]);
    assert_eq!(found(&mut validator, "treePush", 1, &json!({})).len(), 2);
    let event = |schema: &str, data: Value| json!({ "schema": schema, "data": data });
    assert!(found(&mut validator, "event", 1, &event("only@1", json!("s"))).is_empty());
    assert_eq!(found(&mut validator, "event", 1, &event("only@1", json!(1))), ["SCHEMA_ERROR payload.data"]);
}

#[test]
fn a_file_name_can_say_any_type() {
    let schemas = set(&[
        ("cart%2Fitem.added@2.json", "{}"),
        ("a%40b.json", "{}"),
        ("100%25.json", "{}"),
        ("%2Ehidden.json", "{}"),
        ("gr%C3%BC%c3%9Fe.json", "{}"),
        ("wörtlich.json", "{}"),
    ]);
    for name in ["cart/item.added@2", "a@b", "100%", ".hidden", "grüße", "wörtlich"] {
        assert!(schemas.named(name).is_some(), "{name}");
    }
    assert!(schemas.named("cart/item.added@1").is_none() && schemas.named("cart%2Fitem.added").is_none());
    for name in [
        "order.txt",
        ".json",
        "order@x.json",
        "order@0.json",
        "order@01.json",
        "order@+1.json",
        "@1.json",
        "a@b@1.json",
        "a%2.json",
        "a%.json",
        "a%+1.json",
        "a%é.json",
        "%FF.json",
    ] {
        let errors = broken(&[(name, "{}")]);
        assert!(
            errors.len() == 1 && errors[0].starts_with(&format!("{name}: a schema file is named")),
            "{name}"
        );
    }
}

#[test]
fn every_broken_file_is_named_with_its_line_and_reason() {
    let errors = broken(&[
        ("a.json", "{\n  \"type\": \"object\",\n}"),
        ("b.json", "{\"properties\": {\n  \"x/y\": {},\n  \"a\": {\n    \"type\": \"strin\"\n  }\n}}"),
        ("c.json", "{}"),
        ("d.json", "\n{\"allOf\": [{},\n  {\"$ref\": \"https://example.com/x.json\"}]}"),
        ("e@x.json", "{}"),
        ("%63.json", "{}"),
        ("f.json", ""),
        ("g.json", "\n\n7"),
    ]);
    let begins = |index: usize, with: &str| {
        assert!(errors[index].starts_with(with), "{index}: {}", errors[index]);
    };
    begins(0, "a.json:3: trailing comma at column 1");
    assert!(!errors[0].contains("line"), "the place is told once: {}", errors[0]);
    begins(1, "b.json:4: ");
    assert!(errors[1].contains("/properties/a/type"), "{}", errors[1]);
    begins(2, "d.json:");
    assert!(errors[2].contains("https://example.com/x.json"), "{}", errors[2]);
    begins(3, "e@x.json: a schema file is named");
    begins(4, "%63.json: this schema and version are in c.json too");
    begins(5, "f.json:1: ");
    begins(6, "g.json:3: ");
    assert_eq!(errors.len(), 7);
}

#[test]
fn schemas_are_replaced_whole_and_the_fold_stays() {
    let in_force = LiveRules::new(Rules::new(RulesConfig::default()).unwrap());
    let (before, fold) = (in_force.now(), in_force.fold());
    in_force.replace_schemas(set(FILES));
    assert_eq!((before.schemas().len(), in_force.now().schemas().len()), (0, FILES.len()));
    assert!(Arc::ptr_eq(&fold, &in_force.fold()));
}
