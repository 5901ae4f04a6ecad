//! Frames of the v1 dialect to requests.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::PROTOCOL_VERSION;
use super::items::SubmitItem;
use crate::event::{ClientId, EventId, PartitionKey};
use crate::protocol::request::{BadRequest, Connect, Frame, Request, SubmitBatch, Sync};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    protocol_version: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    msg_id: Option<&'a RawValue>,
}

/// A field that is there, be it `null`.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Whether a first frame asks for this dialect: an object with `protocolVersion`. `None` if it is no object.
pub(in crate::protocol) fn is_v1(text: &str) -> Option<bool> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let envelope: Envelope<'_> = serde_json::from_str(text).ok()?;
    Some(envelope.protocol_version.is_some())
}

/// Reads a frame.
pub(in crate::protocol) fn decode(text: &str) -> Result<Frame, BadRequest> {
    let envelope: Envelope<'_> = serde_json::from_str(text)
        .ok()
        .filter(|_| text.trim_start().starts_with('{'))
        .ok_or_else(|| bad(None, "Message must be a JSON object"))?;
    let msg_id = match envelope.msg_id.map(|id| serde_json::from_str::<String>(id.get())) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => return Err(bad(None, "msgId must be a string when provided")),
    };
    let fail = |message: &str| bad(msg_id.clone(), message);
    let kind = string(envelope.kind);
    let payload = envelope.payload.filter(|payload| payload.get().starts_with('{'));
    let (Some(kind), Some(payload)) = (kind, payload) else {
        return Err(fail("Missing required envelope fields"));
    };
    let id = msg_id.clone();
    if string(envelope.protocol_version).as_deref() != Some(PROTOCOL_VERSION) {
        return Ok(Frame { id, request: Request::UnsupportedVersion });
    }
    let request = match kind.as_str() {
        "connect" => connect(payload.get()),
        "submit_events" => submit(payload.get()),
        "sync" => sync(payload.get()),
        "refresh_token" => refresh(payload.get()),
        unknown => Err(format!("Unknown message type: {}", unknown.chars().take(100).collect::<String>())),
    };
    request.map(|request| Frame { id, request }).map_err(|message| fail(&message))
}

fn bad(reply_to: Option<String>, message: &str) -> BadRequest {
    BadRequest { reply_to, message: message.to_owned() }
}

fn string(raw: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(raw?.get()).ok()
}

fn connect(payload: &str) -> Result<Request, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload {
        token: Option<Value>,
        client_id: Option<Value>,
        project_id: Option<Value>,
    }
    let Payload { token, client_id, project_id } = parse(payload)?;
    let partition = project(project_id, "connect.payload.projectId")?;
    let (Some(Value::String(token)), Some(Value::String(client_id))) = (token, client_id) else {
        return Err("connect.payload.token and connect.payload.clientId are required".to_owned());
    };
    let client_id = ClientId::new(client_id).map_err(|error| format!("connect.payload.clientId {error}"))?;
    Ok(Request::Connect(Connect {
        client_id,
        partition,
        token: Some(token),
        last_event_id: None,
        live: true,
    }))
}

/// Not one of the published client's messages: for those who write their own, and want to stay connected.
fn refresh(payload: &str) -> Result<Request, String> {
    #[derive(Deserialize)]
    struct Payload {
        token: Option<Value>,
    }
    match parse::<Payload>(payload)?.token {
        Some(Value::String(token)) => Ok(Request::RefreshToken { token }),
        _ => Err("refresh_token.payload.token is required".to_owned()),
    }
}

fn submit(payload: &str) -> Result<Request, String> {
    #[derive(Deserialize)]
    struct Payload<'a> {
        #[serde(borrow)]
        events: Option<&'a RawValue>,
    }
    let missing = || "Missing payload.events".to_owned();
    let events = parse::<Payload<'_>>(payload)?.events.ok_or_else(missing)?;
    let events: Vec<&RawValue> = serde_json::from_str(events.get()).map_err(|_| missing())?;
    if events.is_empty() {
        return Err("payload.events must contain at least one item".to_owned());
    }
    let items = events.iter().enumerate().map(|(index, event)| SubmitItem::read(index, event));
    Ok(Request::SubmitBatch(SubmitBatch { items: items.collect::<Result<_, _>>()? }))
}

fn sync(payload: &str) -> Result<Request, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload {
        project_id: Option<Value>,
        since_committed_id: Option<Value>,
        limit: Option<Value>,
    }
    let Payload { project_id, since_committed_id, limit } = parse(payload)?;
    let partition = project(project_id, "sync.payload.projectId")?;
    let since = since_committed_id
        .as_ref()
        .and_then(Value::as_f64)
        .filter(|since| *since >= 0.0)
        .ok_or("sync.payload.sinceCommittedId must be a non-negative number")?;
    // What is no number counts as not said; the frontend clamps the rest.
    let limit = limit.as_ref().and_then(Value::as_f64).map(|limit| limit as u64);
    Ok(Request::Sync(Sync { since: Some(EventId(since as u64)), partition: Some(partition), limit }))
}

fn project(value: Option<Value>, path: &str) -> Result<PartitionKey, String> {
    match value {
        Some(Value::String(name)) if !name.is_empty() => {
            PartitionKey::new(name).map_err(|error| format!("{path}: {error}"))
        }
        _ => Err(format!("{path} must be a non-empty string")),
    }
}

fn parse<'a, T: Deserialize<'a>>(payload: &'a str) -> Result<T, String> {
    serde_json::from_str(payload).map_err(|error| format!("payload: {error}"))
}
