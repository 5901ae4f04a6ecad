//! The items of a batch: what each must be before a validator looks at it.
//!
//! An item that is not as it must be is rejected where it stands, and those after it are not processed; the
//! ones before it are decided as if they had come alone. The published client settles nothing but results, so
//! whatever is wrong with one item is that item's result. Only an item without an id that could be repeated to
//! the client makes the whole frame a bad request.

use serde_json::value::RawValue;

use crate::event::{Draft, V1Fields};
use crate::protocol::fields::{Fields, all_fields, is_object, number, text as text_of, whole};

/// The largest `schemaVersion`: what a double counts exactly.
const SCHEMA_VERSION_MAX: u64 = 1 << 53;

/// An item as it came.
#[derive(Debug)]
pub struct SubmitItem {
    /// The event's id, as the client wrote it: a JSON string that is not empty.
    pub id: Box<RawValue>,
    event: Box<RawValue>,
    is_too_deep: bool,
}

/// Whose batch it is.
#[derive(Debug, Clone, Copy)]
pub struct ItemContext<'a> {
    /// The connection's client.
    pub client_id: &'a str,
    /// The user that its token names.
    pub user_id: Option<&'a str>,
    /// Whether an item may name any user, since nobody says who is who.
    pub any_user: bool,
    /// The connection's project.
    pub project_id: &'a str,
    /// The most items of a batch.
    pub items_max: usize,
}

/// A batch, as far as it may go to a validator.
#[derive(Debug)]
pub struct Checked {
    /// The drafts before the first item that may not.
    pub drafts: Vec<Draft>,
    /// Why that one may not.
    pub refused: Option<ItemRefusal>,
    /// The ids of all items, in order, as the client wrote them.
    pub ids: Vec<Box<RawValue>>,
}

/// Why an item may not go to a validator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemRefusal {
    /// The result's reason.
    pub reason: &'static str,
    /// The field, as a path in the item.
    pub field: &'static str,
    /// For a program; in `docs/PROTOCOL.md`.
    pub code: &'static str,
    /// For a person.
    pub message: String,
}

impl SubmitItem {
    /// Reads the item at `index`; fails where the whole batch cannot be answered.
    pub(crate) fn read(index: usize, event: &RawValue, is_too_deep: bool) -> Result<Self, String> {
        let Some(Fields { values: [id], .. }) = Fields::read(event.get(), &["id"]) else {
            return Err(format!("events[{index}] must be an object"));
        };
        // A string that is no text, with half of a surrogate pair, can still be repeated as it was written.
        match said(id) {
            Some(id) => Ok(Self { id: id.to_owned(), event: event.to_owned(), is_too_deep }),
            None => Err(format!("events[{index}].id is required")),
        }
    }

    /// Whether it makes its frame nested deeper than a frame may be.
    pub(crate) fn is_too_deep(&self) -> bool {
        self.is_too_deep
    }

    /// Checks a batch against the connection that it came over.
    pub fn check(items: Vec<Self>, context: &ItemContext<'_>) -> Checked {
        let mut checked = Checked { drafts: Vec::new(), refused: None, ids: Vec::with_capacity(items.len()) };
        for (index, item) in items.into_iter().enumerate() {
            if checked.refused.is_none() {
                match item.draft(index, context) {
                    Ok(draft) => checked.drafts.push(draft),
                    Err(refused) => checked.refused = Some(refused),
                }
            }
            checked.ids.push(item.id);
        }
        checked
    }

    fn draft(&self, index: usize, context: &ItemContext<'_>) -> Result<Draft, ItemRefusal> {
        let invalid = |field, message: String| refusal("validation_failed", field, "BAD_ITEM", message);
        let must = |field, what: &str| invalid(field, format!("events[{index}].{field} must be {what}"));
        let forbidden = |field, message: &str| refusal("forbidden", field, "FORBIDDEN", message.to_owned());
        if index >= context.items_max {
            let message = format!("a batch has at most {} events; send fewer at once", context.items_max);
            return Err(refusal("validation_failed", "", "TOO_MANY_ITEMS", message));
        }
        if self.is_too_deep {
            let message = format!("events[{index}] is nested deeper than a frame may be");
            return Err(refusal("validation_failed", "", "TOO_DEEP", message));
        }
        const NAMES: [&str; 8] =
            ["type", "schemaVersion", "payload", "partition", "meta", "userId", "projectId", "id"];
        let Some(Fields { values, twice }) = Fields::read(self.event.get(), &NAMES) else {
            return Err(must("", "an object"));
        };
        if let Some(twice) = twice {
            return Err(duplicate_key(twice));
        }
        let [event_type, schema_version, payload, label, meta, user_id, project, id] = values;
        let non_empty = |value| text_of(value).filter(|text| !text.is_empty());
        let event_type = non_empty(event_type).ok_or_else(|| must("type", "a non-empty string"))?;
        let schema_version = whole(schema_version)
            .filter(|version| (1..=SCHEMA_VERSION_MAX).contains(version))
            .ok_or_else(|| must("schemaVersion", "a positive integer"))?;
        let payload =
            payload.filter(|payload| is_object(payload)).ok_or_else(|| must("payload", "an object"))?;
        let label = non_empty(label).ok_or_else(|| {
            let message = format!("events[{index}].partition must be a non-empty string");
            refusal("bad_request", "partition", "BAD_ITEM", message)
        })?;
        let meta = read_meta(meta, context)?;
        let user_id = match user_id {
            None => None,
            user_id => Some(non_empty(user_id).ok_or_else(|| {
                invalid("userId", "userId must be a non-empty string when provided".to_owned())
            })?),
        };
        if let Some(user) = &user_id
            && Some(user.as_str()) != context.user_id
            && !context.any_user
        {
            return Err(forbidden("userId", "userId must match authenticated user"));
        }
        let project =
            said(project).ok_or_else(|| invalid("projectId", "projectId is required".to_owned()))?;
        if text_of(Some(project)).as_deref() != Some(context.project_id) {
            return Err(forbidden("projectId", "projectId must match authenticated session project"));
        }
        let draft = Draft {
            draft_id: text_of(id).ok_or_else(|| must("id", "text without half surrogate pairs"))?,
            event_type,
            payload: payload.to_owned(),
            base_event_id: None,
            v1: Some(V1Fields { label, schema_version, user_id, meta }),
        };
        draft.check().map_err(|error| invalid("id", format!("events[{index}].id {error}")))?;
        Ok(draft)
    }
}

/// A string that is not empty. What is something else counts as not said.
fn said(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get().starts_with('"') && value.get() != "\"\"")
}

fn refusal(reason: &'static str, field: &'static str, code: &'static str, message: String) -> ItemRefusal {
    ItemRefusal { reason, field, code, message }
}

fn duplicate_key(field: &'static str) -> ItemRefusal {
    refusal("validation_failed", field, "DUPLICATE_KEY", format!("{field} is given twice"))
}

/// The meta fields: all that came as they were written, with the client's id, which must be the connection's,
/// and the client's time as a number.
fn read_meta(meta: Option<&RawValue>, context: &ItemContext<'_>) -> Result<Box<RawValue>, ItemRefusal> {
    let invalid = |field, message: &str| refusal("validation_failed", field, "BAD_ITEM", message.to_owned());
    let text = meta.filter(|meta| is_object(meta)).map_or("{}", RawValue::get);
    let Some(Fields { values: [client, client_ts], twice }) = Fields::read(text, &["clientId", "clientTs"])
    else {
        return Err(invalid("meta", "meta must be an object"));
    };
    match twice {
        Some("clientId") => return Err(duplicate_key("meta.clientId")),
        Some(_) => return Err(duplicate_key("meta.clientTs")),
        None => {}
    }
    let said = said(client);
    if said.is_some() && text_of(said).as_deref() != Some(context.client_id) {
        let message = "meta.clientId must match authenticated client".to_owned();
        return Err(refusal("forbidden", "meta.clientId", "FORBIDDEN", message));
    }
    let time = client_ts
        .and_then(as_ecmascript_number)
        .ok_or_else(|| invalid("meta.clientTs", "meta.clientTs must be a finite number"))?;
    if let (Some(_), Time::AsWritten, Some(meta)) = (said, &time, meta) {
        return Ok(meta.to_owned());
    }
    let unwritable = |error: serde_json::Error| invalid("meta", &error.to_string());
    let client = serde_json::value::to_raw_value(context.client_id).map_err(unwritable)?;
    let number = match time {
        Time::AsWritten => None,
        Time::Number(number) => Some(serde_json::value::to_raw_value(&number).map_err(unwritable)?),
    };
    let mut fields = all_fields(text)
        .ok_or_else(|| invalid("meta", "a key of meta is no text without half surrogate pairs"))?;
    let mut put = |key: &str, value| match fields.iter_mut().find(|(name, _)| name == key) {
        Some((_, there)) => *there = value,
        None => fields.push((key.to_owned(), value)),
    };
    put("clientId", &*client);
    if let Some(number) = &number {
        put("clientTs", number);
    }
    Written(&fields).to_raw().map_err(unwritable)
}

/// An object with its fields in this order.
struct Written<'a>(&'a [(String, &'a RawValue)]);

impl Written<'_> {
    fn to_raw(&self) -> serde_json::Result<Box<RawValue>> {
        let mut out = String::from("{");
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            out.push_str(&serde_json::to_string(key)?);
            out.push(':');
            out.push_str(value.get());
        }
        out.push('}');
        RawValue::from_string(out)
    }
}

/// A time of a client's.
enum Time {
    /// It is a number as it stands there.
    AsWritten,
    /// It is to be written as this number.
    Number(f64),
}

/// What ECMAScript's `Number` makes of a value, if that is finite: the published client's servers have always
/// taken times that way.
fn as_ecmascript_number(value: &RawValue) -> Option<Time> {
    match value.get() {
        "null" | "false" => Some(Time::Number(0.0)),
        "true" => Some(Time::Number(1.0)),
        text if text.starts_with('"') => {
            let text = text_of(Some(value))?;
            let number: f64 = if text.trim().is_empty() { 0.0 } else { text.trim().parse().ok()? };
            number.is_finite().then_some(Time::Number(number))
        }
        text if text.starts_with(['{', '[']) => None,
        _ => number(Some(value)).map(|_| Time::AsWritten),
    }
}
