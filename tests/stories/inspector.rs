//! What the inspector asks of the administration beside what operators ask: events by number, rejections as they
//! happen, and its own files, which nobody needs a token for.

use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::backend::{Backend, set, token};

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_comes_without_a_token_and_nothing_that_it_shows_does() {
    let backend = Backend::start().await;
    let nobody = Operator::new(&backend.address, None);
    let page = nobody.get("/inspector").await;
    assert_eq!(page.status, 200);
    let head = page.head.to_ascii_lowercase();
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'self';",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
    ] {
        assert!(head.contains(header), "{header}: {head}");
    }
    assert_eq!(nobody.get("/inspector/main.js").await.status, 200);
    for path in ["/inspector/", "/inspector/../partitions", "/inspector/nothing.js", "/demo/main.js"] {
        nobody.get(path).await.expect_problem(404, "not_found");
    }
    nobody.post("/inspector", "").await.expect_problem(405, "method_not_allowed");
    nobody.get("/rejections").await.expect_problem(401, "auth_failed");
    let with = |changes: Value| Operator::new(&backend.address, Some(&token("eve", changes)));
    let confined = with(json!({ "permissions": ["admin"], "partition": "default" }));
    confined.get("/rejections").await.expect_problem(403, "forbidden");
    with(json!({ "permissions": ["*"] })).get("/rejections").await.expect_problem(403, "forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_found_by_their_number_and_from_the_end_and_as_many_as_are_wanted() {
    let backend = Backend::start().await;
    let ops = backend.operator();
    let mut ann = backend.client(0, "ann", json!({})).partition("one").await;
    let mut bob = backend.client(1, "bob", json!({})).partition("two").await;
    for number in 0..12 {
        ann.commit("set", set("n", json!(number))).await;
        for _ in 0..number % 3 {
            bob.commit("set", set("n", json!(number))).await;
        }
    }
    let numbers = async |query: &str| -> Vec<u64> {
        let answer = ops.get(&format!("/partitions/one/events?{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let line = |line: &str| serde_json::from_str::<Value>(line).unwrap()["ordinal"].as_u64().unwrap();
        answer.body.lines().map(line).collect()
    };
    for first in 1..=12 {
        assert_eq!(numbers(&format!("ordinal={first}&limit=1")).await, [first]);
    }
    assert_eq!(numbers("ordinal=10").await, [10, 11, 12]);
    assert_eq!(numbers("ordinal=0&limit=2").await, [1, 2]);
    assert_eq!(numbers("ordinal=4&limit=3").await, [4, 5, 6]);
    assert_eq!(numbers("last=1").await, [12]);
    assert_eq!(numbers("last=3&limit=2").await, [10, 11]);
    assert_eq!(numbers("last=500").await, (1..=12).collect::<Vec<_>>());
    assert_eq!(numbers("limit=5").await, [1, 2, 3, 4, 5]);
    for none in ["ordinal=13", "ordinal=18446744073709551615", "last=0", "limit=0"] {
        assert!(numbers(none).await.is_empty(), "{none}");
    }
    assert_eq!(numbers("client=ann&limit=2").await, [1, 2]);
    assert!(numbers("client=bob&limit=2").await.is_empty());
    for wrong in ["from=1&ordinal=1", "ordinal=1&last=1", "ordinal=x", "limit=-1"] {
        ops.get(&format!("/partitions/one/events?{wrong}")).await.expect_problem(400, "bad_request");
    }
    assert!(ops.get("/partitions/nobody/events?last=5").await.body.is_empty());
    assert!(ops.get("/partitions/nobody/events?ordinal=5").await.body.is_empty());
    let mut stream = ops.follow("/partitions/one/events?last=2&limit=2", "").await;
    for number in [11, 12] {
        assert_eq!(stream.next().await.unwrap().1["ordinal"], number);
    }
    assert!(stream.next().await.is_none(), "it ends with the last that was wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_hears_rejections_as_they_happen_and_whose_connections_they_are_on() {
    let backend = Backend::start().await;
    let ops = backend.operator();
    let mut heard = ops.follow("/rejections", "").await;
    let may = json!({ "permissions": ["read", "set", "treeDelete"] });
    let mut ann = backend.client(1, "ann", may).await;
    ann.commit("set", set("a", json!(1))).await;
    let draft = ann.submit("treeDelete", json!({ "target": "a\n\nb", "options": { "id": "x" } })).await;
    ann.expect_rejected(&draft, "validation_failed").await;
    let rejection = heard.data().await.unwrap();
    assert_eq!(rejection["reason"], "validation_failed", "{rejection}");
    assert_eq!(rejection["errors"][0]["code"], "TARGET_NOT_FOUND", "{rejection}");
    assert_eq!(rejection["skipped"], 0);
    let connections = ops.get("/connections").await.json();
    let hers = &connections["connections"][0];
    assert_eq!((&hers["connection"], &hers["frontend"]), (&rejection["connection"], &rejection["frontend"]));
    assert_eq!(hers["client"], "ann");

    // More in a second than are told. What is left out is counted, though nothing comes after it.
    for _ in 0..60 {
        ann.submit("treeDelete", json!({ "target": "a", "options": { "id": "x" } })).await;
    }
    let mut counted = 0;
    while counted < 60 {
        let event = heard.data().await.unwrap();
        counted += event["skipped"].as_u64().unwrap() + u64::from(event["reason"].is_string());
    }
    assert_eq!(counted, 60);
}
