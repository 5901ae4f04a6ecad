//! Every field of every frame, in both dialects, with every trick that is known: private keys of the parser, halves of
//! surrogate pairs, depth, names given twice, numbers that no double holds, what is no JSON at all. Whatever it is, the
//! process lives on, a bystander is served, the answer is one that PROTOCOL.md names, and what was sent beside it is
//! decided as if it had come alone.

use std::convert::Infallible;

use insieme_backend::json::Json;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::attacks::{frame, text};
use crate::harness::DEADLINE;
use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, Frontend};
use crate::harness::http::{ask, upgrade};
use crate::harness::socket::{Gone, Socket};
use crate::harness::v1::envelope;

const PROTOCOL: &str = include_str!("../../docs/PROTOCOL.md");
/// The levels of a frame that may be nested, the field's own among them.
const DEPTH_MAX: usize = 64;

/// What stands in the place of a field: JSON, or what is none.
fn tricks() -> Vec<String> {
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let objects = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let private = |key: &str, value: &str| format!(r#"{{"{key}":{value}}}"#);
    let mut tricks: Vec<String> = [
        // Private keys, and what is like them.
        r#"{"$serde_json::private::Number":"1"}"#,
        r#"{"$serde_json::private::Number":"1e999"}"#,
        r#"{"$serde_json::private::Number":1}"#,
        r#"{"$serde_json::private::Number":"[["}"#,
        r#"{"$serde_json::private::RawValue":"{\"a\":1}"}"#,
        r#"{"$serde_json::private::RawValue":"\"text\""}"#,
        r#"{"$serde_json::private::RawValue":"{"}"#,
        r#"{"$serde_json::private::RawValue":"1","$serde_json::private::RawValue":"2"}"#,
        r#"{"\u0024serde_json::private::RawValue":"[1]"}"#,
        r#"{"$__toml_private_datetime":"1979-05-27"}"#,
        r#"{"__proto__":{"a":1}}"#,
        r#"{"constructor":{"prototype":{"a":1}}}"#,
        // Text that is none, and text that is odd.
        r#""\ud800""#,
        r#""\udc00""#,
        r#""see you \ud83d""#,
        r#""\ud800\ud800""#,
        r#""\udc00\ud800""#,
        r#"{"\ud800":1}"#,
        r#"{"a":"\udfff"}"#,
        r#"[["\ud83d"]]"#,
        r#""\ud83d\ude00""#,
        r#""""#,
        r#"" ""#,
        r#""\u0000""#,
        r#""a\u0000b""#,
        r#""\r\n\u001b[31m""#,
        r#""\ufeff""#,
        r#""\u202e\u0301""#,
        r#""*""#,
        r#"">""#,
        r#""a.b.>""#,
        r#""__proto__""#,
        r#""constructor""#,
        r#""read""#,
        r#""admin""#,
        r#""null""#,
        // Names given twice.
        r#"{"a":1,"a":2}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"[{"b":{"a":1,"a":1}}]"#,
        r#"{"":1,"":2}"#,
        // Numbers.
        "1e400",
        "-1e400",
        "1e-400",
        "1e308",
        "-0",
        "-0.0",
        "0",
        "1",
        "5.0",
        "5e0",
        "0.5e1",
        "1E+2",
        "-1",
        "0.5",
        "9007199254740993",
        "18446744073709551615",
        "18446744073709551616",
        "9223372036854775808",
        "1e19",
        "[1e400]",
        r#"{"a":-1e999}"#,
        // Whatever else JSON has.
        "null",
        "true",
        "false",
        "[]",
        "{}",
        "[null]",
        r#"{"type":"set"}"#,
        // What is no JSON.
        "",
        "nul",
        "NaN",
        "Infinity",
        "undefined",
        "01",
        "1.",
        ".5",
        "+1",
        "0x10",
        "'a'",
        r#""\x""#,
        r#""\u12""#,
        "\"a\nb\"",
        "\"a\tb\"",
        "[1,]",
        "{,}",
        "{1:2}",
        "/**/1",
        "1 1",
        "\u{feff}1",
        "\u{0}",
        "}",
        "]",
        "\"",
        "[",
        "{\"a\"",
    ]
    .map(str::to_owned)
    .into();
    for levels in [DEPTH_MAX - 8, DEPTH_MAX, 127, 128, 1_024, 1_025, 100_000] {
        tricks.push(nested(levels));
    }
    tricks.extend([
        objects(DEPTH_MAX),
        objects(1_000),
        objects(30_000),
        "[".repeat(100_000),
        "{\"a\":".repeat(9_000),
    ]);
    for key in ["$serde_json::private::RawValue", "$serde_json::private::Number"] {
        tricks.push(super::hostile_json::tower(key));
        tricks.push(private(key, &format!("\"{}\"", "[".repeat(50_000))));
        tricks.push(private(key, &nested(200)));
    }
    for length in [255, 256, 257, 3_072, 100_000] {
        tricks.push(format!("\"{}\"", "x".repeat(length)));
    }
    tricks.push(format!("\"{}\"", "\u{1f600}".repeat(65)));
    tricks.push("9".repeat(1_000));
    tricks.push(format!("1e{}", "9".repeat(1_000)));
    tricks.push(format!("0.{}1", "0".repeat(1_000)));
    tricks.push(format!("[{}1]", "1,".repeat(20_000)));
    tricks
}

/// A frame with a field to be replaced (`§`), and a number that no other frame has (`@@`).
type Template = &'static str;

const CLASSIC_CONNECTS: &[Template] = &[
    r#"{"id":§,"type":"connect","timestamp":1,"payload":{"clientId":"c@@","version":"1"}}"#,
    r#"{"id":"1","type":§,"timestamp":1,"payload":{"clientId":"c@@","version":"1"}}"#,
    r#"{"id":"1","type":"connect","timestamp":§,"payload":{"clientId":"c@@","version":"1"}}"#,
    r#"{"id":"1","type":"connect","timestamp":1,"payload":§}"#,
    r#"{"id":"1","type":"connect","timestamp":1,"payload":{"clientId":§,"version":"1"}}"#,
    r#"{"id":"1","type":"connect","timestamp":1,"payload":{"clientId":"c@@","version":§}}"#,
    r#"{"id":"1","type":"connect","timestamp":1,"payload":{"clientId":"c@@","version":"1","partition":§}}"#,
    r#"{"id":"1","type":"connect","timestamp":1,"payload":{"clientId":"c@@","version":"1","token":§}}"#,
    r#"{"id":"1","type":"connect","timestamp":1,"payload":{"clientId":"c@@","version":"1","lastEventId":§}}"#,
    r#"{"id":"1","type":"connect","timestamp":1,"payload":{"clientId":"c@@","version":"1","metadata":§}}"#,
    r#"{"id":"1","type":"connect","timestamp":1,"payload":{"clientId":"c@@","version":"1"},"more":§}"#,
    "§",
];

const V1_CONNECTS: &[Template] = &[
    r#"{"type":§,"protocolVersion":"1.0","payload":{"token":"t","clientId":"c@@","projectId":"hostile"}}"#,
    r#"{"type":"connect","protocolVersion":§,"payload":{"token":"t","clientId":"c@@","projectId":"hostile"}}"#,
    r#"{"type":"connect","protocolVersion":"1.0","payload":§}"#,
    r#"{"type":"connect","protocolVersion":"1.0","msgId":§,"payload":{"token":"t","clientId":"c@@","projectId":"hostile"}}"#,
    r#"{"type":"connect","protocolVersion":"1.0","payload":{"token":§,"clientId":"c@@","projectId":"hostile"}}"#,
    r#"{"type":"connect","protocolVersion":"1.0","payload":{"token":"t","clientId":§,"projectId":"hostile"}}"#,
    r#"{"type":"connect","protocolVersion":"1.0","payload":{"token":"t","clientId":"c@@","projectId":§}}"#,
];

/// Of the classic dialect, behind `connect`: submissions, of which the draft's id can be read,
const SUBMISSIONS: &[Template] = &[
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":§}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":§,"payload":{"target":"a","value":1}}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"set","payload":§}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"set","payload":{"target":§,"value":1}}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"set","payload":{"target":"a","value":§}}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"set","payload":{"target":"a","value":1,"options":§}}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"event","payload":{"schema":§,"data":{}}}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"event","payload":{"schema":"none","data":§}}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"treePush","payload":{"target":"t","value":§}}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"treePush","payload":{"target":"t","value":{"id":§}}}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"treeMove","payload":{"target":"t","options":{"id":"n","position":§}}}}}"#,
    r#"{"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"set","payload":{"target":"a","value":1},"partition":§}}}"#,
];

/// the same with the trick beside the event, where depth closes the connection,
const ENVELOPES: &[Template] = &[
    r#"{"type":"submit_event","payload":{"draftId":"t@@","baseEventId":§,"event":{"type":"set","payload":{"target":"a","value":1}}}}"#,
    r#"{"id":§,"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"set","payload":{"target":"a","value":1}}}}"#,
    r#"{"id":"1","type":"submit_event","timestamp":§,"payload":{"draftId":"t@@","event":{"type":"set","payload":{"target":"a","value":1}}}}"#,
    r#"{"id":"1","type":"submit_event","more":§,"payload":{"draftId":"t@@","event":{"type":"set","payload":{"target":"a","value":1}}}}"#,
    r#"{"id":"1","type":"submit_event","payload":{"draftId":"t@@","more":§,"event":{"type":"set","payload":{"target":"a","value":1}}}}"#,
    r#"{"id":"1","type":§,"type":"submit_event","payload":{"draftId":"t@@","event":{"type":"set","payload":{"target":"a","value":1}}}}"#,
];

/// and all else.
const CLASSIC_FRAMES: &[Template] = &[
    r#"{"type":"submit_event","payload":{"draftId":§,"event":{"type":"set","payload":{"target":"a","value":1}}}}"#,
    r#"{"type":"sync","payload":{"sinceEventId":§}}"#,
    r#"{"type":"sync","payload":{"sinceEventId":0,"limit":§}}"#,
    r#"{"type":"sync","payload":{"sinceEventId":0,"limit":1,"partition":§}}"#,
    r#"{"type":"sync","payload":{"sinceEventId":0,"limit":1,"snapshot":§}}"#,
    r#"{"type":"refresh_token","payload":{"token":§}}"#,
    r#"{"id":§,"type":"heartbeat","payload":{}}"#,
    r#"{"type":"heartbeat","payload":§}"#,
    r#"{"type":§,"payload":{}}"#,
    "§",
];

/// An item of a batch, of which the id can be read.
const ITEMS: &[Template] = &[
    r#"{"id":"t@@","projectId":§,"partition":"l","type":"note","schemaVersion":1,"payload":{},"meta":{"clientTs":1}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":§,"type":"note","schemaVersion":1,"payload":{},"meta":{"clientTs":1}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","userId":§,"type":"note","schemaVersion":1,"payload":{},"meta":{"clientTs":1}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":§,"schemaVersion":1,"payload":{},"meta":{"clientTs":1}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":"note","schemaVersion":§,"payload":{},"meta":{"clientTs":1}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":"note","schemaVersion":1,"payload":§,"meta":{"clientTs":1}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":"note","schemaVersion":1,"payload":{"a":§},"meta":{"clientTs":1}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":"set","schemaVersion":1,"payload":{"target":"a","value":§},"meta":{"clientTs":1}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":"note","schemaVersion":1,"payload":{},"meta":§}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":"note","schemaVersion":1,"payload":{},"meta":{"clientTs":§}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":"note","schemaVersion":1,"payload":{},"meta":{"clientTs":1,"clientId":§}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":"note","schemaVersion":1,"payload":{},"meta":{"clientTs":1,"more":§}}"#,
    r#"{"id":"t@@","projectId":"hostile","partition":"l","type":"note","schemaVersion":1,"payload":{},"meta":{"clientTs":1},"more":§}"#,
];

const V1_FRAMES: &[Template] = &[
    r#"{"type":"submit_events","protocolVersion":"1.0","payload":{"events":[{"id":§,"projectId":"hostile","partition":"l","type":"note","schemaVersion":1,"payload":{},"meta":{"clientTs":1}}]}}"#,
    r#"{"type":"submit_events","protocolVersion":"1.0","payload":{"events":[§]}}"#,
    r#"{"type":"submit_events","protocolVersion":"1.0","payload":{"events":§}}"#,
    r#"{"type":"sync","protocolVersion":"1.0","payload":{"projectId":§,"sinceCommittedId":0}}"#,
    r#"{"type":"sync","protocolVersion":"1.0","payload":{"projectId":"hostile","sinceCommittedId":§}}"#,
    r#"{"type":"sync","protocolVersion":"1.0","payload":{"projectId":"hostile","sinceCommittedId":0,"limit":§}}"#,
    r#"{"type":"refresh_token","protocolVersion":"1.0","payload":{"token":§}}"#,
    r#"{"type":"sync","protocolVersion":§,"payload":{"projectId":"hostile","sinceCommittedId":0}}"#,
    r#"{"type":§,"protocolVersion":"1.0","payload":{}}"#,
    r#"{"type":"sync","protocolVersion":"1.0","msgId":§,"payload":{"projectId":"hostile","sinceCommittedId":0}}"#,
    "§",
];

/// A message of the server's, read without a value that the parser could be tricked with.
#[derive(Deserialize)]
struct Told {
    #[serde(rename = "type")]
    kind: String,
    payload: Box<RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Payload {
    code: Option<String>,
    reason: Option<String>,
    draft_id: Option<Box<RawValue>>,
    errors: Vec<Finding>,
    results: Vec<Item>,
}

#[derive(Deserialize)]
struct Finding {
    code: String,
}

#[derive(Deserialize)]
struct Item {
    id: Box<RawValue>,
    status: String,
    reason: Option<String>,
    #[serde(default)]
    errors: Vec<Finding>,
}

const KINDS: [&str; 11] = [
    "connected",
    "event_accepted",
    "event_rejected",
    "broadcast",
    "sync_response",
    "state_part",
    "heartbeat",
    "token_refreshed",
    "error",
    "submit_events_result",
    "event_broadcast",
];
const CLOSES: [u16; 9] = [1000, 1001, 1002, 1007, 1008, 1009, 1011, 1013, 1005];

fn is_documented(name: &str) -> bool {
    PROTOCOL.contains(&format!("`{name}`"))
}

/// Checks that a message is one of those that are documented.
fn read(message: &str, frame: &str) -> (String, Payload) {
    let shown =
        || (message.chars().take(300).collect::<String>(), frame.chars().take(300).collect::<String>());
    let told: Told = serde_json::from_str(message).unwrap_or_else(|error| panic!("{error}: {:?}", shown()));
    assert!(KINDS.contains(&told.kind.as_str()), "{:?}", shown());
    let payload: Payload = match told.kind.as_str() {
        "error" | "event_rejected" | "event_accepted" | "submit_events_result" => {
            serde_json::from_str(told.payload.get()).unwrap_or_else(|error| panic!("{error}: {:?}", shown()))
        }
        _ => Payload::default(),
    };
    let findings = payload.errors.iter().chain(payload.results.iter().flat_map(|item| &item.errors));
    let reasons = payload.reason.iter().chain(payload.results.iter().filter_map(|item| item.reason.as_ref()));
    let names = findings.map(|finding| &finding.code).chain(reasons).chain(&payload.code);
    for name in names.filter(|name| !["prior_item_failed"].contains(&name.as_str())) {
        assert!(is_documented(name), "{name} is not in PROTOCOL.md: {:?}", shown());
        assert!(!["server_error", "INTERNAL_ERROR"].contains(&name.as_str()), "a defect: {:?}", shown());
    }
    if told.kind == "event_rejected" {
        assert!(!payload.errors.is_empty(), "{:?}", shown());
    }
    (told.kind, payload)
}

/// The end of a connection must be one that was told.
fn check_end(gone: Gone, told: Option<&str>, frame: &str) {
    let shown = frame.chars().take(300).collect::<String>();
    assert!(gone.code.is_some_and(|code| CLOSES.contains(&code)), "{gone:?} for {shown}");
    assert!(told.is_some(), "closed with {gone:?} and no error before it, for {shown}");
}

/// What all the tries are made on.
struct Field {
    cluster: Cluster,
    witness: Client,
    tries: usize,
}

impl Field {
    async fn new() -> Self {
        let cluster = Cluster::start()
            .set("frontend.connections_per_client_max", 10_000)
            .set("frontend.upgrades_per_second_max", 0)
            .await;
        let witness = cluster.client(0, "witness").partition("elsewhere").await;
        Self { cluster, witness, tries: 0 }
    }

    fn frontend(&self) -> &Frontend {
        &self.cluster.frontends[0]
    }

    /// Every template with every trick; now and then the witness must be served.
    async fn each(
        &mut self,
        templates: &[Template],
        mut attempt: impl AsyncFnMut(&Frontend, String, usize, bool),
    ) {
        let tricks = tricks();
        for template in templates {
            for trick in &tricks {
                self.tries += 1;
                let frame = template.replace('§', trick).replace("@@", &self.tries.to_string());
                let is_json = serde_json::from_str::<&RawValue>(&frame).is_ok();
                attempt(&self.cluster.frontends[0], frame, self.tries, is_json).await;
            }
            let draft = self.witness.submit("set", json!({ "target": "alive", "value": self.tries })).await;
            self.witness.expect_accepted(&draft).await;
        }
    }

    /// All live, nobody was cut off, and what was committed in a partition is what everybody can read.
    async fn end(mut self, partition: Option<&str>) {
        assert_eq!(self.witness.connections, 1);
        if let Some(partition) = partition {
            let log = self.cluster.run(&["log", partition]);
            for line in String::from_utf8(log.stdout).unwrap().lines() {
                // Not into a value of `serde_json`, which the keys in it would trick.
                Json::<Infallible>::parse(line.as_bytes())
                    .unwrap_or_else(|error| panic!("{error}: {line:.600}"));
                assert!(super::hostile_json::depth(line) <= DEPTH_MAX, "{line:.600}");
            }
            // Another validator folds all of it.
            self.cluster.run(&["state", partition]);
            self.cluster.restart_validator(0).await;
            let mut after = classic(self.frontend(), usize::MAX).await;
            assert!(between(&mut after, r#"{"type":"heartbeat"}"#, usize::MAX, false).await);
        }
        let Cluster { frontends, validators, .. } = &mut self.cluster;
        for process in [&mut frontends[0].process, &mut validators[0].process] {
            assert!(process.is_running());
            assert!(!process.output().contains("panicked"), "{}", process.output());
        }
    }
}

fn v1_connect(n: impl std::fmt::Display) -> String {
    envelope("connect", "good", &json!({ "token": "t", "clientId": format!("v{n}"), "projectId": "hostile" }))
}

async fn is_connected(frontend: &Frontend, frame: &str, good: String) {
    let mut socket = Socket::open(&frontend.url()).await.unwrap();
    // It may be closed before it has taken all of it.
    let _ = socket.send_text(frame).await;
    let (kind, _) = match socket.receive_text().await {
        Ok(message) => read(&message, frame),
        Err(gone) => return check_end(gone, None, frame),
    };
    if kind == "connected" {
        return;
    }
    assert_eq!(kind, "error", "{}", frame.chars().take(300).collect::<String>());
    // It may try again where it was not closed.
    let _ = socket.send_text(good).await;
    match socket.receive_text().await {
        Ok(message) => assert_eq!(read(&message, frame).0, "connected", "{message} after {frame:.300}"),
        Err(gone) => check_end(gone, Some("error"), frame),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_connect_harms_anybody() {
    let mut field = Field::new().await;
    field
        .each(CLASSIC_CONNECTS, async |frontend, frame, n, _| {
            let payload = json!({ "clientId": format!("g{n}"), "version": "1" });
            let good = json!({ "id": "good", "type": "connect", "timestamp": 1, "payload": payload });
            is_connected(frontend, &frame, good.to_string()).await;
        })
        .await;
    field
        .each(V1_CONNECTS, async |frontend, frame, n, _| {
            is_connected(frontend, &frame, v1_connect(n)).await;
        })
        .await;
    field.end(None).await;
}

/// A connection of the classic dialect; another one when that is closed.
async fn classic(frontend: &Frontend, n: usize) -> Socket {
    let mut socket = Socket::open(&frontend.url()).await.unwrap();
    let connect = json!({ "clientId": format!("c{n}"), "version": "1", "partition": "hostile" });
    socket.send("connect", connect).await.unwrap();
    assert_eq!(read(&socket.receive_text().await.unwrap(), "").0, "connected");
    socket
}

fn good_draft(name: &str, n: usize) -> String {
    format!(
        r#"{{"type":"submit_event","payload":{{"draftId":"{name}{n}","event":{{"type":"set","payload":{{"target":"good","value":{n}}}}}}}}}"#
    )
}

/// Sends a frame between two good drafts, and a heartbeat behind them. The good ones must be accepted, and the frame
/// answered if it is a draft. Tells whether the connection goes on.
async fn between(socket: &mut Socket, frame: &str, n: usize, is_draft: bool) -> bool {
    let heartbeat = format!(r#"{{"id":"h{n}","type":"heartbeat"}}"#);
    for text in [good_draft("a", n), frame.to_owned(), good_draft("b", n), heartbeat] {
        let _ = socket.send_text(text).await;
    }
    let ids = ["a", "t", "b"].map(|name| format!("\"{name}{n}\""));
    let (mut answered, mut heard, mut error) = ([false, !is_draft, false], false, None);
    while !(heard && answered == [true; 3]) {
        let message = match socket.receive_text().await {
            Ok(message) => message,
            Err(gone) => {
                check_end(gone, error.as_deref(), frame);
                return false;
            }
        };
        let (kind, payload) = read(&message, frame);
        let id = payload.draft_id.as_ref().and_then(|id| ids.iter().position(|known| known == id.get()));
        match (kind.as_str(), id) {
            ("event_accepted" | "event_rejected", Some(id)) => {
                assert!(id == 1 || kind == "event_accepted", "{message} beside {frame:.300}");
                answered[id] = true;
            }
            ("heartbeat", _) => heard |= message.contains(&format!("\"replyTo\":\"h{n}\"")),
            ("error", _) => error = payload.code,
            _ => {}
        }
    }
    true
}

/// Tries all of these on connections of the classic dialect.
async fn classic_frames(templates: &[Template], are_drafts: bool, may_close: bool) {
    let mut field = Field::new().await;
    let mut socket = Some(classic(field.frontend(), 0).await);
    field
        .each(templates, async |frontend, frame, n, is_json| {
            let mut one = match socket.take() {
                Some(socket) => socket,
                None => classic(frontend, n).await,
            };
            let goes_on = between(&mut one, &frame, n, are_drafts && is_json).await;
            assert!(goes_on || may_close || !is_json, "closed for one draft: {frame:.300}");
            socket = goes_on.then_some(one);
        })
        .await;
    drop(socket);
    field.end(Some("hostile")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_classic_draft_harms_the_drafts_beside_it() {
    classic_frames(SUBMISSIONS, true, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_beside_a_classic_draft_keeps_its_answer_back() {
    classic_frames(ENVELOPES, true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_another_classic_frame_harms_the_drafts_beside_it() {
    classic_frames(CLASSIC_FRAMES, false, true).await;
}

async fn v1(frontend: &Frontend, n: usize) -> Socket {
    let mut socket = Socket::open(&frontend.url()).await.unwrap();
    socket.send_text(v1_connect(n)).await.unwrap();
    assert_eq!(read(&socket.receive_text().await.unwrap(), "").0, "connected");
    socket
}

fn good_item(name: &str, n: usize) -> String {
    format!(
        r#"{{"id":"{name}{n}","projectId":"hostile","partition":"l","type":"note","schemaVersion":1,"payload":{{"n":{n}}},"meta":{{"clientTs":1}}}}"#
    )
}

fn batch(items: &[String]) -> String {
    format!(
        r#"{{"type":"submit_events","protocolVersion":"1.0","payload":{{"events":[{}]}}}}"#,
        items.join(",")
    )
}

/// The answer to a frame past broadcasts, or the end.
async fn v1_answer(socket: &mut Socket, frame: &str) -> Result<(String, Payload), Gone> {
    loop {
        let told = read(&socket.receive_text().await?, frame);
        if told.0 != "event_broadcast" {
            return Ok(told);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_a_v1_item_harms_the_items_beside_it() {
    let mut field = Field::new().await;
    let mut socket = Some(v1(field.frontend(), 0).await);
    field
        .each(ITEMS, async |frontend, item, n, is_json| {
            let mut one = match socket.take() {
                Some(socket) => socket,
                None => v1(frontend, n).await,
            };
            let frame = batch(&[good_item("a", n), item, good_item("b", n)]);
            let _ = one.send_text(frame.as_str()).await;
            let (kind, payload) = match v1_answer(&mut one, &frame).await {
                Ok(told) => told,
                Err(gone) => panic!("{gone:?} for one item: {frame:.600}"),
            };
            if is_json {
                assert_eq!(kind, "submit_events_result", "{:?} for {frame:.600}", payload.code);
                let ids: Vec<&str> = payload.results.iter().map(|item| item.id.get()).collect();
                assert_eq!(ids, [format!("\"a{n}\""), format!("\"t{n}\""), format!("\"b{n}\"")]);
                let statuses: Vec<&str> = payload.results.iter().map(|item| item.status.as_str()).collect();
                match statuses[..] {
                    ["committed", "committed", "committed"] => {}
                    ["committed", "rejected", "not_processed"] => {
                        assert!(!payload.results[1].errors.is_empty(), "{frame:.600}");
                    }
                    _ => panic!("{statuses:?} for {frame:.600}"),
                }
            } else if kind == "error" {
                let code = payload.code.unwrap();
                assert_eq!(code, "bad_request", "{frame:.600}");
            }
            // The client goes on with what was behind it.
            let again = batch(&[good_item("b", n)]);
            match one.send_text(again).await {
                Ok(()) => match v1_answer(&mut one, &frame).await {
                    Ok((kind, payload)) => {
                        assert_eq!(kind, "submit_events_result", "{:?} after {frame:.600}", payload.code);
                        assert_eq!(payload.results[0].status, "committed", "after {frame:.600}");
                        socket = Some(one);
                    }
                    // Nested too deep, and no JSON that an item could be found in.
                    Err(gone) => assert!(!is_json && gone.code == Some(1009), "{gone:?} after {frame:.600}"),
                },
                Err(gone) => assert!(!is_json, "{gone:?} after {frame:.600}"),
            }
        })
        .await;
    drop(socket);
    field.end(Some("hostile")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_another_v1_frame_harms_anybody() {
    let mut field = Field::new().await;
    let mut socket = Some(v1(field.frontend(), 0).await);
    field
        .each(V1_FRAMES, async |frontend, frame, n, _| {
            let mut one = match socket.take() {
                Some(socket) => socket,
                None => v1(frontend, n).await,
            };
            let _ = one.send_text(frame.as_str()).await;
            let mut error = None;
            match v1_answer(&mut one, &frame).await {
                Ok((kind, payload)) if kind == "error" => error = payload.code,
                Ok(_) => {}
                Err(gone) => return check_end(gone, None, &frame),
            }
            let _ = one.send_text(batch(&[good_item("g", n)])).await;
            match v1_answer(&mut one, &frame).await {
                Ok((kind, payload)) => {
                    assert_eq!(kind, "submit_events_result", "{:?} after {frame:.300}", payload.code);
                    assert_eq!(payload.results[0].status, "committed");
                    socket = Some(one);
                }
                Err(gone) => check_end(gone, error.as_deref(), &frame),
            }
        })
        .await;
    drop(socket);
    field.end(Some("hostile")).await;
}

/// What comes as something else than one whole text frame.
#[tokio::test(flavor = "multi_thread")]
async fn a_frame_may_come_in_any_form_that_websockets_have() {
    let field = Field::new().await;
    let heartbeat = r#"{"id":"h","type":"heartbeat","timestamp":1,"payload":{}}"#;
    let raw = |payload: &[u8], first: u8| frame(first, payload.len() as u64, payload);
    let halves = |at: usize, text: &str| {
        let (first, rest) = text.as_bytes().split_at(at);
        [raw(first, 0x01), raw(rest, 0x80)].concat()
    };
    let emoji = r#"{"id":"😀","type":"heartbeat"}"#;
    let bytewise: Vec<u8> = {
        let bytes = heartbeat.as_bytes();
        let (last, all) = bytes.split_last().unwrap();
        let mut wire = raw(&[], 0x01);
        all.iter().for_each(|byte| wire.extend(raw(&[*byte], 0x00)));
        wire.extend(raw(&[*last], 0x80));
        wire
    };
    let with_ping = [raw(b"{\"id\":\"h\",", 0x01), raw(b"p", 0x89), raw(b"\"type\":\"heartbeat\"}", 0x80)];
    const ANSWERED: &str = "\"replyTo\":\"h\"";
    let cases: [(&str, Vec<u8>, &str); 12] = [
        ("whole", text(heartbeat), ANSWERED),
        ("in two", halves(20, heartbeat), ANSWERED),
        ("parted inside of a character", halves(9, emoji), "\"replyTo\":\"😀\""),
        ("byte by byte", bytewise, ANSWERED),
        ("with a ping inside", with_ping.concat(), ANSWERED),
        ("with blanks around", text(&format!(" \r\n\t{heartbeat}\n ")), ANSWERED),
        ("with a byte order mark", text(&format!("\u{feff}{heartbeat}")), "\"bad_request\""),
        ("with a NUL behind", text(&format!("{heartbeat}\u{0}")), "\"bad_request\""),
        ("twice in one", text(&format!("{heartbeat}{heartbeat}")), "\"bad_request\""),
        ("empty", text(""), "\"bad_request\""),
        ("binary", raw(heartbeat.as_bytes(), 0x82), "\"bad_request\""),
        ("binary, in two", [raw(b"{", 0x02), raw(b"}", 0x80)].concat(), "\"bad_request\""),
    ];
    for (what, wire, expected) in cases {
        let (answers, alive) = answers_to(field.frontend(), wire).await;
        assert!(answers.contains(expected), "{what}: {answers}");
        assert!(alive, "{what} closed the connection: {answers}");
    }
    // Nothing is compressed, whatever is offered, and what looks compressed is no frame.
    let offer =
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-webkit-deflate-frame\r\n";
    let (response, _) = ask(field.frontend().port, &upgrade(offer)).await;
    assert_eq!((response.status, response.header("sec-websocket-extensions")), (101, None));
    let (code, said) = super::attacks::raw(field.frontend(), [raw(b"{}", 0xC1)]).await;
    assert_eq!(code, 1002, "{said}");
    field.end(None).await;
}

/// What is answered behind a `connect`, and whether the connection answers afterwards.
async fn answers_to(frontend: &Frontend, wire: Vec<u8>) -> (String, bool) {
    let (response, mut stream) = ask(frontend.port, &upgrade("")).await;
    assert_eq!(response.status, 101);
    let connect = text(r#"{"type":"connect","payload":{"clientId":"raw","version":"1"}}"#);
    let after = text(r#"{"id":"after","type":"heartbeat"}"#);
    stream.write_all(&[connect, wire, after].concat()).await.unwrap();
    let mut bytes = Vec::new();
    let is_answered = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("\"replyTo\":\"after\"");
    let reading = async {
        while !is_answered(&bytes) {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return false;
            }
        }
        true
    };
    let alive = timeout(DEADLINE, reading).await.expect("an answer in time");
    (String::from_utf8_lossy(&bytes).into_owned(), alive)
}
