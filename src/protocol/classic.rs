//! The classic dialect: the design document's messages, `{ id, type, timestamp, payload }`.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::EncodedEvent;
use super::json::{push_json, push_list};
use super::notice::{Header, Notice, Snapshot, StateForm};
use super::request::{BadRequest, Connect, Frame, Request, Submit, Sync};
use crate::event::{ClientId, CommittedEvent, Draft, EventId, EventRecord, FieldError, PartitionKey};

const DEFAULT_PARTITION: &str = "default";

/// The fields of a message, each still as written, so that every complaint can name its field.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConnectPayload {
    client_id: ClientId,
    // Required, and looked at by nobody: what a client runs is for its logs and ours.
    #[serde(rename = "version")]
    _version: String,
    #[serde(default)]
    partition: Option<PartitionKey>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    last_event_id: Option<EventId>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubmitPayload {
    draft_id: String,
    event: Box<RawValue>,
    #[serde(default)]
    base_event_id: Option<EventId>,
}

#[derive(Deserialize)]
struct SubmittedEvent {
    #[serde(rename = "type")]
    event_type: String,
    payload: Box<RawValue>,
    #[serde(default)]
    partition: Option<PartitionKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SyncPayload {
    #[serde(default)]
    since_event_id: Option<EventId>,
    #[serde(default)]
    partition: Option<PartitionKey>,
    #[serde(default)]
    limit: Option<u64>,
}

#[derive(Deserialize)]
struct RefreshPayload {
    token: String,
}

/// Reads a frame.
pub(super) fn decode(text: &str) -> Result<Frame, BadRequest> {
    let mut reply_to = None;
    request(text, &mut reply_to)
        .map(|request| Frame { id: reply_to.clone(), request })
        .map_err(|message| BadRequest { reply_to, message })
}

fn request(text: &str, reply_to: &mut Option<String>) -> Result<Request, String> {
    let envelope: Envelope<'_> = object(text, "the message")?;
    *reply_to = Some(field::<String>(envelope.id, "id", "a string")?);
    let kind: String = field(envelope.kind, "type", "a string")?;
    field::<f64>(envelope.timestamp, "timestamp", "a number")?;
    let payload = envelope.payload.ok_or("`payload` is missing")?.get();
    match kind.as_str() {
        "connect" => connect(payload),
        "submit_event" => submit(payload),
        "sync" => {
            let SyncPayload { since_event_id, partition, limit } = object(payload, "`payload`")?;
            Ok(Request::Sync(Sync { since: since_event_id, partition, limit }))
        }
        "heartbeat" if payload.starts_with('{') => Ok(Request::Heartbeat),
        "heartbeat" => Err("`payload` must be an object".to_owned()),
        "refresh_token" => {
            let RefreshPayload { token } = object(payload, "`payload`")?;
            Ok(Request::RefreshToken { token })
        }
        unknown => Err(format!("unknown type {:?}", shortened(unknown))),
    }
}

fn connect(payload: &str) -> Result<Request, String> {
    let ConnectPayload { client_id, partition, token, last_event_id, .. } = object(payload, "`payload`")?;
    let partition = match partition {
        Some(partition) => partition,
        None => PartitionKey::new(DEFAULT_PARTITION).map_err(|error| error.to_string())?,
    };
    Ok(Request::Connect(Connect { client_id, partition, token, last_event_id, live: false }))
}

fn submit(payload: &str) -> Result<Request, String> {
    let SubmitPayload { draft_id, event, base_event_id } = object(payload, "`payload`")?;
    let SubmittedEvent { event_type, payload, partition } = object(event.get(), "`payload.event`")?;
    let draft = Draft { draft_id, event_type, payload, base_event_id, v1: None };
    draft.check().map_err(|error| format!("`payload.draftId` {error}"))?;
    Ok(Request::Submit(Submit { partition, draft }))
}

/// Parses an object; serde alone would take an array for it too.
fn object<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T, String> {
    match serde_json::from_str(text) {
        Ok(_) if !text.trim_start().starts_with('{') => Err(format!("{what} must be an object")),
        Ok(value) => Ok(value),
        Err(error) => Err(format!("{what}: {}", shortened(&error.to_string()))),
    }
}

fn field<T: DeserializeOwned>(value: Option<&RawValue>, name: &str, kind: &str) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("`{name}` is missing"))?;
    serde_json::from_str(value.get()).map_err(|_| format!("`{name}` must be {kind}"))
}

/// What a client wrote is not repeated to it at length.
fn shortened(text: &str) -> Cow<'_, str> {
    const CHARS_MAX: usize = 200;
    match text.char_indices().nth(CHARS_MAX) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}...", &text[..end])),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RejectedPayload<'a> {
    draft_id: &'a str,
    reason: &'static str,
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct RefreshedPayload {
    exp: Option<u64>,
}

#[derive(Serialize)]
struct ErrorPayload<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a serde_json::Value>,
}

/// Writes a notice.
pub(super) fn encode(header: &Header<'_>, notice: &Notice<'_>) -> String {
    match *notice {
        Notice::Connected {
            server_id, head, since_snapshot, initial_state, heartbeat_interval_ms, ..
        } => {
            // By hand like all that holds an event or a state: those are copied once.
            message(header, "connected", |out| {
                out.push_str("{\"serverId\":");
                push_json(out, server_id);
                out.push_str(",\"currentEventIndex\":");
                push_json(out, &head);
                out.push_str(",\"sinceSnapshot\":");
                push_json(out, &since_snapshot);
                if let Some(state) = initial_state {
                    out.push(',');
                    push_state(out, "initialState", state);
                }
                out.push_str(",\"heartbeatInterval\":");
                push_json(out, &heartbeat_interval_ms);
                out.push('}');
            })
        }
        Notice::Accepted { draft_id, event_id, event } => message(header, "event_accepted", |out| {
            out.push_str("{\"draftId\":");
            push_json(out, draft_id);
            out.push_str(",\"eventId\":");
            push_json(out, &event_id);
            out.push_str(",\"event\":");
            out.push_str(event);
            out.push('}');
        }),
        Notice::Rejected { draft_id, reason, errors, retry_after_ms } => {
            let payload = RejectedPayload { draft_id, reason: reason.as_str(), errors, retry_after_ms };
            message(header, "event_rejected", |out| push_json(out, &payload))
        }
        Notice::SyncPage { snapshot, events, head, has_more, .. } => {
            message(header, "sync_response", |out| {
                out.push('{');
                if let Some(Snapshot { state, event_id }) = snapshot {
                    out.push_str("\"snapshot\":{");
                    push_state(out, "state", state);
                    out.push_str(",\"eventIndex\":");
                    push_json(out, &event_id);
                    out.push_str("},");
                }
                out.push_str("\"events\":");
                push_list(out, events.iter(), |out, event| out.push_str(event));
                out.push_str(",\"currentEventIndex\":");
                push_json(out, &head);
                out.push_str(",\"hasMore\":");
                push_json(out, &has_more);
                out.push('}');
            })
        }
        Notice::StatePart { partition, event_id, part, parts, text } => {
            message(header, "state_part", |out| {
                out.reserve(text.len() + 256);
                out.push_str("{\"partition\":");
                push_json(out, partition);
                out.push_str(",\"eventIndex\":");
                push_json(out, &event_id);
                out.push_str(",\"part\":");
                push_json(out, &part);
                out.push_str(",\"parts\":");
                push_json(out, &parts);
                out.push_str(",\"text\":");
                out.push_str(text);
                out.push('}');
            })
        }
        // Only the other dialect has batches.
        Notice::BatchResult { .. } => message(header, "submit_events_result", |out| out.push_str("{}")),
        Notice::Heartbeat => message(header, "heartbeat", |out| out.push_str("{}")),
        Notice::TokenRefreshed { expires_at } => {
            message(header, "token_refreshed", |out| push_json(out, &RefreshedPayload { exp: expires_at }))
        }
        Notice::Error { code, message: text, details } => {
            let payload = ErrorPayload { code: code.as_str(), message: text, details };
            message(header, "error", |out| push_json(out, &payload))
        }
    }
}

/// A state as a field of this name, or what is to be known of its parts.
fn push_state(out: &mut String, name: &str, state: StateForm<'_>) {
    match state {
        StateForm::Whole(state) => {
            push_json(out, name);
            out.push(':');
            out.push_str(state.get());
        }
        StateForm::InParts { parts, bytes } => {
            out.push_str("\"stateParts\":{\"parts\":");
            push_json(out, &parts);
            out.push_str(",\"bytes\":");
            push_json(out, &bytes);
            out.push('}');
        }
    }
}

/// Writes an event as everybody gets it; its time is the commit's.
pub(super) fn encode_broadcast(event: &CommittedEvent<'_>) -> EncodedEvent {
    let CommittedEvent { id, record } = event;
    let mut at = (0, 0);
    let message_id = format!("b-{id}");
    let header = Header { id: &message_id, timestamp_ms: record.timestamp, reply_to: None };
    let frame = message(&header, "broadcast", |out| {
        out.reserve(record.payload.get().len() + 256);
        out.push_str("{\"eventId\":");
        push_json(out, id);
        out.push_str(",\"event\":");
        let start = out.len();
        push_event(out, *id, record);
        at = (start, out.len());
        out.push('}');
    });
    EncodedEvent { frame, event_start: at.0, event_end: at.1 }
}

fn push_event(out: &mut String, id: EventId, record: &EventRecord<'_>) {
    out.push_str("{\"type\":");
    push_json(out, &record.event_type);
    out.push_str(",\"payload\":");
    out.push_str(record.payload.get());
    out.push_str(",\"partition\":");
    push_json(out, record.partition.as_str());
    out.push_str(",\"id\":\"evt-");
    push_json(out, &id);
    out.push_str("\",\"eventId\":");
    push_json(out, &id);
    out.push_str(",\"timestamp\":");
    push_json(out, &record.timestamp);
    out.push_str(",\"clientId\":");
    push_json(out, record.client_id.as_str());
    if let Some(user) = &record.user_id {
        out.push_str(",\"userId\":");
        push_json(out, user);
    }
    out.push('}');
}

/// The envelope around a payload.
fn message(header: &Header<'_>, kind: &str, payload: impl FnOnce(&mut String)) -> String {
    let mut out = String::with_capacity(128);
    out.push_str("{\"id\":");
    push_json(&mut out, header.id);
    out.push_str(",\"type\":\"");
    out.push_str(kind);
    out.push_str("\",\"timestamp\":");
    push_json(&mut out, &header.timestamp_ms);
    out.push_str(",\"payload\":");
    payload(&mut out);
    if let Some(reply_to) = header.reply_to {
        out.push_str(",\"replyTo\":");
        push_json(&mut out, reply_to);
    }
    out.push('}');
    out
}
