//! What a check against a schema costs: counted in steps, so that the test means the same everywhere.

use serde_json::{Value, json};

use super::*;
use crate::rules::schema::set::SchemaSet;

/// A rich-text document as editors have it: every node is one of several kinds, which hold nodes again.
fn rich_text() -> Value {
    let inner = json!({ "type": "array", "items": { "$ref": "#/$defs/node" } });
    let kinds: Vec<Value> = ["doc", "paragraph", "heading", "list", "item", "quote", "table", "row", "cell"]
        .iter()
        .map(|kind| {
            json!({
                "type": "object",
                "properties": { "kind": { "enum": [kind, format!("{kind}-x")] }, "content": inner },
                "required": ["kind", "content"],
            })
        })
        .chain([json!({
            "type": "object",
            "properties": { "kind": { "enum": ["text", "code"] }, "text": { "type": "string" } },
            "required": ["kind", "text"],
            "additionalProperties": false,
        })])
        .collect();
    json!({ "$defs": { "node": { "anyOf": kinds } }, "$ref": "#/$defs/node" })
}

/// A document of about so many bytes, `depth` levels deep, whose leaves are these.
fn document(bytes: usize, depth: usize, leaf: &Value) -> Value {
    let one = (0..depth).fold(leaf.clone(), |below, _| json!({ "content": [below], "kind": "quote" }));
    let count = bytes / one.to_string().len();
    json!({ "kind": "doc", "content": vec![one; count.max(1)] })
}

fn rules() -> Validator {
    let file = ("note.json".to_owned(), rich_text().to_string());
    Validator::new(RulesConfig { schemas: SchemaSet::from_files([file]).unwrap(), ..RulesConfig::default() })
}

fn note(data: &Value) -> Draft {
    draft("d", "event", &json!({ "schema": "note", "data": data }))
}

#[test]
fn long_documents_pass_with_steps_to_spare() {
    let validator = rules();
    for (bytes, depth, text) in
        [(1_000, 3, "a"), (240_000, 1, ""), (240_000, 3, "some words"), (240_000, 60, "a")]
    {
        let leaf = json!({ "kind": "text", "text": text });
        let draft = note(&document(bytes, depth, &leaf));
        let before = crate::rules::schema::metered::taken();
        let decision = validator.rules.decide(&validator.state, &submitter("c", &["event"]), &draft);
        assert!(matches!(decision, Decision::Commit(_)), "{decision:?}");
        let (steps, bytes) =
            (crate::rules::schema::metered::taken() - before, draft.payload.get().len() as u64);
        assert!(steps <= 2 * bytes, "{steps} steps for {bytes} bytes");
    }
}

#[test]
fn what_does_not_fit_is_told_at_a_cost_that_has_a_bound() {
    let validator = rules();
    let many: Value = (0..200).map(|n| (format!("x{n}"), json!(n))).collect();
    for (bytes, depth, leaf) in [
        (100, 1, json!({ "kind": "text" })),
        (240_000, 1, json!({ "kind": "text" })),
        (240_000, 12, json!({ "kind": "nothing" })),
        (240_000, 60, json!({ "kind": "nothing" })),
        (240_000, 60, json!(1)),
        (100_000, 4, many),
    ] {
        let draft = note(&document(bytes, depth, &leaf));
        let before = crate::rules::schema::metered::taken();
        let decision = validator.rules.decide(&validator.state, &submitter("c", &["*"]), &draft);
        let Decision::Reject { reason: Reason::ValidationFailed, errors } = decision else {
            panic!("{decision:?}")
        };
        let (steps, bytes) =
            (crate::rules::schema::metered::taken() - before, draft.payload.get().len() as u64);
        assert!((1..=100).contains(&errors.len()));
        assert!(steps <= 100_000 + 16 * bytes + 500_000 + 10_000, "{steps} steps for {bytes} bytes");
    }
}

#[test]
fn what_cannot_be_checked_at_that_cost_is_refused() {
    // Every array is looked through for itself and for each of those that it lies in, twenty times each.
    let schema = json!({ "$defs": { "a": {
        "allOf": vec![json!({ "uniqueItems": true }); 20], "items": { "$ref": "#/$defs/a" },
    } }, "$ref": "#/$defs/a" });
    let file = ("note.json".to_owned(), schema.to_string());
    let schemas = SchemaSet::from_files([file]).unwrap();
    let validator = Validator::new(RulesConfig { schemas, ..RulesConfig::default() });
    let leaves: Vec<u32> = (0..30_000).collect();
    let deep = (0..60).fold(json!(leaves), |below, n| json!([below, n]));
    let decision = validator.rules.decide(&validator.state, &submitter("c", &["*"]), &note(&deep));
    let Decision::Reject { reason: Reason::ValidationFailed, errors } = decision else {
        panic!("{decision:?}")
    };
    assert_eq!((errors[0].code.as_str(), errors[0].field.as_str()), ("SCHEMA_BUDGET", "payload.data"));
    assert_eq!(errors.len(), 1);
}

#[test]
fn what_is_left_out_is_counted() {
    let file = ("note.json".to_owned(), json!({ "items": { "type": "string" } }).to_string());
    let schemas = SchemaSet::from_files([file]).unwrap();
    let validator = Validator::new(RulesConfig { schemas, ..RulesConfig::default() });
    let errors = |count: usize| {
        let draft = note(&json!(vec![1; count]));
        match validator.rules.decide(&validator.state, &submitter("c", &["*"]), &draft) {
            Decision::Reject { errors, .. } => errors,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(errors(99).len(), 99);
    let many = errors(1_000);
    assert_eq!(many.len(), 100);
    assert_eq!(many[98].field, "payload.data.98");
    assert_eq!(many[99].message, "901 more findings are not listed");
}

#[test]
fn who_may_not_has_no_schema_looked_at() {
    let validator = rules();
    let leaf = json!({ "kind": "nothing" });
    for draft in [
        note(&document(240_000, 60, &leaf)),
        draft("d", "note", &document(240_000, 60, &leaf)),
        draft("d", "set", &json!({ "target": 1, "more": 2 })),
    ] {
        let before = crate::rules::schema::metered::taken();
        let decision = validator.rules.decide(&validator.state, &submitter("c", &["read"]), &draft);
        assert!(matches!(decision, Decision::Reject { reason: Reason::Forbidden, .. }), "{decision:?}");
        assert_eq!(crate::rules::schema::metered::taken(), before);
    }
    // Who may somewhere is told that the target is missing.
    let lost = draft("d", "set", &json!({ "value": 1 }));
    let decision = validator.rules.decide(&validator.state, &submitter("c", &["set:a.*"]), &lost);
    assert!(matches!(decision, Decision::Reject { reason: Reason::ValidationFailed, .. }), "{decision:?}");
}
