//! A draft that comes by plain HTTP: the classic dialect's draft, with no message around it.

use super::classic::{EVENT_LEVEL, draft_of};
use super::depth::deeper_than;
use super::fields::{Fields, given, text as text_of};
use super::request::Submit;
use crate::event::FieldError;

/// A draft as its request's body has it.
#[derive(Debug)]
pub struct PlainDraft {
    /// The draft, or what is wrong with it.
    pub submit: Submit,
    /// Whose it says that it is, if it does.
    pub client_id: Option<String>,
}

impl PlainDraft {
    /// Reads a body. `key` is the draft's id where a header has it. An error says, for a person, why the body names no
    /// draft that could be answered; whatever else is wrong is the draft's rejection.
    pub fn decode(text: &str, key: Option<&str>, depth_max: usize) -> Result<Self, &'static str> {
        let names = &["id", "type", "payload", "baseEventId", "clientId"];
        let Some(Fields { values: [id, kind, payload, base_event_id, client_id], twice }) =
            Fields::read(text, names)
        else {
            return Err("the body must be a JSON object");
        };
        let client_id = match given(client_id) {
            None => None,
            some => Some(text_of(some).ok_or("`clientId` must be a string")?),
        };
        let id = match given(id) {
            None => None,
            some => Some(text_of(some).ok_or("`id` must be a string")?),
        };
        let draft_id = match (id, key) {
            (Some(id), Some(key)) if id != key => {
                return Err("`id` and `Idempotency-Key` name different drafts");
            }
            (Some(id), _) => id,
            (None, Some(key)) => key.to_owned(),
            (None, None) => {
                return Err(
                    "name the draft, in `id` or `Idempotency-Key`: under that name it can be sent again",
                );
            }
        };
        // An event may be as deep here as in a frame.
        let depth_max = depth_max.saturating_sub(EVENT_LEVEL);
        let draft = if let Some(twice) = twice {
            Err(FieldError::new(twice, "DUPLICATE_KEY", "is given twice"))
        } else if deeper_than(text, depth_max) {
            let message = format!("nested deeper than an event may be, {depth_max} levels");
            Err(FieldError::new("event", "TOO_DEEP", message))
        } else {
            draft_of(&draft_id, kind, payload, base_event_id)
        };
        Ok(Self { submit: Submit { draft_id, draft: draft.map(|draft| (None, draft)) }, client_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = r#""type":"set","payload":{"target":"a","value":1}"#;

    #[test]
    fn a_draft_is_named_by_its_body_or_by_a_header() {
        for (body, key, id) in [
            (format!(r#"{{"id":"d",{SET}}}"#), None, "d"),
            (format!("{{{SET}}}"), Some("k"), "k"),
            (format!(r#"{{"id":"d",{SET},"more":[1]}}"#), Some("d"), "d"),
        ] {
            let PlainDraft { submit, client_id } = PlainDraft::decode(&body, key, 64).unwrap();
            assert_eq!((submit.draft_id.as_str(), client_id), (id, None));
            let (partition, draft) = submit.draft.unwrap();
            assert!(partition.is_none() && draft.event_type == "set");
            assert_eq!(draft.payload.get(), r#"{"target":"a","value":1}"#);
        }
        for body in
            [format!("{{{SET}}}"), format!(r#"{{"id":"d",{SET}}}"#), "[]".into(), r#"{"id":1}"#.into()]
        {
            let key = body.contains("\"d\"").then_some("other");
            assert!(PlainDraft::decode(&body, key, 64).is_err(), "{body}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_named_draft_is_its_rejection() {
        let deep = format!(r#"{{"id":"d","type":"set","payload":{}1{}}}"#, "[".repeat(62), "]".repeat(62));
        for (body, code) in [
            (r#"{"id":"d"}"#, "SCHEMA_ERROR"),
            (r#"{"id":"d","type":"set"}"#, "SCHEMA_ERROR"),
            (r#"{"id":"d","type":"set","payload":1,"payload":2}"#, "DUPLICATE_KEY"),
            (r#"{"id":"d","type":"set","payload":1,"baseEventId":-1}"#, "SCHEMA_ERROR"),
            (r#"{"id":"","type":"set","payload":1}"#, "SCHEMA_ERROR"),
            (&deep, "TOO_DEEP"),
        ] {
            let submit = PlainDraft::decode(body, None, 64).unwrap().submit;
            assert_eq!(submit.draft.unwrap_err().code, code, "{body}");
        }
    }
}
