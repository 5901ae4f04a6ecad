//! Notices to frames of the v1 dialect.

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::{CLASSIC_LABEL, CLASSIC_SCHEMA_VERSION, PROTOCOL_VERSION};
use crate::event::{CommittedEvent, EventId, FieldError, Reason};
use crate::protocol::json::{push_json, push_list};
use crate::protocol::notice::EncodedEvent;
use crate::protocol::notice::{ErrorCode, Header, ItemResult, Notice};

/// Writes a notice.
pub(crate) fn encode(header: &Header<'_>, notice: &Notice<'_>) -> String {
    match notice {
        Notice::Connected { client_id, partition, head, .. } => {
            let payload =
                json!({ "clientId": client_id, "projectId": partition, "projectLastCommittedId": head });
            answer(header, "connected", |out| push_json(out, &payload))
        }
        Notice::BatchResult { items } => answer(header, "submit_events_result", |out| {
            out.push_str("{\"results\":");
            push_list(out, items.iter(), |out, item| push_result(out, item, header.timestamp_ms));
            out.push('}');
        }),
        Notice::SyncPage { partition, events, next, head, has_more, .. } => {
            answer(header, "sync_response", |out| {
                out.push_str("{\"projectId\":");
                push_json(out, partition);
                out.push_str(",\"events\":");
                push_list(out, events.iter(), |out, event| out.push_str(event));
                out.push_str(",\"nextSinceCommittedId\":");
                push_json(out, next);
                out.push_str(",\"hasMore\":");
                push_json(out, has_more);
                out.push_str(",\"syncToCommittedId\":");
                push_json(out, head);
                out.push('}');
            })
        }
        Notice::Error { code, message, details } => {
            let payload = json!({
                "code": error_code(*code),
                "message": message,
                "details": details.unwrap_or_default(),
            });
            answer(header, "error", |out| push_json(out, &payload))
        }
        // What only the other dialect asks for is never answered in this one; a frame that says so is better
        // than none.
        Notice::StatePart { .. } => answer(header, "state_part", |out| out.push_str("{}")),
        Notice::ConnectedToMany { .. } => answer(header, "connected", |out| out.push_str("{}")),
        Notice::Subscribed { .. } => answer(header, "subscribed", |out| out.push_str("{}")),
        Notice::Unsubscribed { .. } => answer(header, "unsubscribed", |out| out.push_str("{}")),
        Notice::Heartbeat => answer(header, "heartbeat", |out| out.push_str("{}")),
        Notice::TokenRefreshed { expires_at } => {
            answer(header, "token_refreshed", |out| push_json(out, &json!({ "exp": expires_at })))
        }
        Notice::Accepted { draft_id, event_id, .. } => {
            let (id, timestamp) = (&*written(draft_id), header.timestamp_ms);
            let item = ItemResult::Committed { id, event_id: *event_id, timestamp };
            encode(header, &Notice::BatchResult { items: &[item] })
        }
        Notice::Rejected { draft_id, reason, errors, .. } => {
            let id = &*written(draft_id);
            let item = ItemResult::Rejected { id, reason: reason_name(*reason), errors };
            encode(header, &Notice::BatchResult { items: &[item] })
        }
    }
}

/// A text as JSON.
fn written(text: &str) -> Box<RawValue> {
    serde_json::value::to_raw_value(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// What this dialect calls a validator's reason.
pub(crate) fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Forbidden => "forbidden",
        Reason::RateLimited => "rate_limited",
        Reason::Unavailable => "server_error",
        Reason::ValidationFailed | Reason::DuplicateDraft | Reason::Conflict => "validation_failed",
    }
}

/// The codes that the published client knows. It has none for 'too large', 'not just now' or 'beyond the log'.
fn error_code(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::MessageTooLarge => ErrorCode::BadRequest.as_str(),
        ErrorCode::Unavailable => ErrorCode::ServerError.as_str(),
        // One of the two after which it does not come back.
        ErrorCode::CursorBeyondLog => ErrorCode::AuthFailed.as_str(),
        other => other.as_str(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResultEntry<'a> {
    id: &'a RawValue,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    committed_id: Option<EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_ts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a [FieldError]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by_id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<u64>,
}

fn push_result(out: &mut String, item: &ItemResult<'_>, now_ms: u64) {
    let entry = |id, status| ResultEntry {
        id,
        status,
        committed_id: None,
        server_ts: None,
        reason: None,
        errors: None,
        blocked_by_id: None,
        created: None,
    };
    let entry = match *item {
        ItemResult::Committed { id, event_id, timestamp } => {
            ResultEntry { committed_id: Some(event_id), server_ts: Some(timestamp), ..entry(id, "committed") }
        }
        ItemResult::Rejected { id, reason, errors } => ResultEntry {
            reason: Some(reason),
            errors: Some(errors),
            created: Some(now_ms),
            ..entry(id, "rejected")
        },
        ItemResult::NotProcessed { id, blocked_by } => ResultEntry {
            reason: Some("prior_item_failed"),
            blocked_by_id: Some(blocked_by),
            created: Some(now_ms),
            ..entry(id, "not_processed")
        },
    };
    push_json(out, &entry);
}

/// Writes an event as everybody gets it, but for who submitted it.
pub(crate) fn encode_broadcast(event: &CommittedEvent<'_>) -> EncodedEvent {
    let mut at = (0, 0);
    let message_id = format!("b-{}", event.id);
    let frame = message("event_broadcast", Some(&message_id), |out| {
        out.reserve(event.record.payload.get().len() + 320);
        let start = out.len();
        push_event(out, event);
        at = (start, out.len());
    });
    EncodedEvent { frame, event_start: at.0, event_end: at.1 }
}

fn push_event(out: &mut String, event: &CommittedEvent<'_>) {
    let CommittedEvent { id, record } = event;
    out.push_str("{\"id\":");
    match &record.v1 {
        Some(_) => push_json(out, &record.draft_id),
        // A classic draft id is unique only together with its client's.
        None => push_json(out, &format!("evt-{id}")),
    }
    out.push_str(",\"projectId\":");
    push_json(out, record.partition.as_str());
    let user = record.v1.as_ref().map_or(&record.user_id, |v1| &v1.user_id);
    if let Some(user) = user {
        out.push_str(",\"userId\":");
        push_json(out, user);
    }
    out.push_str(",\"partition\":");
    push_json(out, record.v1.as_ref().map_or(CLASSIC_LABEL, |v1| v1.label.as_str()));
    out.push_str(",\"committedId\":");
    push_json(out, id);
    out.push_str(",\"type\":");
    push_json(out, &record.event_type);
    out.push_str(",\"schemaVersion\":");
    push_json(out, &record.v1.as_ref().map_or(CLASSIC_SCHEMA_VERSION, |v1| v1.schema_version));
    out.push_str(",\"payload\":");
    out.push_str(record.payload.get());
    out.push_str(",\"meta\":");
    match &record.v1 {
        Some(v1) => out.push_str(v1.meta.get()),
        None => {
            let client = record.client_id.as_str();
            push_json(out, &json!({ "clientId": client, "clientTs": record.timestamp }));
        }
    }
    out.push_str(",\"serverTs\":");
    push_json(out, &record.timestamp);
    out.push('}');
}

/// The envelope of an answer. A request without an id is answered without one.
fn answer(header: &Header<'_>, kind: &str, payload: impl FnOnce(&mut String)) -> String {
    message(kind, header.reply_to, payload)
}

fn message(kind: &str, msg_id: Option<&str>, payload: impl FnOnce(&mut String)) -> String {
    let mut out = String::with_capacity(128);
    out.push_str("{\"type\":\"");
    out.push_str(kind);
    out.push_str("\",\"protocolVersion\":\"");
    out.push_str(PROTOCOL_VERSION);
    out.push('"');
    if let Some(id) = msg_id {
        out.push_str(",\"msgId\":");
        push_json(&mut out, id);
    }
    out.push_str(",\"payload\":");
    payload(&mut out);
    out.push('}');
    out
}
