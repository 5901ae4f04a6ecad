//! The items of a batch: what each must be before a validator looks at it.
//!
//! An item that is not as it must be is rejected where it stands, and those behind it are not processed; the
//! ones before it are decided as if they had come alone.

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::event::{Draft, V1Fields};

/// An item as it came, with at least an id.
#[derive(Debug)]
pub struct SubmitItem {
    /// The event's id.
    pub id: String,
    fields: Map<String, Value>,
}

/// Whose batch it is.
#[derive(Debug, Clone, Copy)]
pub struct ItemContext<'a> {
    /// The connection's client.
    pub client_id: &'a str,
    /// The user that its token names.
    pub user_id: Option<&'a str>,
    /// The connection's project.
    pub project_id: &'a str,
}

/// A batch, as far as it may go to a validator.
#[derive(Debug)]
pub struct Checked {
    /// The drafts before the first item that may not.
    pub drafts: Vec<Draft>,
    /// Why that one may not: a reason and a message.
    pub refused: Option<(&'static str, String)>,
    /// The ids of all items, in order.
    pub ids: Vec<String>,
}

impl SubmitItem {
    /// Reads the item at `index`; fails where the whole batch cannot be understood.
    pub(super) fn read(index: usize, event: &RawValue) -> Result<Self, String> {
        let Ok(Value::Object(fields)) = serde_json::from_str(event.get()) else {
            return Err(format!("events[{index}] must be an object"));
        };
        match text(&fields, "id") {
            Some(id) => Ok(Self { id: id.to_owned(), fields }),
            None => Err(format!("events[{index}].id is required")),
        }
    }

    /// Checks a batch against the connection that it came over.
    pub fn check(items: Vec<Self>, context: &ItemContext<'_>) -> Checked {
        let ids = items.iter().map(|item| item.id.clone()).collect();
        let mut checked = Checked { drafts: Vec::new(), refused: None, ids };
        for (index, item) in items.into_iter().enumerate() {
            match item.draft(index, context) {
                Ok(draft) => checked.drafts.push(draft),
                Err(refused) => {
                    checked.refused = Some(refused);
                    break;
                }
            }
        }
        checked
    }

    fn draft(self, index: usize, context: &ItemContext<'_>) -> Result<Draft, (&'static str, String)> {
        let Self { id, fields } = self;
        let invalid = |message: String| ("validation_failed", message);
        let must = |field: &str, what: &str| invalid(format!("events[{index}].{field} must be {what}"));
        let event_type = text(&fields, "type").ok_or_else(|| must("type", "a non-empty string"))?.to_owned();
        let schema_version = fields
            .get("schemaVersion")
            .and_then(whole)
            .ok_or_else(|| must("schemaVersion", "a positive integer"))?;
        let payload = fields
            .get("payload")
            .filter(|payload| payload.is_object())
            .ok_or_else(|| must("payload", "an object"))?;
        let label = text(&fields, "partition").ok_or_else(|| {
            ("bad_request", format!("events[{index}].partition must be a non-empty string"))
        })?;
        let meta = meta(fields.get("meta"), context)?;
        let user_id = match fields.get("userId") {
            None => None,
            Some(_) => Some(
                text(&fields, "userId")
                    .ok_or_else(|| invalid("userId must be a non-empty string when provided".to_owned()))?,
            ),
        };
        if let (Some(user), Some(known)) = (user_id, context.user_id)
            && user != known
        {
            return Err(("forbidden", "userId must match authenticated user".to_owned()));
        }
        let project =
            text(&fields, "projectId").ok_or_else(|| invalid("projectId is required".to_owned()))?;
        if project != context.project_id {
            let message = "projectId must match authenticated session project";
            return Err(("forbidden", message.to_owned()));
        }
        let unwritable = |error: serde_json::Error| invalid(error.to_string());
        let draft = Draft {
            draft_id: id,
            event_type,
            payload: serde_json::value::to_raw_value(payload).map_err(unwritable)?,
            base_event_id: None,
            v1: Some(V1Fields {
                label: label.to_owned(),
                schema_version,
                user_id: user_id.map(str::to_owned),
                meta: serde_json::value::to_raw_value(&meta).map_err(unwritable)?,
            }),
        };
        draft.check().map_err(|error| invalid(format!("events[{index}].id {error}")))?;
        Ok(draft)
    }
}

/// The meta fields: all that came, with the client's id, which must be the connection's, and the client's
/// time as a number.
fn meta(meta: Option<&Value>, context: &ItemContext<'_>) -> Result<Value, (&'static str, String)> {
    let mut fields = match meta {
        Some(Value::Object(fields)) => fields.clone(),
        _ => Map::new(),
    };
    match text(&fields, "clientId") {
        None => drop(fields.insert("clientId".to_owned(), context.client_id.into())),
        Some(client) if client == context.client_id => {}
        Some(_) => {
            return Err(("forbidden", "meta.clientId must match authenticated client".to_owned()));
        }
    }
    let client_ts = fields
        .get("clientTs")
        .and_then(as_ecmascript_number)
        .ok_or_else(|| ("validation_failed", "meta.clientTs must be a finite number".to_owned()))?;
    fields.insert("clientTs".to_owned(), client_ts);
    Ok(Value::Object(fields))
}

/// A non-empty string.
fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    fields.get(key)?.as_str().filter(|text| !text.is_empty())
}

/// A positive integer, however it is spelt.
fn whole(value: &Value) -> Option<u64> {
    let number = value.as_f64()?;
    (number >= 1.0 && number.fract() == 0.0 && number <= 9_007_199_254_740_992.0).then_some(number as u64)
}

/// What ECMAScript's `Number` makes of a value, if that is finite: the published client's servers have always
/// taken times that way.
fn as_ecmascript_number(value: &Value) -> Option<Value> {
    match value {
        Value::Number(number) => number.as_f64().filter(|n| n.is_finite()).map(|_| value.clone()),
        Value::Null => Some(0.into()),
        Value::Bool(is) => Some(u8::from(*is).into()),
        Value::String(text) if text.trim().is_empty() => Some(0.into()),
        Value::String(text) => {
            let number: f64 = text.trim().parse().ok()?;
            serde_json::Number::from_f64(number).map(Value::Number)
        }
        Value::Array(_) | Value::Object(_) => None,
    }
}
