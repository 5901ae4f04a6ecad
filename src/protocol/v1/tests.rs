use serde_json::{Value, json};

use super::*;
use crate::event::{
    ClientId, CommittedEvent, ContentHash, EventId, EventRecord, FieldError, PartitionKey, V1Fields,
};
use crate::protocol::notice::{ErrorCode, Header, ItemResult, Notice};
use crate::protocol::request::{Frame, Request};

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
    let Ok(Frame { request: Request::SubmitBatch(batch), .. }) =
        decode(&frame("submit_events", json!({ "events": items })))
    else {
        panic!("not a batch");
    };
    let context = ItemContext { client_id: "c", user_id: Some("u"), project_id: "p" };
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
    assert_eq!(ids, ["e1", "e2"]);
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
        let (found, message) = checked.refused.unwrap_or_else(|| panic!("{change} was not refused"));
        assert_eq!(found, reason, "{change}");
        assert!(message.contains(says), "{change}: {message}");
        assert_eq!((checked.drafts.len(), checked.ids.len()), (1, 3));
    }
}

#[test]
fn results_have_an_entry_per_item() {
    let errors = [FieldError { field: "f".into(), message: "m".into(), code: "C".into() }];
    let items = [
        ItemResult::Committed { id: "a", event_id: EventId(3), timestamp: 9 },
        ItemResult::Rejected { id: "b", reason: "validation_failed", errors: &errors },
        ItemResult::NotProcessed { id: "c", blocked_by: "b" },
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
