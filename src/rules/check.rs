//! Layer 2: the business rules that all event types share, and how a type reports its own.

use super::finding::{FINDINGS_MAX, finding};
use super::limits::StateLimits;
use crate::event::FieldError;
use crate::json::Json;
use crate::state::FoldError;
use crate::state::WriteSet;
use crate::state::{Document, Effect, Node, OpError};

/// What an event type checks a draft against, and where it reports what it finds.
pub struct Check<'a> {
    /// The state, staged events included.
    pub doc: &'a Document,
    /// Whether the event would be its partition's first.
    pub first: bool,
    /// How large and deep the state may get.
    pub limits: StateLimits,
    pub(crate) errors: Vec<FieldError>,
}

impl Check<'_> {
    /// Reports a finding, unless there are as many as an answer lists.
    pub fn report(&mut self, field: &str, code: &str, message: impl AsRef<str>) {
        if self.errors.len() < FINDINGS_MAX {
            self.errors.push(finding(field, code, message.as_ref()));
        }
    }

    /// Takes what a change would do: reports what stands against it, or that the state would get too large.
    /// `id_field` is where the payload names the node.
    pub fn planned<E: IntoErrors>(&mut self, plan: Result<Effect, E>, id_field: &str) {
        match plan {
            Err(errors) => {
                for error in errors.into_errors() {
                    let (code, field) = code_and_field(&error, id_field);
                    self.report(field, code, error.to_string());
                }
            }
            // Only what is not refused anyway has an effect.
            Ok(effect) if self.errors.is_empty() => self.fits(effect),
            Ok(_) => {}
        }
    }

    fn fits(&mut self, effect: Effect) {
        let StateLimits { size_bytes_max, depth_max } = self.limits;
        // A state may be over a limit that was lowered since. What makes it smaller is welcome then.
        if effect.size > size_bytes_max && effect.size > self.doc.size() {
            let message =
                format!("the state would have {} bytes, the limit is {size_bytes_max}", effect.size);
            self.report("payload", "STATE_TOO_LARGE", message);
        }
        if effect.depth > depth_max {
            let message = format!("the state would be nested deeper than the limit, {depth_max}");
            self.report("payload", "STATE_TOO_LARGE", message);
        }
    }
}

/// One thing that stands against a change, or several.
pub trait IntoErrors {
    /// All of them.
    fn into_errors(self) -> Vec<OpError>;
}

impl IntoErrors for OpError {
    fn into_errors(self) -> Vec<OpError> {
        vec![self]
    }
}

impl IntoErrors for Vec<OpError> {
    fn into_errors(self) -> Vec<OpError> {
        self
    }
}

fn code_and_field<'a>(error: &OpError, id_field: &'a str) -> (&'static str, &'a str) {
    match error {
        OpError::TargetNotFound => ("TARGET_NOT_FOUND", "payload.target"),
        OpError::NotATree(_) => ("TARGET_NOT_A_TREE", "payload.target"),
        OpError::PathNotAnObject(_) => ("PATH_NOT_AN_OBJECT", "payload.target"),
        OpError::DuplicateId(_) => ("DUPLICATE_ID", id_field),
        OpError::ParentNotFound(_) => ("PARENT_NOT_FOUND", "payload.options.parent"),
        OpError::NodeNotFound(_) => ("NODE_NOT_FOUND", id_field),
        OpError::Cycle(_) => ("CYCLE", "payload.options.parent"),
        OpError::NotAnObject => ("SCHEMA_ERROR", "payload.value"),
    }
}

/// Reports every name in a payload that would poison a JavaScript client: object keys, and, for a built-in
/// type, the path's parts and the ids.
pub(crate) fn check_names(event_type: Option<&dyn EventType>, payload: &Node, check: &mut Check<'_>) {
    if let Some(event_type) = event_type {
        let target = event_type.target(payload).unwrap_or_default();
        target
            .split('.')
            .filter(|key| is_forbidden(key))
            .for_each(|key| forbidden("payload.target", key, check));
        for (field, id) in event_type.ids(payload) {
            if is_forbidden(id) {
                forbidden(field, id, check);
            }
        }
    }
    check_keys(payload, &mut "payload".to_owned(), check);
}

/// Reports every object key below `at` that would poison a JavaScript client.
pub(crate) fn check_keys(value: &Node, at: &mut String, check: &mut Check<'_>) {
    if check.errors.len() >= FINDINGS_MAX {
        return;
    }
    let length = at.len();
    let mut enter = |name: &str, value: &Node, at: &mut String, is_key: bool| {
        at.push('.');
        at.push_str(name);
        if is_key && is_forbidden(name) {
            forbidden(at, name, check);
        }
        if matches!(value, Json::Array(_) | Json::Object(_)) {
            check_keys(value, at, check);
        }
        at.truncate(length);
    };
    match value {
        Json::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                // A number is written only where something can be found below it.
                if matches!(value, Json::Array(_) | Json::Object(_)) {
                    enter(&index.to_string(), value, at, false);
                }
            }
        }
        Json::Object(fields) => fields.iter().for_each(|(key, value)| enter(key, value, at, true)),
        _ => {}
    }
}

fn is_forbidden(name: &str) -> bool {
    matches!(name, "__proto__" | "prototype" | "constructor")
}

fn forbidden(field: &str, name: &str, check: &mut Check<'_>) {
    check.report(field, "FORBIDDEN_KEY", format!("{name:?} must not be a key, a path's part or an id"));
}

/// An event type: its payload's schema, its rules and its fold.
///
/// `check` sees payloads that satisfy the schema, `fold` and `touch` whatever stands in a log. What `check`
/// lets pass, `fold` must fold.
pub trait EventType: Send + Sync {
    /// The type's name, as events carry it.
    fn name(&self) -> &'static str;

    /// The JSON Schema (draft 2020-12) of the payload.
    fn schema(&self) -> serde_json::Value;

    /// The path that the event acts on, for permissions and policies.
    fn target<'a>(&self, payload: &'a Node) -> Option<&'a str> {
        payload.get("target")?.as_str()
    }

    /// Whether every payload of the type names a target.
    fn has_target(&self) -> bool {
        true
    }

    /// The ids in the payload that become, or stand for, keys of the state, each with its field.
    fn ids<'a>(&self, payload: &'a Node) -> Vec<(&'static str, &'a str)> {
        let _ = payload;
        Vec::new()
    }

    /// For a domain event the name of its schema, and the data that must satisfy it.
    fn domain_data<'a>(&self, payload: &'a Node) -> Option<(&'a str, &'a Node)> {
        let _ = payload;
        None
    }

    /// Reports all that stands against the event in this state.
    fn check(&self, payload: &Node, check: &mut Check<'_>);

    /// Does what the event says; `first` says whether it is its partition's first. On an error the document
    /// is unchanged.
    fn fold(&self, payload: Node, first: bool, doc: &mut Document) -> Result<(), FoldError>;

    /// The part of the state that the event changes.
    fn touch(&self, payload: &Node) -> WriteSet;
}
