//! Frames of the v1 dialect to requests.

use serde_json::value::RawValue;

use super::PROTOCOL_VERSION;
use super::items::SubmitItem;
use crate::event::{ClientId, EventId, PartitionKey};
use crate::protocol::depth::deeper_than;
use crate::protocol::fields::{Fields, is_object, number, text as text_of, whole};
use crate::protocol::request::{BadRequest, Connect, DecodeError, Frame, Request, SubmitBatch, Sync};

/// How many arrays and objects of a frame an item lies in.
const ITEM_LEVEL: usize = 3;

/// Whether a first frame asks for this dialect: an object with `protocolVersion`. `None` if it is no object.
pub(crate) fn is_v1(text: &str) -> Option<bool> {
    let Fields { values: [version], .. } = Fields::read(text, &["protocolVersion"])?;
    Some(version.is_some())
}

/// Reads a frame.
pub(crate) fn decode(text: &str, depth_max: usize) -> Result<Frame, DecodeError> {
    let is_deep = deeper_than(text, depth_max);
    let names = &["type", "protocolVersion", "payload", "msgId"];
    let Some(Fields { values: [kind, version, payload, msg_id], twice }) = Fields::read(text, names) else {
        return Err(if is_deep { DecodeError::TooDeep } else { bad(None, "Message must be a JSON object") });
    };
    let kind = text_of(kind).filter(|kind| !kind.is_empty());
    if is_deep && kind.as_deref() != Some("submit_events") {
        return Err(DecodeError::TooDeep);
    }
    // Here `null` is given, and no string.
    let msg_id = match msg_id {
        None => None,
        Some(id) => {
            let id = text_of(Some(id));
            Some(id.ok_or_else(|| bad(None, "msgId must be a string when provided"))?)
        }
    };
    if let Some(twice) = twice {
        return Err(bad(msg_id, &format!("{twice} is given twice")));
    }
    let payload = payload.filter(|payload| is_object(payload));
    let (Some(kind), Some(payload)) = (kind, payload) else {
        return Err(bad(msg_id, "Missing required envelope fields"));
    };
    if text_of(version).as_deref() != Some(PROTOCOL_VERSION) {
        return Ok(Frame { id: msg_id, request: Request::UnsupportedVersion });
    }
    let request = match kind.as_str() {
        "connect" => connect(payload.get()),
        "submit_events" => match submit(payload.get(), is_deep.then_some(depth_max)) {
            // Something else than an item is too deep.
            Ok(batch) if is_deep && !batch.items.iter().any(SubmitItem::is_too_deep) => {
                return Err(DecodeError::TooDeep);
            }
            batch => batch.map(Request::SubmitBatch),
        },
        "sync" => sync(payload.get()),
        "refresh_token" => refresh(payload.get()),
        unknown => Err(format!("Unknown message type: {}", unknown.chars().take(100).collect::<String>())),
    };
    match request {
        Ok(request) => Ok(Frame { id: msg_id, request }),
        Err(message) => Err(bad(msg_id, &message)),
    }
}

fn bad(reply_to: Option<String>, message: &str) -> DecodeError {
    DecodeError::Bad(BadRequest { reply_to, message: message.to_owned() })
}

/// Reads a payload, each field of which is there once.
fn fields<'a, const N: usize>(
    payload: &'a str,
    names: &'static [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], String> {
    match Fields::read(payload, names) {
        None => Err("payload must be an object".to_owned()),
        Some(Fields { twice: Some(twice), .. }) => Err(format!("payload.{twice} is given twice")),
        Some(Fields { values, twice: None }) => Ok(values),
    }
}

fn connect(payload: &str) -> Result<Request, String> {
    let [token, client_id, project_id] = fields(payload, &["token", "clientId", "projectId"])?;
    let partition = project(project_id, "connect.payload.projectId")?;
    let (Some(token), Some(client_id)) = (text_of(token), text_of(client_id)) else {
        return Err("connect.payload.token and connect.payload.clientId are required".to_owned());
    };
    let client_id = ClientId::new(client_id).map_err(|error| format!("connect.payload.clientId {error}"))?;
    let token = Some(token);
    Ok(Request::Connect(Connect {
        partitions: None,
        client_id,
        partition,
        token,
        last_event_id: None,
        live: true,
        about: super::super::About::default(),
    }))
}

/// Not one of the published client's messages: for those who write their own, and want to stay connected.
fn refresh(payload: &str) -> Result<Request, String> {
    let [token] = fields(payload, &["token"])?;
    let token = text_of(token).ok_or("refresh_token.payload.token is required")?;
    Ok(Request::RefreshToken { token })
}

fn submit(payload: &str, depth_max: Option<usize>) -> Result<SubmitBatch, String> {
    let [events] = fields(payload, &["events"])?;
    let events: Option<Vec<&RawValue>> = events.and_then(|events| serde_json::from_str(events.get()).ok());
    let events = events.ok_or("Missing payload.events")?;
    if events.is_empty() {
        return Err("payload.events must contain at least one item".to_owned());
    }
    let is_deep = |event: &RawValue| {
        depth_max.is_some_and(|depth_max| deeper_than(event.get(), depth_max.saturating_sub(ITEM_LEVEL)))
    };
    let items = events.iter().enumerate();
    let items = items.map(|(index, event)| SubmitItem::read(index, event, is_deep(event)));
    Ok(SubmitBatch { items: items.collect::<Result<_, _>>()? })
}

fn sync(payload: &str) -> Result<Request, String> {
    let [project_id, since, limit] = fields(payload, &["projectId", "sinceCommittedId", "limit"])?;
    let partition = project(project_id, "sync.payload.projectId")?;
    let since = whole(since)
        .or_else(|| number(since).filter(|since| *since >= 0.0).map(|since| since as u64))
        .ok_or("sync.payload.sinceCommittedId must be a non-negative number")?;
    // What is no number counts as not said; the frontend clamps the rest.
    let limit = number(limit).map(|limit| limit as u64);
    let (since, partition) = (Some(EventId(since)), Some(partition));
    Ok(Request::Sync(Sync { since, partition, limit, snapshot: false }))
}

fn project(value: Option<&RawValue>, path: &str) -> Result<PartitionKey, String> {
    match text_of(value).filter(|name| !name.is_empty()) {
        Some(name) => PartitionKey::new(name).map_err(|error| format!("{path}: {error}")),
        None => Err(format!("{path} must be a non-empty string")),
    }
}
