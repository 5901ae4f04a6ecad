//! An operator ends a client's connections on all frontends, and changes what all processes log.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::backend::{Backend, set, token};
use crate::harness::process::Process;
use crate::harness::until;

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_a_clients_connections_on_all_frontends() {
    let backend = Backend::start().await;
    let ops = backend.operator();
    let of_ann = token("ann", json!({}));
    let mut classic = [backend.socket(0, "ann", &of_ann).await, backend.socket(1, "ann", &of_ann).await];
    let mut v1 = backend.v1_socket(1, "ann", &of_ann).await;
    let mut bob = backend.socket(0, "bob", &token("bob", json!({}))).await;
    for socket in classic.iter_mut().chain([&mut v1, &mut bob]) {
        socket.expect("connected").await;
    }
    let mut elsewhere = backend.client(0, "ann", json!({})).partition("other").await;

    // To stay away, for as far as the client does as it is told.
    let closed = ops.post("/clients/ann/close", r#"{"partition":"default"}"#).await.json();
    assert_eq!((&closed["closed"], &closed["complete"]), (&json!(3), &json!(true)), "{closed}");
    assert_eq!(closed["frontends"], json!([{ "id": "f0", "closed": 1 }, { "id": "f1", "closed": 2 }]));
    for socket in classic.iter_mut().chain([&mut v1]) {
        let error = socket.expect_error("auth_failed").await;
        assert!(error["payload"]["message"].as_str().unwrap().contains("operator"), "{error}");
        assert_eq!(socket.expect_closed().await, 1008);
    }
    bob.expect_alive().await;
    elsewhere.commit("set", set("a", json!(1))).await;

    // To come again.
    let mut classic = backend.socket(0, "ann", &of_ann).await;
    classic.expect("connected").await;
    let mut v1 = backend.v1_socket(1, "ann", &of_ann).await;
    v1.expect("connected").await;
    let closed = ops.post("/clients/ann/close", r#"{"partition":"default","reconnect":true}"#).await.json();
    assert_eq!(closed["closed"], 2, "{closed}");
    for (socket, code) in [(&mut classic, "unavailable"), (&mut v1, "server_error")] {
        let error = socket.expect_error(code).await;
        assert!(error["payload"]["details"]["retryAfterMs"].as_u64() > Some(0), "{error}");
        assert_eq!(socket.expect_closed().await, 1001);
    }

    // Wherever it is; and nobody there is no error.
    assert_eq!(ops.post("/clients/ann/close", "").await.json()["closed"], 1);
    assert_eq!(ops.post("/clients/ann/close", "{}").await.json()["closed"], 0);
    bob.expect_alive().await;

    ops.post("/clients/bob/close", r#"{"reconect":true}"#).await.expect_problem(400, "bad_request");
    ops.post("/clients/bob/close?now=1", "").await.expect_problem(400, "bad_request");
    ops.post("/clients/bob/close", &" ".repeat(20_000)).await.expect_problem(400, "bad_request");
    ops.get("/clients/bob/close").await.expect_problem(405, "method_not_allowed");
    let confined = token("eve", json!({ "permissions": ["admin"], "partition": "other" }));
    let confined = Operator::new(&backend.address, Some(&confined));
    confined.post("/clients/bob/close", "").await.expect_problem(403, "forbidden");
    let of_default = r#"{"partition":"default"}"#;
    confined.post("/clients/bob/close", of_default).await.expect_problem(403, "forbidden");
    bob.expect_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_gone_at_once_all_the_same() {
    let mut backend = Backend::start_with(&[
        "frontend.write_stall_ms_max=600000",
        "frontend.submissions_per_minute_max=0",
        "frontend.bytes_per_second_max=0",
    ])
    .await;
    let ops = backend.operator();
    let mut deaf = backend.socket(0, "deaf", &token("deaf", json!({}))).await;
    deaf.expect("connected").await;
    let mut ann = backend.client(1, "ann", json!({})).await;
    // More than the kernel takes for somebody who does not read.
    const EVENTS: usize = 240;
    for number in 0..EVENTS {
        ann.commit("set", set(&format!("k{}", number % 2), json!("x".repeat(200_000)))).await;
    }
    until("the frontend to have seen everything", async || {
        let seen = format!("insieme_stage_duration_seconds_count{{stage=\"seen\"}} {EVENTS}");
        backend.metrics(0).await.contains(&seen).then_some(())
    })
    .await;
    let all_written = format!("insieme_broadcasts_sent_total {EVENTS}");
    assert!(!backend.metrics(0).await.contains(&all_written));
    let began = Instant::now();
    assert_eq!(ops.post("/clients/deaf/close", "").await.json()["closed"], 1);
    until("the connection to be gone", async || {
        (ops.get("/clients/deaf").await.json()["total"] == 0).then_some(())
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    drop(deaf);
}

/// How many lines of a level a process has written.
fn lines(process: &Process, level: &str) -> usize {
    process.output().lines().filter(|line| line.contains(level)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_changes_what_all_processes_log() {
    let mut backend = Backend::start().await;
    let ops = backend.operator();
    let levels = |answer: &Value| -> Vec<(String, String)> {
        let processes = answer["processes"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        processes.iter().map(|one| (text(&one["role"]), text(&one["level"]))).collect()
    };
    let roles = ["frontend", "frontend", "validator", "validator", "admin"];
    let all_at =
        |level: &str| roles.iter().map(|role| ((*role).to_owned(), level.to_owned())).collect::<Vec<_>>();
    assert_eq!(levels(&ops.get("/log").await.json()), all_at("info,async_nats=warn"));

    let mut ann = backend.client(0, "ann", json!({})).await;
    ann.commit("set", set("a", json!(1))).await;
    for process in &backend.validators {
        assert_eq!(lines(process, "DEBUG"), 0);
    }
    let level = "info,insieme_backend::validator=debug";
    let body = json!({ "level": level, "minutes": 10 }).to_string();
    let answer = ops.put("/log", &body).await.json();
    assert_eq!((levels(&answer), &answer["complete"]), (all_at(level), &json!(true)), "{answer}");
    until("a validator to say more", async || {
        ann.commit("set", set("a", json!(2))).await;
        backend.validators.iter().any(|process| lines(process, "DEBUG") > 0).then_some(())
    })
    .await;
    // Only what was asked for.
    assert_eq!(lines(&backend.frontends[0].0, "DEBUG"), 0);

    // Who stands still is named.
    backend.validators[1].pause();
    let answer = ops.put("/log", r#"{"level":"warn"}"#).await.json();
    assert_eq!((levels(&answer).len(), &answer["missing"][0]["id"]), (4, &json!("v1")), "{answer}");
    backend.validators[1].resume();

    for wrong in
        [r#"{"level":"x=y=z"}"#, "{}", "", r#"{"level":"info","minutes":0}"#, r#"{"level":"info","hours":1}"#]
    {
        ops.put("/log", wrong).await.expect_problem(400, "bad_request");
    }
    assert_eq!(levels(&ops.get("/log").await.json())[0].1, "warn");
}
