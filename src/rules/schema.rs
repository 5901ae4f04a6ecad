//! Layer 1: JSON Schemas, those of the built-in types and those of the application.

use std::collections::BTreeMap;
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
    /// Compiles a schema (draft 2020-12 unless it says otherwise). Fails with where and why.
    pub(super) fn compile(schema: &Value) -> Result<Self, String> {
        let options = jsonschema::options().with_draft(jsonschema::Draft::Draft202012);
        options.build(schema).map(Self).map_err(|error| {
            let at = error.instance_path().as_str();
            format!("{} (at {})", error.masked(), if at.is_empty() { "/" } else { at })
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

/// A schema file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Its name says no schema's name.
    #[error("{file}: a schema file is named <schema>.json or <schema>@<version>.json, version from 1")]
    Name {
        /// The file.
        file: String,
    },
    /// It is not JSON.
    #[error("{file}:{line}:{column}: {reason}")]
    Syntax {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// Why.
        reason: String,
    },
    /// It is JSON and no schema.
    #[error("{file}: {reason}")]
    Invalid {
        /// The file.
        file: String,
        /// Why, and where in it.
        reason: String,
    },
    /// Two files are for the same schema and version.
    #[error("{file}: this schema and version are in {other} too")]
    Twice {
        /// The file.
        file: String,
        /// The file before it.
        other: String,
    },
}

/// The application's schemas, by name and version.
#[derive(Debug, Default)]
pub struct SchemaSet {
    /// Under version `None` what holds for no version in particular.
    by_name: BTreeMap<String, BTreeMap<Option<u64>, (String, Schema)>>,
}

impl SchemaSet {
    /// Compiles schema files, given as file name and text. `<schema>.json` holds for every version that
    /// has no file of its own, `<schema>@<version>.json` for one. Stops at the first broken one.
    pub fn from_files(files: impl IntoIterator<Item = (String, String)>) -> Result<Self, SchemaError> {
        let mut set = Self::default();
        for (file, text) in files {
            let Some((name, version)) = file.strip_suffix(".json").and_then(parse_name) else {
                return Err(SchemaError::Name { file });
            };
            let schema: Value = serde_json::from_str(&text).map_err(|error| {
                let (line, column) = (error.line(), error.column());
                SchemaError::Syntax { file: file.clone(), line, column, reason: error.to_string() }
            })?;
            let schema = Schema::compile(&schema)
                .map_err(|reason| SchemaError::Invalid { file: file.clone(), reason })?;
            let versions = set.by_name.entry(name.to_owned()).or_default();
            if let Some((other, _)) = versions.get(&version) {
                return Err(SchemaError::Twice { file, other: other.clone() });
            }
            versions.insert(version, (file, schema));
        }
        Ok(set)
    }

    /// How many schemas there are.
    pub fn len(&self) -> usize {
        self.by_name.values().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The schema of a version: its own, or the one for no version in particular.
    pub(super) fn version(&self, name: &str, version: u64) -> Option<&Schema> {
        let versions = self.by_name.get(name)?;
        versions.get(&Some(version)).or_else(|| versions.get(&None)).map(|(_, schema)| schema)
    }

    /// The schema of a name, or of `<name>@<version>`. Without a version: the one for no version in
    /// particular, or that of the highest.
    pub(super) fn named(&self, name: &str) -> Option<&Schema> {
        if let Some(versions) = self.by_name.get(name) {
            let highest = || versions.last_key_value().map(|(_, schema)| schema);
            return versions.get(&None).or_else(highest).map(|(_, schema)| schema);
        }
        match parse_name(name)? {
            (name, Some(version)) => self.version(name, version),
            _ => None,
        }
    }
}

/// `<schema>` or `<schema>@<version>`.
fn parse_name(name: &str) -> Option<(&str, Option<u64>)> {
    let (name, version) = match name.rsplit_once('@') {
        None => (name, None),
        Some((name, version)) => {
            let plain = !version.starts_with(['0', '+']);
            (name, Some(version.parse().ok().filter(|_| plain)?))
        }
    };
    (!name.is_empty()).then_some((name, version))
}
