//! Who may do what, by an application's rules: who may open a partition, who may submit an event, and what of another's he
//! may change. The rules see what the token says, in both dialects; the log does not keep it.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::cluster::Cluster;
use crate::harness::key_server::{KeyServer, Mood};
use crate::harness::many::Many;
use crate::harness::plain::Plain;
use crate::harness::socket::Socket;
use crate::harness::tokens::{SECRET, TestKey, now_s};
use crate::harness::v1::V1Client;
use crate::harness::{temp_dir, until};
use crate::stories::rules_in_force::{put_in_force, with_tokens};
use crate::stories::tokens::{connect, connect_v1};

const NOTES: &str = r#"
export const version = 1;
export const initialState = () => ({ notes: {} });
export const authorize = ({ client, partition }) => {
  if (client.claims.app?.broken) throw new Error("no such application");
  return client.claims.app?.boards.includes(partition);
};
const edit = {
  check: ({ state, payload, client, reject }) => {
    const note = state.notes[payload.id];
    if (!note) return reject("NOTE_NOT_FOUND", "payload.id");
    if (note.by !== client.userId && !client.roles.includes("moderator")) {
      reject("NOT_YOURS", "payload.id", "only its author and moderators change a note");
    }
    if (payload.text.length > (client.claims.app.letters ?? 10)) reject("TOO_LONG", "payload.text");
  },
  reduce: ({ state, payload }) => {
    state.notes[payload.id].text = payload.text;
  },
};
export const events = {
  "note.added": {
    allow: ({ client }) => client.roles.includes("member"),
    reduce: ({ state, payload, event }) => {
      state.notes[payload.id] = { text: payload.text, by: event.userId };
    },
  },
  "note.edited": edit,
};
"#;

/// A backend under these rules.
async fn notes(dir: &Path) -> (Cluster, TestKey) {
    let cluster = with_tokens(dir).set("auth.rules_claims", "app").await;
    publish(&cluster, dir, NOTES).await;
    (cluster, TestKey::secret(SECRET))
}

async fn publish(cluster: &Cluster, dir: &Path, module: &str) {
    let file = dir.join("notes.js");
    std::fs::write(&file, module).unwrap();
    let version = put_in_force(cluster, &file).await;
    for frontend in &cluster.frontends {
        until("the frontend to take the rules", async || {
            let output = frontend.process.output();
            let last = output.lines().rfind(|line| line.contains("rules say who may open a partition"));
            last.is_some_and(|line| line.contains(&version)).then_some(())
        })
        .await;
    }
}

/// A token of a user, who may open the partition `default`.
fn token(key: &TestKey, user: &str, roles: &[&str]) -> String {
    key.token(
        user,
        json!({ "userId": format!("u-{user}"), "roles": roles, "app": { "boards": ["default"] } }),
    )
}

fn note(text: &str) -> Value {
    json!({ "id": "n1", "text": text })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_edits_nothing_an_owner_his_own_and_a_role_counts_from_the_fresh_token_on() {
    let dir = temp_dir();
    let (cluster, key) = notes(dir.path()).await;
    let url = cluster.frontends[0].url();
    let join =
        async |user: &str, roles: &[&str]| Client::of(&url, user).token(token(&key, user, roles)).await;
    let mut viewer = join("vic", &["viewer"]).await;
    let mut ann = join("ann", &["member"]).await;
    let mut bob = join("bob", &["member"]).await;
    let mut vera = V1Client::new(&url, "vera", "default");
    vera.token = token(&key, "vera", &["member"]);
    vera.reconnect().await;

    let draft = viewer.submit("note.added", note("mine")).await;
    let errors = viewer.expect_rejected(&draft, "forbidden").await;
    assert_eq!((&errors[0]["code"], &errors[0]["field"]), (&json!("FORBIDDEN"), &json!("type")));
    ann.commit("note.added", note("first")).await;

    // Another's note, in both dialects.
    let draft = bob.submit("note.edited", note("bob's")).await;
    let errors = bob.expect_rejected(&draft, "validation_failed").await;
    assert_eq!((&errors[0]["code"], &errors[0]["field"]), (&json!("NOT_YOURS"), &json!("payload.id")));
    let results = vera.results(vec![vera.event("v1", "note.edited", note("vera's"))]).await;
    assert!(format!("{results:?}").contains("NOT_YOURS"), "{results:?}");
    // One's own; as long as the token's claims say.
    ann.commit("note.edited", note("second")).await;
    let draft = ann.submit("note.edited", note("much longer")).await;
    assert_eq!(ann.expect_rejected(&draft, "validation_failed").await[0]["code"], "TOO_LONG");
    let long = key.token(
        "ann",
        json!({ "userId": "u-ann", "roles": ["member"], "app": { "boards": ["default"], "letters": 20 } }),
    );
    refresh(&mut ann, &long).await;
    ann.commit("note.edited", note("much longer")).await;

    // A role that the fresh token names counts from there on, and one that it does not name no more.
    refresh(&mut bob, &token(&key, "bob", &["member", "moderator"])).await;
    bob.commit("note.edited", note("bob's")).await;
    refresh(&mut bob, &token(&key, "bob", &["viewer"])).await;
    let draft = bob.submit("note.edited", note("again")).await;
    assert_eq!(bob.expect_rejected(&draft, "validation_failed").await[0]["code"], "NOT_YOURS");
    vera.token = token(&key, "vera", &["moderator"]);
    vera.reconnect().await;
    vera.commit(vera.event("v2", "note.edited", note("vera's"))).await;
    let state: Value = serde_json::from_str(&cluster.state("default")).unwrap();
    assert_eq!(state, json!({ "notes": { "n1": { "text": "vera's", "by": "u-ann" } } }));

    // No record has anything of a token.
    let log = format!("{:?}", cluster.log_with_marks("default"));
    for secret in ["boards", "letters", "moderator", "member", "eyJ"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
    // So what these rules would say of the log's events now is not known, and that is said.
    let file = dir.path().join("notes.js");
    let checked = cluster.run(&["rules", "check", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("0 would be refused now") && said.contains("were not checked"), "{said}");
}

/// Goes on under a fresh token.
async fn refresh(client: &mut Client, token: &str) {
    client.send("refresh_token", json!({ "token": token })).await;
    while client.step().await["type"] != "token_refreshed" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_rules_do_not_let_in_opens_no_partition_and_commits_in_none() {
    let dir = temp_dir();
    let (cluster, key) = notes(dir.path()).await;
    let frontend = &cluster.frontends[0];
    let (may, may_not) = (token(&key, "ann", &["member"]), key.token("ann", json!({ "roles": ["member"] })));
    let refusal = "the application's rules do not let this client into this partition";

    // At the door, in both dialects.
    let (mut socket, answer) = connect(frontend, "ann", "default", Some(&may_not)).await;
    assert_eq!((&answer["type"], &answer["payload"]["code"]), (&json!("error"), &json!("forbidden")));
    assert_eq!(answer["payload"]["message"], refusal);
    // The classic dialect lets him try again, on the same connection.
    let again = json!({ "clientId": "ann", "version": "test", "partition": "default", "token": may });
    socket.send("connect", again).await.unwrap();
    socket.expect("connected").await;
    let (_, answer) = connect(frontend, "ann", "other", Some(&may)).await;
    assert_eq!(answer["payload"]["code"], "forbidden", "{answer}");
    let (_, answer) = connect_v1(frontend, "ann", &may_not).await;
    assert_eq!((&answer["type"], &answer["payload"]["code"]), (&json!("error"), &json!("forbidden")));
    let (_, answer) = connect_v1(frontend, "ann", &may).await;
    assert_eq!(answer["type"], "connected", "{answer}");
    assert_eq!(frontend.metric("insieme_rules_entries_refused_total", "refused").await, 3.0);

    // Without a WebSocket.
    let asks = |token: &str| Plain::with(&frontend.url(), Some(token));
    assert_eq!(asks(&may_not).get("default/state").await.expect(403, "forbidden")["message"], refusal);
    assert_eq!(asks(&may).get("default/state").await.status, 200);
    let draft = json!({ "id": "h1", "type": "note.added", "payload": note("by http") });
    asks(&may_not).submit(&draft).await.expect(403, "forbidden");

    // Of several partitions those that he may open.
    let connect_many =
        json!({ "clientId": "ann", "version": "test", "token": may, "partitions": ["default", "other"] });
    let mut many = Many::connect_with(&frontend.url(), connect_many).await;
    assert_eq!(many.error("forbidden").await["payload"]["message"], refusal);
    many.subscribed("default").await;
    many.send("subscribe", json!({ "partition": "third" })).await;
    many.error("forbidden").await;
    // What the fresh token does not open any more is closed.
    many.send("refresh_token", json!({ "token": may_not })).await;
    while many.of["default"].is_open {
        many.step().await.unwrap();
    }

    // A claim with which the rules fail lets nobody in, and is told to whoever keeps the rules.
    let broken = key.token("eve", json!({ "app": { "broken": true } }));
    let (_, answer) = connect(frontend, "eve", "default", Some(&broken)).await;
    assert_eq!(answer["payload"]["code"], "forbidden", "{answer}");
    assert!(frontend.process.output().contains("no such application"));
    // More than every draft can bring along.
    let much = key.token("eve", json!({ "app": { "boards": ["default"], "more": "x".repeat(5000) } }));
    let (_, answer) = connect(frontend, "eve", "default", Some(&much)).await;
    assert_eq!(answer["payload"]["code"], "auth_failed", "{answer}");
    assert!(answer["payload"]["message"].as_str().unwrap().contains("auth.rules_claims"), "{answer}");

    // A fresh token that does not let him in ends the connection.
    socket.send("refresh_token", json!({ "token": may_not })).await.unwrap();
    assert_eq!(socket.expect_past_broadcasts("error").await["payload"]["code"], "forbidden");
    assert_eq!(socket.expect_closed().await, 1008);

    // Who is connected when other rules come in force that do not let him in is not connected any more.
    let (mut ann, _) = connect(frontend, "ann", "default", Some(&may)).await;
    let both = json!({ "roles": ["member"], "app": { "boards": ["default", "x"] } });
    let mut bob = Client::of(&frontend.url(), "bob").token(key.token("bob", both)).await;
    let strict = NOTES
        .replace("version = 1", "version = 2")
        .replace("boards.includes(partition)", "boards.includes('x')");
    publish(&cluster, dir.path(), &strict).await;
    let told = ann.expect_past_broadcasts("error").await;
    assert!(told["payload"]["message"].as_str().unwrap().contains("other rules"), "{told}");
    assert_eq!(ann.expect_closed().await, 1001);
    let (_, answer) = connect(frontend, "ann", "default", Some(&may)).await;
    assert_eq!(answer["payload"]["code"], "forbidden", "{answer}");
    bob.commit("note.added", note("first")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_that_is_asked_says_what_its_rules_are_shown() {
    let dir = temp_dir();
    let allows = |claims: Value| {
        let answer = json!({
            "allow": true, "permissions": ["*"], "roles": ["member"], "userId": "u-ann", "expiresAt": now_s() + 600,
            "claims": claims,
        });
        Mood::Set(answer.to_string())
    };
    let hook = KeyServer::start(allows(json!({ "app": { "boards": ["default"] } }))).await;
    let cluster = Cluster::start().set("auth.hook_url", &hook.url).set("auth.hook_cache_ms", 0).await;
    publish(&cluster, dir.path(), NOTES).await;
    let frontend = &cluster.frontends[0];
    let mut ann = Client::of(&frontend.url(), "ann").token("session".to_owned()).await;
    ann.commit("note.added", note("first")).await;
    hook.change(allows(json!({ "app": { "boards": [] } })));
    let (_, answer) = connect(frontend, "ann", "default", Some("session")).await;
    assert_eq!(answer["payload"]["code"], "forbidden", "{answer}");
    // What is no object of claims, or too much, is no answer.
    for claims in [json!([1]), json!("text"), json!({ "a": "x".repeat(5000) })] {
        hook.change(allows(claims.clone()));
        let (_, answer): (Socket, Value) = connect(frontend, "ann", "default", Some("session")).await;
        assert_eq!(answer["payload"]["code"], "unavailable", "{claims}: {answer}");
    }
}
