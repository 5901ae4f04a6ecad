//! Every rule's code, over a WebSocket: what is just allowed is accepted, what is just not is refused with
//! that code at that field, and the next draft is none the worse for it.
//!
//! `FORBIDDEN` needs tokens, which come with a later issue; until then everybody may do everything.

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;

/// The cases that two drafts of one client tell. Each has a partition of its own.
const CASES: &str = include_str!("rule_codes.json");

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_takes_what_is_just_allowed_and_refuses_what_is_just_not() {
    let cluster = Cluster::start().await;
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let name = format!("{}: {}", case["code"].as_str().unwrap(), case["name"].as_str().unwrap());
        let mut client = cluster.client(0, "ann").partition(&name).await;
        for given in case["given"].as_array().into_iter().flatten() {
            client.commit(given[0].as_str().unwrap(), given[1].clone()).await;
        }
        let sides = ["accepted", "refused"];
        let sides = if case["refused_first"] == true { [sides[1], sides[0]] } else { sides };
        for side in sides {
            let draft = client.submit(case[side][0].as_str().unwrap(), case[side][1].clone()).await;
            let answer = client.answer(&draft).await;
            if let Some(complaint) = complaint(case, side, &answer) {
                wrong.push(format!("{name}: {complaint}"));
            }
        }
        // Nothing of the refused draft has stayed.
        let (head, hash) = cluster.state_hash(&name);
        client.caught_up(head).await;
        assert_eq!(client.replica.hash(), hash, "{name}");
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn complaint(case: &Value, side: &str, answer: &crate::harness::client::Answer) -> Option<String> {
    use crate::harness::client::Answer::{Accepted, Rejected};
    match (side, answer) {
        ("accepted", Accepted { .. }) => None,
        ("accepted", Rejected { reason, errors }) => Some(format!("was refused: {reason} {errors:?}")),
        (_, Accepted { event, .. }) => Some(format!("was accepted: {event}")),
        (_, Rejected { reason, errors }) => {
            let is_it = |error: &Value| {
                error["code"] == case["code"] && (case["field"].is_null() || error["field"] == case["field"])
            };
            let right = reason == "validation_failed" && errors.iter().any(is_it);
            (!right).then(|| format!("was refused otherwise: {reason} {errors:?}"))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_tells_all_that_it_found() {
    let cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    let draft = ann.submit("treePush", json!({ "target": "", "value": { "id": "" }, "more": 1 })).await;
    let errors = ann.expect_rejected(&draft, "validation_failed").await;
    assert!(errors.len() >= 3 && errors.iter().all(|error| error["code"] == "SCHEMA_ERROR"), "{errors:?}");

    ann.commit("set", json!({ "target": "t", "value": {} })).await;
    ann.commit("treePush", json!({ "target": "t", "value": { "id": "a" } })).await;
    let payload = json!({ "target": "t", "value": { "id": "a" }, "options": { "parent": "z" } });
    let draft = ann.submit("treePush", payload).await;
    let errors = ann.expect_rejected(&draft, "validation_failed").await;
    let codes: Vec<&str> = errors.iter().map(|error| error["code"].as_str().unwrap()).collect();
    assert!(codes.contains(&"DUPLICATE_ID") && codes.contains(&"PARENT_NOT_FOUND"), "{codes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_grows_no_larger_and_deeper_than_configured() {
    let cluster = Cluster::start().set("rules.state_bytes_max", 2_000).set("rules.state_depth_max", 8).await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": "x".repeat(1_500) })).await;
    let draft = ann.submit("set", json!({ "target": "b", "value": "x".repeat(1_500) })).await;
    let errors = ann.expect_rejected(&draft, "validation_failed").await;
    assert_eq!((&errors[0]["code"], &errors[0]["field"]), (&json!("STATE_TOO_LARGE"), &json!("payload")));
    // The same size in place of the old is no growth.
    ann.commit("set", json!({ "target": "a", "value": "y".repeat(1_500) })).await;

    ann.commit("set", json!({ "target": "b.c.d.e", "value": 1 })).await;
    let draft = ann.submit("set", json!({ "target": "b.c.d.e.f.g.h.i.j.k", "value": 1 })).await;
    ann.expect_rejected(&draft, "validation_failed").await;
    let draft = ann.submit("set", json!({ "target": "c.c.d.e.f.g.h.i.j.k", "value": 1 })).await;
    let errors = ann.expect_rejected(&draft, "validation_failed").await;
    assert_eq!(errors[0]["code"], "STATE_TOO_LARGE");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_that_says_what_it_was_based_on_is_refused_when_somebody_else_was_there_since() {
    let cluster = Cluster::start().frontends(2).await;
    let mut ann = cluster.client(0, "ann").await;
    let mut bob = cluster.client(1, "bob").await;
    let base = ann.commit("set", json!({ "target": "a", "value": {} })).await["eventId"].as_u64().unwrap();
    let theirs = bob.commit("set", json!({ "target": "a.b", "value": 1 })).await["eventId"].as_u64().unwrap();
    // A path overlaps with itself, what is above and what is below it.
    for target in ["a.b", "a", "a.b.c"] {
        let draft = ann.submit_on(base, "unset", json!({ "target": target })).await;
        match target {
            // It leads through a number, which the rules find first.
            "a.b.c" => drop(ann.expect_rejected(&draft, "validation_failed").await),
            _ => {
                let errors = ann.expect_rejected(&draft, "conflict").await;
                assert_eq!(errors[0]["code"], "CONFLICT");
                assert!(errors[0]["message"].as_str().unwrap().contains(&theirs.to_string()), "{errors:?}");
            }
        }
    }
    // Elsewhere, after theirs, without a base, and after one's own event there is no conflict.
    let draft = ann.submit_on(base, "set", json!({ "target": "a.bc", "value": 1 })).await;
    ann.expect_accepted(&draft).await;
    let draft = ann.submit_on(theirs, "set", json!({ "target": "a.b", "value": 2 })).await;
    let mine = ann.expect_accepted(&draft).await["eventId"].as_u64().unwrap();
    let draft = ann.submit_on(theirs, "set", json!({ "target": "a.b", "value": 3 })).await;
    ann.expect_accepted(&draft).await;
    let draft = bob.submit_on(mine, "set", json!({ "target": "a.b", "value": 4 })).await;
    bob.expect_rejected(&draft, "conflict").await;
    bob.commit("set", json!({ "target": "a.b", "value": 5 })).await;

    // Tree actions meet at the same node only.
    ann.commit("set", json!({ "target": "t", "value": {} })).await;
    ann.commit("treePush", json!({ "target": "t", "value": { "id": "x" } })).await;
    let base = ann.commit("treePush", json!({ "target": "t", "value": { "id": "y" } })).await["eventId"]
        .as_u64()
        .unwrap();
    bob.commit("treeUpdate", json!({ "target": "t", "value": { "n": 1 }, "options": { "id": "x" } })).await;
    let update = |id: &str| json!({ "target": "t", "value": { "n": 2 }, "options": { "id": id } });
    let draft = ann.submit_on(base, "treeUpdate", update("y")).await;
    ann.expect_accepted(&draft).await;
    let draft = ann.submit_on(base, "treeUpdate", update("x")).await;
    ann.expect_rejected(&draft, "conflict").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_event_is_checked_against_its_registered_schema() {
    let schemas = crate::harness::temp_dir();
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "required": ["text"],
        "properties": { "text": { "type": "string", "maxLength": 5 } },
        "additionalProperties": false
    });
    std::fs::write(schemas.path().join("note.added.json"), schema.to_string()).unwrap();
    let cluster = Cluster::start().set("rules.schema_dir", schemas.path().display()).await;
    let mut ann = cluster.client(0, "ann").await;
    let event = |text: Value| json!({ "schema": "note.added", "data": { "text": text } });
    ann.commit("event", event("12345".into())).await;
    for text in [json!("123456"), json!(1)] {
        let draft = ann.submit("event", event(text)).await;
        let errors = ann.expect_rejected(&draft, "validation_failed").await;
        assert_eq!(
            (&errors[0]["code"], &errors[0]["field"]),
            (&json!("SCHEMA_ERROR"), &json!("payload.data.text"))
        );
    }
    assert_eq!(cluster.state("default"), "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_initial_state_is_a_partitions_first_event() {
    let files = crate::harness::temp_dir();
    let state = json!({ "board": { "items": {}, "tree": [] } });
    let file = files.path().join("initial.json");
    std::fs::write(&file, state.to_string()).unwrap();
    let cluster = Cluster::start().set("rules.initial_state_file", file.display()).frontends(2).await;
    // Its first client sees it already, and so do all others.
    let ann = cluster.client(0, "ann").await;
    let bob = cluster.client(1, "bob").await;
    for client in [ann, bob] {
        assert_eq!((client.last_event_id, &client.connected["initialState"]), (1, &state));
    }
    let log = cluster.log("default");
    assert_eq!((log.len(), &log[0]["type"], &log[0]["payload"]["value"]), (1, &json!("init"), &state));
    let mut ann = cluster.client(0, "ann").await;
    let draft = ann.submit("init", json!({ "value": {} })).await;
    assert_eq!(ann.expect_rejected(&draft, "validation_failed").await[0]["code"], "ALREADY_INITIALIZED");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_base_is_mandatory_a_draft_without_it_is_refused() {
    let cluster = Cluster::start().set("rules.base_event_id", "mandatory").await;
    let mut ann = cluster.client(0, "ann").await;
    let draft = ann.submit("set", json!({ "target": "a", "value": 1 })).await;
    assert_eq!(ann.expect_rejected(&draft, "conflict").await[0]["code"], "CONFLICT");
    let draft = ann.submit_on(0, "set", json!({ "target": "a", "value": 1 })).await;
    ann.expect_accepted(&draft).await;

    let cluster = Cluster::start().set("rules.base_event_id", "ignored").await;
    let mut ann = cluster.client(0, "ann").await;
    let mut bob = cluster.client(0, "bob").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let draft = bob.submit_on(0, "set", json!({ "target": "a", "value": 2 })).await;
    bob.expect_accepted(&draft).await;
}
