//! A token that is revoked opens no door any more, and whoever came in with it is out: on all frontends, at once.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::backend::{Backend, token};
use crate::harness::cluster::binary;
use crate::harness::http;
use crate::harness::nats::NatsServer;
use crate::harness::process::Process;
use crate::harness::socket::Socket;
use crate::harness::tokens::{SECRET, now_s};
use crate::harness::{temp_dir, until};

/// Somebody is told that his token is revoked, and is out.
async fn expect_out(socket: &mut Socket) {
    let error = socket.expect_error("auth_failed").await;
    assert_eq!(error["payload"]["message"], "the token has been revoked", "{error}");
    assert_eq!(socket.expect_closed().await, 1008);
}

/// The token is refused by a frontend, in both dialects.
async fn expect_refused(backend: &Backend, frontend: usize, id: &str, token: &str) {
    expect_out(&mut backend.socket(frontend, id, token).await).await;
    expect_out(&mut backend.v1_socket(frontend, id, token).await).await;
}

/// The token is taken by a frontend.
async fn expect_taken(backend: &Backend, frontend: usize, id: &str, token: &str) -> Socket {
    let mut socket = backend.socket(frontend, id, token).await;
    socket.expect("connected").await;
    socket
}

/// What is told of the revocations that there are.
async fn revocations(ops: &Operator) -> Vec<Value> {
    ops.get("/revocations").await.json()["revocations"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_everywhere_and_who_came_in_with_it_is_out() {
    // So rarely that it is the order that brings it about.
    let mut backend = Backend::start_with(&["control.revocations_look_ms=60000"]).await;
    let ops = backend.operator();
    // An id that has to be put in other words, to be a key.
    let odd = "t.1/ü *";
    let stolen = token("ann", json!({ "jti": odd }));
    let other = token("ann", json!({ "jti": "t-2" }));
    let mut classic = expect_taken(&backend, 0, "ann", &stolen).await;
    let mut v1 = backend.v1_socket(1, "ann", &stolen).await;
    v1.expect("connected").await;
    let mut unharmed = expect_taken(&backend, 1, "ann", &other).await;

    let path = "/tokens/t.1%2F%C3%BC%20*/revoke";
    let revoked = ops.post(path, "").await.json();
    assert_eq!(
        (&revoked["tokenId"], &revoked["by"], &revoked["until"]),
        (&json!(odd), &json!("ops"), &Value::Null)
    );
    let frontends = json!([{ "id": "f0", "closed": 1 }, { "id": "f1", "closed": 1 }]);
    assert_eq!((&revoked["closed"], &revoked["complete"]), (&json!(2), &json!(true)), "{revoked}");
    assert_eq!(revoked["frontends"], frontends, "{revoked}");
    expect_out(&mut classic).await;
    expect_out(&mut v1).await;
    unharmed.expect_alive().await;
    for frontend in 0..2 {
        expect_refused(&backend, frontend, "ann", &stolen).await;
    }
    // Nor does it keep anybody in.
    unharmed.send("refresh_token", json!({ "token": stolen })).await.unwrap();
    expect_out(&mut unharmed).await;
    expect_taken(&backend, 0, "ann", &other).await;
    let counted = backend.metrics(0).await;
    for line in [
        "insieme_revocations_in_force 1",
        "insieme_tokens_refused_total{reason=\"revoked\"} 2",
        "insieme_connections_dismissed_total{reason=\"revoked\"} 1",
    ] {
        assert!(counted.contains(line), "no {line:?} in {counted}");
    }

    // One that comes later knows it too, and so does NATS when it was killed.
    let third = backend.add_frontend().await;
    expect_refused(&backend, third, "ann", &stolen).await;
    backend.nats.kill9();
    // What is known stays in force, whoever can be reached.
    expect_refused(&backend, 0, "ann", &stolen).await;
    backend.nats.restart().await;
    until("NATS to be back", async || (ops.get("/revocations").await.status == 200).then_some(())).await;
    expect_refused(&backend, third, "ann", &stolen).await;
    let listed = revocations(&ops).await;
    assert_eq!((listed.len(), &listed[0]["tokenId"]), (1, &json!(odd)), "{listed:?}");

    // An operator's token is one like others; and he may be mistaken about one.
    let rogue = token("rogue", json!({ "permissions": ["admin"], "jti": "r-1" }));
    let rogue = Operator::new(&backend.address, Some(&rogue));
    // The bucket of slots is in NATS's memory: after a restart a validator makes it again.
    until("the slots to be told", async || (rogue.get("/slots").await.status == 200).then_some(())).await;
    assert_eq!(ops.post("/tokens/r-1/revoke", "{}").await.status, 200);
    let lifted = ops.ask("DELETE", path, "", "").await.json();
    assert_eq!((&lifted["tokenId"], &lifted["complete"]), (&json!(odd), &json!(true)), "{lifted}");
    for frontend in 0..3 {
        expect_taken(&backend, frontend, "ann", &stolen).await;
    }
    ops.ask("DELETE", path, "", "").await.expect_problem(404, "not_found");
    let ids: Vec<_> = revocations(&ops).await.iter().map(|one| one["tokenId"].clone()).collect();
    assert_eq!(ids, ["r-1"]);

    let wrong = [
        (format!("/tokens/{}/revoke", "x".repeat(257)), ""),
        (format!("/tokens/{}/revoke", token("ann", json!({}))), ""),
        ("/tokens/t/revoke".to_owned(), r#"{"until":1}"#),
        ("/tokens/t/revoke".to_owned(), r#"{"til":1}"#),
        ("/clients/ann/revoke".to_owned(), r#"{"issuedUpto":-1}"#),
    ];
    for (path, body) in wrong {
        ops.post(&path, body).await.expect_problem(400, "bad_request");
    }
    ops.get("/revocations?after=x").await.expect_problem(400, "bad_request");
    let confined = token("eve", json!({ "permissions": ["admin"], "partition": "default" }));
    let confined = Operator::new(&backend.address, Some(&confined));
    for path in ["/tokens/t/revoke", "/clients/ann/revoke"] {
        confined.post(path, "").await.expect_problem(403, "forbidden");
        confined.ask("DELETE", path, "", "").await.expect_problem(403, "forbidden");
    }
    confined.get("/revocations").await.expect_problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_tokens_are_revoked_by_when_they_were_issued_and_a_revocation_has_an_end() {
    let backend = Backend::start_with(&["control.revocations_look_ms=100", "nats.revocations_max=5"]).await;
    let ops = backend.operator();

    // Others may write there too, with NATS's own tools: what is a revocation is found without an order.
    let mut zed = expect_taken(&backend, 1, "zed", &token("zed", json!({ "iat": 5 }))).await;
    let nats = async_nats::connect(backend.nats.url()).await.unwrap();
    let of_zed =
        json!({ "kind": "client", "client": "zed", "issuedUpto": 5, "until": null, "at": 1, "by": "nats" });
    for (key, body) in [("token.bad", "nonsense".to_owned()), ("client.zed", of_zed.to_string())] {
        nats.publish(format!("$KV.REVOKED.{key}"), body.into()).await.unwrap();
    }
    nats.flush().await.unwrap();
    expect_out(&mut zed).await;
    assert!(backend.frontends[1].0.output().contains("skipping an invalid revocation entry"));

    let old = token("ann", json!({ "iat": now_s() - 10 }));
    let undated = token("ann", json!({}));
    let new = token("ann", json!({ "iat": now_s() }));
    let mut inside = [
        expect_taken(&backend, 0, "ann", &old).await,
        expect_taken(&backend, 1, "ann", &undated).await,
        expect_taken(&backend, 1, "ann", &new).await,
    ];
    let mut bob = expect_taken(&backend, 0, "bob", &token("bob", json!({ "iat": 1 }))).await;
    let before = json!({ "issuedUpto": now_s() - 5 }).to_string();
    let revoked = ops.post("/clients/ann/revoke", &before).await.json();
    assert_eq!((&revoked["closed"], &revoked["kind"]), (&json!(2), &json!("client")), "{revoked}");
    let [of_old, of_undated, of_new] = &mut inside;
    expect_out(of_old).await;
    expect_out(of_undated).await;
    of_new.expect_alive().await;
    bob.expect_alive().await;
    for frontend in 0..2 {
        expect_refused(&backend, frontend, "ann", &old).await;
        expect_refused(&backend, frontend, "ann", &undated).await;
        expect_taken(&backend, frontend, "ann", &new).await;
    }

    // Up to now, if no time is given, by any clock that tokens may be of: by default five seconds ahead.
    let ahead = token("dan", json!({ "iat": now_s() + 4 }));
    let mut dan = expect_taken(&backend, 0, "dan", &ahead).await;
    let revoked = ops.post("/clients/dan/revoke", "").await.json();
    assert!(revoked["issuedUpto"].as_u64().unwrap().abs_diff(now_s()) < 60, "{revoked}");
    expect_out(&mut dan).await;
    expect_refused(&backend, 1, "dan", &ahead).await;
    assert_eq!(ops.ask("DELETE", "/clients/dan/revoke", "", "").await.status, 200);

    // For a while; there is room for five.
    let short = token("cid", json!({ "jti": "short" }));
    let body = json!({ "until": now_s() + 8 }).to_string();
    let answer = ops.post("/tokens/short/revoke", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    expect_refused(&backend, 0, "cid", &short).await;
    let full = ops.post("/tokens/more/revoke", "").await.expect_problem(507, "full");
    assert!(full.contains("nats.revocations_max"), "{full}");
    // Another word on the same is no more.
    assert_eq!(ops.post("/clients/ann/revoke", "").await.status, 200);
    until("the revocation's end", async || {
        let mut socket = backend.socket(0, "cid", &short).await;
        (socket.receive().await.unwrap()["type"] == "connected").then_some(())
    })
    .await;
    until("room for another", async || {
        (ops.post("/tokens/more/revoke", "").await.status == 200).then_some(())
    })
    .await;

    // Lifted.
    assert_eq!(ops.ask("DELETE", "/clients/ann/revoke", "", "").await.status, 200);
    expect_taken(&backend, 1, "ann", &old).await;
    let left: Vec<_> = revocations(&ops).await.iter().map(|one| one["kind"].clone()).collect();
    assert_eq!(left, ["client", "token"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_stands_still_does_not_hold_up_a_revocation_and_follows_it_when_it_goes_on() {
    let mut backend = Backend::start_with(&["auth.lifetime_s_max=7200"]).await;
    let ops = backend.operator();
    let stolen = token("ann", json!({ "jti": "t-1" }));
    let mut here = expect_taken(&backend, 0, "ann", &stolen).await;
    let mut there = expect_taken(&backend, 1, "ann", &stolen).await;
    until("both to be there", async || (ops.get("/clients/ann").await.json()["total"] == 2).then_some(()))
        .await;
    backend.frontends[1].0.pause();
    let revoked = ops.post("/tokens/t-1/revoke", "").await.json();
    assert_eq!((&revoked["closed"], &revoked["complete"]), (&json!(1), &json!(false)), "{revoked}");
    assert_eq!(revoked["missing"][0]["id"], "f1", "{revoked}");
    // No token lives longer than that, so the revocation need not either.
    let until = revoked["until"].as_u64().unwrap();
    assert!((now_s() + 7_100..now_s() + 7_300).contains(&until), "{revoked}");
    expect_out(&mut here).await;
    backend.frontends[1].0.resume();
    expect_out(&mut there).await;
    expect_refused(&backend, 1, "ann", &stolen).await;

    let lasting = token("bob", json!({ "exp": now_s() + 20_000 }));
    let error = backend.socket(0, "bob", &lasting).await.expect_error("auth_failed").await;
    assert!(error["payload"]["message"].as_str().unwrap().contains("7200"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_cannot_read_what_was_revoked_lets_nobody_in() {
    let nats = NatsServer::start_with(|port| {
        format!(
            "listen: \"127.0.0.1:{port}\"\nserver_name: test\njetstream {{ store_dir: $STORE }}\n\
             authorization {{ users: [ {{ user: all, password: p }}, {{ user: blind, password: p, permissions: {{ \
             publish: {{ deny: \"$JS.API.DIRECT.GET.KV_REVOKED\" }} }} }} ] }}\n"
        )
    })
    .await;
    let dir = temp_dir();
    std::fs::write(dir.path().join("secret"), SECRET).unwrap();
    let as_user = |role: &str, user: &str| -> Command {
        let mut command = binary();
        command.args([role, "--nats", &nats.url(), "--set", &format!("nats.user={user}")]);
        command.args(["--set", "nats.password=p", "--set", "nats.request_timeout_ms=500"]);
        command.env("INSIEME_AUTH_SECRET_FILE", dir.path().join("secret"));
        command
    };
    assert!(as_user("bootstrap", "all").output().unwrap().status.success());
    let mut command = as_user("frontend", "blind");
    command.args(["--listen", "127.0.0.1:0"]);
    let mut frontend = Process::spawn("frontend", command, dir.path());
    let url = frontend.line_with("frontend ready: ").await;
    let port = url.split(['/', ':']).find_map(|part| part.parse::<u16>().ok()).unwrap();
    frontend.line_with("cannot see what was revoked").await;
    let (ready, _) = http::ask(port, &http::get("/readyz")).await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "what was revoked could not be read yet"));
    let mut socket = Socket::open(&url).await.unwrap();
    let connect = json!({ "clientId": "ann", "version": "test", "token": token("ann", json!({})) });
    socket.send("connect", connect.clone()).await.unwrap();
    let error = socket.expect_error("unavailable").await;
    assert!(error["payload"]["details"]["retryAfterMs"].as_u64() > Some(0), "{error}");
    // One that is bad is bad all the same.
    let forged = json!({ "clientId": "ann", "version": "test", "token": "a.b.c" });
    socket.send("connect", forged).await.unwrap();
    socket.expect_error("auth_failed").await;
}
