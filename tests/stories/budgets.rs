//! What a client can make the processes hold and compute has a bound: for each, a story that goes to it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::client::{Answer, Client};
use crate::harness::cluster::Cluster;
use crate::harness::temp_dir;

/// How long a draft of a bystander may wait for its answer, on a machine that is busy with other tests.
const BYSTANDER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Writes one value after the other until told to stop; gives how many, and the longest wait for an answer.
async fn bystander(mut client: Client, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut written, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let since = Instant::now();
        client.commit("set", json!({ "target": "good", "value": written })).await;
        longest = longest.max(since.elapsed());
        written += 1;
    }
    (written, longest)
}

/// A rich-text document as editors have it: every node is one of several kinds, which hold nodes again.
fn put_recursive_schema(folder: &Path) {
    let inner = json!({ "type": "array", "items": { "$ref": "#/$defs/node" } });
    let kinds: Vec<Value> = ["doc", "paragraph", "heading", "list", "item", "quote"]
        .iter()
        .map(|kind| {
            json!({
                "type": "object",
                "properties": { "kind": { "enum": [kind, format!("{kind}-x")] }, "content": inner },
                "required": ["kind", "content"],
            })
        })
        .collect();
    let schema = json!({ "$defs": { "node": { "anyOf": kinds } }, "$ref": "#/$defs/node" });
    std::fs::write(folder.join("note.json"), schema.to_string()).unwrap();
}

/// A document of 240 KB, fifteen levels deep, whose innermost nodes are of no kind that there is.
fn misfit() -> Value {
    let one =
        (0..15).fold(json!({ "kind": "none" }), |below, _| json!({ "kind": "quote", "content": [below] }));
    let count = 240_000 / one.to_string().len();
    json!({ "kind": "doc", "content": vec![one; count] })
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cost_a_schema_much_hold_nobody_up() {
    let schemas = temp_dir();
    put_recursive_schema(schemas.path());
    let cluster = Cluster::start().set("rules.schema_dir", schemas.path().display()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let good = tokio::spawn(bystander(cluster.client(0, "bystander").await, stop.clone()));
    let attacks = (0..8).map(|n| {
        let attacker = cluster.client(0, &format!("mallory-{n}")).partition(&format!("theirs-{n}"));
        async move {
            let mut attacker = attacker.await;
            for _ in 0..4 {
                let draft = attacker.submit("event", json!({ "schema": "note", "data": misfit() })).await;
                match attacker.answer(&draft).await {
                    Answer::Rejected { errors, .. } => assert_eq!(errors[0]["code"], "SCHEMA_ERROR"),
                    Answer::Accepted { event, .. } => panic!("{event}"),
                }
            }
        }
    });
    join_all(attacks).await;
    stop.store(true, Ordering::Relaxed);
    let (written, longest) = good.await.unwrap();
    println!("the bystander had {written} drafts accepted; the longest wait was {} ms", longest.as_millis());
    assert!(written > 0 && longest < BYSTANDER_WAIT_MAX, "the bystander waited {longest:?}");
    assert_eq!(cluster.validators[0].counter("insieme_slots_lost_total").await, 0.0);
}
