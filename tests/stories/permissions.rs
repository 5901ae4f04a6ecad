//! What a token permits is no more than its author meant: actions are no event types, "everything" is no operator, and
//! a user is who the token says.

use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::backend::{Backend, token};
use crate::harness::socket::Socket;
use crate::harness::tokens::now_s;
use crate::harness::v1::envelope;

fn item(id: &str, kind: &str, changes: Value) -> Value {
    let mut item = json!({ "id": id, "partition": "l", "projectId": "default", "type": kind, "schemaVersion": 1,
        "payload": {}, "meta": { "clientTs": 1 } });
    for (key, value) in changes.as_object().unwrap() {
        item[key] = value.clone();
    }
    item
}

async fn v1(backend: &Backend, client: &str, token: &str) -> Socket {
    let mut socket = backend.v1_socket(0, client, token).await;
    socket.expect("connected").await;
    socket
}

/// Submits one event and gives its result.
async fn result(socket: &mut Socket, item: Value) -> Value {
    let id = format!("m-{}", item["id"].as_str().unwrap());
    socket.send_text(envelope("submit_events", &id, &json!({ "events": [item] }))).await.unwrap();
    socket.expect("submit_events_result").await["payload"]["results"][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_of_a_token_is_no_event_type() {
    let backend = Backend::start_with(&[]).await;
    let everything = token("all", json!({ "permissions": ["*", "admin"] }));
    let cases = [
        (json!(["read"]), "read"),
        (json!(["read", "set:doc"]), "set:doc"),
        (json!(["read", "set:doc.*"]), "set:doc.*"),
        (json!(["read", "event:x"]), "event:x"),
        (json!(["read", "*:x"]), "*:x"),
        (json!(["read", "read:x"]), "read:x"),
        (json!(["read", "admin"]), "admin"),
        (json!(["read", "*"]), "*"),
    ];
    for (n, (permissions, kind)) in cases.iter().enumerate() {
        let mut reader = v1(&backend, "rita", &token("rita", json!({ "permissions": permissions }))).await;
        let mut all = v1(&backend, "all", &everything).await;
        let id = format!("e{n}");
        for socket in [&mut reader, &mut all] {
            let result = result(socket, item(&id, kind, json!({}))).await;
            assert_eq!(
                (&result["status"], &result["reason"]),
                (&json!("rejected"), &json!("validation_failed"))
            );
            assert_eq!(result["errors"][0]["code"], "RESERVED_TYPE", "{kind}: {result}");
        }
    }
    // An application's own type may hold a colon, and is permitted by its name.
    let mut rita = v1(&backend, "rita", &token("rita", json!({ "permissions": ["read", "todo:add"] }))).await;
    assert_eq!(result(&mut rita, item("own", "todo:add", json!({}))).await["status"], "committed");
    assert_eq!(result(&mut rita, item("other", "todo:del", json!({}))).await["reason"], "forbidden");

    // In the classic dialect too.
    let mut classic = backend.socket(0, "rita", &token("rita", json!({ "permissions": ["read"] }))).await;
    classic.expect("connected").await;
    let event = json!({ "type": "read", "payload": {} });
    classic.send("submit_event", json!({ "draftId": "d", "event": event })).await.unwrap();
    let rejected = classic.expect("event_rejected").await;
    assert_eq!(rejected["payload"]["errors"][0]["code"], "RESERVED_TYPE", "{rejected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_permits_everything_is_no_operators() {
    let backend = Backend::start_with(&[]).await;
    let as_with = |permissions: Value| {
        Operator::new(&backend.address, Some(&token("app", json!({ "permissions": permissions }))))
    };
    as_with(json!(["*"])).get("/processes").await.expect_problem(403, "forbidden");
    as_with(json!(["*:*"])).get("/processes").await.expect_problem(403, "forbidden");
    as_with(json!(["*", "admin"])).get("/processes").await.json();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_names_the_user_of_the_token_or_none() {
    let backend = Backend::start_with(&[]).await;
    let nobody = token("ann", json!({ "permissions": ["*"] }));
    let mut socket = v1(&backend, "ann", &nobody).await;
    let refused = result(&mut socket, item("e1", "note", json!({ "userId": "boss" }))).await;
    assert_eq!(
        (&refused["status"], &refused["reason"]),
        (&json!("rejected"), &json!("forbidden")),
        "{refused}"
    );
    assert_eq!(refused["errors"][0]["field"], "userId");
    assert_eq!(result(&mut socket, item("e2", "note", json!({}))).await["status"], "committed");

    let user =
        |user: Value| token("ann", json!({ "permissions": ["*"], "userId": user, "exp": now_s() + 600 }));
    let mut socket = v1(&backend, "ann", &user(json!("u"))).await;
    assert_eq!(
        result(&mut socket, item("e3", "note", json!({ "userId": "u" }))).await["status"],
        "committed"
    );
    assert_eq!(
        result(&mut socket, item("e4", "note", json!({ "userId": "v" }))).await["reason"],
        "forbidden"
    );
    // A fresh token neither changes the user nor drops it: the one after that could name another.
    let mut classic = backend.socket(0, "ann", &user(json!("u"))).await;
    classic.expect("connected").await;
    for socket in [&mut socket, &mut classic] {
        for (fresh, expected) in [(json!("u"), "token_refreshed"), (Value::Null, "token_refreshed")] {
            refresh(socket, &user(fresh)).await;
            while socket.receive().await.unwrap()["type"] != expected {}
        }
    }
    assert_eq!(
        result(&mut socket, item("e5", "note", json!({ "userId": "u" }))).await["status"],
        "committed"
    );
    assert_eq!(
        result(&mut socket, item("e6", "note", json!({ "userId": "v" }))).await["reason"],
        "forbidden"
    );
    for socket in [&mut socket, &mut classic] {
        refresh(socket, &user(json!("v"))).await;
        let error = socket.expect_past_broadcasts("error").await;
        assert_eq!(error["payload"]["code"], "auth_failed", "{error}");
        assert_eq!(socket.expect_closed().await, 1008);
    }
}

/// Asks to go on under a fresh token: in a form that both dialects read.
async fn refresh(socket: &mut Socket, token: &str) {
    let message = json!({ "id": "r", "type": "refresh_token", "protocolVersion": "1.0", "payload": { "token": token } });
    socket.send_text(message.to_string()).await.unwrap();
}
