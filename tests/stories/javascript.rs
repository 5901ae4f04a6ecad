//! The server computes what a client in JavaScript computes, whatever clients think of.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::cluster::Cluster;
use crate::harness::model::Replica;
use crate::harness::rng::Rng;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/js/fold.mjs");
const DRAFTS: usize = 1_500;

/// Keys and ids: integer-like ones, which JavaScript orders first; ones that every object inherits; ones
/// whose order differs between UTF-8 and UTF-16; and plain ones, so that drafts meet.
const KEYS: [&str; 16] = [
    "a", "b", "c", "items", "tree", "id", "children", "10", "9", "-1", "toString", "length", "é", "\u{fb33}",
    "😀", "",
];

/// Strings whose canonical spelling is easily got wrong.
const STRINGS: [&str; 7] = ["", "text", "\u{0}\u{1f}\"\\/", "\u{2028}\u{7f}", "é\u{301}", "🦀", "\u{ffff}"];

#[tokio::test(flavor = "multi_thread")]
async fn a_javascript_client_folds_every_accepted_history_to_the_servers_state() {
    let cluster = Cluster::start().await;
    let mut accepted = 0;
    for seed in 0..3 {
        let partition = format!("seed-{seed}");
        let mut client = cluster.client(0, "ann").partition(&partition).await;
        let mut rng = Rng::new(seed);
        for _ in 0..DRAFTS {
            let (kind, payload) = draft(&mut rng);
            client.submit(kind, payload).await;
            client.settle_to(64).await;
        }
        client.settle().await;
        let (head, hash) = cluster.state_hash(&partition);
        client.caught_up(head).await;
        accepted += client.events.len();

        let output = Command::new("node")
            .arg(SCRIPT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map(|mut child| {
                let log = cluster.run(&["log", &partition]).stdout;
                std::io::Write::write_all(&mut child.stdin.take().unwrap(), &log).unwrap();
                child.wait_with_output().unwrap()
            })
            .expect("node is needed");
        assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout).trim(),
            hash,
            "seed {seed}: JavaScript has another state"
        );
        assert_eq!(client.replica.hash(), hash, "seed {seed}");
        assert_eq!(
            Replica::from(serde_json::from_str::<Value>(&cluster.state(&partition)).unwrap()).hash(),
            hash
        );
    }
    assert!(accepted > DRAFTS, "only {accepted} drafts were accepted: the histories say little");
}

/// Some draft, sensible or not.
fn draft(rng: &mut Rng) -> (&'static str, Value) {
    let tree = *rng.pick(&["t", "t", "a", "a.b", "toString"]);
    match rng.below(12) {
        0 | 1 => {
            let replace = rng.one_in(2);
            ("set", json!({ "target": path(rng), "value": value(rng, 3), "options": { "replace": replace } }))
        }
        2 => ("unset", json!({ "target": path(rng) })),
        3 if rng.one_in(6) => ("set", json!({ "target": tree, "value": {}, "options": { "replace": true } })),
        3 => ("set", json!({ "target": tree, "value": {} })),
        4..=7 => {
            let mut fields = json!({ "id": key(rng) });
            fields[key_but_id(rng)] = value(rng, 2);
            ("treePush", json!({ "target": tree, "value": fields, "options": place(rng) }))
        }
        8 => ("treeDelete", json!({ "target": tree, "options": { "id": key(rng) } })),
        9 => {
            let mut fields = json!({});
            fields[key(rng)] = value(rng, 2);
            let replace = rng.one_in(2);
            (
                "treeUpdate",
                json!({ "target": tree, "value": fields, "options": { "id": key(rng), "replace": replace } }),
            )
        }
        _ => {
            let mut options = place(rng);
            options["id"] = key(rng).into();
            ("treeMove", json!({ "target": tree, "options": options }))
        }
    }
}

fn key(rng: &mut Rng) -> &'static str {
    KEYS[rng.below(KEYS.len())]
}

fn key_but_id(rng: &mut Rng) -> &'static str {
    match key(rng) {
        "id" => "name",
        key => key,
    }
}

fn path(rng: &mut Rng) -> String {
    (0..=rng.below(3)).map(|_| key(rng)).collect::<Vec<_>>().join(".")
}

fn place(rng: &mut Rng) -> Value {
    let mut options = json!({});
    if rng.one_in(2) {
        options["parent"] = key(rng).into();
    }
    match rng.below(5) {
        0 => options["position"] = "first".into(),
        1 => options["position"] = "last".into(),
        2 => options["position"] = json!({ "after": key(rng) }),
        3 => options["position"] = json!({ "before": key(rng) }),
        _ => {}
    }
    options
}

fn value(rng: &mut Rng, depth: usize) -> Value {
    let kinds = if depth == 0 { 6 } else { 9 };
    match rng.below(kinds) {
        0 => Value::Null,
        1 => rng.one_in(2).into(),
        2 => number(rng),
        3 => STRINGS[rng.below(STRINGS.len())].into(),
        4 => key(rng).into(),
        5 => json!(rng.below(100)),
        6 => (0..rng.below(3)).map(|_| value(rng, depth - 1)).collect(),
        _ => (0..rng.below(4)).map(|_| (key(rng).to_owned(), value(rng, depth - 1))).collect(),
    }
}

/// Numbers at the edges of what a double can say, in several spellings.
fn number(rng: &mut Rng) -> Value {
    let spelled = *rng.pick(&[
        "0",
        "-0",
        "-0.0",
        "1e0",
        "1.0",
        "1E+2",
        "0.1",
        "0.30000000000000004",
        "1e21",
        "999999999999999900000",
        "1e-6",
        "1e-7",
        "5e-324",
        "1.7976931348623157e308",
        "9007199254740991",
        "9007199254740993",
        "18446744073709551615",
        "123456789012345678901234567890",
        "-1.5",
        "4.35",
        "333333333.33333329",
    ]);
    serde_json::from_str(spelled).unwrap()
}
