//! Layer 1: a compiled JSON Schema, and what it finds. Which schema is asked is `schema_set`'s and
//! `decide`'s to say.

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::LocationSegment;
use serde_json::Value;

use super::finding::{FINDINGS_MAX, finding};
use crate::event::FieldError;
use crate::event::json::Json;
use crate::state::Node;

/// A compiled schema.
pub(super) struct Schema(jsonschema::Validator);

impl Schema {
    /// Compiles a schema (draft 2020-12 unless it says otherwise).
    pub(super) fn compile(schema: &Value) -> Result<Self, NoSchema> {
        let options = jsonschema::options().with_draft(jsonschema::Draft::Draft202012);
        options.build(schema).map(Self).map_err(|error| NoSchema {
            pointer: error.instance_path().as_str().to_owned(),
            reason: error.masked().to_string(),
        })
    }

    /// What is wrong with a value that stands at the field `at`.
    pub(super) fn findings(&self, value: &Node, at: &str) -> Vec<FieldError> {
        let value = to_value(value);
        let mut found = Vec::new();
        for error in self.0.iter_errors(&value) {
            let field = field(at, error.instance_path().iter());
            // Name the property rather than the object that lacks it or should not have it.
            let named = match error.kind() {
                ValidationErrorKind::Required { property: Value::String(key) } => std::slice::from_ref(key),
                ValidationErrorKind::AdditionalProperties { unexpected }
                | ValidationErrorKind::UnevaluatedProperties { unexpected } => unexpected,
                _ => &[],
            };
            let finding = schema_error(&field, &error.masked().to_string());
            let room = FINDINGS_MAX - found.len();
            match named {
                [] => found.push(finding),
                keys => found.extend(
                    keys.iter()
                        .take(room)
                        .map(|key| schema_error(&format!("{field}.{key}"), &finding.message)),
                ),
            }
            if found.len() >= FINDINGS_MAX {
                break;
            }
        }
        found
    }
}

/// Why a JSON value is no schema.
#[derive(Debug, thiserror::Error)]
#[error("{reason} (at {})", if .pointer.is_empty() { "/" } else { .pointer })]
pub(super) struct NoSchema {
    /// Where in it, as a JSON pointer.
    pub(super) pointer: String,
    reason: String,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

pub(super) fn schema_error(field: &str, message: &str) -> FieldError {
    finding(field, "SCHEMA_ERROR", message)
}

fn field<'a>(at: &str, path: impl Iterator<Item = LocationSegment<'a>>) -> String {
    use std::fmt::Write;
    let mut field = at.to_owned();
    for segment in path {
        // Writing to a string does not fail.
        let _ = match segment {
            LocationSegment::Property(key) => write!(field, ".{key}"),
            LocationSegment::Index(index) => write!(field, ".{index}"),
        };
    }
    field
}

/// The value as `serde_json` holds it. Converted rather than read again, so that what is checked is what
/// is kept, whatever magic keys `serde_json` gives a meaning to.
fn to_value(node: &Node) -> Value {
    const INTEGERS_TO: f64 = 9_007_199_254_740_992.0;
    match node {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(value) if value.fract() == 0.0 && value.abs() <= INTEGERS_TO => {
            Value::from(*value as i64)
        }
        Json::Number(value) => Value::from(*value),
        Json::String(value) => Value::String(value.as_ref().to_owned()),
        Json::Array(values) => Value::Array(values.iter().map(to_value).collect()),
        Json::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (key.to_owned(), to_value(value))).collect())
        }
        // Payloads are plain.
        Json::Other(_) => Value::Null,
    }
}
