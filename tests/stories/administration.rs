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

    // The events as they come, from where a client of the stream had got to.
    let mut stream = ops.follow(&format!("{path}/events"), &format!("Last-Event-ID: {}\r\n", ids[3])).await;
    let (id, event) = stream.next().await.unwrap();
    assert_eq!((id, &event["payload"]["value"]), (ids[4], &json!(4)));
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
