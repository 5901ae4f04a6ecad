//! An application's rules decide: published, activated while clients write, rolled back; the same for both dialects, and
//! folded alike by everybody, after a restart from the log alone and from a snapshot.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::client::{Answer, Client};
use crate::harness::cluster::{Cluster, Plan, binary};
use crate::harness::process::Process;
use crate::harness::tokens::{SECRET, TestKey};
use crate::harness::v1::V1Client;
use crate::harness::{temp_dir, until};

pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).join("rules.js")
}

/// Publishes a module, puts it in force, and waits until all validators decide by it.
pub async fn put_in_force(cluster: &Cluster, file: &Path) -> String {
    let published = cluster.run(&["rules", "publish", file.to_str().unwrap()]);
    let said = String::from_utf8(published.stdout).unwrap();
    let version = said.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    cluster.run(&["rules", "activate", &version]);
    decides(cluster, &version).await;
    version
}

/// Waits until all validators decide by the version that was activated last.
async fn decides(cluster: &Cluster, version: &str) {
    for validator in &cluster.validators {
        until("the validator to take the rules", async || {
            let output = validator.process.output();
            let last = output.lines().rfind(|line| line.contains("the application's rules decide"));
            last.is_some_and(|line| line.contains(version)).then_some(())
        })
        .await;
    }
}

/// A backend that asks for tokens.
pub fn with_tokens(dir: &Path) -> Plan {
    let file = dir.join("secret");
    std::fs::write(&file, SECRET).unwrap();
    Cluster::start().set("auth.secret_file", file.display())
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(name);
    std::fs::write(&file, text).unwrap();
    file
}

fn state(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.state("default")).unwrap()
}

fn card(id: &str) -> Value {
    json!({ "id": id, "title": id, "column": "todo" })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_refused_for_the_second_of_two_clients_in_both_dialects() {
    let dir = temp_dir();
    let cluster = with_tokens(dir.path()).validators(2).frontends(2).await;
    let version = put_in_force(&cluster, &example("kanban")).await;
    let key = TestKey::secret(SECRET);
    let connect = async |id: &str, frontend: usize, claims: Value| -> Client {
        Client::of(&cluster.frontends[frontend].url(), id).token(key.token(id, claims)).await
    };
    let mut ann = connect("ann", 0, json!({ "roles": ["owner"] })).await;
    let mut bob = connect("bob", 1, json!({})).await;

    // Who may do what, and what a payload looks like, is the module's to say.
    let column = json!({ "id": "todo", "title": "To do", "limit": 1 });
    let draft = bob.submit("column.added", column.clone()).await;
    assert_eq!(bob.expect_rejected(&draft, "forbidden").await[0]["code"], "FORBIDDEN");
    let draft = ann.submit("column.added", json!({ "id": "todo" })).await;
    ann.expect_rejected(&draft, "validation_failed").await;
    let draft = ann.submit("set", json!({ "target": "a", "value": 1 })).await;
    let errors = ann.expect_rejected(&draft, "validation_failed").await;
    assert_eq!(errors[0]["code"], "UNKNOWN_EVENT_TYPE");
    ann.commit("column.added", column).await;

    // Two at once for the one place: one is in, and the other is told why not.
    let drafts = (ann.submit("card.added", card("a")).await, bob.submit("card.added", card("b")).await);
    let answers = [ann.answer(&drafts.0).await, bob.answer(&drafts.1).await];
    let refused: Vec<&Answer> = answers.iter().filter(|answer| !answer.is_accepted()).collect();
    let [Answer::Rejected { reason, errors }] = refused.as_slice() else { panic!("{answers:?}") };
    assert_eq!(reason, "validation_failed");
    assert_eq!(errors[0]["code"], "COLUMN_FULL");
    assert_eq!(errors[0]["field"], "payload.column");
    assert_eq!(errors[0]["message"], "this column takes at most 1 cards");

    // The published client's dialect meets the same rule.
    let url = cluster.frontends[1].url();
    let mut vera = cluster_v1(&url, "vera", &key).await;
    let results = vera.results(vec![vera.event("vera-1", "card.added", card("v"))]).await;
    assert_eq!(results[0].status(), "rejected");
    assert!(format!("{results:?}").contains("COLUMN_FULL"), "{results:?}");

    // Every event names the rules that decided it, and whoever connects is shown their state.
    let log = cluster.log("default");
    assert!(log.iter().all(|event| event["rules"] == format!("1-{version}")), "{log:?}");
    let of_cards = state(&cluster);
    assert_eq!(of_cards["columns"]["todo"]["cards"].as_array().unwrap().len(), 1);
    let late = connect("late", 1, json!({})).await;
    assert_eq!(late.connected["initialState"], of_cards);
}

async fn cluster_v1(url: &str, id: &str, key: &TestKey) -> V1Client {
    let mut client = V1Client::new(url, id, "default");
    client.token = key.token(id, json!({}));
    client.reconnect().await;
    client
}

const COUNTER: &str = "export const version = 1;\n\
    export const initialState = () => ({ count: 0 });\n\
    export const events = { added: {\n\
      check: ({ payload, reject }) => { if (payload.loop) for (;;); if (payload.n > 10) reject('TOO_MUCH', 'payload.n'); },\n\
      reduce: ({ state, payload }) => { state.count += payload.n; if (payload.text) (state.texts ??= []).push(payload.text); } } };\n";

const COUNTER_2: &str = "export const version = 2;\n\
    export const initialState = () => ({ count: 0, seen: 0 });\n\
    export const events = { added: {\n\
      check: ({ payload, reject }) => { if (payload.n > 100) reject('TOO_MUCH', 'payload.n'); },\n\
      reduce: ({ state, payload }) => { state.count += payload.n; state.seen += 1; } } };\n\
    export const migrate = { 2: ({ state }) => { state.seen = 0; } };\n";

#[tokio::test(flavor = "multi_thread")]
async fn versions_come_and_go_in_the_middle_and_everybody_folds_alike() {
    let dir = temp_dir();
    let mut cluster =
        Cluster::start().set("validator.snapshot_events_min", 5).set("validator.snapshot_share_min", 0).await;
    let (first, second) = (write(dir.path(), "one.js", COUNTER), write(dir.path(), "two.js", COUNTER_2));
    let mut ann = cluster.client(0, "ann").await;
    // The built-in rules decided the partition's first events; the module goes on with their state.
    ann.commit("set", json!({ "target": "count", "value": 5 })).await;
    let one = put_in_force(&cluster, &first).await;
    ann.commit("added", json!({ "n": 1 })).await;
    assert_eq!(state(&cluster), json!({ "count": 6 }));
    let refused = ann.submit("added", json!({ "n": 11 })).await;
    assert_eq!(ann.expect_rejected(&refused, "validation_failed").await[0]["code"], "TOO_MUCH");

    // Of a draft on which the rules loop nothing is left, and the partition goes on.
    let looping = ann.submit("added", json!({ "n": 1, "loop": true })).await;
    assert_eq!(ann.expect_rejected(&looping, "validation_failed").await[0]["code"], "RULE_FAILED");
    assert!(cluster.validators[0].counter("insieme_rules_failures_total").await >= 1.0);
    cluster.validators[0].process.line_with("the application's rules failed on a draft").await;
    ann.commit("added", json!({ "n": 2 })).await;

    // A version's first event migrates the state; what was refused before passes now.
    let two = put_in_force(&cluster, &second).await;
    assert_eq!(state(&cluster), json!({ "count": 8 }), "no event, no migration");
    ann.commit("added", json!({ "n": 11 })).await;
    let at_two = ann.commit("added", json!({ "n": 1 })).await["eventId"].as_u64().unwrap();
    assert_eq!(state(&cluster), json!({ "count": 20, "seen": 2 }));

    // Back to the one before, which goes on with the state as it is.
    cluster.run(&["rules", "rollback"]);
    decides(&cluster, &one).await;
    let refused = ann.submit("added", json!({ "n": 11 })).await;
    assert_eq!(ann.expect_rejected(&refused, "validation_failed").await[0]["code"], "TOO_MUCH");
    for _ in 0..6 {
        ann.commit("added", json!({ "n": 1 })).await;
    }
    assert_eq!(state(&cluster), json!({ "count": 26, "seen": 2 }));
    let listed = String::from_utf8(cluster.run(&["rules", "list"]).stdout).unwrap();
    assert!(listed.lines().any(|line| line.starts_with(&one) && line.contains("in force since")), "{listed}");
    assert!(listed.lines().any(|line| line.starts_with(&two) && line.contains("(activation 2)")), "{listed}");
    let shown = String::from_utf8(cluster.run(&["rules", "show", "2"]).stdout).unwrap();
    assert!(shown.contains(COUNTER_2.trim_end()), "{shown}");
    let in_log: Vec<Value> = cluster.log("default").iter().map(|event| event["rules"].clone()).collect();
    assert_eq!(in_log[..3], [Value::Null, json!(format!("1-{one}")), json!(format!("1-{one}"))]);
    assert_eq!(in_log[3..5], [json!(format!("2-{two}")), json!(format!("2-{two}"))]);
    assert_eq!(in_log[5], json!(format!("3-{one}")));

    // The state as it was, from the log alone; and what a frontend shows, from whatever it has.
    let at =
        String::from_utf8(cluster.run(&["state", "default", "--at", &at_two.to_string()]).stdout).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&at).unwrap(), json!({ "count": 20, "seen": 2 }));
    cluster.validators[0].process.line_with("snapshot written").await;
    let before = cluster.state_hash("default");
    cluster.restart_everything().await;
    assert_eq!(cluster.state_hash("default"), before);
    let late = cluster.client(0, "late").await;
    assert_eq!(late.connected["initialState"], json!({ "count": 26, "seen": 2 }));
    ann.reconnect().await;
    ann.commit("added", json!({ "n": 1 })).await;
    let refused = ann.submit("added", json!({ "n": 11 })).await;
    ann.expect_rejected(&refused, "validation_failed").await;
    assert_eq!(state(&cluster), json!({ "count": 27, "seen": 2 }));
    assert!(
        String::from_utf8(cluster.run(&["inspect", "default"]).stdout).unwrap().contains("all of which fold")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_has_only_the_log_goes_on_with_the_same_state() {
    let dir = temp_dir();
    let mut cluster = Cluster::start().await;
    put_in_force(&cluster, &write(dir.path(), "one.js", COUNTER)).await;
    let mut ann = cluster.client(0, "ann").await;
    for n in 0..20 {
        ann.submit("added", json!({ "n": n % 12, "text": "x".repeat(n) })).await;
    }
    ann.settle().await;
    let before = cluster.state_hash("default");
    // Killed, with the processes of its rules.
    cluster.validators[0].process.kill9();
    cluster.restart_validator(0).await;
    assert_eq!(cluster.state_hash("default"), before);
    ann.commit("added", json!({ "n": 1 })).await;
    let refused = ann.submit("added", json!({ "n": 11 })).await;
    assert_eq!(ann.expect_rejected(&refused, "validation_failed").await[0]["code"], "TOO_MUCH");
    let expected: u64 = (0..20).map(|n| n % 12).filter(|n| *n <= 10).sum::<u64>() + 1;
    assert_eq!(state(&cluster)["count"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_are_no_rules_are_not_published_and_what_is_not_published_is_not_activated() {
    let dir = temp_dir();
    let cluster = Cluster::start().await;
    let said = |arguments: &[&str]| {
        let output = cluster.try_run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let broken = write(dir.path(), "broken.js", "export const version = 1;\nexport const events = {\n");
    assert!(said(&["rules", "publish", broken.to_str().unwrap()]).contains("broken.js:"));
    assert!(said(&["rules", "activate", "1"]).contains("rules list"));
    assert!(said(&["rules", "rollback"]).contains("no rules are in force"));
    let large = format!("{COUNTER}// {}\n", "x".repeat(2 << 20));
    let large = write(dir.path(), "large.js", &large);
    assert!(said(&["rules", "publish", large.to_str().unwrap()]).contains("max_payload"));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_dev_the_rules_go_along_with_their_file() {
    let dir = temp_dir();
    let file = write(dir.path(), "rules.js", COUNTER);
    let mut command = binary();
    command.args(["dev", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path().join("data"));
    command.args(["--nats-server"]).arg(crate::harness::nats::binary());
    command.arg("--rules").arg(&file);
    let mut dev = Process::spawn("dev", command, dir.path());
    let url = dev.line_with("dev ready: ").await;
    decided(&dev, 1).await;
    let mut ann = Client::of(&url, "ann").await;
    let refused = ann.submit("added", json!({ "n": 11 })).await;
    assert_eq!(ann.expect_rejected(&refused, "validation_failed").await[0]["code"], "TOO_MUCH");
    // What does not load changes nothing, and is told with its place.
    std::fs::write(&file, COUNTER.replace("export const events = {", "export const events = {{")).unwrap();
    dev.line_with("rules.js:3").await;
    ann.commit("added", json!({ "n": 1 })).await;
    std::fs::write(&file, COUNTER_2).unwrap();
    dev.line_with("rules: 2-").await;
    decided(&dev, 2).await;
    ann.commit("added", json!({ "n": 11 })).await;
}

/// Waits until the validator of `dev` has taken rules so many times.
async fn decided(dev: &Process, times: usize) {
    until("the rules to decide", async || {
        (dev.output().matches("the application's rules decide").count() >= times).then_some(())
    })
    .await;
}
