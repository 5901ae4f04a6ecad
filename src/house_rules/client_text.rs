//! A rule that the compiler does not know: what clients write is never read into a value that can hold anything.
//!
//! `serde_json::Value` takes an object with the key `$serde_json::private::RawValue` as a text that is parsed again,
//! with no limit on its depth, and untagged or flattened types buffer whatever they read. One frame of 68 KB ended the
//! process that way. Client text is read by `protocol::fields`, and what is kept of it by `event::json`.

/// What marks such a value in the source.
const MARKS: [&str; 8] = [
    "serde_json::Value",
    "use serde_json::{Value",
    "serde_json::Map",
    "serde_json::from_value",
    "(untagged",
    "serde(flatten",
    ", tag = ",
    "(tag = ",
];

/// The files in which they may stand, and why.
const ALLOWED: [(&str, &str); 23] = [
    ("src/admin/", "answers are made of it; bodies are read into typed structs (`admin/body.rs`)"),
    ("src/auth/keys/jwks.rs", "keys of the operator's issuer"),
    ("src/auth/revocation.rs", "what the administration wrote; two known shapes"),
    ("src/auth/hook.rs", "`Partitions`: a text or a list of texts, of the operator's application"),
    ("src/config/auth.rs", "the operator's settings"),
    ("src/cli/", "answers of the administration, and flattened command line options"),
    ("src/config/describe.rs", "the operator's settings"),
    ("src/config/layers.rs", "the operator's settings"),
    ("src/event/reply.rs", "`Outcome`: a validator's answer, with known fields"),
    ("src/log/ops/backup.rs", "answers of NATS"),
    ("src/log/read/leader.rs", "requests to NATS"),
    ("src/rules/check.rs", "the built-in schemas"),
    ("src/rules/schema/mod.rs", "converted from what was read already, and never read"),
    ("src/rules/schema/set.rs", "the operator's schemas"),
    ("src/rules/types/domain_event.rs", "a built-in schema"),
    ("src/rules/types/init.rs", "a built-in schema"),
    ("src/rules/types/mod.rs", "built-in schemas"),
    ("src/rules/types/set.rs", "a built-in schema"),
    ("src/rules/types/tree_", "built-in schemas"),
    ("src/rules/types/unset.rs", "a built-in schema"),
    ("src/fuzzing/", "a test"),
    ("src/simulation/", "a test"),
    ("src/house_rules/", "this list"),
];

/// The lines of a file that break the rule.
fn offences(path: &str, text: &str) -> Vec<String> {
    if ALLOWED.iter().any(|(allowed, _)| path.starts_with(allowed))
        || path.ends_with("tests.rs")
        || path.contains("/tests/")
    {
        return Vec::new();
    }
    // Tests stand at the end of a file, and read what they like.
    let tests = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..tests].lines().enumerate();
    let code = lines.filter(|(_, line)| !line.trim_start().starts_with("//"));
    let marked = code.filter(|(_, line)| MARKS.iter().any(|mark| line.contains(mark)));
    marked.map(|(number, line)| format!("{path}:{}: {}", number + 1, line.trim())).collect()
}

#[test]
fn client_text_is_read_into_no_value_that_can_hold_anything() {
    let files = super::sources();
    let found: Vec<String> = files.iter().flat_map(|(path, text)| offences(path, text)).collect();
    assert!(found.is_empty(), "read it by `protocol::fields` or `event::json`:\n{}", found.join("\n"));
}

#[test]
fn the_rule_finds_what_it_is_to_find() {
    let bad = [
        "use serde_json::Value;",
        "    let frame: serde_json::Value = serde_json::from_str(text)?;",
        "use serde_json::{Value, json};",
        "    meta: serde_json::Map<String, Unknown>,",
        "#[serde(untagged)]",
        "    #[serde(flatten)]",
        "#[serde(rename_all = \"camelCase\", tag = \"type\")]",
        "#[serde(tag = \"type\")]",
    ];
    for line in bad {
        let text = format!("//! A file.\n{line}\n");
        assert_eq!(offences("src/protocol/v1/decode.rs", &text).len(), 1, "{line}");
        assert_eq!(offences("src/event/draft.rs", &text), [format!("src/event/draft.rs:2: {}", line.trim())]);
        assert!(offences("src/cli/mod.rs", &text).is_empty());
    }
    let fine = "// no serde_json::Value here\nlet x: Value = 1;\n#[cfg(test)]\nmod tests {\n    use serde_json::Value;\n}\n";
    assert!(offences("src/event/draft.rs", fine).is_empty());
}
