//! Other services that read the log as NATS's user `reader`: what they find is what `docs/record.schema.json` says, and
//! they can do nothing but read.

use async_nats::{Client as Nats, HeaderMap};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::nats;
use crate::harness::shipped::{Shipped, as_user, connect};
use crate::harness::v1::V1Client;
use crate::harness::{temp_dir, until};
use insieme_backend::event::EventRecord;

const READ: &str = "core.DIRECT.GET.COMMITTED";

/// NATS as shipped with readers let in, and a backend.
async fn with_reader() -> Shipped {
    let dir = temp_dir();
    let server = nats::start_with_reader(dir.path()).await;
    Shipped::start_on(dir, server, &[], &[]).await
}

/// All events, read as the page says: headers and body.
async fn read(reader: &Nats) -> Vec<(HeaderMap, Value)> {
    let inbox = reader.new_inbox();
    let mut replies = reader.subscribe(inbox.clone()).await.unwrap();
    let get = json!({ "seq": 1, "next_by_subj": "committed.>", "batch": 500, "max_bytes": 4_194_304 });
    reader.publish_with_reply(READ, inbox, get.to_string().into()).await.unwrap();
    let (mut events, mut last) = (Vec::new(), "0".to_owned());
    loop {
        let reply = replies.next().await.unwrap();
        let headers = reply.headers.unwrap();
        assert_eq!(headers.get("Nats-Last-Sequence").unwrap().as_str(), last);
        if let Some(status) = reply.status {
            assert_eq!(status.as_u16(), 204);
            assert_eq!(headers.get("Nats-Num-Pending").unwrap().as_str(), "0");
            return events;
        }
        headers.get("Nats-Sequence").unwrap().as_str().clone_into(&mut last);
        events.push((headers, serde_json::from_slice(&reply.payload).unwrap()));
    }
}

/// The published schema, and one that allows no field which it does not name.
fn contract() -> (jsonschema::Validator, jsonschema::Validator) {
    let mut schema: Value = serde_json::from_str(include_str!("../../docs/record.schema.json")).unwrap();
    let published = jsonschema::validator_for(&schema).unwrap();
    schema["additionalProperties"] = false.into();
    schema["properties"]["v1"]["additionalProperties"] = false.into();
    (published, jsonschema::validator_for(&schema).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_finds_records_as_the_schema_says_and_hears_of_new_ones() {
    let shipped = with_reader().await;
    let reader = connect("reader", &shipped.url).await;
    let mut live = reader.subscribe("live.>").await.unwrap();
    reader.flush().await.unwrap();

    // The first draft of a partition is refused, which takes a mark.
    let mut ann = Client::of(&shipped.address, "ann").partition("a/b \0 ü?").await;
    let refused = ann.submit("treePush", json!({})).await;
    ann.expect_rejected(&refused, "validation_failed").await;
    ann.commit("set", json!({ "target": "a", "value": "ü \0 \u{1F600}" })).await;
    let mut bob = V1Client::connect(&shipped.address, "bob", "board").await;
    bob.commit(json!({
        "id": "e-1", "partition": "notes", "projectId": "board", "userId": "u-7", "type": "set", "schemaVersion": 3,
        "payload": { "target": "b", "value": 1.5 }, "meta": { "clientId": "bob", "clientTs": 1 },
    }))
    .await;
    // And an event that an application's rules decided.
    let rules = shipped.dir.path().join("rules.js");
    let module = "export const version = 1; export const events = { counted: { check: () => {}, \
                  reduce: ({ state }) => { state.count = 1; } } };";
    std::fs::write(&rules, module).unwrap();
    for arguments in [vec!["publish", rules.to_str().unwrap()], vec!["activate", "1"]] {
        let output = as_user("rules", "operator", &shipped.url).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    until("the rules to decide", async || {
        let draft = ann.submit("counted", json!({})).await;
        ann.answer(&draft).await.is_accepted().then_some(())
    })
    .await;

    let events = read(&reader).await;
    let (published, strict) = contract();
    for (_, record) in &events {
        for schema in [&published, &strict] {
            let wrong: Vec<String> = schema.iter_errors(record).map(|error| error.to_string()).collect();
            assert!(wrong.is_empty(), "{record}: {wrong:?}");
        }
    }
    // Every kind of record was among them.
    for field in ["v1", "isMark", "rules"] {
        assert!(events.iter().any(|(_, record)| record.get(field).is_some()), "none with {field}");
    }
    assert!(events.iter().any(|(_, record)| record["v1"]["userId"] == "u-7"));
    // And the schema says something.
    for field in
        ["type", "payload", "partition", "timestamp", "clientId", "draftId", "contentHash", "ordinal"]
    {
        let mut record = events[0].1.clone();
        record.as_object_mut().unwrap().remove(field);
        assert!(!published.is_valid(&record), "{record}");
    }
    let mut record = events[0].1.clone();
    record["unheardOf"] = 1.into();
    assert!(published.is_valid(&record) && !strict.is_valid(&record));

    let mut ordinals = std::collections::HashMap::new();
    for (headers, record) in &events {
        let subject = headers.get("Nats-Subject").unwrap().as_str();
        assert!(subject.starts_with("committed.") && headers.get("Nats-Time-Stamp").is_some());
        let ordinal = ordinals.entry(subject.to_owned()).or_insert(0_u64);
        *ordinal += 1;
        assert_eq!(record["ordinal"], *ordinal, "{subject}");
        // The same, and in the same order, is heard at once.
        let message = live.next().await.unwrap();
        assert_eq!(message.subject.as_str(), subject.replacen("committed.", "live.", 1));
        assert_eq!(serde_json::from_slice::<Value>(&message.payload).unwrap(), *record);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_reader_credential_can_only_read() {
    let mut shipped = with_reader().await;
    let mut ann = Client::of(&shipped.address, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let operator = connect("operator", &shipped.url).await;
    let frontend = connect("frontend", &shipped.url).await;
    let mut core = operator.subscribe("committed.>").await.unwrap();
    let mut edge = frontend.subscribe("live.>").await.unwrap();
    for other in [&operator, &frontend] {
        other.flush().await.unwrap();
    }

    let stolen = connect("reader", &shipped.url).await;
    let subjects = [
        "draft.1.default",
        "committed.default",
        "live.default",
        "answer.someone",
        "control.all",
        "report.x",
        "$KV.SLOTS.slot.1",
        "$JS.API.STREAM.PURGE.COMMITTED",
        "core.STREAM.INFO.COMMITTED",
        "core.STREAM.PURGE.COMMITTED",
        "core.CONSUMER.CREATE.COMMITTED",
        "core.DIRECT.GET.KV_REVOKED",
        "core.DIRECT.GET.OBJ_SNAPSHOTS",
        "core.DIRECT.GET.DRAFTS",
        "core.INFO",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.someone.1",
    ];
    for subject in subjects {
        stolen.publish(subject, "forged".into()).await.unwrap();
    }
    for subject in subjects {
        shipped.server.line_with(&format!("Publish Violation - Subject \"{subject}\"")).await;
    }
    for subject in
        [">", "committed.>", "draft.>", "answer.>", "control.>", "$JS.>", "$KV.>", "$SYS.>", "_R_.>"]
    {
        stolen.subscribe(subject).await.unwrap();
        shipped.server.line_with(&format!("Subscription Violation - Subject \"{subject}\"")).await;
    }

    // NATS sends a reply wherever its request says. From here it gets no further than this account.
    let mut heard = stolen.subscribe("live.>").await.unwrap();
    for target in ["committed.default", "live.default", "draft.1.default", "$JS.API.STREAM.PURGE.COMMITTED"] {
        stolen.publish_with_reply(READ, target, "{\"seq\":1}".into()).await.unwrap();
    }
    // Headers with which NATS would do more than deliver.
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Trace-Dest", "committed.default");
    stolen.publish_with_reply_and_headers(READ, "live.default", headers, "{\"seq\":1}".into()).await.unwrap();
    let message = heard.next().await.unwrap();
    assert_eq!(message.headers.unwrap().get("Nats-Subject").unwrap().as_str(), "committed.default");
    let event = ann.commit("set", json!({ "target": "a", "value": "the last" })).await;
    assert_eq!(event["eventId"], 2, "only ann's events are in the log");
    for others in [&mut core, &mut edge] {
        let message = others.next().await.unwrap();
        assert!(String::from_utf8_lossy(&message.payload).contains("the last"), "{message:?}");
    }
}

#[test]
fn a_record_of_the_published_contract_is_read_and_written_as_it_is() {
    let file = include_str!("../../docs/record.schema.json");
    let schema: serde_json::Value = serde_json::from_str(file).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let (_, examples) = file.split_once("\"examples\": [").unwrap();
    let lines = examples.lines().map(|line| line.trim().trim_end_matches(','));
    let records: Vec<&str> = lines.filter(|line| line.starts_with("{\"type\"")).collect();
    assert_eq!(records.len(), schema["examples"].as_array().unwrap().len());
    for text in records {
        let record = EventRecord::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(record.to_json().unwrap()).unwrap(), text);
        let errors: Vec<_> = validator
            .iter_errors(&serde_json::from_str(text).unwrap())
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{text}: {errors:?}");
    }
}
