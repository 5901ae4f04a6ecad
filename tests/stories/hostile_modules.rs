//! A careless module and hostile drafts: what makes its rules loop, grow, call themselves for ever or compute where no
//! step is counted costs that draft and nobody else; so does whatever ends the process that the rules run in.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::{temp_dir, until};
use crate::stories::rules_command::workers_of;
use crate::stories::rules_in_force::put_in_force;

/// Rules as somebody writes them who trusts what clients send.
const CARELESS: &str = r#"
export const version = 1;
export const initialState = () => ({ sum: 0, kept: null });
const depth = (n) => (n === 0 ? 0 : 1 + depth(n - 1));
export const events = {
  added: {
    check: ({ payload, state, reject }) => {
      if (payload.n < 0 && state.sum + payload.n < 0) reject("NOT_ENOUGH", "payload.n");
      const turns = payload.turns ?? 0;
      for (let turn = 0; turn < turns; turn++);
      if (payload.repeat) "x".repeat(payload.repeat);
      if (payload.join) new Array(payload.join).join();
      if (payload.text) /^(a+)+$/.test(payload.text);
      if (payload.depth) depth(payload.depth);
      if (payload.length) Array.prototype.reverse.call({ length: payload.length });
      if (payload.list) { const all = []; for (;;) all.push(new Array(1000).fill(payload.list)); }
      if (payload.thrown !== undefined) throw payload.thrown;
      if (payload.caught) { for (;;) { try { for (;;); } catch { continue; } } }
    },
    reduce: ({ state, payload }) => {
      state.sum += payload.n;
      if (payload.cycle) { state.kept = { a: 1 }; state.kept.self = state.kept; }
      if (payload.nothing) state.kept = { value: payload.none };
      if (payload.share) state.kept = payload.share / 0;
      if (payload.fill) state.kept = "x".repeat(payload.fill);
      if (payload.endless) for (let at = 0; ; at++) state.kept = at;
    },
  },
};
"#;

/// Drafts that such rules do not stand, one of each kind.
fn hostile() -> Vec<Value> {
    vec![
        json!({ "n": 1, "turns": 1e12 }),
        json!({ "n": 1, "repeat": 1_000_000_000 }),
        json!({ "n": 1, "repeat": 1e300 }),
        json!({ "n": 1, "join": 1_000_000_000 }),
        json!({ "n": 1, "join": 4e9 }),
        json!({ "n": 1, "text": format!("{}!", "a".repeat(64)) }),
        json!({ "n": 1, "depth": 1_000_000 }),
        json!({ "n": 1, "length": 9e15 }),
        json!({ "n": 1, "list": "x" }),
        json!({ "n": 1, "thrown": "no error" }),
        json!({ "n": 1, "thrown": null }),
        json!({ "n": 1, "caught": true }),
        json!({ "n": 1, "cycle": true }),
        json!({ "n": 1, "nothing": true }),
        json!({ "n": 1, "share": 1 }),
        json!({ "n": 1, "fill": 2_000_000 }),
        json!({ "n": 1, "endless": true }),
    ]
}

async fn careless(dir: &Path) -> Cluster {
    let cluster = Cluster::start().await;
    let file = dir.join("careless.js");
    std::fs::write(&file, CARELESS).unwrap();
    put_in_force(&cluster, &file).await;
    cluster
}

fn state(cluster: &Cluster, partition: &str) -> Value {
    serde_json::from_str(&cluster.state(partition)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_that_a_careless_module_does_not_stand_is_refused_and_leaves_nothing_behind() {
    let dir = temp_dir();
    let mut cluster = careless(dir.path()).await;
    let mut ann = cluster.client(0, "ann").await;
    let mut sum = 0;
    for payload in hostile() {
        let draft = ann.submit("added", payload.clone()).await;
        let errors = ann.expect_rejected(&draft, "validation_failed").await;
        assert_eq!(errors[0]["code"], "RULE_FAILED", "{payload}: {errors:?}");
        // What a client is told says nothing of the module.
        assert_eq!(errors.len(), 1, "{payload}: {errors:?}");
        ann.commit("added", json!({ "n": 1 })).await;
        sum += 1;
    }
    assert_eq!(state(&cluster, "default"), json!({ "sum": sum, "kept": null }));
    assert_eq!(cluster.log("default").len(), sum);
    let failures = cluster.validators[0].counter("insieme_rules_failures_total").await;
    assert!(failures >= hostile().len() as f64, "{failures}");
    // A batch of the like, with good ones between: each has its own answer.
    let mut drafts = Vec::new();
    for payload in
        [json!({ "n": 2 }), json!({ "n": 1, "turns": 1e12 }), json!({ "n": 3 }), json!({ "n": -90 })]
    {
        drafts.push(ann.submit("added", payload).await);
    }
    ann.expect_accepted(&drafts[0]).await;
    ann.expect_rejected(&drafts[1], "validation_failed").await;
    ann.expect_accepted(&drafts[2]).await;
    assert_eq!(ann.expect_rejected(&drafts[3], "validation_failed").await[0]["code"], "NOT_ENOUGH");
    let before = cluster.state_hash("default");
    cluster.restart_validator(0).await;
    assert_eq!(cluster.state_hash("default"), before);
    ann.commit("added", json!({ "n": 1 })).await;
    assert_eq!(state(&cluster, "default")["sum"], sum + 6);
}

/// Drafts around the bound of steps, in two partitions and in two lives of the validator: the same ones pass.
#[tokio::test(flavor = "multi_thread")]
async fn the_budget_of_steps_gives_the_same_answer_on_every_run() {
    let dir = temp_dir();
    let mut cluster = careless(dir.path()).await;
    let mut runs: Vec<Vec<bool>> = Vec::new();
    for partition in ["one", "two", "three"] {
        let mut ann = cluster.client(0, "ann").partition(partition).await;
        let mut passed = Vec::new();
        for turns in (0..40).map(|step| 480_000 + step * 1_000) {
            // Something else in between, so that the engine's own count stands elsewhere.
            if partition == "two" {
                ann.commit("added", json!({ "n": 1, "turns": turns / 7 })).await;
            }
            let draft = ann.submit("added", json!({ "n": 1, "turns": turns })).await;
            passed.push(ann.answer(&draft).await.is_accepted());
        }
        assert!(passed.is_sorted_by(|a, b| a >= b), "{partition}: {passed:?}");
        assert!(passed[0] && !passed[39], "{partition}: the bound is elsewhere: {passed:?}");
        runs.push(passed);
        if partition == "two" {
            cluster.restart_validator(0).await;
        }
    }
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
}

/// One client sends nothing but what its module computes on without counting a step. Others commit meanwhile, and do not
/// wait for it each time; and the validator keeps its slots.
#[tokio::test(flavor = "multi_thread")]
async fn other_partitions_and_the_slots_are_not_held_up_by_hostile_drafts() {
    const OTHERS: usize = 12;
    const ROUNDS: usize = 25;
    let dir = temp_dir();
    let cluster = careless(dir.path()).await;
    let mut others = Vec::new();
    for number in 0..OTHERS {
        let mut other = cluster.client(0, "ann").partition(&format!("good-{number}")).await;
        other.commit("added", json!({ "n": 1 })).await;
        others.push(other);
    }
    let takeovers = cluster.validators[0].counter("insieme_slot_takeovers_total").await;
    let url = cluster.frontends[0].url();
    let mut hostile = Vec::new();
    for number in 0..4 {
        // Who is told that nobody knows yet asks again, as the clients do.
        hostile.push(Client::of(&url, "eve").partition(&format!("bad-{number}")).steadfast().await);
    }
    // Each computes until its time is up, and the next is sent as soon as it is answered.
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let attacking: Vec<_> = hostile
        .into_iter()
        .map(|mut eve| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut answered = 0;
                while !*stopped.borrow() {
                    let draft = eve.submit("added", json!({ "n": 1, "length": 9e15 })).await;
                    let errors = eve.expect_rejected(&draft, "validation_failed").await;
                    assert_eq!(errors[0]["code"], "RULE_FAILED", "{errors:?}");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    // Only once the attack is under way.
    until("the first hostile drafts to be answered", async || {
        (cluster.validators[0].counter("insieme_rules_failures_total").await >= 4.0).then_some(())
    })
    .await;
    let before = cluster.validators[0].counter("insieme_rules_failures_total").await;
    for _ in 0..ROUNDS {
        for other in &mut others {
            other.commit("added", json!({ "n": 1 })).await;
        }
    }
    let during = cluster.validators[0].counter("insieme_rules_failures_total").await - before;
    stop.send(true).unwrap();
    for attack in attacking {
        assert!(attack.await.unwrap() > 0);
    }
    // Had each of the commits waited behind a hostile draft, there were as many of those.
    let commits = (OTHERS * ROUNDS) as f64;
    assert!(during * 4.0 < commits, "{commits} commits took the time of {during} hostile drafts");
    for number in 0..OTHERS {
        assert_eq!(state(&cluster, &format!("good-{number}"))["sum"], 1 + ROUNDS);
    }
    for number in 0..4 {
        assert_eq!(cluster.log(&format!("bad-{number}")), Vec::<Value>::new());
    }
    let after = cluster.validators[0].counter("insieme_slot_takeovers_total").await;
    assert_eq!(after, takeovers, "a slot was lost meanwhile");
    assert!(!cluster.validators[0].process.output().contains("slot lost"));
}

/// The processes that rules run in are killed under the validator, by the signal of a crash and by the one of an operator:
/// no draft is answered wrongly, and none is committed twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_by_a_signal_costs_no_draft() {
    const KILLS: usize = 6;
    let dir = temp_dir();
    let mut cluster = careless(dir.path()).await;
    let mut clients = Vec::new();
    for number in 0..4 {
        clients.push(cluster.client(0, "ann").partition(&format!("p-{number}")).await);
    }
    let mut killed = HashSet::new();
    let mut commits = 0;
    while killed.len() < KILLS {
        for client in &mut clients {
            client.commit("added", json!({ "n": 1 })).await;
            // One in flight, to be decided by whichever process there is.
            client.submit("added", json!({ "n": 1, "turns": 100_000 })).await;
        }
        commits += 2;
        let validator = cluster.validators[0].process.id();
        let worker = until("a process of the rules", async || {
            workers_of(validator).into_iter().find(|id| !killed.contains(id))
        })
        .await;
        killed.insert(worker);
        let signal = if killed.len() % 2 == 0 { libc::SIGKILL } else { libc::SIGSEGV };
        // The first SIGSEGV that no access to memory has caused is passed over: Rust looks for the end of a stack.
        until("the process to end", async || {
            // SAFETY: it is a child of the validator, which is of this test.
            unsafe { libc::kill(worker, signal) };
            let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z')).then_some(())
        })
        .await;
        for client in &mut clients {
            client.settle().await;
        }
    }
    for (number, client) in clients.iter().enumerate() {
        assert!(client.answers.values().all(|answer| answer.is_accepted()), "{:?}", client.answers);
        assert_eq!(state(&cluster, &format!("p-{number}"))["sum"], commits);
        assert_eq!(cluster.log(&format!("p-{number}")).len(), commits);
    }
    let before: Vec<_> = (0..4).map(|number| cluster.state_hash(&format!("p-{number}"))).collect();
    cluster.restart_validator(0).await;
    clients[0].commit("added", json!({ "n": 1 })).await;
    for (number, hash) in before.iter().enumerate().skip(1) {
        assert_eq!(cluster.state_hash(&format!("p-{number}")), *hash);
    }
}
