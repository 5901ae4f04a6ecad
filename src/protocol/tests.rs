use super::*;
use crate::event::{ClientId, ContentHash, EventId, EventRecord, FieldError, PartitionKey, Reason};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::borrow::Cow;

const CLASSIC: Dialect = Dialect::Classic;

fn decode(message: &Value) -> Result<Frame, BadRequest> {
    decode_text(&message.to_string())
}

fn decode_text(text: &str) -> Result<Frame, BadRequest> {
    CLASSIC.decode(text, 64).map_err(|error| match error {
        DecodeError::Bad(bad) => bad,
        DecodeError::TooDeep => panic!("too deep: {text}"),
    })
}

/// The rejection of a draft whose frame was understood.
fn refused(text: &str) -> FieldError {
    let Request::Submit(submit) = decode_text(text).unwrap().request else { panic!("{text}") };
    submit.draft.expect_err(text)
}

fn client(kind: &str, payload: Value) -> Value {
    json!({ "id": "m-1", "type": kind, "timestamp": 1, "payload": payload })
}

fn encode(reply_to: Option<&str>, notice: &Notice<'_>) -> Value {
    let text = CLASSIC.encode(&Header { id: "s-1", timestamp_ms: 7, reply_to }, notice);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn connect_is_read_with_its_defaults() {
    let frame = decode(&client("connect", json!({ "clientId": "c", "version": "0.0.8" }))).unwrap();
    assert_eq!(frame.id.as_deref(), Some("m-1"));
    let Request::Connect(connect) = frame.request else { panic!("{:?}", frame.request) };
    assert_eq!(connect.client_id.as_str(), "c");
    assert_eq!(connect.partition.as_str(), "default");
    assert_eq!(connect.last_event_id, None);
    assert_eq!(connect.token, None);
}

#[test]
fn connect_is_read_with_everything() {
    let payload = json!({ "clientId": "c", "version": "1", "partition": "p q", "token": "t",
        "lastEventId": 12, "metadata": { "any": [1] }, "unknown": null });
    let Request::Connect(connect) = decode(&client("connect", payload)).unwrap().request else { panic!() };
    assert_eq!(connect.partition.as_str(), "p q");
    assert_eq!(connect.last_event_id, Some(EventId(12)));
    assert_eq!(connect.token.as_deref(), Some("t"));
}

#[test]
fn partitions_are_named_each_by_itself_or_with_a_cursor() {
    let read = |more: Value| {
        let mut payload = json!({ "clientId": "c", "version": "1" });
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        match decode(&client("connect", payload)) {
            Ok(Frame { request: Request::Connect(connect), .. }) => Ok(connect.partitions),
            Ok(other) => panic!("{other:?}"),
            Err(bad) => Err(bad.message),
        }
    };
    let named = |partition: &str, last: Option<u64>| Subscribe {
        partition: PartitionKey::new(partition).unwrap(),
        last_event_id: last.map(EventId),
    };
    assert_eq!(read(json!({})), Ok(None));
    assert_eq!(read(json!({ "partitions": null })), Ok(None));
    assert_eq!(read(json!({ "partitions": [] })), Ok(Some(vec![])));
    assert_eq!(
        read(
            json!({ "partitions": ["a", { "partition": "b", "lastEventId": 5.0, "x": 1 }, { "partition": "c" }] })
        ),
        Ok(Some(vec![named("a", None), named("b", Some(5)), named("c", None)]))
    );
    let hundred: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(read(json!({ "partitions": hundred })).unwrap().unwrap().len(), 100);
    for wrong in [
        json!({ "partitions": "a" }),
        json!({ "partitions": {} }),
        json!({ "partitions": [1] }),
        json!({ "partitions": [null] }),
        json!({ "partitions": [["a"]] }),
        json!({ "partitions": [{}] }),
        json!({ "partitions": ["a".repeat(300)] }),
        json!({ "partitions": [{ "partition": "a", "lastEventId": -1 }] }),
        json!({ "partitions": ["a", "a"] }),
        json!({ "partitions": ["a"], "partition": "b" }),
        json!({ "partitions": ["a"], "lastEventId": 1 }),
        json!({ "partitions": (0..101).map(|n| n.to_string()).collect::<Vec<_>>() }),
    ] {
        let message = read(wrong.clone()).unwrap_err();
        assert!(message.contains("partitions"), "{wrong}: {message}");
    }
    let frame = decode(&client("subscribe", json!({ "partition": "a", "lastEventId": 3 }))).unwrap();
    assert!(matches!(frame.request, Request::Subscribe(wanted) if wanted == named("a", Some(3))));
    let frame = decode(&client("unsubscribe", json!({ "partition": "a" }))).unwrap();
    assert!(matches!(frame.request, Request::Unsubscribe { partition } if partition.as_str() == "a"));
    for kind in ["subscribe", "unsubscribe"] {
        assert!(decode(&client(kind, json!({}))).is_err());
    }
}

#[test]
fn what_is_told_of_many_partitions_has_the_fields_of_the_specification() {
    let connected =
        Notice::ConnectedToMany { server_id: "f", partitions: &["a", "b"], heartbeat_interval_ms: 9 };
    assert_eq!(
        encode(Some("m"), &connected)["payload"],
        json!({ "serverId": "f", "partitions": ["a", "b"], "heartbeatInterval": 9 })
    );
    let state = RawValue::from_string("{\"a\":1}".into()).unwrap();
    let initial_state = Some(StateForm::Whole(&state));
    let subscribed =
        Notice::Subscribed { partition: "a", head: EventId(4), since_snapshot: 2, initial_state };
    assert_eq!(
        encode(Some("m"), &subscribed),
        json!({ "id": "s-1", "type": "subscribed", "timestamp": 7, "replyTo": "m", "payload":
            { "partition": "a", "currentEventIndex": 4, "sinceSnapshot": 2, "initialState": { "a": 1 } } })
    );
    let without =
        Notice::Subscribed { partition: "a", head: EventId(4), since_snapshot: 2, initial_state: None };
    assert_eq!(
        encode(None, &without)["payload"],
        json!({ "partition": "a", "currentEventIndex": 4, "sinceSnapshot": 2 })
    );
    let asked = Notice::Unsubscribed { partition: "a", last_event_id: EventId(4), why: None };
    assert_eq!(encode(Some("m"), &asked)["payload"], json!({ "partition": "a", "lastEventId": 4 }));
    let why = Some((ErrorCode::Forbidden, "no"));
    let ended = Notice::Unsubscribed { partition: "a", last_event_id: EventId(4), why };
    assert_eq!(
        encode(None, &ended)["payload"],
        json!({ "partition": "a", "lastEventId": 4, "code": "forbidden", "message": "no" })
    );
}

#[test]
fn a_submission_keeps_its_payload_as_written() {
    let text = r#"{"id":"m","type":"submit_event","timestamp":1.5,"payload":{"draftId":"d","baseEventId":3,
        "event":{"type":"set","payload":{ "a" : 1.0e2 },"partition":"p"}}}"#;
    let Request::Submit(submit) = decode_text(text).unwrap().request else { panic!() };
    let (partition, draft) = submit.draft.unwrap();
    assert_eq!(draft.payload.get(), r#"{ "a" : 1.0e2 }"#);
    assert_eq!(draft.base_event_id, Some(EventId(3)));
    assert_eq!(partition, Some(PartitionKey::new("p").unwrap()));
}

#[test]
fn the_other_requests_are_read() {
    let Request::Sync(sync) =
        decode(&client("sync", json!({ "sinceEventId": 4, "limit": 9 }))).unwrap().request
    else {
        panic!()
    };
    assert_eq!((sync.since, sync.limit), (Some(EventId(4)), Some(9)));
    assert!(matches!(decode(&client("heartbeat", json!({}))).unwrap().request, Request::Heartbeat));
    let refresh = decode(&client("refresh_token", json!({ "token": "x" }))).unwrap().request;
    assert!(matches!(refresh, Request::RefreshToken { token } if token == "x"));
}

#[test]
fn what_a_document_client_leaves_out_is_not_missed() {
    for text in [
        r#"{"type":"heartbeat"}"#,
        r#"{"type":"heartbeat","id":null,"timestamp":null,"payload":{}}"#,
        r#"{"type":"connect","payload":{"clientId":"c","version":"1","lastEventId":null,"token":null}}"#,
        r#"{"type":"sync","payload":{}}"#,
    ] {
        assert_eq!(decode_text(text).unwrap().id, None, "{text}");
    }
    let text = r#"{"type":"sync","payload":{"sinceEventId":5.0,"limit":5e1,"snapshot":true}}"#;
    let Request::Sync(sync) = decode_text(text).unwrap().request else { panic!() };
    assert_eq!((sync.since, sync.limit, sync.snapshot), (Some(EventId(5)), Some(50), true));
    let text = r#"{"type":"submit_event","payload":{"draftId":"d","baseEventId":7.0,"event":{"type":"t","payload":{}}}}"#;
    let Request::Submit(submit) = decode_text(text).unwrap().request else { panic!() };
    assert_eq!(submit.draft.unwrap().1.base_event_id, Some(EventId(7)));
}

#[test]
fn what_is_wrong_is_said_and_answered_to_its_id() {
    let event = json!({ "type": "set", "payload": {} });
    let cases: Vec<(String, bool)> = vec![
        ("".into(), false),
        ("nonsense".into(), false),
        ("[]".into(), false),
        (r#"["m",null,1,{}]"#.into(), false),
        ("null".into(), false),
        ("7".into(), false),
        ("{".into(), false),
        ("{}".into(), false),
        (json!({ "id": 1, "type": "heartbeat", "timestamp": 1, "payload": {} }).to_string(), false),
        (r#"{"id":"\ud800","type":"heartbeat"}"#.into(), false),
        (json!({ "id": "m-1", "timestamp": 1, "payload": {} }).to_string(), true),
        (json!({ "id": "m-1", "type": 1, "timestamp": 1, "payload": {} }).to_string(), true),
        (json!({ "id": "m-1", "type": "heartbeat", "timestamp": "1", "payload": {} }).to_string(), true),
        (json!({ "id": "m-1", "type": "sync", "timestamp": 1 }).to_string(), true),
        (r#"{"id":"m-1","type":"heartbeat","type":"sync","payload":{}}"#.into(), true),
        (r#"{"id":"m-1","type":"sync","payload":{"limit":1,"limit":2}}"#.into(), true),
        (client("heartbeat", json!([])).to_string(), true),
        (client("heartbeat", json!(null)).to_string(), true),
        (client("unheard_of", json!({})).to_string(), true),
        (client("connect", json!({})).to_string(), true),
        (client("connect", json!(["c", "1"])).to_string(), true),
        (client("connect", json!({ "clientId": "", "version": "1" })).to_string(), true),
        (client("connect", json!({ "clientId": "c" })).to_string(), true),
        (client("connect", json!({ "clientId": "c", "version": 1 })).to_string(), true),
        (client("connect", json!({ "clientId": "c", "version": "1", "lastEventId": -1 })).to_string(), true),
        (client("connect", json!({ "clientId": "c", "version": "1", "lastEventId": 1.5 })).to_string(), true),
        (
            client("connect", json!({ "clientId": "c", "version": "1", "partition": "p".repeat(257) }))
                .to_string(),
            true,
        ),
        (client("submit_event", json!({ "draftId": 1, "event": event })).to_string(), true),
        (client("submit_event", json!({ "event": event })).to_string(), true),
        (client("submit_event", json!([])).to_string(), true),
        (client("sync", json!({ "limit": "many" })).to_string(), true),
        (client("sync", json!({ "snapshot": 1 })).to_string(), true),
        (client("refresh_token", json!({})).to_string(), true),
    ];
    for (text, has_id) in cases {
        let error = decode_text(&text).expect_err(&text);
        assert_eq!(error.reply_to.as_deref(), has_id.then_some("m-1"), "{text}");
        assert!(!error.message.is_empty());
    }
}

#[test]
fn from_its_draft_id_on_what_is_wrong_with_a_draft_is_its_rejection() {
    let long = "d".repeat(257);
    let cases = [
        (r#""draftId":"","event":{"type":"t","payload":{}}"#, "draftId", "SCHEMA_ERROR"),
        (&format!(r#""draftId":"{long}","event":{{"type":"t","payload":{{}}}}"#), "draftId", "SCHEMA_ERROR"),
        (r#""draftId":"d""#, "event", "SCHEMA_ERROR"),
        (r#""draftId":"d","event":["t",{},null]"#, "event", "SCHEMA_ERROR"),
        (r#""draftId":"d","event":null"#, "event", "SCHEMA_ERROR"),
        (r#""draftId":"d","event":{"payload":{}}"#, "type", "SCHEMA_ERROR"),
        (r#""draftId":"d","event":{"type":"\udc00","payload":{}}"#, "type", "SCHEMA_ERROR"),
        (r#""draftId":"d","event":{"type":"t"}"#, "payload", "SCHEMA_ERROR"),
        (
            r#""draftId":"d","event":{"type":"t","payload":{},"partition":7}"#,
            "event.partition",
            "SCHEMA_ERROR",
        ),
        (
            r#""draftId":"d","event":{"type":"t","payload":{}},"baseEventId":-1"#,
            "baseEventId",
            "SCHEMA_ERROR",
        ),
        (r#""draftId":"d","event":{"type":"t","payload":{}},"event":{}"#, "event", "DUPLICATE_KEY"),
        (r#""draftId":"d","event":{"type":"t","payload":{},"payload":{}}"#, "payload", "DUPLICATE_KEY"),
    ];
    for (fields, field, code) in cases {
        let error = refused(&format!(r#"{{"type":"submit_event","payload":{{{fields}}}}}"#));
        assert_eq!((error.field.as_str(), error.code.as_str()), (field, code), "{fields}: {}", error.message);
    }
}

#[test]
fn a_frame_that_is_too_deep_is_refused_but_for_an_event_whose_fault_that_is() {
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let submit = |levels| {
        let payload = nested(levels);
        format!(
            r#"{{"type":"submit_event","payload":{{"draftId":"d","event":{{"type":"t","payload":{payload}}}}}}}"#
        )
    };
    let Request::Submit(at_the_limit) = decode_text(&submit(61)).unwrap().request else { panic!() };
    assert!(at_the_limit.draft.is_ok());
    for levels in [62, 100_000] {
        let error = refused(&submit(levels));
        assert_eq!((error.field.as_str(), error.code.as_str()), ("event", "TOO_DEEP"));
    }
    let deep = nested(100_000);
    for text in [
        "[".repeat(100_000),
        format!(r#"{{"type":"sync","payload":{{"x":{deep}}}}}"#),
        format!(r#"{{"type":"submit_event","x":{deep},"payload":{{"draftId":"d","event":{{"type":"t"}}}}}}"#),
        format!(r#"{{"type":"submit_event","payload":{{"draftId":{deep}}}}}"#),
    ] {
        assert_eq!(CLASSIC.decode(&text, 64).unwrap_err(), DecodeError::TooDeep);
    }
}

#[test]
fn a_broadcast_holds_the_event_as_it_says_it_does() {
    let payload = RawValue::from_string(r#"{ "a" : 1.0 }"#.to_owned()).unwrap();
    let record = EventRecord {
        event_type: Cow::Borrowed("set"),
        payload: &payload,
        partition: PartitionKey::new("p\"q").unwrap(),
        timestamp: 99,
        client_id: ClientId::new("c").unwrap(),
        user_id: Some("u".to_owned()),
        draft_id: Cow::Borrowed("d"),
        content_hash: ContentHash(1),
        ordinal: 3,
        v1: None,
        rules: None,
        is_mark: false,
    };
    let encoded = CLASSIC.encode_broadcast(&CommittedEvent { id: EventId(5), record });
    let frame: Value = serde_json::from_str(&encoded.frame).unwrap();
    let event = json!({ "type": "set", "payload": { "a": 1.0 }, "partition": "p\"q", "id": "evt-5",
        "eventId": 5, "timestamp": 99, "clientId": "c", "userId": "u" });
    assert_eq!(
        frame,
        json!({ "id": "b-5", "type": "broadcast", "timestamp": 99, "payload": { "eventId": 5, "event": event } })
    );
    let part = &encoded.frame[encoded.event_start..encoded.event_end];
    assert_eq!(serde_json::from_str::<Value>(part).unwrap(), event);
    assert!(part.contains(r#""payload":{ "a" : 1.0 }"#), "passed on as written");
}

#[test]
fn every_notice_is_written_as_the_contract_has_it() {
    let state = RawValue::from_string(r#"{"a":1}"#.to_owned()).unwrap();
    let connected = Notice::Connected {
        client_id: "c",
        partition: "p",
        server_id: "f",
        head: EventId(8),
        since_snapshot: 2,
        initial_state: Some(StateForm::Whole(&state)),
        heartbeat_interval_ms: 30_000,
    };
    assert_eq!(
        encode(Some("m-1"), &connected),
        json!({ "id": "s-1", "type": "connected", "timestamp": 7, "replyTo": "m-1", "payload": {
            "serverId": "f", "currentEventIndex": 8, "sinceSnapshot": 2, "initialState": { "a": 1 },
            "heartbeatInterval": 30000 } })
    );
    let accepted = Notice::Accepted { draft_id: "d", event_id: EventId(5), event: "{\"x\":1}" };
    assert_eq!(
        encode(None, &accepted),
        json!({ "id": "s-1", "type": "event_accepted", "timestamp": 7,
            "payload": { "draftId": "d", "eventId": 5, "event": { "x": 1 } } })
    );
    let errors = [FieldError { field: "payload".into(), message: "no".into(), code: "X".into() }];
    let rejected =
        Notice::Rejected { draft_id: "d", reason: Reason::Conflict, errors: &errors, retry_after_ms: None };
    assert_eq!(
        encode(None, &rejected)["payload"],
        json!({ "draftId": "d", "reason": "conflict",
            "errors": [{ "field": "payload", "message": "no", "code": "X" }] })
    );
    let page = Notice::SyncPage {
        of_many: false,
        partition: "p",
        next: EventId(0),
        snapshot: Some(Snapshot { state: StateForm::Whole(&state), event_id: EventId(3) }),
        events: &["{\"e\":4}", "{\"e\":5}"],
        head: EventId(5),
        has_more: false,
    };
    assert_eq!(
        encode(None, &page)["payload"],
        json!({ "snapshot": { "state": { "a": 1 }, "eventIndex": 3 }, "events": [{ "e": 4 }, { "e": 5 }],
            "currentEventIndex": 5, "hasMore": false })
    );
    let empty = Notice::SyncPage {
        of_many: false,
        partition: "p",
        next: EventId(0),
        snapshot: None,
        events: &[],
        head: EventId(5),
        has_more: true,
    };
    assert_eq!(
        encode(None, &empty)["payload"],
        json!({ "events": [], "currentEventIndex": 5, "hasMore": true })
    );
    assert_eq!(encode(Some("m"), &Notice::Heartbeat)["payload"], json!({}));
    assert_eq!(
        encode(Some("m"), &Notice::TokenRefreshed { expires_at: None })["payload"],
        json!({ "exp": null })
    );
    let details = Some(Details { retry_after_ms: Some(5), draft_id: None, partition: None });
    let error = Notice::Error { code: ErrorCode::RateLimited, message: "slow", details };
    assert_eq!(
        encode(None, &error)["payload"],
        json!({ "code": "rate_limited", "message": "slow", "details": { "retryAfterMs": 5 } })
    );
}

#[test]
fn depth_counts_arrays_and_objects_outside_strings() {
    use super::depth::deeper_than;
    assert!(!deeper_than(r#"{"a":"[[[[[["}"#, 1));
    assert!(!deeper_than(r#"{"a\"[[":[]}"#, 2));
    assert!(deeper_than(r#"{"a":[[]]}"#, 2));
    assert!(!deeper_than("[]".repeat(100).as_str(), 1));
    assert!(deeper_than(&"[".repeat(1_000_000), 64));
}

proptest! {
    #[test]
    fn no_text_makes_the_decoder_panic(text in ".{0,200}") {
        for dialect in [CLASSIC, Dialect::V1] {
            if let Err(DecodeError::Bad(bad)) = dialect.decode(&text, 64) {
                prop_assert!(!bad.message.is_empty());
            }
        }
    }

    #[test]
    fn what_a_client_writes_is_what_is_read(draft_id in ".{1,40}", kind in ".{0,20}", base in any::<Option<u64>>()) {
        let message = client("submit_event", json!({ "draftId": draft_id, "baseEventId": base,
            "event": { "type": kind, "payload": { "k": draft_id } } }));
        let Request::Submit(submit) = decode(&message).unwrap().request else { panic!() };
        let (_, draft) = submit.draft.unwrap();
        prop_assert_eq!(&draft.draft_id, &draft_id);
        prop_assert_eq!(draft.event_type, kind);
        prop_assert_eq!(draft.base_event_id, base.map(EventId));
    }

    #[test]
    fn errors_survive_any_text(text in ".{0,60}") {
        let notice = Notice::Error { code: ErrorCode::BadRequest, message: &text, details: None };
        let value = encode(Some(&text), &notice);
        prop_assert_eq!(value["payload"]["message"].as_str(), Some(text.as_str()));
        prop_assert_eq!(value["replyTo"].as_str(), Some(text.as_str()));
    }
}
