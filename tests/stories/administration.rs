//! What operators ask and do: two frontends, two validators and the administration, as processes, with tokens.

use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::backend::{Backend, SLOTS, set, token};
use crate::harness::cluster::binary;
use crate::harness::until;

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_looks_at_partitions_slots_states_and_events() {
    let backend = Backend::start().await;
    let ops = backend.operator();
    let odd = "a/b ü?";
    let mut ann = backend.client(0, "ann", json!({})).partition(odd).await;
    for number in 0..5 {
        ann.commit("set", set("count", json!(number))).await;
    }
    let mut bob = backend.client(1, "bob", json!({})).await;
    bob.commit("set", set("name", json!("Bob"))).await;

    // Both have seen their own events come by.
    ann.caught_up(5).await;
    bob.caught_up(6).await;

    // The partitions, on one page and page by page.
    let all = ops.get("/partitions").await.json();
    assert_eq!((all["total"].as_u64(), &all["next"]), (Some(2), &Value::Null), "{all}");
    let found = |all: &Value, name: &str| {
        let partitions = all["partitions"].as_array().unwrap();
        partitions.iter().find(|partition| partition["partition"] == name).cloned()
    };
    let described = found(&all, odd).unwrap();
    assert_eq!(described["events"], 5);
    assert_eq!(described["head"], ann.last_event_id);
    assert!(described["slot"].as_u64().unwrap() < SLOTS && described["lastTimestamp"].as_u64() > Some(0));
    let first = ops.get("/partitions?limit=1").await.json();
    assert_eq!((first["partitions"].as_array().unwrap().len(), &first["next"]), (1, &json!("default")));
    let second = ops.get("/partitions?limit=1&after=default").await.json();
    assert_eq!(found(&second, odd).unwrap(), described);
    assert_eq!(second["next"], Value::Null);

    // The slots, once both validators have theirs.
    let slots = until("every slot to have an owner, and both validators some", async || {
        let slots = ops.get("/slots").await.json();
        let owners: Vec<_> = slots["slots"].as_array()?.iter().map(|slot| slot["owner"].clone()).collect();
        (slots["unowned"] == 0 && owners.contains(&json!("v0")) && owners.contains(&json!("v1")))
            .then_some(slots)
    })
    .await;
    assert_eq!(slots["validators"], json!(["v0", "v1"]));
    assert_eq!(slots["slots"].as_array().unwrap().len() as u64, SLOTS);
    assert!(slots["slots"][0]["revision"].is_u64() && slots["slots"][0]["pendingDrafts"].is_u64());

    // The state, now and at an earlier event.
    let path = "/partitions/a%2Fb%20%C3%BC%3F";
    let state = ops.get(&format!("{path}/state")).await.json();
    assert_eq!((&state["state"], &state["events"]), (&json!({ "count": 4 }), &json!(5)));
    assert_eq!(state["eventId"], ann.last_event_id);
    assert_eq!(state["hash"].as_str().unwrap().len(), 64);
    let earlier = ann.events[1]["eventId"].as_u64().unwrap();
    let state = ops.get(&format!("{path}/state?at={earlier}")).await.json();
    assert_eq!((&state["state"], &state["eventId"]), (&json!({ "count": 1 }), &json!(earlier)));

    // The events: all, and a stretch.
    let lines = |body: &str| -> Vec<u64> {
        let ids = body.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["eventId"].as_u64());
        ids.map(Option::unwrap).collect()
    };
    let ids: Vec<u64> = ann.events.iter().map(|event| event["eventId"].as_u64().unwrap()).collect();
    let events = ops.get(&format!("{path}/events")).await;
    assert!(events.head.contains("application/jsonl"), "{}", events.head);
    assert_eq!(lines(&events.body), ids);
    let stretch = ops.get(&format!("{path}/events?from={}&to={}", ids[1], ids[3])).await;
    assert_eq!(lines(&stretch.body), ids[1..=3]);

    // Those of a client, a type and a time.
    let may = json!({ "permissions": ["read", "unset"] });
    let mut eve = backend.client(1, "eve", may).partition(odd).await;
    let unset = eve.commit("unset", json!({ "target": "nothing" })).await;
    let (its_id, its_time) = (unset["eventId"].as_u64().unwrap(), unset["timestamp"].as_u64().unwrap());
    for query in ["client=eve", "type=unset", "client=eve&type=unset&to=1000000"] {
        assert_eq!(lines(&ops.get(&format!("{path}/events?{query}")).await.body), [its_id], "{query}");
    }
    let time = |name: &str, ms: u64| format!("{path}/events?client=eve&{name}={ms}");
    assert_eq!(lines(&ops.get(&time("since", its_time)).await.body), [its_id]);
    assert_eq!(lines(&ops.get(&time("until", its_time)).await.body), [its_id]);
    assert!(ops.get(&time("since", its_time + 1)).await.body.is_empty());
    assert!(ops.get(&time("until", its_time - 1)).await.body.is_empty());
    assert!(ops.get(&format!("{path}/events?since=2999-01-01T00:00:00Z")).await.body.is_empty());
    ops.get(&format!("{path}/events?since=yesterday")).await.expect_problem(400, "bad_request");
    let mut only = ops.follow(&format!("{path}/events?client=eve"), "").await;
    assert_eq!(only.next().await.unwrap().0, its_id);
    let shown = |args: &[&str]| {
        let output = backend.command(&[&["log", odd], args].concat()).output().unwrap();
        lines(&String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(shown(&["--client", "eve"]), [its_id]);
    assert_eq!(shown(&["--type", "set", "--limit", "2"]), ids[..2]);
    assert_eq!(shown(&["--client", "eve", "--since", "1h", "--until", &its_time.to_string()]), [its_id]);
    assert!(shown(&["--until", "1h"]).is_empty());

    // A snapshot when it is asked for, which the state is then loaded from.
    assert!(shown(&[]).len() == 6);
    let snapshot = ops.post(&format!("{path}/snapshot"), "").await.json();
    assert_eq!((&snapshot["eventId"], &snapshot["events"]), (&json!(its_id), &json!(6)), "{snapshot}");
    assert_eq!(ops.get(&format!("{path}/state")).await.json()["eventId"], its_id);
    ops.post("/partitions/nobody/snapshot", "").await.expect_problem(404, "not_found");
    ann.caught_up(its_id).await;

    // The events as they come, from where a client of the stream had got to.
    let mut stream = ops.follow(&format!("{path}/events"), &format!("Last-Event-ID: {}\r\n", ids[3])).await;
    let (id, event) = stream.next().await.unwrap();
    assert_eq!((id, &event["payload"]["value"]), (ids[4], &json!(4)));
    assert_eq!(stream.next().await.unwrap().0, its_id);
    for number in 5..8 {
        ann.commit("set", set("count", json!(number))).await;
        let (id, event) = stream.next().await.unwrap();
        ann.caught_up(id).await;
        assert_eq!((id, &event["payload"]["value"]), (ann.last_event_id, &json!(number)));
    }

    // What the process is.
    let version = Operator::new(&backend.address, None).get("/version").await.json();
    assert_eq!((&version["name"], &version["version"]), (&json!("insieme-backend"), &json!("0.1.0")));
    assert_eq!(version["protocols"][1]["protocolVersion"], "1.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_administrate_is_refused_and_what_is_wrong_is_told() {
    let backend = Backend::start().await;
    let with = |changes: Value| Operator::new(&backend.address, Some(&token("eve", changes)));
    let everything = ["/partitions", "/slots", "/partitions/default/state", "/partitions/default/events"];
    for path in everything {
        Operator::new(&backend.address, None).get(path).await.expect_problem(401, "auth_failed");
        let forged = Operator::new(&backend.address, Some("a.b.c")).get(path).await;
        forged.expect_problem(401, "auth_failed");
        let expired = with(json!({ "permissions": ["admin"], "exp": 1 })).get(path).await;
        assert!(expired.expect_problem(401, "auth_failed").contains("expired"));
        with(json!({})).get(path).await.expect_problem(403, "forbidden");
        with(json!({ "permissions": ["admin:default"] })).get(path).await.expect_problem(403, "forbidden");
    }
    // A token for one partition shows that one.
    let mut ann = backend.client(0, "ann", json!({})).await;
    ann.commit("set", set("a", json!(1))).await;
    let confined = with(json!({ "permissions": ["admin"], "partition": "default" }));
    assert_eq!(confined.get("/partitions/default/state").await.status, 200);
    confined.get("/partitions/other/state").await.expect_problem(403, "forbidden");
    for path in ["/partitions", "/slots"] {
        confined.get(path).await.expect_problem(403, "forbidden");
    }

    let ops = backend.operator();
    let wrong = [
        ("/partitions?limit=0", 400, "limit is 1 to 200"),
        ("/partitions?limit=x", 400, "whole number"),
        ("/partitions?sort=name", 400, "no parameter"),
        ("/partitions/default/state?at=-1", 400, "whole number"),
        ("/partitions/default/state?at=99999", 404, "no event 99999"),
        ("/partitions/nobody/state", 404, "no events"),
        ("/partitions/nobody/state?at=1", 404, "another partition"),
        ("/partitions/default/events?from=5&to=4", 400, "before"),
        ("/partitions/%ff/state", 400, "partition"),
        ("/nothing", 404, "no such path"),
    ];
    for (path, status, says) in wrong {
        let code = if status == 400 { "bad_request" } else { "not_found" };
        let message = ops.get(path).await.expect_problem(status, code);
        assert!(message.contains(says), "{path}: {message}");
    }
    let long = format!("/partitions/{}/state", "x".repeat(300));
    assert!(ops.get(&long).await.expect_problem(400, "bad_request").contains("at most 256 bytes"));
    ops.ask("DELETE", "/slots", "", "").await.expect_problem(405, "method_not_allowed");
    assert_eq!(ops.get("/partitions/nobody/events").await.body, "");
    let said = backend.admin.output();
    assert!(said.contains("administration refused") && !said.contains("eyJ"), "{said}");
}

#[test]
fn the_administration_does_not_start_for_anyone_by_accident() {
    let serve = |more: &[&str]| {
        let output = binary().args(["admin", "serve"]).args(more).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(serve(&[]).contains("no address to listen on"));
    assert!(serve(&["--listen", "127.0.0.1:0"]).contains("nothing says who may administrate"));
    assert!(serve(&["--listen", "0.0.0.0:0", "--allow-anyone"]).contains("loopback"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_operator_does_nothing_more_and_takes_nothing_back() {
    // So rarely that no look helps.
    let backend = Backend::start_with(&["control.revocations_look_ms=60000"]).await;
    let ops = backend.operator();
    let mut ann = backend.client(0, "ann", json!({})).await;
    let eve = |id: &str| {
        Operator::new(&backend.address, Some(&token("eve", json!({ "permissions": ["admin"], "jti": id }))))
    };
    let (by_token, by_client) = (eve("t-1"), eve("t-2"));
    let mut streams = Vec::new();
    for operator in [&by_token, &by_client] {
        let mut stream = operator.follow("/partitions/default/events", "").await;
        ann.commit("set", set("a", json!(1))).await;
        stream.next().await.unwrap();
        streams.push(stream);
    }
    let revoked = [(&by_token, "/tokens/t-1/revoke"), (&by_client, "/clients/eve/revoke")];
    for (value, (operator, path)) in (10..).zip(revoked) {
        assert_eq!(ops.post(path, "").await.status, 200);
        for answer in [
            operator.ask("DELETE", path, "", "").await,
            operator.get("/revocations").await,
            operator.post("/clients/ann/close", "").await,
            operator.put("/log", r#"{"level":"error"}"#).await,
        ] {
            assert!(answer.expect_problem(401, "auth_failed").contains("revoked"), "{answer:?}");
        }
        // What it follows has ended, though something happens there.
        let mut stream = streams.remove(0);
        ann.commit("set", set("a", json!(value))).await;
        while let Some((_, event)) = stream.next().await {
            assert_ne!(event["payload"]["value"], value, "{event}");
        }
    }
    // Lifted by somebody who may, it is good again at once.
    for path in ["/tokens/t-1/revoke", "/clients/eve/revoke"] {
        assert_eq!(ops.ask("DELETE", path, "", "").await.status, 200);
    }
    assert_eq!(by_token.get("/revocations").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administration_that_was_not_told_of_a_revocation_looks_before_it_does_anything() {
    let backend = Backend::start_with(&["control.revocations_look_ms=60000"]).await;
    let dir = crate::harness::temp_dir();
    let mut other = crate::harness::process::Process::spawn(
        "other-admin",
        backend.command(&["admin", "serve", "--listen", "127.0.0.1:0"]),
        dir.path(),
    );
    let address = other.line_with("admin ready: ").await;
    let stolen = token("eve", json!({ "permissions": ["admin"], "jti": "t-1" }));
    let eve = Operator::new(&address, Some(&stolen));
    assert_eq!(eve.get("/revocations").await.status, 200);
    assert_eq!(backend.operator().post("/tokens/t-1/revoke", "").await.status, 200);
    eve.ask("DELETE", "/tokens/t-1/revoke", "", "").await.expect_problem(401, "auth_failed");
    eve.get("/revocations").await.expect_problem(401, "auth_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_everything_is_no_operator_and_no_token_comes_from_the_future() {
    let backend = Backend::start().await;
    let with = |changes: Value| Operator::new(&backend.address, Some(&token("app", changes)));
    for path in ["/processes", "/log", "/revocations"] {
        with(json!({ "permissions": ["*"] })).get(path).await.expect_problem(403, "forbidden");
        with(json!({ "permissions": ["admin:*"] })).get(path).await.expect_problem(403, "forbidden");
    }
    let now = crate::harness::tokens::now_s();
    for iat in [json!(now + 3600), json!(now * 1000), json!(1e300)] {
        let said = with(json!({ "permissions": ["admin"], "iat": iat })).get("/slots").await;
        assert!(said.expect_problem(401, "auth_failed").contains("future"), "{said:?}");
        let token = token("ann", json!({ "iat": iat }));
        let mut socket = backend.socket(0, "ann", &token).await;
        let error = socket.expect_error("auth_failed").await;
        assert!(error["payload"]["message"].as_str().unwrap().contains("future"), "{error}");
    }
    assert_eq!(with(json!({ "permissions": ["admin"], "iat": now })).get("/slots").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_requests_and_half_bodies_keep_no_operator_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let backend = Backend::start_with(&["admin.requests_max=4"]).await;
    let ops = backend.operator();
    let address = backend.address.trim_start_matches("http://").to_owned();
    let mut ann = backend.client(0, "ann", json!({})).await;
    let mut stream = ops.follow("/partitions/default/events", "").await;
    let admin = token("ops", json!({ "permissions": ["admin"] }));
    let half_body = format!(
        "POST /clients/ann/revoke HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {admin}\r\nContent-Length: 10\r\n\r\n{{"
    );
    let mut held = Vec::new();
    for n in 0..200 {
        let mut half = tokio::net::TcpStream::connect(&address).await.unwrap();
        let words = ["", "GET /sl", "GET /slots HTTP/1.1\r\nHost: x\r\n", &half_body][n % 4];
        // One that gave way already has said enough.
        let _ = half.write_all(words.as_bytes()).await;
        held.push(half);
        if n % 40 == 0 {
            assert_eq!(ops.get("/slots").await.status, 200);
        }
    }
    assert_eq!(ops.get("/slots").await.status, 200);
    // A stream of somebody who was let in does not give way.
    ann.commit("set", set("a", json!(1))).await;
    assert_eq!(stream.next().await.unwrap().1["payload"]["value"], 1);
    // All end by themselves; a half body is told why.
    let mut told = 0;
    for mut half in held {
        let mut said = Vec::new();
        let ended = tokio::time::timeout(crate::harness::DEADLINE, half.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "a half request is never closed");
        told += usize::from(String::from_utf8_lossy(&said).starts_with("HTTP/1.1 408"));
    }
    assert!(told > 0);
}

/// A path is a name in an encoding of its own. Whatever stands there is a name, or no path, and never another route.
#[tokio::test(flavor = "multi_thread")]
async fn odd_paths_are_names_or_refused_and_reach_no_other_route() {
    let backend = Backend::start().await;
    let ops = backend.operator();
    let long = "%61".repeat(200);
    let longer = "a".repeat(3_072);
    let names = [
        "%00",
        "%0d%0aX-Injected:%20yes",
        "%ff",
        "%c0%af",
        "%ed%a0%80",
        "%f0%9f%98%80",
        "%",
        "%2",
        "%zz",
        "%u0041",
        "..",
        ".",
        "%2e%2e",
        "%2e",
        "..%2f..%2fprocesses",
        "%2fprocesses",
        "%252e%252e",
        "*",
        "%3e",
        "a%2fb",
        "a;b",
        "a+b",
        "~",
        "%7e",
        "__proto__",
        "%22",
        "%5c",
        "%3f",
        "%23",
        &long,
        &longer,
    ];
    for name in names {
        for path in [
            "/partitions/§/state",
            "/partitions/§/events",
            "/partitions/§/state?at=§",
            "/clients/§",
            "/§",
            "/partitions?after=§",
        ] {
            let path = path.replace('§', name);
            let answer = ops.get(&path).await;
            assert!([200, 400, 404, 405, 414, 431].contains(&answer.status), "{path:.100}: {answer:?}");
            assert!(!answer.head.contains("X-Injected"), "{path:.100}: {answer:?}");
            assert!(!answer.body.contains("\"processes\":"), "{path:.100} reached another route: {answer:?}");
            if answer.status == 200 && path.ends_with("/state") {
                assert_eq!(
                    answer.json()["partition"].as_str().map(str::is_empty),
                    Some(false),
                    "{path:.100}"
                );
            }
        }
        for path in ["/clients/§/close", "/clients/§/revoke", "/partitions/§/close"] {
            let path = path.replace('§', name);
            let answer = ops.post(&path, r#"{"partition":"none"}"#).await;
            assert!([200, 400, 404, 405, 414, 431].contains(&answer.status), "{path:.100}: {answer:?}");
        }
    }
    assert_eq!(ops.get("/partitions").await.status, 200);
}
