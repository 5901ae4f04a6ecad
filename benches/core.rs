//! What the pure core costs.
//!
//!     cargo bench --bench core
//!
//! On a tree of 100,000 nodes: deciding and folding one event of each kind, against the same on a tree of
//! 100; making and reading a snapshot of it; and the memory that it takes, against its JSON.

// A bench stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use insieme_backend::event::{ClientId, Draft, EventId, Submitter};
use insieme_backend::rules::{Decision, Rules, RulesConfig};
use insieme_backend::state::{PartitionState, StatePart};
use serde_json::{Value, json};

const SMALL: usize = 100;
const LARGE: usize = 100_000;
const ROUNDS: usize = 20_000;

fn main() {
    let rules = Rules::new(RulesConfig::default()).expect("the built-in rules");
    println!("one event, decide + fold; median of {ROUNDS}");
    println!("{:<12} {:>12} {:>12}   ratio", "", format!("{SMALL} nodes"), format!("{LARGE} nodes"));
    for kind in ["treePush", "treeUpdate", "treeMove", "set"] {
        let [small, large] = [SMALL, LARGE].map(|nodes| events(&rules, kind, nodes));
        let ratio = large.as_secs_f64() / small.as_secs_f64();
        println!("{kind:<12} {:>9.2} us {:>9.2} us   {ratio:.2}", micros(small), micros(large));
    }

    let before = resident_bytes();
    let state = tree(&rules, LARGE);
    let json_bytes = state.document().size();
    let taken = resident_bytes().saturating_sub(before);
    println!(
        "\n{LARGE} nodes: {json_bytes} bytes of JSON take {taken} bytes of memory ({:.1} times), estimated {}",
        taken as f64 / json_bytes as f64,
        state.memory_bytes()
    );
    let start = Instant::now();
    let bytes = state.to_state_part().expect("nothing is staged").encode();
    let made = start.elapsed();
    let start = Instant::now();
    let part = StatePart::decode(&bytes).expect("what was just made");
    black_box(PartitionState::from_state_part(&part).expect("what was just made"));
    println!("snapshot of {} bytes: made in {made:.1?}, read in {:.1?}", bytes.len(), start.elapsed());
}

/// The median time of an event of this kind.
fn events(rules: &Rules, kind: &str, nodes: usize) -> Duration {
    let mut state = tree(rules, nodes);
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|n| {
            let node = format!("n{}", n * 7919 % nodes);
            let payload = match kind {
                "treePush" => json!({ "target": "t", "value": { "id": format!("p{n}"), "title": "a" } }),
                "treeUpdate" => {
                    json!({ "target": "t", "value": { "title": "b" }, "options": { "id": node } })
                }
                "treeMove" => {
                    let position = json!({ "after": format!("n{}", n * 31 % nodes) });
                    json!({ "target": "t", "options": { "id": node, "position": position } })
                }
                _ => json!({ "target": format!("s.k{}", n % 50), "value": { "title": "b" } }),
            };
            let draft = draft(&format!("{kind}{n}"), kind, &payload);
            let start = Instant::now();
            commit(rules, &mut state, &draft);
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// A state with a tree of so many nodes side by side.
fn tree(rules: &Rules, nodes: usize) -> PartitionState {
    let mut state = PartitionState::new();
    let items: Value = (0..nodes).map(|n| (format!("n{n}"), json!({ "title": "a title" }))).collect();
    let tree: Vec<Value> = (0..nodes).map(|n| json!({ "id": format!("n{n}"), "children": [] })).collect();
    let value = json!({ "value": { "t": { "items": items, "tree": tree }, "s": {} } });
    commit(rules, &mut state, &draft("init", "init", &value));
    // The first action on a tree makes its index.
    commit(
        rules,
        &mut state,
        &draft("first", "treeMove", &json!({ "target": "t", "options": { "id": "n0" } })),
    );
    state
}

fn commit(rules: &Rules, state: &mut PartitionState, draft: &Draft) {
    let submitter = Submitter {
        client_id: ClientId::new("bench").expect("an id"),
        user_id: None,
        permissions: vec!["*".to_owned()],
        roles: Vec::new(),
        claims: None,
    };
    match rules.decide(state, &submitter, draft) {
        Decision::Commit(accepted) => {
            state.stage(rules.fold().as_ref(), *accepted).expect("an accepted event folds");
            let next = EventId(state.head().0 + 1);
            state.confirm(next, 0, &[draft.payload.get().len()]);
        }
        other => panic!("{} was not accepted: {other:?}", draft.draft_id),
    }
}

fn draft(id: &str, kind: &str, payload: &Value) -> Draft {
    Draft {
        draft_id: id.to_owned(),
        event_type: kind.to_owned(),
        payload: serde_json::value::to_raw_value(payload).expect("a value"),
        base_event_id: None,
        v1: None,
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// What this process has in memory.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or_default() * 4096
}
