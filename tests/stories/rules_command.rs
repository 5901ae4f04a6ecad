//! `insieme-backend rules`: an application's rules, tried on the log before anybody relies on them. The module runs in a
//! process of its own, which hostile ones crash, fill and keep busy: the command answers all the same.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::cluster::{Cluster, binary};
use crate::harness::{temp_dir, until};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(arguments: &[&str]) -> Output {
    binary().arg("rules").args(arguments).output().unwrap()
}

/// A folder with a module and events to try it on.
struct Tried {
    dir: tempfile::TempDir,
}

impl Tried {
    fn new(module: &str, events: &[Value]) -> Self {
        let tried = Self { dir: temp_dir() };
        std::fs::write(tried.path("rules.js"), module).unwrap();
        let lines: Vec<String> = events.iter().map(|event| format!("{event}\n")).collect();
        std::fs::write(tried.path("events.jsonl"), lines.concat()).unwrap();
        tried
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = binary();
        command
            .args(["rules", "check"])
            .arg(self.path("rules.js"))
            .arg("--events")
            .arg(self.path("events.jsonl"));
        command.args(more);
        command
    }

    /// What it reports of the one partition, and whether it calls the rules fit.
    fn report(&self) -> (Value, bool) {
        let output = self.command(&["--json"]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
        (report["partitions"][0].clone(), output.status.success())
    }
}

/// The hash of a state in canonical form.
fn sha256(state: &str) -> String {
    let digest: [u8; 32] =
        sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(state)).into();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn event(event_type: &str, payload: Value) -> Value {
    json!({ "type": event_type, "payload": payload })
}

#[test]
fn new_rules_can_be_tried_at_once() {
    let dir = temp_dir();
    let folder = dir.path().join("board");
    let made = run(&["new", folder.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made));
    let (file, events) = (folder.join("rules.js"), folder.join("events.jsonl"));
    let checked = run(&["check", file.to_str().unwrap(), "--events", events.to_str().unwrap()]);
    let said = text(&checked);
    for part in [
        "version 1, 2 event types (card.added, column.added)",
        "8 events, 2 would be refused now (0 of unknown types)",
        "event 7 (card.added): COLUMN_FULL payload.column: this column takes at most five cards",
        "event 8 (card.added): COLUMN_NOT_FOUND payload.column",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // The eighth cannot be folded; a log in which it stands is not one for these rules.
    assert!(!checked.status.success() && said.contains("not fit for 1 of 1 partitions"), "{said}");
    let again = run(&["new", folder.to_str().unwrap()]);
    assert!(!again.status.success() && text(&again).contains("there is"), "{}", text(&again));
}

#[test]
fn a_module_that_does_not_load_says_where() {
    for (module, part) in [
        ("export const version = 1;\nexport const events = { a: {", "rules.js:2"),
        ("import './missing.js'; export const version = 1; export const events = {};", "missing.js"),
        ("export const version = 1;", "events must be an object"),
        ("for (;;);", "too many steps"),
        ("new Array(1e9).join('x');", "computed for too long"),
    ] {
        let output = Tried::new(module, &[]).command(&[]).output().unwrap();
        assert!(!output.status.success() && text(&output).contains(part), "{part}: {}", text(&output));
    }
}

/// What no interpreter counts is ended by the processor time that it takes; what stands before and behind it in the
/// partition is decided as if it had not been there.
#[test]
fn an_event_that_keeps_the_process_busy_is_refused_alone() {
    let module = "export const version = 1; export const events = { e: { reduce: ({ state, payload }) => {\n\
        state.log ??= []; state.log.push(payload.n);\n\
        if (payload.join) new Array(payload.join).join('x');\n\
    } } };";
    let events = [
        event("e", json!({ "n": 1 })),
        event("e", json!({ "n": 2, "join": 4_000_000_000u64 })),
        event("e", json!({ "n": 3 })),
    ];
    let tried = Tried::new(module, &events);
    let (found, is_fit) = tried.report();
    assert!(!is_fit);
    assert_eq!(
        (&found["events"], &found["failed"], &found["notFolded"]),
        (&json!(3), &json!(1), &json!(1)),
        "{found}"
    );
    let told: Vec<_> = found["told"].as_array().unwrap().iter().map(|told| told["eventId"].clone()).collect();
    assert_eq!(told, [2]);
    assert_eq!(found["told"][0]["errors"][0]["code"], "RULE_FAILED");
    assert_eq!(found["told"][0]["fault"]["kind"], "Time", "{found}");
    assert_eq!(found["stateSha256"], sha256("{\"log\":[1,3]}"), "{found}");
    assert_eq!(found["remembers"], json!([]));
}

/// A worker is killed under the command, again and again: it is started again, and nothing shows of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_is_started_again() {
    let module = "export const version = 1; export const events = { e: { reduce: ({ state, payload }) => {\n\
        state.sum = (state.sum ?? 0) + payload; for (let i = 0; i < 20000; i++);\n\
    } } };";
    let count = 3_000;
    let events: Vec<Value> = (1..=count).map(|n| event("e", json!(n))).collect();
    let tried = Tried::new(module, &events);
    let mut child = tried.command(&["--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let parent = child.id();
    let mut killed = Vec::new();
    for _ in 0..3 {
        let next = until("a worker of the command", async || {
            if child.try_wait().unwrap().is_some() {
                return Some(None);
            }
            workers_of(parent).into_iter().find(|id| !killed.contains(id)).map(Some)
        })
        .await;
        let Some(id) = next else { break };
        let worker = rustix::process::Pid::from_raw(id).unwrap();
        // It may just have ended by itself. (Of a SIGSEGV that somebody sends, Rust passes over the first.)
        let _ = rustix::process::kill_process(worker, rustix::process::Signal::KILL);
        killed.push(id);
    }
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(!killed.is_empty());
    let said = text(&output);
    if said.contains("ended its process") {
        // It was loading its module, which is tried once.
        return;
    }
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let found = &report["partitions"][0];
    assert_eq!((&found["failed"], &found["events"]), (&json!(0), &json!(count)), "{found}");
    let sum = count * (count + 1) / 2;
    assert_eq!(found["stateSha256"], sha256(&format!("{{\"sum\":{sum}}}")), "{found}");
}

/// The processes whose parent is `parent`.
pub fn workers_of(parent: u32) -> Vec<i32> {
    let of = |path: &Path| -> Option<i32> {
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        let (_, numbers) = stat.rsplit_once(')')?;
        let is_child = numbers.split_ascii_whitespace().nth(1)? == parent.to_string();
        is_child.then(|| path.file_name()?.to_str()?.parse().ok())?
    };
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| of(&entry.unwrap().path())).collect()
}

/// What a rule keeps outside of the state is lost whenever the state is loaded again, so it is found before that happens.
#[test]
fn rules_that_remember_something_are_found() {
    let module = "let count = 0;\nexport const version = 1; export const events = { e: { reduce: ({ state, payload }) => {\n\
        state.n = ++count; state.text = payload; } } };";
    let events: Vec<Value> = (0..600).map(|n| event("e", json!("x".repeat(20 + n % 10)))).collect();
    let tried = Tried::new(module, &events);
    let (found, is_fit) = tried.report();
    assert!(!is_fit && found["remembers"][0].as_str().unwrap().contains("state.n is 600"), "{found}");
    let said = text(&tried.command(&[]).output().unwrap());
    assert!(said.contains("warning: rules.js:1: a variable of the file outlives an event"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_folded_under_rules_of_ones_own() {
    let cluster = Cluster::start().await;
    let mut client = cluster.client(0, "alice").partition("board").await;
    client.commit("set", json!({ "target": "columns", "value": { "todo": { "cards": [] } } })).await;
    for n in 0..20 {
        let value = json!({ "title": format!("card {n}") });
        client.commit("set", json!({ "target": format!("cards.c{n}"), "value": value })).await;
    }
    let dir = temp_dir();
    let file = dir.path().join("rules.js");
    let write = |version: u32, limit: u32, migrate: &str| {
        let module = format!(
            "import {{ set }} from 'insieme:actions';\nexport const version = {version};\n\
             export const events = {{ set: {{ ...set, check: (given) => {{ set.check(given);\n\
             if (Object.keys(given.state.cards ?? {{}}).length >= {limit}) given.reject('TOO_MANY', 'payload.target'); }} }} }};\n{migrate}"
        );
        std::fs::write(&file, module).unwrap();
    };
    write(1, 100, "");
    let file = file.to_str().unwrap();
    let said = text(&cluster.run(&["rules", "check", file]));
    let (_, hash) = cluster.state_hash("board");
    assert!(said.contains("partition \"board\": 21 events, 0 would be refused now"), "{said}");
    assert!(said.contains(&format!("sha256 {hash}")) && !said.contains("differs"), "{said}");

    let before = dir.path().join("before");
    std::fs::create_dir(&before).unwrap();
    std::fs::copy(file, before.join("rules.js")).unwrap();
    let old = before.join("rules.js");
    write(2, 15, "export const migrate = { 2: ({ state }) => { state.archived = {}; } };");
    let said = text(&cluster.run(&[
        "rules",
        "check",
        file,
        "--partition",
        "board",
        "--against",
        old.to_str().unwrap(),
    ]));
    assert!(said.contains("5 would be refused now") && said.contains("TOO_MANY payload.target"), "{said}");
    write(3, 15, "export const migrate = { 3: ({ state }) => { state.list.push(1); } };");
    let output = cluster.try_run(&["rules", "check", file, "--against", old.to_str().unwrap()]);
    let said = text(&output);
    assert!(
        !output.status.success() && said.contains("cannot be migrated") && said.contains("rules.js:"),
        "{said}"
    );
}
