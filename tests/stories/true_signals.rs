//! What an operator is told is so: commands, settings and log lines that could be taken for something else.

use serde_json::{Value, json};

use crate::harness::cluster::{Cluster, binary};
use crate::harness::v1::V1Client;

fn check(settings: &[&str]) -> (bool, String) {
    let mut command = binary();
    command.arg("check-config");
    for setting in settings {
        command.args(["--set", setting]);
    }
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_filter_that_silences_everything_is_refused_or_warned_of() {
    for (filter, word) in [("wrn", "wrn"), ("info,dbug", "dbug"), ("insieme_backend", "insieme_backend")] {
        let (is_good, said) = check(&[&format!("log.filter={filter}")]);
        assert!(!is_good && said.contains(&format!("{word:?} is no level")), "{filter}: {said}");
    }
    let (is_good, said) = check(&["log.filter=async_nats=info,insieme_backend::config=warn"]);
    assert!(is_good, "{said}");
    let (is_good, said) = check(&["log.filter=info"]);
    assert!(is_good && said.is_empty(), "{said}");
}

#[test]
fn permissions_and_formats_that_do_nothing_are_warned_of() {
    let roles = r#"auth.roles={ ops = ["admn"], editor = ["treepush:doc.*", "read:doc.*", "set:doc.*"] }"#;
    let (is_good, said) = check(&[roles]);
    assert!(is_good, "{said}");
    for says in ["did you mean admin", "did you mean treePush", "\"read:doc.*\" never permits anything"] {
        assert!(said.contains(says), "{says}: {said}");
    }
    assert!(!said.contains("set:doc"), "{said}");
    let dir = crate::harness::temp_dir();
    let schema = json!({ "type": "object", "properties": { "at": { "type": "string", "format": "date" } } });
    std::fs::write(dir.path().join("note.json"), schema.to_string()).unwrap();
    let plain = json!({ "properties": { "format": { "type": "string" } }, "required": ["format"] });
    std::fs::write(dir.path().join("plain.json"), plain.to_string()).unwrap();
    let (is_good, said) = check(&[&format!("rules.schema_dir={}", dir.path().display())]);
    assert!(is_good && said.contains("note.json") && !said.contains("plain.json"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn log_and_state_print_what_they_find_and_nothing_round_it() {
    let cluster = Cluster::start().await;
    let unknown = cluster.try_run(&["log", "nowhere"]);
    let said = String::from_utf8_lossy(&unknown.stderr);
    assert!(!unknown.status.success() && said.contains("no events of the partition \"nowhere\""), "{said}");

    // Two projects whose states are alike, because the events are the application's own, and whose logs are not.
    let url = cluster.frontends[0].url();
    for (project, text) in [("one", "a"), ("two", "b")] {
        let mut client = V1Client::connect(&url, "ann", project).await;
        let event = client.event("e-1", "note.added", json!({ "text": text }));
        client.commit(event).await;
    }
    assert_eq!(cluster.state("one"), cluster.state("two"));
    let hash = |project: &str| {
        let output = cluster.run(&["log", project, "--hash"]);
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let (id, hash) = text.trim().split_once(' ').unwrap();
        assert_eq!(hash.len(), 64, "{text}");
        (id.to_owned(), hash.to_owned())
    };
    assert_eq!(hash("one"), hash("one"));
    assert_ne!(hash("one").1, hash("two").1);
    let events: Vec<Value> = cluster.log("one");
    assert_eq!(hash("one").0, events.last().unwrap()["eventId"].to_string());
}
