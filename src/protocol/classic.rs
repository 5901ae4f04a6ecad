//! The classic dialect: the design document's messages, `{ id, type, timestamp, payload }`.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;

use super::depth::deeper_than;
use super::fields::{Fields, given, is_object, number, text as text_of, whole};
use super::json::{push_json, push_list};
use super::notice::EncodedEvent;
use super::notice::{Details, Header, Notice, Snapshot, StateForm};
use super::request::{About, BadRequest, Connect, DecodeError, Frame, Request, Submit, Subscribe, Sync};
use crate::event::{ClientId, CommittedEvent, Draft, EventId, EventRecord, FieldError, PartitionKey};

const DEFAULT_PARTITION: &str = "default";
/// The most partitions of a connection.
pub const PARTITIONS_MAX: usize = 100;
/// How many objects of a frame an event lies in.
pub(super) const EVENT_LEVEL: usize = 2;

/// Reads a frame.
pub(crate) fn decode(text: &str, depth_max: usize) -> Result<Frame, DecodeError> {
    let is_deep = deeper_than(text, depth_max);
    let Some(fields) = Fields::read(text, &["type", "id", "timestamp", "payload"]) else {
        return Err(if is_deep {
            DecodeError::TooDeep
        } else {
            bad(None, "the message must be a JSON object")
        });
    };
    let Fields { values: [kind, id, timestamp, payload], twice } = fields;
    let kind = text_of(kind);
    if is_deep && kind.as_deref() != Some("submit_event") {
        return Err(DecodeError::TooDeep);
    }
    let fault = if let Some(twice) = twice {
        Some(FieldError::new(twice, "DUPLICATE_KEY", "is given twice"))
    } else if given(id).is_some() && text_of(id).is_none() {
        Some(FieldError::new("id", "SCHEMA_ERROR", "must be a string"))
    } else if given(timestamp).is_some() && number(timestamp).is_none() {
        Some(FieldError::new("timestamp", "SCHEMA_ERROR", "must be a number"))
    } else {
        None
    };
    let id = given(id).and_then(|id| text_of(Some(id)));
    let request = || {
        let kind = kind.ok_or("`type` must be a string")?;
        // A draft is answered whatever is wrong beside it.
        if let Some(fault) = fault.as_ref().filter(|_| kind != "submit_event") {
            return Err(format!("`{}` {}", fault.field, fault.message).into());
        }
        let payload = match payload {
            Some(payload) if is_object(payload) => payload.get(),
            Some(_) => return Err("`payload` must be an object".into()),
            None if kind == "heartbeat" => "{}",
            None => return Err("`payload` is missing".into()),
        };
        match kind.as_str() {
            "connect" => connect(payload),
            "submit_event" => submit(payload, is_deep.then_some(depth_max), fault),
            "sync" => sync(payload),
            "subscribe" => subscribe(payload).map(Request::Subscribe).map_err(Wrong::Message),
            "unsubscribe" => unsubscribe(payload),
            "heartbeat" => Ok(Request::Heartbeat),
            "refresh_token" => refresh(payload),
            unknown => Err(format!("unknown type {:?}", shortened(unknown)).into()),
        }
    };
    match request() {
        Ok(request) => Ok(Frame { id, request }),
        Err(Wrong::TooDeep) => Err(DecodeError::TooDeep),
        Err(Wrong::Message(message)) => Err(DecodeError::Bad(BadRequest { reply_to: id, message })),
    }
}

/// What is wrong with a frame whose id was read.
enum Wrong {
    TooDeep,
    Message(String),
}

impl From<String> for Wrong {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}

impl From<&str> for Wrong {
    fn from(message: &str) -> Self {
        Self::Message(message.to_owned())
    }
}

fn bad(reply_to: Option<String>, message: &str) -> DecodeError {
    DecodeError::Bad(BadRequest { reply_to, message: message.to_owned() })
}

/// Reads a payload, each field of which is there once.
fn payload_fields<'a, const N: usize>(
    payload: &'a str,
    names: &'static [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], String> {
    match Fields::read(payload, names) {
        None => Err("`payload` must be an object".to_owned()),
        Some(Fields { twice: Some(twice), .. }) => Err(format!("`payload.{twice}` is given twice")),
        Some(Fields { values, twice: None }) => Ok(values),
    }
}

/// A whole number where one is given.
fn whole_where_given(value: Option<&RawValue>, name: &str) -> Result<Option<u64>, String> {
    match given(value) {
        None => Ok(None),
        some => whole(some).map(Some).ok_or_else(|| format!("`{name}` must be a whole number, 0 or more")),
    }
}

fn partition_where_given(value: Option<&RawValue>) -> Result<Option<PartitionKey>, String> {
    let Some(value) = given(value) else { return Ok(None) };
    let name = text_of(Some(value)).ok_or("must be a string")?;
    PartitionKey::new(name).map(Some).map_err(|error| error.to_string())
}

fn connect(payload: &str) -> Result<Request, Wrong> {
    let names = &["clientId", "version", "partition", "partitions", "token", "lastEventId", "metadata"];
    let [client_id, version, partition, partitions, token, last_event_id, metadata] =
        payload_fields(payload, names)?;
    let client_id = text_of(client_id).ok_or("`payload.clientId` must be a string")?;
    let client_id = ClientId::new(client_id).map_err(|error| format!("`payload.clientId` {error}"))?;
    let version = text_of(version).ok_or("`payload.version` must be a string")?;
    let partitions =
        given(partitions).map(|list| subscriptions(list, partition, last_event_id)).transpose()?;
    let partition = match partition_where_given(partition) {
        Ok(Some(partition)) => partition,
        Ok(None) => PartitionKey::new(DEFAULT_PARTITION).map_err(|error| error.to_string())?,
        Err(why) => return Err(format!("`payload.partition` {why}").into()),
    };
    let token = match given(token) {
        None => None,
        token => Some(text_of(token).ok_or("`payload.token` must be a string")?),
    };
    let last_event_id = whole_where_given(last_event_id, "payload.lastEventId")?.map(EventId);
    let about = About::new(Some(version), given(metadata).map(RawValue::get));
    Ok(Request::Connect(Connect {
        client_id,
        partition,
        partitions,
        token,
        last_event_id,
        live: false,
        about,
    }))
}

/// The partitions that a connection begins with: each its name, or a `subscribe`'s payload.
fn subscriptions(
    list: &RawValue,
    partition: Option<&RawValue>,
    last_event_id: Option<&RawValue>,
) -> Result<Vec<Subscribe>, String> {
    for (field, value) in [("partition", partition), ("lastEventId", last_event_id)] {
        if given(value).is_some() {
            return Err(format!("`payload.{field}` and `payload.partitions` exclude each other"));
        }
    }
    let wrong = |what: &str| format!("`payload.partitions` {what}");
    let entries: Vec<&RawValue> = serde_json::from_str(list.get()).map_err(|_| wrong("must be a list"))?;
    if entries.len() > PARTITIONS_MAX {
        return Err(wrong(&format!(
            "has {} entries; a connection has at most {PARTITIONS_MAX}",
            entries.len()
        )));
    }
    let mut wanted: Vec<Subscribe> = Vec::with_capacity(entries.len());
    for (place, entry) in entries.into_iter().enumerate() {
        let subscription = if is_object(entry) {
            subscribe(entry.get())
        } else {
            partition_where_given(Some(entry))
                .and_then(|partition| partition.ok_or_else(|| "must be a string".to_owned()))
                .map(|partition| Subscribe { partition, last_event_id: None })
        };
        let subscription = subscription.map_err(|why| wrong(&format!("[{place}]: {why}")))?;
        if wanted.iter().any(|other| other.partition == subscription.partition) {
            return Err(wrong(&format!("names {:?} twice", shortened(subscription.partition.as_str()))));
        }
        wanted.push(subscription);
    }
    Ok(wanted)
}

fn subscribe(payload: &str) -> Result<Subscribe, String> {
    let [partition, last_event_id] = payload_fields(payload, &["partition", "lastEventId"])?;
    let last_event_id = whole_where_given(last_event_id, "lastEventId")?.map(EventId);
    Ok(Subscribe { partition: named_partition(partition)?, last_event_id })
}

fn unsubscribe(payload: &str) -> Result<Request, Wrong> {
    let [partition] = payload_fields(payload, &["partition"])?;
    Ok(Request::Unsubscribe { partition: named_partition(partition)? })
}

/// A partition that must be named.
fn named_partition(value: Option<&RawValue>) -> Result<PartitionKey, String> {
    match partition_where_given(value) {
        Ok(Some(partition)) => Ok(partition),
        Ok(None) => Err("`partition` is missing".to_owned()),
        Err(why) => Err(format!("`partition` {why}")),
    }
}

fn sync(payload: &str) -> Result<Request, Wrong> {
    let names = &["sinceEventId", "partition", "limit", "snapshot"];
    let [since, partition, limit, snapshot] = payload_fields(payload, names)?;
    let since = whole_where_given(since, "payload.sinceEventId")?.map(EventId);
    let partition = partition_where_given(partition).map_err(|why| format!("`payload.partition` {why}"))?;
    let limit = whole_where_given(limit, "payload.limit")?;
    let snapshot = match given(snapshot).map(RawValue::get) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err("`payload.snapshot` must be true or false".into()),
    };
    Ok(Request::Sync(Sync { since, partition, limit, snapshot }))
}

fn refresh(payload: &str) -> Result<Request, Wrong> {
    let [token] = payload_fields(payload, &["token"])?;
    let token = text_of(token).ok_or("`payload.token` must be a string")?;
    Ok(Request::RefreshToken { token })
}

/// Reads a submission. From its draft id on, whatever is wrong with it is the draft's rejection. A frame that is
/// nested deeper than `depth_max` is taken if that is the event's fault; `fault` is what is wrong beside the payload.
fn submit(payload: &str, depth_max: Option<usize>, fault: Option<FieldError>) -> Result<Request, Wrong> {
    let Some(Fields { values, twice }) = Fields::read(payload, &["draftId", "event", "baseEventId"]) else {
        return Err("`payload` must be an object".into());
    };
    let [draft_id, event, base_event_id] = values;
    if let Some(depth_max) = depth_max
        && !event.is_some_and(|event| deeper_than(event.get(), depth_max.saturating_sub(EVENT_LEVEL)))
    {
        return Err(Wrong::TooDeep);
    }
    let draft_id = text_of(draft_id).ok_or("`payload.draftId` must be a string")?;
    let draft = if let Some(fault) = fault {
        Err(fault)
    } else if let Some(twice) = twice {
        Err(FieldError::new(twice, "DUPLICATE_KEY", "is given twice"))
    } else if let Some(depth_max) = depth_max {
        let message = format!("nested deeper than a frame may be, {depth_max} levels");
        Err(FieldError::new("event", "TOO_DEEP", message))
    } else {
        draft(&draft_id, event, base_event_id)
    };
    Ok(Request::Submit(Box::new(Submit { draft_id, draft })))
}

fn draft(
    draft_id: &str,
    event: Option<&RawValue>,
    base_event_id: Option<&RawValue>,
) -> Result<(Option<PartitionKey>, Draft), FieldError> {
    let wrong = |field: &str, what: &str| FieldError::new(field, "SCHEMA_ERROR", what);
    let Some(event) = event.filter(|event| is_object(event)) else {
        return Err(wrong("event", "must be an object"));
    };
    let Some(Fields { values: [kind, payload, partition], twice }) =
        Fields::read(event.get(), &["type", "payload", "partition"])
    else {
        return Err(wrong("event", "must be an object"));
    };
    if let Some(twice) = twice {
        return Err(FieldError::new(twice, "DUPLICATE_KEY", "is given twice"));
    }
    let draft = draft_of(draft_id, kind, payload, base_event_id)?;
    let partition = partition_where_given(partition).map_err(|why| wrong("event.partition", &why))?;
    Ok((partition, draft))
}

/// A draft of these fields, or what is wrong with one.
pub(super) fn draft_of(
    draft_id: &str,
    kind: Option<&RawValue>,
    payload: Option<&RawValue>,
    base_event_id: Option<&RawValue>,
) -> Result<Draft, FieldError> {
    let wrong = |field: &str, what: &str| FieldError::new(field, "SCHEMA_ERROR", what);
    let draft = Draft {
        draft_id: draft_id.to_owned(),
        event_type: text_of(kind).ok_or_else(|| wrong("type", "must be a string"))?,
        payload: payload.ok_or_else(|| wrong("payload", "is missing"))?.to_owned(),
        base_event_id: whole_where_given(base_event_id, "baseEventId")
            .map_err(|why| wrong("baseEventId", &why))?
            .map(EventId),
        v1: None,
    };
    draft.check().map_err(|error| wrong("draftId", &error.to_string()))?;
    Ok(draft)
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
#[serde(rename_all = "camelCase")]
struct UnsubscribedPayload<'a> {
    partition: &'a str,
    last_event_id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
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
    details: Option<Details<'a>>,
}

/// Writes a notice.
pub(crate) fn encode(header: &Header<'_>, notice: &Notice<'_>) -> String {
    match *notice {
        Notice::Connected {
            server_id, head, since_snapshot, initial_state, heartbeat_interval_ms, ..
        } => {
            // By hand like all that holds an event or a state: those are copied once.
            message(header, "connected", |out| {
                out.push_str("{\"serverId\":");
                push_json(out, server_id);
                push_position(out, head, since_snapshot, initial_state);
                out.push_str(",\"heartbeatInterval\":");
                push_json(out, &heartbeat_interval_ms);
                out.push('}');
            })
        }
        Notice::ConnectedToMany { server_id, partitions, heartbeat_interval_ms } => {
            message(header, "connected", |out| {
                out.push_str("{\"serverId\":");
                push_json(out, server_id);
                out.push_str(",\"partitions\":");
                push_json(out, partitions);
                out.push_str(",\"heartbeatInterval\":");
                push_json(out, &heartbeat_interval_ms);
                out.push('}');
            })
        }
        Notice::Subscribed { partition, head, since_snapshot, initial_state } => {
            message(header, "subscribed", |out| {
                out.push_str("{\"partition\":");
                push_json(out, partition);
                push_position(out, head, since_snapshot, initial_state);
                out.push('}');
            })
        }
        Notice::Unsubscribed { partition, last_event_id, why } => {
            let (code, text) = why.map(|(code, text)| (code.as_str(), text)).unzip();
            let payload = UnsubscribedPayload { partition, last_event_id, code, message: text };
            message(header, "unsubscribed", |out| push_json(out, &payload))
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
        Notice::SyncPage { partition, snapshot, events, head, has_more, of_many, .. } => {
            message(header, "sync_response", |out| {
                out.push('{');
                if of_many {
                    out.push_str("\"partition\":");
                    push_json(out, partition);
                    out.push(',');
                }
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

/// Where a client begins in a partition: its last event, and the state if it is sent.
fn push_position(out: &mut String, head: EventId, since_snapshot: u64, state: Option<StateForm<'_>>) {
    out.push_str(",\"currentEventIndex\":");
    push_json(out, &head);
    out.push_str(",\"sinceSnapshot\":");
    push_json(out, &since_snapshot);
    if let Some(state) = state {
        out.push(',');
        push_state(out, "initialState", state);
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
pub(crate) fn encode_broadcast(event: &CommittedEvent<'_>) -> EncodedEvent {
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
