use serde_json::{Value, json};

use super::*;
use crate::event::{
    ClientId, CommittedEvent, ContentHash, EventId, EventRecord, FieldError, PartitionKey, V1Fields,
};
use crate::protocol::notice::{ErrorCode, Header, ItemResult, Notice};
use crate::protocol::request::{BadRequest, DecodeError, Frame, Request};

fn decode(text: &str) -> Result<Frame, BadRequest> {
    super::decode(text, 64).map_err(|error| match error {
        DecodeError::Bad(bad) => bad,
        DecodeError::TooDeep => panic!("too deep: {text}"),
    })
}

fn frame(kind: &str, payload: Value) -> String {
    json!({ "type": kind, "protocolVersion": "1.0", "msgId": "m", "payload": payload }).to_string()
}

fn refused(kind: &str, payload: Value) -> String {
    let bad = decode(&frame(kind, payload)).unwrap_err();
    assert_eq!(bad.reply_to.as_deref(), Some("m"));
    bad.message
}

fn written(notice: &Notice<'_>) -> Value {
    let header = Header { id: "s1", timestamp_ms: 7, reply_to: Some("m") };
    serde_json::from_str(&encode(&header, notice)).unwrap()
}

fn item(changes: Value) -> Value {
    let mut item = json!({
        "id": "e1", "partition": "l", "projectId": "p", "type": "t", "schemaVersion": 1,
        "payload": { "b": 1, "a": 2 }, "meta": { "clientId": "c", "clientTs": 5, "device": "x" },
    });
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(item.as_object_mut().unwrap().remove(key)),
            value => item[key] = value.clone(),
        }
    }
    item
}

fn checked(items: &[Value]) -> Checked {
    checked_text(&frame("submit_events", json!({ "events": items })), CONTEXT)
}

const CONTEXT: ItemContext<'_> =
    ItemContext { client_id: "c", user_id: Some("u"), any_user: false, project_id: "p", items_max: 4 };

fn checked_text(text: &str, context: ItemContext<'_>) -> Checked {
    let Ok(Frame { request: Request::SubmitBatch(batch), .. }) = decode(text) else {
        panic!("not a batch: {text}");
    };
    SubmitItem::check(batch.items, &context)
}

#[test]
fn the_first_frame_tells_the_dialect() {
    assert_eq!(is_v1(&frame("connect", json!({}))), Some(true));
    assert_eq!(is_v1(r#"{"id":"1","type":"connect"}"#), Some(false));
    assert_eq!(is_v1("[]"), None);
    assert_eq!(is_v1("nothing"), None);
}

#[test]
fn a_message_id_is_a_string_or_not_there() {
    let sync = |id: &str| {
        let payload = r#"{ "projectId": "p", "sinceCommittedId": 0 }"#;
        decode(&format!(r#"{{ "type": "sync", "protocolVersion": "1.0", {id} "payload": {payload} }}"#))
    };
    assert_eq!(sync("").unwrap().id, None);
    assert_eq!(sync(r#""msgId": "","#).unwrap().id.as_deref(), Some(""));
    for no_string in ["null", "7", "{}"] {
        assert_eq!(sync(&format!(r#""msgId": {no_string},"#)).unwrap_err().reply_to, None);
    }
}

#[test]
fn a_connect_names_client_project_and_token() {
    let payload = json!({ "token": "t", "clientId": "c", "projectId": "p" });
    let Ok(Frame { id, request: Request::Connect(connect) }) = decode(&frame("connect", payload)) else {
        panic!("not a connect");
    };
    assert_eq!(id.as_deref(), Some("m"));
    assert_eq!((connect.client_id.as_str(), connect.partition.as_str()), ("c", "p"));
    assert_eq!(connect.token.as_deref(), Some("t"));
    assert!(connect.live);
    for missing in ["token", "clientId", "projectId"] {
        let mut payload = json!({ "token": "t", "clientId": "c", "projectId": "p" });
        payload[missing] = json!("");
        if missing == "token" {
            payload[missing] = json!(1);
        }
        assert!(refused("connect", payload).contains(missing), "{missing}");
    }
}

#[test]
fn another_version_is_told_apart_from_a_frame_that_says_nothing() {
    let other = json!({ "type": "connect", "protocolVersion": "2.0", "payload": {} }).to_string();
    assert!(matches!(decode(&other).unwrap().request, Request::UnsupportedVersion));
    let nothing = json!({ "protocolVersion": "1.0", "payload": {} }).to_string();
    assert_eq!(decode(&nothing).unwrap_err().message, "Missing required envelope fields");
    assert!(refused("dance", json!({})).contains("dance"));
    let msg_id = json!({ "type": "sync", "protocolVersion": "1.0", "msgId": 1, "payload": {} }).to_string();
    assert!(decode(&msg_id).unwrap_err().message.contains("msgId"));
}

#[test]
fn a_sync_begins_at_a_number() {
    let payload =
        |since: Value, limit: Value| json!({ "projectId": "p", "sinceCommittedId": since, "limit": limit });
    let Request::Sync(sync) = decode(&frame("sync", payload(json!(3), json!(20)))).unwrap().request else {
        panic!("not a sync");
    };
    assert_eq!((sync.since, sync.limit), (Some(EventId(3)), Some(20)));
    let Request::Sync(sync) = decode(&frame("sync", payload(json!(0), json!("x")))).unwrap().request else {
        panic!("not a sync");
    };
    assert_eq!(sync.limit, None);
    for wrong in [json!(-1), json!("3"), Value::Null] {
        assert!(refused("sync", payload(wrong, json!(1))).contains("sinceCommittedId"));
    }
}

#[test]
fn a_batch_that_cannot_be_understood_is_refused_whole() {
    assert!(refused("submit_events", json!({})).contains("payload.events"));
    assert!(refused("submit_events", json!({ "events": {} })).contains("payload.events"));
    assert!(refused("submit_events", json!({ "events": [] })).contains("at least one"));
    assert!(refused("submit_events", json!({ "events": [1] })).contains("events[0]"));
    let unnamed = json!({ "events": [item(json!({})), item(json!({ "id": null }))] });
    assert_eq!(refused("submit_events", unnamed), "events[1].id is required");
}

#[test]
fn an_item_keeps_its_meta_and_gets_the_clients_name_and_time() {
    let Checked { drafts, refused, ids } =
        checked(&[item(json!({})), item(json!({ "id": "e2", "meta": { "clientTs": "12" }, "userId": "u" }))]);
    assert!(refused.is_none());
    assert_eq!(ids.iter().map(|id| id.get()).collect::<Vec<_>>(), [r#""e1""#, r#""e2""#]);
    let meta = |index: usize| -> Value {
        serde_json::from_str(drafts[index].v1.as_ref().unwrap().meta.get()).unwrap()
    };
    assert_eq!(meta(0), json!({ "clientId": "c", "clientTs": 5, "device": "x" }));
    assert_eq!(meta(1), json!({ "clientId": "c", "clientTs": 12.0 }));
    assert_eq!(drafts[1].v1.as_ref().unwrap().user_id.as_deref(), Some("u"));
}

#[test]
fn the_first_item_that_may_not_go_ends_the_batch_there() {
    let cases = [
        (json!({ "type": "" }), "validation_failed", "events[1].type"),
        (json!({ "schemaVersion": 0 }), "validation_failed", "events[1].schemaVersion"),
        (json!({ "schemaVersion": 1.5 }), "validation_failed", "events[1].schemaVersion"),
        (json!({ "payload": [] }), "validation_failed", "events[1].payload"),
        (json!({ "partition": "" }), "bad_request", "events[1].partition"),
        (json!({ "meta": { "clientId": "d", "clientTs": 1 } }), "forbidden", "meta.clientId"),
        (json!({ "meta": { "clientId": "c" } }), "validation_failed", "meta.clientTs"),
        (json!({ "userId": 1 }), "validation_failed", "userId"),
        (json!({ "userId": "v" }), "forbidden", "userId"),
        (json!({ "projectId": null }), "validation_failed", "projectId"),
        (json!({ "projectId": "q" }), "forbidden", "projectId"),
        (json!({ "id": "x".repeat(300) }), "validation_failed", "events[1].id"),
    ];
    for (change, reason, says) in cases {
        let checked = checked(&[item(json!({})), item(change.clone()), item(json!({ "id": "e3" }))]);
        let refused = checked.refused.unwrap_or_else(|| panic!("{change} was not refused"));
        assert_eq!(refused.reason, reason, "{change}");
        assert!(refused.message.contains(says), "{change}: {}", refused.message);
        assert!(says.ends_with(refused.field), "{change}: {}", refused.field);
        assert_eq!((checked.drafts.len(), checked.ids.len()), (1, 3));
    }
}

#[test]
fn whatever_is_wrong_with_one_item_is_that_items_fault() {
    let good = item(json!({ "id": "before" })).to_string();
    let nested = format!("{}1{}", "[".repeat(70), "]".repeat(70));
    let faulty = |from: &str, to: &str| item(json!({})).to_string().replace(from, to);
    let cases = [
        (faulty("\"e1\"", r#""\ud83d""#), "id", "BAD_ITEM"),
        (faulty(r#""type":"t""#, r#""type":"\udc00""#), "type", "BAD_ITEM"),
        (faulty(r#""type":"t""#, r#""type":"t","type":"u""#), "type", "DUPLICATE_KEY"),
        (faulty("\"id\":\"e1\"", r#""id":"e0","id":"e1""#), "id", "DUPLICATE_KEY"),
        (faulty(r#""partition":"l""#, r#""partition":"\ud800l""#), "partition", "BAD_ITEM"),
        (faulty(r#""projectId":"p""#, r#""projectId":"\ud800""#), "projectId", "FORBIDDEN"),
        (faulty(r#""schemaVersion":1"#, r#""schemaVersion":1e999"#), "schemaVersion", "BAD_ITEM"),
        (faulty(r#""clientTs":5"#, r#""clientTs":1e999"#), "meta.clientTs", "BAD_ITEM"),
        (faulty(r#""clientTs":5"#, r#""clientTs":5,"clientTs":6"#), "meta.clientTs", "DUPLICATE_KEY"),
        (faulty(r#""clientId":"c""#, r#""clientId":"\ud800""#), "meta.clientId", "FORBIDDEN"),
        (faulty(r#""clientTs":5"#, r#""clientTs":"5","\ud800":1"#), "meta", "BAD_ITEM"),
        (faulty(r#""a":2"#, &format!(r#""a":{nested}"#)), "", "TOO_DEEP"),
        (faulty(r#""device":"x""#, &format!(r#""device":{nested}"#)), "", "TOO_DEEP"),
        (faulty(r#""type":"t""#, &format!(r#""type":"t","unheard of":{nested}"#)), "", "TOO_DEEP"),
    ];
    for (faulty, field, code) in cases {
        let events = format!("{good},{faulty},{good}");
        let text = format!(
            r#"{{"type":"submit_events","protocolVersion":"1.0","msgId":"m","payload":{{"events":[{events}]}}}}"#
        );
        let checked = checked_text(&text, CONTEXT);
        let refused = checked.refused.unwrap_or_else(|| panic!("{faulty}"));
        assert_eq!((refused.field, refused.code), (field, code), "{faulty}: {}", refused.message);
        assert_eq!((checked.drafts.len(), checked.ids.len()), (1, 3), "{faulty}");
    }
    // An id that is no text is repeated as it was written.
    let checked = checked_text(
        &frame("submit_events", json!({ "events": [item(json!({ "id": "§" }))] })).replace('§', r"\ud83d"),
        CONTEXT,
    );
    assert_eq!(checked.ids[0].get(), r#""\ud83d""#);

    let many: Vec<_> = (0..6).map(|n| item(json!({ "id": n.to_string() }))).collect();
    let checked = self::checked(&many);
    assert_eq!(
        (checked.drafts.len(), checked.refused.unwrap().code, checked.ids.len()),
        (4, "TOO_MANY_ITEMS", 6)
    );
}

#[test]
fn payload_and_meta_are_passed_on_as_written() {
    let text = |meta: &str| {
        format!(
            r#"{{"type":"submit_events","protocolVersion":"1.0","payload":{{"events":[{{"id":"e","type":"t","schemaVersion":1.0,
            "projectId":"p","partition":"l","payload":{{ "z" : 1e2, "a":{{"y":1,"b":2}} }},"meta":{meta}}}]}}}}"#
        )
    };
    let written = |meta: &str| {
        let draft = checked_text(&text(meta), CONTEXT).drafts.remove(0);
        (draft.payload.get().to_owned(), draft.v1.unwrap().meta.get().to_owned())
    };
    let (payload, meta) = written(r#"{ "z":1, "clientTs":5.0, "clientId":"c" }"#);
    assert_eq!(payload, r#"{ "z" : 1e2, "a":{"y":1,"b":2} }"#);
    assert_eq!(meta, r#"{ "z":1, "clientTs":5.0, "clientId":"c" }"#);
    // What must be changed is changed in its place.
    assert_eq!(
        written(r#"{"z":1,"clientTs":"7","a":[ ]}"#).1,
        r#"{"z":1,"clientTs":7.0,"a":[ ],"clientId":"c"}"#
    );
    assert_eq!(written(r#"{"clientId":"","clientTs":null}"#).1, r#"{"clientId":"c","clientTs":0.0}"#);
}

#[test]
fn without_a_user_in_the_token_no_event_names_one_unless_anyone_is_taken() {
    let text = frame("submit_events", json!({ "events": [item(json!({ "userId": "u" }))] }));
    assert!(checked_text(&text, CONTEXT).refused.is_none());
    let nobody = ItemContext { user_id: None, ..CONTEXT };
    let refused = checked_text(&text, nobody).refused.unwrap();
    assert_eq!((refused.reason, refused.field), ("forbidden", "userId"));
    assert!(checked_text(&text, ItemContext { any_user: true, ..nobody }).refused.is_none());
}

#[test]
fn results_have_an_entry_per_item() {
    let errors = [FieldError { field: "f".into(), message: "m".into(), code: "C".into() }];
    let ids = ["a", "b", "c"].map(|id| serde_json::value::to_raw_value(id).unwrap());
    let items = [
        ItemResult::Committed { id: &ids[0], event_id: EventId(3), timestamp: 9 },
        ItemResult::Rejected { id: &ids[1], reason: "validation_failed", errors: &errors },
        ItemResult::NotProcessed { id: &ids[2], blocked_by: &ids[1] },
    ];
    let result = written(&Notice::BatchResult { items: &items });
    assert_eq!(
        result,
        json!({ "type": "submit_events_result", "protocolVersion": "1.0", "msgId": "m", "payload": { "results": [
            { "id": "a", "status": "committed", "committedId": 3, "serverTs": 9 },
            { "id": "b", "status": "rejected", "reason": "validation_failed", "created": 7,
              "errors": [{ "field": "f", "message": "m", "code": "C" }] },
            { "id": "c", "status": "not_processed", "reason": "prior_item_failed", "blockedById": "b", "created": 7 },
        ] } })
    );
}

#[test]
fn a_page_says_where_the_next_begins_and_where_the_cycle_ends() {
    let page = Notice::SyncPage {
        of_many: false,
        partition: "p",
        snapshot: None,
        events: &["{\"id\":\"x\"}"],
        next: EventId(4),
        head: EventId(9),
        has_more: true,
    };
    let expected = json!({ "projectId": "p", "events": [{ "id": "x" }], "nextSinceCommittedId": 4,
        "hasMore": true, "syncToCommittedId": 9 });
    assert_eq!(written(&page)["payload"], expected);
}

#[test]
fn what_the_published_client_has_no_code_for_is_the_nearest_that_it_has() {
    let code =
        |code| written(&Notice::Error { code, message: "x", details: None })["payload"]["code"].clone();
    assert_eq!(code(ErrorCode::MessageTooLarge), "bad_request");
    assert_eq!(code(ErrorCode::Unavailable), "server_error");
    assert_eq!(code(ErrorCode::CursorBeyondLog), "auth_failed");
    assert_eq!(code(ErrorCode::Forbidden), "forbidden");
    assert_eq!(code(ErrorCode::ProtocolVersionUnsupported), "protocolVersion_unsupported");
}

#[test]
fn events_of_both_dialects_have_this_ones_shape() {
    let payload = serde_json::value::to_raw_value(&json!({ "k": 1 })).unwrap();
    let mut record = EventRecord {
        event_type: "t".into(),
        payload: &payload,
        partition: PartitionKey::new("p").unwrap(),
        timestamp: 8,
        client_id: ClientId::new("c").unwrap(),
        user_id: Some("u".into()),
        draft_id: "d".into(),
        content_hash: ContentHash(0),
        ordinal: 1,
        v1: None,
        rules: None,
        is_mark: false,
    };
    let shape = |record: EventRecord<'_>| -> Value {
        let encoded = encode_broadcast(&CommittedEvent { id: EventId(5), record });
        let frame: Value = serde_json::from_str(&encoded.frame).unwrap();
        let event: Value =
            serde_json::from_str(&encoded.frame[encoded.event_start..encoded.event_end]).unwrap();
        assert_eq!((&frame["type"], &frame["msgId"]), (&json!("event_broadcast"), &json!("b-5")));
        assert_eq!(frame["payload"], event);
        event
    };
    assert_eq!(
        shape(record.clone()),
        json!({ "id": "evt-5", "projectId": "p", "userId": "u", "partition": "default", "committedId": 5,
            "type": "t", "schemaVersion": 1, "payload": { "k": 1 },
            "meta": { "clientId": "c", "clientTs": 8 }, "serverTs": 8 })
    );
    record.v1 = Some(V1Fields {
        label: "l".into(),
        schema_version: 3,
        user_id: None,
        meta: serde_json::value::to_raw_value(&json!({ "clientId": "c", "x": 1 })).unwrap(),
    });
    assert_eq!(
        shape(record),
        json!({ "id": "d", "projectId": "p", "partition": "l", "committedId": 5, "type": "t",
            "schemaVersion": 3, "payload": { "k": 1 }, "meta": { "clientId": "c", "x": 1 }, "serverTs": 8 })
    );
}
