//! The application itself says who may come in: a real HTTP server is asked, which is good, slow, wrong, or gone.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::cluster::{Cluster, Plan};
use crate::harness::key_server::{KeyServer, Mood};
use crate::harness::temp_dir;
use crate::harness::tokens::{SECRET, TestKey, now_s};
use crate::stories::tokens::{connect, connect_v1, submit};

const CALLS: &str = "insieme_hook_calls_total";

/// A backend that asks this application, and remembers nothing of it.
fn asking(hook: &KeyServer) -> Plan {
    Cluster::start()
        .set("auth.hook_url", &hook.url)
        .set("auth.hook_cache_ms", 0)
        .set("auth.hook_timeout_ms", 1_000)
}

fn allows(changes: Value) -> Mood {
    let mut answer = json!({ "allow": true, "permissions": ["read", "set"], "expiresAt": now_s() + 600 });
    for (key, value) in changes.as_object().unwrap() {
        answer[key] = value.clone();
    }
    Mood::Set(answer.to_string())
}

fn set(target: &str) -> Value {
    json!({ "target": target, "value": 1 })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_says_who_comes_in_what_he_may_do_where_and_for_how_long() {
    let hook = KeyServer::start(allows(json!({}))).await;
    let dir = temp_dir();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "between us\n").unwrap();
    let plan = asking(&hook).set("auth.hook_secret_file", secret.display()).set("auth.leeway_s", 0);
    let cluster = plan.set("auth.roles", r#"{ editor = ["read", "set:doc.*"] }"#).await;
    let frontend = &cluster.frontends[0];

    let end = now_s() + 500;
    hook.change(allows(json!({
        "permissions": null, "roles": ["editor"], "userId": "ann", "partitions": ["default", "team-*"],
        "expiresAt": end as f64 + 0.7, "more": "is passed over",
    })));
    // The token is the application's own: nobody else need be able to read it.
    let (mut socket, answer) = connect(frontend, "phone", "default", Some("session 42")).await;
    assert_eq!(answer["type"], "connected", "{answer}");
    let (head, body) = hook.last();
    assert!(head.starts_with("post /keys ") && head.contains("authorization: bearer between us"), "{head}");
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let expected = json!({
        "event": "connect", "clientId": "phone", "partition": "default", "token": "session 42", "identity": null,
    });
    assert_eq!(asked, expected);
    assert_eq!(submit(&mut socket, "1", "set", set("doc.a")).await.0, "event_accepted");
    assert_eq!(submit(&mut socket, "2", "set", set("other")).await.1, "forbidden");
    assert_eq!(cluster.log("default")[0]["userId"], "ann");
    for (partition, kind) in [("team-7", "connected"), ("others", "error")] {
        let (_, answer) = connect(frontend, "phone", partition, Some("session 42")).await;
        assert_eq!(answer["type"], kind, "{partition}: {answer}");
    }
    let (_, answer) = connect_v1(frontend, "phone", "session 42").await;
    assert_eq!(answer["type"], "connected", "{answer}");

    // At refresh it is asked again, under the secret of that moment, and may change its mind.
    std::fs::write(&secret, "another").unwrap();
    hook.change(allows(json!({ "permissions": ["read"], "expiresAt": end + 7 })));
    socket.send("refresh_token", json!({ "token": "session 43" })).await.unwrap();
    let refreshed = socket.expect_past_broadcasts("token_refreshed").await;
    assert_eq!(refreshed["payload"]["exp"], end + 7);
    let (head, body) = hook.last();
    assert!(head.contains("authorization: bearer another"), "{head}");
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["event"], "refresh");
    assert_eq!(submit(&mut socket, "3", "set", set("doc.a")).await.1, "forbidden");
    // Who he is stays.
    hook.change(allows(json!({ "userId": "eve" })));
    socket.send("refresh_token", json!({ "token": "session 44" })).await.unwrap();
    socket.expect_error("auth_failed").await;
    assert_eq!(socket.expect_closed().await, 1008);

    // What it lets in for a moment is out then.
    hook.change(allows(json!({ "expiresAt": now_s() + 2 })));
    let (mut socket, answer) = connect(frontend, "desk", "default", None).await;
    assert_eq!(answer["type"], "connected", "{answer}");
    let error = socket.expect_error("auth_failed").await;
    assert_eq!(error["payload"]["message"], "the token has expired", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_application_refuses_is_told_so_and_does_not_come_in() {
    let hook = KeyServer::start(allows(json!({}))).await;
    let cluster = asking(&hook).await;
    let frontend = &cluster.frontends[0];
    let says = |text: &str| json!({ "allow": false, "message": text }).to_string();
    let cases = [
        (Mood::Set(says("your plan has ended")), ": your plan has ended"),
        (Mood::Set(r#"{"allow":false}"#.to_owned()), ""),
        (Mood::Status("403 Forbidden", says("no")), ": no"),
        (Mood::Status("401 Unauthorized", "<html>".to_owned()), ""),
        // It cannot say no and mean yes.
        (Mood::Status("403 Forbidden", r#"{"allow":true,"expiresAt":9999999999}"#.to_owned()), ""),
    ];
    for (mood, why) in cases {
        hook.change(mood);
        let message = format!("the application does not let this client in{why}");
        let (mut socket, answer) = connect(frontend, "ann", "default", Some("t")).await;
        assert_eq!(answer["payload"]["code"], "auth_failed", "{answer}");
        assert_eq!(answer["payload"]["message"], message);
        assert_eq!(socket.expect_closed().await, 1008);
        let (mut socket, answer) = connect_v1(frontend, "ann", "t").await;
        assert_eq!(answer["payload"]["message"], message, "{answer}");
        assert_eq!(socket.expect_closed().await, 1008);
    }
    hook.change(Mood::Set(says(&"ü".repeat(1_000))));
    let (_, answer) = connect(frontend, "ann", "default", Some("t")).await;
    assert!(answer["payload"]["message"].as_str().unwrap().len() < 400, "{answer}");
    assert_eq!(frontend.metric(CALLS, "result=\"refused\"").await, 11.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_is_slow_wrong_or_gone_lets_nobody_in_and_throws_nobody_out() {
    let hook = KeyServer::start(allows(json!({}))).await;
    let elsewhere = KeyServer::start(allows(json!({}))).await;
    let cluster = asking(&hook).await;
    let frontend = &cluster.frontends[0];
    let (mut inside, answer) = connect(frontend, "inside", "default", Some("t")).await;
    assert_eq!(answer["type"], "connected", "{answer}");
    let wrong = [
        Mood::Silent,
        Mood::Endless,
        Mood::Status("500 Internal Server Error", r#"{"allow":true}"#.to_owned()),
        Mood::Status("404 Not Found", String::new()),
        Mood::Status("302 Found\r\nlocation: ".to_owned().leak(), elsewhere.url.clone()),
        Mood::Set("yes".to_owned()),
        Mood::Set("{}".to_owned()),
        Mood::Set(r#"{"allow":"true"}"#.to_owned()),
        // For ever, where every token must have an end.
        Mood::Set(r#"{"allow":true,"permissions":["*"]}"#.to_owned()),
        Mood::Set(json!({ "allow": true, "pad": "x".repeat(20_000) }).to_string()),
    ];
    let count = wrong.len() as f64;
    for mood in wrong {
        hook.change(mood);
        let (mut socket, answer) = connect(frontend, "ann", "default", Some("t")).await;
        assert_eq!(answer["payload"]["code"], "unavailable", "{answer}");
        // It may try again on the same connection.
        hook.change(allows(json!({})));
        socket.send("connect", json!({ "clientId": "ann", "version": "t", "token": "t" })).await.unwrap();
        socket.expect("connected").await;
    }
    assert_eq!(elsewhere.asked(), 0);
    hook.change(Mood::Silent);
    let (mut socket, answer) = connect_v1(frontend, "ann", "t").await;
    assert_eq!(answer["payload"]["code"], "server_error", "{answer}");
    assert_eq!(socket.expect_closed().await, 1013);
    // One who is inside may ask again while his time lasts.
    inside.send("refresh_token", json!({ "token": "t" })).await.unwrap();
    inside.expect_past_broadcasts("error").await;
    assert_eq!(submit(&mut inside, "1", "set", set("a")).await.0, "event_accepted");

    drop(hook);
    let (_, answer) = connect(frontend, "ann", "default", Some("t")).await;
    assert_eq!(answer["payload"]["code"], "unavailable", "{answer}");
    assert_eq!(submit(&mut inside, "2", "set", set("b")).await.0, "event_accepted");
    assert!(frontend.metric(CALLS, "result=\"failed\"").await >= count + 3.0);
    // Each trouble is said once, not with every client; and its end is.
    let logged = frontend.process.output();
    assert_eq!(logged.matches("nobody new is let in").count(), logged.matches("answers again").count() + 1);
    assert!(!logged.contains("session"), "a token was logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_is_asked_by_so_many_at_a_time_and_not_again_within_a_moment() {
    let answer = json!({ "allow": true, "permissions": ["read"], "expiresAt": now_s() + 600 }).to_string();
    let hook = KeyServer::start(Mood::Late(Duration::from_millis(200), answer)).await;
    let plan = asking(&hook).set("auth.hook_calls_max", 2).set("auth.hook_timeout_ms", 30_000);
    let cluster = plan.set("auth.hook_cache_ms", 600_000).await;
    let url = cluster.frontends[0].url();
    let mut all = JoinSet::new();
    for number in 0..8 {
        let url = url.clone();
        all.spawn(async move {
            let mut socket = crate::harness::socket::Socket::open(&url).await.unwrap();
            let connect = json!({ "clientId": format!("c{number}"), "version": "t", "token": "t" });
            socket.send("connect", connect).await.unwrap();
            socket.receive().await.unwrap()
        });
    }
    while let Some(answer) = all.join_next().await {
        assert_eq!(answer.unwrap()["type"], "connected");
    }
    assert_eq!((hook.asked(), hook.asked_at_once_max()), (8, 2));
    // Who comes back is let in by what was said a moment ago; another token or partition is another question.
    let frontend = &cluster.frontends[0];
    for _ in 0..3 {
        let (_, answer) = connect(frontend, "c1", "default", Some("t")).await;
        assert_eq!(answer["type"], "connected", "{answer}");
    }
    assert_eq!((hook.asked(), frontend.metric(CALLS, "result=\"kept\"").await), (8, 3.0));
    connect(frontend, "c1", "default", Some("u")).await;
    connect(frontend, "c1", "other", Some("t")).await;
    let (mut socket, _) = connect(frontend, "c2", "default", Some("t")).await;
    socket.send("refresh_token", json!({ "token": "t" })).await.unwrap();
    socket.expect("token_refreshed").await;
    assert_eq!(hook.asked(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_keys_the_token_is_checked_first_and_its_word_counts_where_the_application_says_nothing() {
    let hook = KeyServer::start(Mood::Set(r#"{"allow":true}"#.to_owned())).await;
    let dir = temp_dir();
    let file = dir.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let cluster = asking(&hook).set("auth.secret_file", file.display()).await;
    let frontend = &cluster.frontends[0];
    let end = now_s() + 300;
    let claims = json!({ "userId": "ann", "partition": "default", "exp": end });
    let token = TestKey::secret(SECRET).token("phone", claims);
    let forged = TestKey::secret("another secret than theirs").token("phone", json!({}));
    let (_, answer) = connect(frontend, "phone", "default", Some(&forged)).await;
    assert_eq!(answer["payload"]["code"], "auth_failed", "{answer}");
    assert_eq!(hook.asked(), 0, "whoever makes tokens up costs the application nothing");

    let (mut socket, answer) = connect(frontend, "phone", "default", Some(&token)).await;
    assert_eq!(answer["type"], "connected", "{answer}");
    let asked: Value = serde_json::from_slice(&hook.last().1).unwrap();
    let known = json!({
        "userId": "ann", "permissions": ["*"], "partitions": ["default"], "expiresAt": end, "tokenId": null,
    });
    assert_eq!((&asked["identity"], &asked["token"]), (&known, &json!(token)));
    assert_eq!(submit(&mut socket, "1", "set", set("a")).await.0, "event_accepted");
    assert_eq!(cluster.log("default")[0]["userId"], "ann");

    // What the application says counts; but for longer than the token nobody stays.
    hook.change(allows(json!({ "permissions": ["read"], "expiresAt": end + 1000 })));
    socket.send("refresh_token", json!({ "token": token })).await.unwrap();
    assert_eq!(socket.expect_past_broadcasts("token_refreshed").await["payload"]["exp"], end);
    assert_eq!(submit(&mut socket, "2", "set", set("b")).await.1, "forbidden");
}
