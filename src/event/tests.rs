//! Tests of the record: keys, tokens, and the canonical form.

use std::convert::Infallible;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::json::canonical::{canonical, compare, content_hash};
use crate::json::{DEPTH_MAX, Json};

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn canonical_text(text: &str) -> String {
    String::from_utf8(canonical(&raw(text)).unwrap()).unwrap()
}

#[test]
fn canonical_form_is_that_of_rfc_8785() {
    let cases = [
        // RFC 8785, 3.2.2 to 3.2.4.
        (
            r#"{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],
                "string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
            "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
             \"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}",
        ),
        (
            r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh",
                "1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control",
                "\u00f6":"Latin Small Letter O With Diaeresis"}"#,
            "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u{80}\":\"Control\",\
             \"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\
             \"😀\":\"Emoji: Grinning Face\",\"\u{fb33}\":\"Hebrew Letter Dalet With Dagesh\"}",
        ),
        // Appendix B, and the borders of what a double holds.
        ("[0,-0,-0.0,1,-1,1.0,10e-1]", "[0,0,0,1,-1,1,1]"),
        (
            "[9007199254740992,9007199254740993,-9007199254740992]",
            "[9007199254740992,9007199254740992,-9007199254740992]",
        ),
        (
            "[295147905179352830000,1e21,999999999999999900000]",
            "[295147905179352830000,1e+21,999999999999999900000]",
        ),
        ("[5e-324,1.7976931348623157e308,0.000001,1e-7]", "[5e-324,1.7976931348623157e+308,0.000001,1e-7]"),
        ("18446744073709551615", "18446744073709552000"),
        // The last of two counts; an empty key is a key.
        (r#"{"a":1,"":2,"a":3}"#, r#"{"":2,"a":3}"#),
        (r#" { "b" : [ ] , "a" : { } } "#, r#"{"a":{},"b":[]}"#),
        ("\"\\u0000\\u001f\\u007f\\b\\f\\t\"", "\"\\u0000\\u001f\u{7f}\\b\\f\\t\""),
    ];
    for (text, expected) in cases {
        assert_eq!(canonical_text(text), expected);
        let json = Json::<Infallible>::parse(text.as_bytes()).unwrap();
        assert_eq!(json.size(), expected.len(), "{expected}");
    }
}

#[test]
fn what_no_client_could_hold_is_refused() {
    for text in ["1e309", "[-1e400]", r#""\ud800""#, r#"{"\udc00":1}"#, r#"["\ud83dx"]"#] {
        assert!(canonical(&raw(text)).is_err(), "{text}");
    }
    // A magic key of serde_json is a key like any other.
    let magic = r#"{"$serde_json::private::RawValue":"[1]"}"#;
    assert_eq!(canonical_text(magic), magic);
}

#[test]
fn depth_is_bounded_before_the_stack_is() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    // Less stack than any thread of the program has, which is 2 MiB; a level costs 1.4 KiB without optimisation.
    let small = std::thread::Builder::new().stack_size(1_792 << 10).spawn(move || {
        for text in [nested(DEPTH_MAX), objects(DEPTH_MAX)] {
            let json = Json::<Infallible>::parse(text.as_bytes()).unwrap();
            assert_eq!(json.canonical(), text.as_bytes());
            assert_eq!((json.size(), json.depth()), (text.len(), DEPTH_MAX));
        }
        for depth in [DEPTH_MAX + 1, 100_000] {
            assert!(Json::<Infallible>::parse(nested(depth).as_bytes()).is_err());
            assert!(Json::<Infallible>::parse(objects(depth).as_bytes()).is_err());
        }
    });
    small.unwrap().join().unwrap();
}

fn draft(payload: &str, v1: Option<V1Fields>) -> Draft {
    Draft {
        draft_id: "d".to_owned(),
        event_type: "set".to_owned(),
        payload: raw(payload),
        base_event_id: None,
        v1,
    }
}

#[test]
fn content_is_what_the_client_fixed() {
    let hash = |payload: &str| content_hash(&draft(payload, None)).unwrap();
    assert_eq!(hash(r#"{"a":1,"b":2.0}"#), hash(r#"{ "b": 2, "a": 1e0 }"#));
    assert_ne!(hash(r#"{"a":1}"#), hash(r#"{"a":2}"#));
    let mut other = draft("{}", None);
    other.base_event_id = Some(EventId(7));
    assert_eq!(content_hash(&other).unwrap(), hash("{}"), "what it is based on is not what it says");
    other.event_type = "unset".to_owned();
    assert_ne!(content_hash(&other).unwrap(), hash("{}"));

    let v1 = |label: &str, version, user: Option<&str>, meta: &str| {
        let fields = V1Fields {
            label: label.to_owned(),
            schema_version: version,
            user_id: user.map(str::to_owned),
            meta: raw(meta),
        };
        content_hash(&draft("{}", Some(fields))).unwrap()
    };
    let base = v1("l", 1, None, r#"{"clientId":"c","clientTs":5}"#);
    assert_eq!(base, v1("l", 1, None, r#"{"clientTs":5.0,"clientId":"other"}"#));
    assert_ne!(base, v1("m", 1, None, r#"{"clientTs":5}"#));
    assert_ne!(base, v1("l", 2, None, r#"{"clientTs":5}"#));
    assert_ne!(base, v1("l", 1, Some("u"), r#"{"clientTs":5}"#));
    assert_ne!(base, v1("l", 1, None, r#"{"clientTs":6}"#));
    assert_ne!(base, hash("{}"));
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec((any::<String>(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// The same value in another spelling: fields backwards, every character escaped, numbers with exponents.
fn spelt_otherwise(value: &serde_json::Value) -> String {
    use serde_json::Value;
    let escaped = |text: &str| {
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        format!("\"{units}\"")
    };
    match value {
        Value::Number(number) => format!("{:e}", number.as_f64().unwrap()),
        Value::String(text) => escaped(text),
        Value::Array(values) => {
            format!("[ {} ]", values.iter().map(spelt_otherwise).collect::<Vec<_>>().join(" ,\n"))
        }
        Value::Object(fields) => {
            let fields = fields.iter().rev();
            let fields = fields.map(|(key, value)| format!("{} : {}", escaped(key), spelt_otherwise(value)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn one_value_has_one_canonical_form(value in json()) {
        let form = canonical_text(&value.to_string());
        prop_assert_eq!(&form, &canonical_text(&spelt_otherwise(&value)));
        prop_assert_eq!(&form, &canonical_text(&form));
        prop_assert_eq!(Json::<Infallible>::parse(form.as_bytes()).unwrap().size(), form.len());
    }

    #[test]
    fn keys_are_in_the_order_of_utf16(a in ".{0,4}", b in "[a\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}]{0,3}") {
        let units = |key: &str| key.encode_utf16().collect::<Vec<_>>();
        for (x, y) in [(&a, &b), (&b, &a), (&b, &b.chars().rev().collect())] {
            prop_assert_eq!(compare(x, y), units(x).cmp(&units(y)));
        }
    }

    #[test]
    fn tokens_are_safe_and_stand_for_one_partition(a in any::<String>(), b in "[a-zA-Z0-9_~.*> -]{0,70}") {
        let mut tokens = Vec::new();
        for name in [a.as_str(), b.as_str(), "", "~", "~YQ", "."] {
            let Ok(key) = PartitionKey::new(name) else {
                prop_assert!(name.len() > PARTITION_BYTES_MAX);
                continue;
            };
            let token = key.token();
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
            prop_assert!(!token.as_str().is_empty() && token.as_str().bytes().all(plain));
            let (parsed, back) = Token::parse(token.as_str()).unwrap();
            prop_assert_eq!((&parsed, &back), (&token, &key));
            prop_assert!(key.slot(64).0 < 64);
            tokens.push((token, key));
        }
        for (x, x_key) in &tokens {
            for (y, y_key) in &tokens {
                prop_assert_eq!(x == y, x_key == y_key);
            }
        }
    }

    #[test]
    fn any_text_as_a_token_is_one_or_is_refused(text in any::<String>(), tail in "[A-Za-z0-9_=-]{0,8}") {
        for text in [text, format!("~{tail}"), tail] {
            if let Ok((token, key)) = Token::parse(&text) {
                prop_assert_eq!(token.as_str(), text.as_str());
                prop_assert_eq!(key.token(), token);
            }
        }
    }

    /// What a frontend counts is never less than what it sends: a draft that it takes fits.
    #[test]
    fn bytes_in_json_are_counted_and_not_guessed(
        texts in vec("[\\x00-\\x7f\u{e9}\u{20ac}\u{1f600}]{1,20}", 6),
        base in any::<Option<u64>>(),
        of_v1 in any::<bool>(),
        has_user in any::<bool>(),
        payload in vec(any::<i64>(), 0..20),
        permissions in vec("[\\x00-\\x7f]{0,12}", 0..5),
        has_claims in any::<bool>(),
    ) {
        let user = has_user.then(|| texts[3].clone());
        let v1 = V1Fields {
            label: texts[2].clone(),
            schema_version: u64::MAX,
            user_id: user.clone(),
            meta: raw(&serde_json::json!({ "clientTs": texts[4] }).to_string()),
        };
        let draft = Draft {
            draft_id: texts[0].clone(),
            event_type: texts[1].clone(),
            payload: raw(&serde_json::to_string(&payload).unwrap()),
            base_event_id: base.map(EventId),
            v1: of_v1.then_some(v1),
        };
        let (written, counted) = (serde_json::to_string(&draft).unwrap().len(), draft.json_bytes());
        prop_assert!(written <= counted && counted <= written + 220, "{written} bytes, counted {counted}");
        let client_id = ClientId::new(texts[5].clone()).unwrap();
        let roles = permissions.clone();
        let claims = has_claims.then(|| serde_json::json!({ "a": texts[4] }).to_string());
        let counted = Submitter::json_bytes_of(&client_id, user.as_deref(), &permissions, &roles, claims.as_deref());
        let submitter = Submitter { client_id, user_id: user, permissions, roles, claims };
        let written = serde_json::to_string(&submitter).unwrap().len();
        prop_assert!(written <= counted && counted <= written + 92, "{written} bytes, counted {counted}");
    }
}
