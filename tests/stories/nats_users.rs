//! The NATS accounts and users of `nats/`: each role can do its work as its user, and a frontend's credentials in
//! other hands can neither commit, nor forge what others see, nor destroy anything.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{ConnectOptions, HeaderMap, Message};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::harness::admin::Operator;
use crate::harness::client::Client;
use crate::harness::nats;
use crate::harness::process::Process;
use crate::harness::shipped::{Shipped, as_user, connect};
use crate::harness::socket::Socket;
use crate::harness::tokens::{SECRET, TestKey};
use crate::harness::{temp_dir, until};

impl Shipped {
    async fn start() -> Self {
        let dir = temp_dir();
        let server = nats::start_shipped(dir.path()).await;
        // A snapshot after every few events, so that writing and reading them is tried too.
        let often = ["--set", "validator.snapshot_events_min=3", "--set", "validator.snapshot_share_min=0"];
        let shipped = Self::start_on(dir, server, &often, &["--set", "metrics.listen=127.0.0.1:0"]).await;
        until("all slots to be taken", async || (shipped.kept().await.slots == 64).then_some(())).await;
        shipped
    }

    /// Waits until every draft is decided.
    async fn settled(&self) {
        until("the queue to be empty", async || (self.kept().await.drafts == 0).then_some(())).await;
    }

    async fn kept(&self) -> Kept {
        let js = async_nats::jetstream::new(connect("operator", &self.url).await);
        let mut streams = js.streams();
        let mut kept = Kept::default();
        while let Some(stream) = streams.next().await {
            let stream = stream.unwrap();
            let state = &stream.state;
            match stream.config.name.as_str() {
                "DRAFTS" => (kept.drafts, kept.slots) = (state.messages, state.consumer_count),
                "COMMITTED" => {
                    kept.events = (state.messages, state.first_sequence, state.last_sequence);
                    kept.readers = state.consumer_count;
                }
                _ => {}
            }
            kept.streams.insert(stream.config.name);
        }
        kept
    }
}

/// What NATS keeps.
#[derive(Debug, Default, PartialEq)]
struct Kept {
    streams: BTreeSet<String>,
    /// How many drafts are not decided, and how many consumers there are for them.
    drafts: u64,
    slots: usize,
    /// How many events there are, the first, and the last; and how many consumers.
    events: (u64, u64, u64),
    readers: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_works_as_its_user() {
    let mut shipped = Shipped::start().await;
    let mut ann = Client::of(&shipped.address, "ann").await;
    for number in 0..10 {
        ann.commit("set", json!({ "target": format!("k{number}"), "value": "x".repeat(50_000) })).await;
    }
    // Both parts of it.
    shipped.validator.line_with("snapshot written").await;
    let drafts = [ann.submit("treePush", json!({})).await, ann.submit("nonsense", json!({})).await];
    for draft in drafts {
        ann.expect_rejected(&draft, "validation_failed").await;
    }
    let states: Vec<String> = ["frontend", "operator"]
        .into_iter()
        .map(|user| {
            let read = |command: &str, more: &[&str]| {
                let output = as_user(command, user, &shipped.url).arg("default").args(more).output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8(output.stdout).unwrap()
            };
            assert_eq!(read("log", &[]).lines().count(), 10);
            read("state", &["--hash"])
        })
        .collect();
    assert_eq!(states[0], states[1]);
    // A second frontend, which finds it all in the log, and what is live crosses both.
    let mut bob = Client::of(&shipped.address, "bob").await;
    let event = ann.commit("set", json!({ "target": "late", "value": 1 })).await;
    bob.caught_up(event["eventId"].as_u64().unwrap()).await;

    // Rules of one's own: the operator puts them in force, the validator decides by them, and a frontend, which may
    // read them too, folds by them.
    let rules = shipped.dir.path().join("rules.js");
    let module = "export const version = 1; export const events = { counted: {\n\
        check: ({ state, reject }) => { if (state.count >= 1) reject('ENOUGH'); },\n\
        reduce: ({ state }) => { state.count = 1; } } };";
    std::fs::write(&rules, module).unwrap();
    for arguments in [vec!["publish", rules.to_str().unwrap()], vec!["activate", "1"]] {
        let output = as_user("rules", "operator", &shipped.url).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    shipped.validator.line_with("the application's rules decide").await;
    ann.commit("counted", json!({})).await;
    let draft = ann.submit("counted", json!({})).await;
    assert_eq!(ann.expect_rejected(&draft, "validation_failed").await[0]["code"], "ENOUGH");
    let output = as_user("state", "frontend", &shipped.url).arg("default").output().unwrap();
    let state: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(state["count"], 1, "{}", String::from_utf8_lossy(&output.stderr));

    // The administration asks and orders across the border, and a frontend that asks for tokens reads there what
    // was revoked.
    let dir = temp_dir();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let with_tokens = |role: &str, user: &str, more: &[&str]| {
        let mut command = as_user(role, user, &shipped.url);
        command.args(more).args(["--listen", "127.0.0.1:0"]).env("INSIEME_AUTH_SECRET_FILE", &secret);
        Process::spawn(&format!("{role}-with-tokens"), command, dir.path())
    };
    let mut guarded = with_tokens("frontend", "frontend", &["--set", "frontend.id=guarded"]);
    let guarded_at = guarded.line_with("frontend ready: ").await;
    let mut admin = with_tokens("admin", "operator", &["serve"]);
    let token = TestKey::secret(SECRET).token("cid", json!({ "jti": "t-1", "permissions": ["*", "admin"] }));
    let ops = Operator::new(&admin.line_with("admin ready: ").await, Some(&token));
    let cid = until("the frontend to know what was revoked", async || {
        let mut socket = Socket::open(&guarded_at).await.ok()?;
        let connect = json!({ "clientId": "cid", "version": "test", "token": token });
        socket.send("connect", connect).await.ok()?;
        (socket.receive().await.ok()?["type"] == "connected").then_some(socket)
    });
    let mut cid = cid.await;
    let connections = ops.get("/partitions/default/connections").await.json();
    let clients = |answer: &Value| {
        let found = answer["connections"].as_array().unwrap().clone();
        found.iter().map(|one| one["client"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(clients(&connections), ["ann", "bob", "cid"], "{connections}");
    let processes = ops.get("/processes").await.json();
    assert_eq!(processes["processes"].as_array().unwrap().len(), 4, "{processes}");
    let revoked = ops.post("/tokens/t-1/revoke", "").await.json();
    assert_eq!((&revoked["closed"], &revoked["complete"]), (&json!(1), &json!(true)), "{revoked}");
    cid.expect_error("auth_failed").await;
    assert_eq!(cid.expect_closed().await, 1008);
    for process in [&shipped.server, &shipped.validator, &shipped.frontend, &guarded, &admin] {
        assert!(!process.output().contains("iolation"), "{}", process.tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_frontend_credential_may_publish_and_hear_nothing_more() {
    let mut shipped = Shipped::start().await;
    let mut ann = Client::of(&shipped.address, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    shipped.settled().await;
    let before = shipped.kept().await;

    let stolen = connect("frontend", &shipped.url).await;
    let subjects = [
        "committed.default",
        "live.default",
        "answer.someone",
        "control.all",
        "$KV.SLOTS.slot.1",
        "$KV.REVOKED.token.forged",
        "$KV.RULES.in-force",
        "$O.SNAPSHOTS.M.x",
        "$JS.ACK.DRAFTS.slot-1-1.1.1.1.1.1",
        "$JS.API.STREAM.DELETE.COMMITTED",
        "$JS.API.STREAM.PURGE.COMMITTED",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.MSG.DELETE.COMMITTED",
        "$JS.API.CONSUMER.CREATE.COMMITTED",
        "$JS.API.CONSUMER.DELETE.DRAFTS.slot-1-1",
        "$JS.API.DIRECT.GET.COMMITTED",
        "$SYS.REQ.SERVER.PING",
        "_INBOX.someone.1",
        "_R_.someone",
    ];
    for subject in subjects {
        stolen.publish(subject, "forged".into()).await.unwrap();
    }
    for subject in subjects {
        shipped.server.line_with(&format!("Publish Violation - Subject \"{subject}\"")).await;
    }
    // The API's prefix gives no more of the API than is imported.
    for request in [
        "STREAM.DELETE.COMMITTED",
        "STREAM.PURGE.COMMITTED",
        "STREAM.UPDATE.COMMITTED",
        "STREAM.CREATE.MINE",
        "STREAM.NAMES",
        "STREAM.MSG.DELETE.COMMITTED",
        "STREAM.MSG.GET.COMMITTED",
        "STREAM.MSG.GET.DRAFTS",
        "STREAM.SNAPSHOT.COMMITTED",
        "CONSUMER.CREATE.COMMITTED",
        "CONSUMER.CREATE.DRAFTS",
        "CONSUMER.NAMES.DRAFTS",
        "CONSUMER.MSG.NEXT.DRAFTS.slot-1-1",
        "CONSUMER.DELETE.DRAFTS.slot-1-1",
        "STREAM.DELETE.KV_REVOKED",
        "STREAM.PURGE.KV_REVOKED",
        "STREAM.DELETE.KV_RULES",
        "STREAM.PURGE.KV_RULES",
        "DIRECT.GET.KV_SLOTS",
        "DIRECT.GET.DRAFTS",
    ] {
        let answer = stolen.request(format!("core.{request}"), "{}".into()).await;
        let kind = answer.unwrap_err().kind();
        assert_eq!(kind, async_nats::client::RequestErrorKind::NoResponders, "{request}");
    }
    let subjects = [
        ">",
        "committed.>",
        "draft.>",
        "$KV.>",
        "$JS.>",
        "$SYS.>",
        "_R_.>",
        "report.>",
        "core.>",
        "*.default",
    ];
    for subject in subjects {
        stolen.subscribe(subject).await.unwrap();
    }
    for subject in subjects {
        shipped.server.line_with(&format!("Subscription Violation - Subject \"{subject}\"")).await;
    }

    // Inboxes of the others' account are not to be heard in this one.
    let mut inboxes = stolen.subscribe("_INBOX.>").await.unwrap();
    stolen.flush().await.unwrap();
    let operator = connect("operator", &shipped.url).await;
    let mut replies = operator.subscribe("_INBOX.operator.1").await.unwrap();
    operator.publish_with_reply("$JS.API.INFO", "_INBOX.operator.1", "".into()).await.unwrap();
    replies.next().await.unwrap();
    stolen.publish_with_reply("core.INFO", "_INBOX.stolen.1", "".into()).await.unwrap();
    let mut heard = String::new();
    while heard != "_INBOX.stolen.1" {
        heard = inboxes.next().await.unwrap().subject.to_string();
        assert_ne!(heard, "_INBOX.operator.1");
    }

    for (user, password) in [("frontend", "wrong"), ("validator", "frontendSecret"), ("", "")] {
        let options = ConnectOptions::with_user_and_password(user.into(), password.into());
        assert!(options.connect(&shipped.url).await.is_err(), "{user}");
    }
    assert!(async_nats::connect(&shipped.url).await.is_err(), "nobody");
    assert_eq!(shipped.kept().await, before);
    ann.commit("set", json!({ "target": "a", "value": 2 })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stolen_frontend_credential_puts_where_no_slot_is_does_not_stay() {
    let shipped = Shipped::start().await;
    let mut ann = Client::of(&shipped.address, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    shipped.settled().await;
    let stolen = connect("frontend", &shipped.url).await;
    for subject in ["draft.9999.default", "draft.007.x", "draft.x", "draft.65536.a.b"] {
        for _ in 0..20 {
            stolen.publish(subject, "x".repeat(1_000).into()).await.unwrap();
        }
    }
    stolen.flush().await.unwrap();
    until("them to be on the queue", async || (shipped.kept().await.drafts == 80).then_some(())).await;
    shipped.settled().await;
    assert!(shipped.validator.output().contains("drafts in no slot's reach were thrown away"));
    // Good drafts are none of them.
    ann.commit("set", json!({ "target": "a", "value": 2 })).await;
}

/// NATS sends a reply to whatever subject its request names, and does not look whether the requester may publish
/// there.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_frontend_credential_cannot_have_replies_taken_for_events() {
    let shipped = Shipped::start().await;
    let mut ann = Client::of(&shipped.address, "ann").await;
    for value in 0..5 {
        ann.commit("set", json!({ "target": "a", "value": value })).await;
    }
    let mut other = Client::of(&shipped.address, "olga").partition("other").await;
    other.commit("set", json!({ "target": "secret", "value": "of other" })).await;
    shipped.settled().await;
    let before = shipped.kept().await;
    let operator = connect("operator", &shipped.url).await;
    let mut core = operator.subscribe(">").await.unwrap();
    operator.flush().await.unwrap();

    let stolen = connect("frontend", &shipped.url).await;
    let mut heard = stolen.subscribe("live.default").await.unwrap();
    // The last one answers with the event of the other partition, as behind the last of this.
    let gets = [
        json!({ "seq": 1 }),
        json!({ "seq": 1, "next_by_subj": "committed.other", "batch": 9 }),
        json!({ "multi_last": ["committed.default", "committed.other"], "batch": 9 }),
    ];
    let targets = [
        "committed.default",
        "committed.new",
        "answer.someone",
        "control.all",
        "$KV.SLOTS.forged",
        "$KV.REVOKED.token.forged",
        "$KV.RULES.in-force",
        "$O.SNAPSHOTS.M.forged",
        "$JS.API.STREAM.DELETE.COMMITTED",
        "$JS.API.STREAM.PURGE.COMMITTED",
        "core.STREAM.DELETE.COMMITTED",
        "live.default",
    ];
    for target in targets {
        for get in &gets {
            let request = get.to_string().into();
            stolen.publish_with_reply("core.DIRECT.GET.COMMITTED", target, request).await.unwrap();
        }
        for request in ["core.STREAM.INFO.COMMITTED", "core.INFO", "core.DIRECT.GET.OBJ_SNAPSHOTS"] {
            stolen.publish_with_reply(request, target, "{\"seq\":1}".into()).await.unwrap();
        }
    }
    // All that was asked for has come to live.default of the frontends' account: the event of the other partition
    // in one message, in two of a batch each, and the ends of the batches.
    let (mut events, mut replies) = (0, Vec::new());
    until("the replies on the live subject", async || {
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(50), heard.next()).await {
            events += usize::from(subject_in_log(&message) == Some("committed.other"));
            replies.push(message);
        }
        (events >= 2 && replies.len() >= 8).then_some(())
    })
    .await;
    // The frontend has looked at each, ...
    until("the frontend to have ignored them", async || {
        let ignored = shipped.frontend.output().matches("JetStream did not put there; ignored").count();
        (ignored >= replies.len()).then_some(())
    })
    .await;
    // ... and ann gets her own event and no other.
    let event = ann.commit("set", json!({ "target": "a", "value": "the last" })).await;
    assert!(!event.to_string().contains("of other"));
    assert!(ann.events.iter().all(|event| !serde_json::to_string(event).unwrap().contains("of other")));
    let (count, first, last) = before.events;
    assert_eq!(shipped.kept().await.events, (count + 1, first, last + 1), "only ann's");
    // Nothing of it was stored, and whoever listens to everything there has heard none of it.
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(50), core.next()).await {
        let target = message.subject.as_str();
        let ann = String::from_utf8_lossy(&message.payload).contains("the last");
        assert!(!targets.contains(&target) || ann, "{target}");
    }
}

/// Headers by which NATS is asked to do more with a message than to deliver it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_frontend_credential_gains_nothing_by_headers() {
    let shipped = Shipped::start().await;
    let mut ann = Client::of(&shipped.address, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let (count, first, last) = shipped.kept().await.events;
    let stolen = connect("frontend", &shipped.url).await;
    let operator = connect("operator", &shipped.url).await;
    let mut heard = operator.subscribe("committed.>").await.unwrap();
    operator.flush().await.unwrap();
    for (name, value) in [
        ("Nats-Trace-Dest", "committed.default"),
        ("Nats-Rollup", "all"),
        ("Nats-Schedule", "@every 1s"),
        ("Nats-Expected-Stream", "COMMITTED"),
        ("Nats-Batch-Id", "b"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        headers.insert("Nats-Schedule-Target", "committed.default");
        let sent = stolen.publish_with_headers("draft.1.default", headers, "no draft".into());
        sent.await.unwrap();
    }
    // Whatever of it is a draft at all is one that nobody can read.
    stolen.flush().await.unwrap();
    shipped.settled().await;
    ann.commit("set", json!({ "target": "a", "value": "hers" })).await;
    let published = heard.next().await.unwrap();
    assert!(String::from_utf8_lossy(&published.payload).contains("hers"), "{published:?}");
    assert_eq!(shipped.kept().await.events, (count + 1, first, last + 1));
}

fn subject_in_log(message: &Message) -> Option<&str> {
    Some(message.headers.as_ref()?.get("Nats-Subject")?.as_str())
}
