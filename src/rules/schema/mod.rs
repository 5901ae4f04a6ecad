//! Layer 1: a compiled JSON Schema, and what it finds. Which schema is asked is `schema_set`'s and
//! `decide`'s to say.

pub(crate) mod metered;
pub(crate) mod set;

use std::fmt;

use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::LocationSegment;
use serde_json::Value;

use self::metered::{Look, Metered, is_sound, within};
use super::finding::{FINDINGS_MAX, finding};
use crate::event::FieldError;
use crate::json::Json;
use crate::state::Node;

/// The steps that a check may take whatever it is asked about, and for each byte of that. A long document of a
/// rich-text editor takes one for two bytes (`tests/schema_cost.rs`), and a frame's worth of them a fraction of a second.
const STEPS_MIN: u64 = 100_000;
const STEPS_PER_BYTE: u64 = 16;
/// The steps that may go into saying what is wrong with a value that does not fit.
const FINDINGS_STEPS: u64 = 500_000;
/// How many steps back a pattern with look-arounds or back-references may go in one text.
const BACKTRACKS_MAX: usize = 100_000;

/// A compiled schema.
pub(crate) struct Schema(jsonschema::Validator<Metered>);

impl Schema {
    /// Compiles a schema (draft 2020-12 unless it says otherwise).
    pub(crate) fn compile(schema: &Value) -> Result<Self, NoSchema> {
        let patterns = jsonschema::PatternOptions::fancy_regex().backtrack_limit(BACKTRACKS_MAX);
        let options = jsonschema::options_for::<Metered>()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(patterns);
        options.build(schema).map(Self).map_err(|error| NoSchema {
            pointer: error.instance_path().as_str().to_owned(),
            reason: error.masked().to_string(),
        })
    }

    /// Compiles a schema that is a JSON text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Self::compile(&schema).map_err(|why| why.to_string())
    }

    /// What is wrong with a value that stands at the field `at`, in a payload of so many bytes.
    ///
    /// First whether anything is, which costs least and is nearly always all; then what, as far as that can be
    /// said at a cost that has a bound of its own.
    pub(crate) fn findings(&self, value: &Node, at: &str, bytes: usize) -> Vec<FieldError> {
        let value = to_value(value);
        let steps = STEPS_MIN + STEPS_PER_BYTE * bytes as u64;
        match within(steps, || self.0.is_valid(Look(&value))) {
            (true, Some(_)) => return Vec::new(),
            (false, Some(_)) => {}
            (_, None) => {
                let why =
                    "it is too large or too deep for its schema to be checked; send it in smaller parts";
                return vec![finding(at, "SCHEMA_BUDGET", why)];
            }
        }
        let (errors, took) = within(FINDINGS_STEPS, || self.0.iter_errors(Look(&value)));
        let mut found = Found::default();
        for error in errors.filter(|error| is_sound(error.instance())) {
            let field = field(at, error.instance_path().iter());
            // Name the property rather than the object that lacks it or should not have it.
            let named = match error.kind() {
                ValidationErrorKind::Required { property: Value::String(key) } => std::slice::from_ref(key),
                ValidationErrorKind::AdditionalProperties { unexpected }
                | ValidationErrorKind::UnevaluatedProperties { unexpected } => unexpected,
                _ => &[],
            };
            if found.is_full() {
                found.left_out += named.len().max(1);
                continue;
            }
            let message = error.masked().to_string();
            match named {
                [] => found.push(&field, &message),
                keys => keys.iter().for_each(|key| found.push(&format!("{field}.{key}"), &message)),
            }
        }
        found.finish(at, took.is_none())
    }
}

/// What was found, as much of it as an answer lists.
#[derive(Default)]
struct Found {
    findings: Vec<FieldError>,
    left_out: usize,
}

impl Found {
    /// Whether there is room for nothing but the word on what is left out.
    fn is_full(&self) -> bool {
        self.findings.len() >= FINDINGS_MAX - 1
    }

    fn push(&mut self, field: &str, message: &str) {
        match self.is_full() {
            true => self.left_out += 1,
            false => self.findings.push(schema_error(field, message)),
        }
    }

    /// Says what is left out; `unfinished` if nobody knows how much that is.
    fn finish(mut self, at: &str, unfinished: bool) -> Vec<FieldError> {
        let more = match (self.left_out, unfinished) {
            (0, false) => return self.findings,
            (_, true) if self.findings.is_empty() => "it does not fit its schema".to_owned(),
            (_, true) => "there is more, which is not listed".to_owned(),
            (count, false) => format!("{count} more findings are not listed"),
        };
        self.findings.push(schema_error(at, &more));
        self.findings
    }
}

/// Why a JSON value is no schema.
#[derive(Debug, thiserror::Error)]
#[error("{reason} (at {})", if .pointer.is_empty() { "/" } else { .pointer })]
pub(crate) struct NoSchema {
    /// Where in it, as a JSON pointer.
    pub(crate) pointer: String,
    reason: String,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Schema")
    }
}

pub(crate) fn schema_error(field: &str, message: &str) -> FieldError {
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
        Json::Opaque(_) => Value::Null,
    }
}
