//! The application's schemas: a set of files, found by name and version.
//!
//! A file is named after what it is for: `<schema>.json` holds for every version that has no file of its
//! own, `<schema>@<version>.json` for that version. `<schema>` is the event's `type` in the v1 dialect and
//! a domain event's `payload.schema` in the classic one, written as in a URL: a `/`, `@` or `%`, a `.` in
//! front, and whatever else a file's name cannot hold or a person would not want there, is `%` and two
//! hexadecimal digits for each byte of its UTF-8. `cart/item.added`, version 2, is
//! `cart%2Fitem.added@2.json`.
//!
//! Reads no files itself: it is given names and texts, and takes all of them or none.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use serde_json::value::RawValue;

use super::Schema;

/// A schema file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {reason}", .line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct SchemaError {
    /// The file.
    pub file: String,
    /// The line in it, from 1, if it is something in it.
    pub line: Option<usize>,
    /// Why.
    pub reason: String,
}

/// What a file that says no schema's name is told.
const NAMING: &str = "a schema file is named <schema>.json or <schema>@<version>.json, version from 1; \
                      in <schema> a '/' is written %2F, '@' %40, '%' %25";

/// What there is for a name and a version.
#[derive(Debug)]
pub(crate) enum Lookup<'a> {
    /// This schema.
    Found(&'a Schema),
    /// The name has schemas, but none for this version.
    UnknownVersion,
    /// Nobody knows the name.
    UnknownName,
}

/// The application's schemas, by name and version.
#[derive(Debug, Default)]
pub struct SchemaSet {
    /// Under version `None` what holds for no version in particular.
    by_name: BTreeMap<String, BTreeMap<Option<u64>, (String, Schema)>>,
    /// Files with a `format`, which asserts nothing.
    with_formats: Vec<String>,
}

impl SchemaSet {
    /// Compiles schema files, given as file name and text. Fails with all that is wrong with any of them.
    pub fn from_files(files: impl IntoIterator<Item = (String, String)>) -> Result<Self, Vec<SchemaError>> {
        let mut set = Self::default();
        let mut broken = Vec::new();
        for (file, text) in files {
            if let Err(error) = set.add(file, &text) {
                broken.push(error);
            }
        }
        if broken.is_empty() { Ok(set) } else { Err(broken) }
    }

    fn add(&mut self, file: String, text: &str) -> Result<(), SchemaError> {
        let wrong = |line, reason| SchemaError { file: file.clone(), line, reason };
        let (name, version) = file
            .strip_suffix(".json")
            .and_then(parse_file_name)
            .ok_or_else(|| wrong(None, NAMING.to_owned()))?;
        let schema: Value = serde_json::from_str(text).map_err(|error| {
            let line = error.line();
            let reason = error.to_string().replace(&format!(" at line {line} column"), " at column");
            wrong(Some(line), reason)
        })?;
        let has_format = has_format(&schema);
        let schema = Schema::compile(&schema)
            .map_err(|error| wrong(Some(line_of(text, &error.pointer)), error.to_string()))?;
        let versions = self.by_name.entry(name).or_default();
        if let Some((other, _)) = versions.get(&version) {
            return Err(wrong(None, format!("this schema and version are in {other} too")));
        }
        if has_format {
            self.with_formats.push(file.clone());
        }
        versions.insert(version, (file, schema));
        Ok(())
    }

    /// The files that have a `format`. As the draft has it by default, it describes and refuses nothing.
    pub fn with_formats(&self) -> &[String] {
        &self.with_formats
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
    pub(crate) fn version(&self, name: &str, version: u64) -> Lookup<'_> {
        let Some(versions) = self.by_name.get(name) else { return Lookup::UnknownName };
        match versions.get(&Some(version)).or_else(|| versions.get(&None)) {
            Some((_, schema)) => Lookup::Found(schema),
            None => Lookup::UnknownVersion,
        }
    }

    /// The schema of a name, or of `<name>@<version>`. Without a version: the one for no version in
    /// particular, or that of the highest.
    pub(crate) fn named(&self, name: &str) -> Option<&Schema> {
        if let Some(versions) = self.by_name.get(name) {
            let highest = || versions.last_key_value().map(|(_, schema)| schema);
            return versions.get(&None).or_else(highest).map(|(_, schema)| schema);
        }
        let (name, version) = name.rsplit_once('@')?;
        match self.version(name, parse_version(version)?) {
            Lookup::Found(schema) => Some(schema),
            Lookup::UnknownVersion | Lookup::UnknownName => None,
        }
    }
}

/// Whether a schema has a keyword `format` in it, whose value is a text wherever it is one.
fn has_format(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            // Names of properties, and values that are listed, are no keywords.
            let is_data = matches!(key.as_str(), "enum" | "const" | "default" | "examples");
            (key == "format" && value.is_string()) || (!is_data && has_format(value))
        }),
        Value::Array(items) => items.iter().any(has_format),
        _ => false,
    }
}

/// The name and version in a file's name without its `.json`.
fn parse_file_name(stem: &str) -> Option<(String, Option<u64>)> {
    let (name, version) = match stem.split_once('@') {
        None => (stem, None),
        Some((name, version)) => (name, Some(parse_version(version)?)),
    };
    let name = unescape(name)?;
    (!name.is_empty()).then_some((name, version))
}

/// A version from 1, without signs or zeros in front, so that each has one way to be written.
fn parse_version(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| !text.starts_with(['0', '+']))
}

/// Takes back the escapes of the module's description.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let digits = Some(digits).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// The line, from 1, at which the value begins that a JSON pointer leads to; as far as it leads.
fn line_of(text: &str, pointer: &str) -> usize {
    let mut value: Option<&RawValue> = serde_json::from_str(text).ok();
    let mut at = text.len() - text.trim_start().len();
    for key in pointer.split('/').skip(1) {
        let Some(inside) = value.map(RawValue::get) else { break };
        value = if inside.starts_with('[') {
            let values: Vec<&RawValue> = serde_json::from_str(inside).unwrap_or_default();
            key.parse::<usize>().ok().and_then(|index| values.get(index).copied())
        } else {
            let fields: HashMap<String, &RawValue> = serde_json::from_str(inside).unwrap_or_default();
            fields.get(&key.replace("~1", "/").replace("~0", "~")).copied()
        };
        if let Some(found) = value {
            // It is a part of the text, so where it begins is the distance between the two.
            at = (found.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        }
    }
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}
