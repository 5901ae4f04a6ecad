//! One table of attacks, all on one frontend process: what each was answered with, and the process's memory
//! before and after. Meanwhile a client that means well has its drafts answered as if nothing happened.
//!
//! `docs/SECURITY.md` has the table as it is printed by
//!
//!     cargo nextest run --features fault-points --no-capture table_of_attacks

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::attacks::{events_with, is_alive, raw, too_much};
use super::tokens::connect;
use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, Frontend};
use crate::harness::http::{self, ask, upgrade};
use crate::harness::socket::Socket;
use crate::harness::tokens::{TestKey, claims, forged, now_s, rsa_file, rsa_public_pem};
use crate::harness::until;

/// How often each attack is tried, but for those that are many by nature.
const TIMES: usize = 5;
/// How much all tries of an attack together may leave behind.
const GROWTH_BYTES_MAX: u64 = 48 << 20;
/// The same where events were written that the frontend rightly keeps at hand: ring, pages and state.
const GROWTH_WITH_EVENTS_BYTES_MAX: u64 = 160 << 20;
/// How long a draft of the bystander may wait for its answer, on a machine that is busy with other tests.
const BYSTANDER_WAIT_MAX: Duration = Duration::from_secs(5);

const AUDIENCE: &str = "insieme";
/// With the next, so low that a test can pass them.
const UPGRADES_PER_SECOND: u64 = 200;
const HANDSHAKE_TIMEOUT_MS: u64 = 1000;
const WRITE_STALL_MS: u64 = 1000;

struct Table<'a> {
    frontend: &'a Frontend,
    growth_bytes_max: u64,
    lines: Vec<String>,
}

impl Table<'_> {
    /// Tries an attack; each time the answer must hold all of `expected`.
    async fn row(
        &mut self,
        attack: &str,
        times: usize,
        expected: &[&str],
        mut run: impl AsyncFnMut() -> String,
    ) {
        let before = self.frontend.process.memory_bytes();
        let mut answer = String::new();
        for _ in 0..times {
            answer = run().await;
            for part in expected {
                assert!(answer.contains(part), "{attack}: {answer:?} does not hold {part:?}");
            }
        }
        let after = self.frontend.process.memory_bytes();
        let grown = after.saturating_sub(before);
        assert!(grown <= self.growth_bytes_max, "{attack}: {grown} bytes more than before");
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        self.lines.push(format!(
            "| {attack} | {times} | {answer} | {:.1} | {:.1} |",
            mib(before),
            mib(after)
        ));
    }
}

fn token(client: &str, changes: Value) -> String {
    let mut all = json!({ "aud": AUDIENCE });
    all.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    TestKey::rsa("a").token(client, all)
}

/// What somebody with this token is told.
async fn turned_away(frontend: &Frontend, token: &str) -> String {
    let (mut socket, answer) = connect(frontend, "mallory", "default", Some(token)).await;
    let payload = &answer["payload"];
    let (code, message) = (payload["code"].as_str().unwrap(), payload["message"].as_str().unwrap());
    format!("`{code}`, closed with {}: {message}", socket.expect_closed().await)
}

/// What is answered to somebody of this name, in a partition of this name, whose draft has this name; and to
/// events that hold it wherever an event may.
async fn named(frontend: &Frontend, name: &str) -> String {
    let is_long = name.len() > 256;
    let (mut socket, answer) = connect(frontend, name, name, Some(&token(name, json!({})))).await;
    let greeted = kind(&answer);
    if is_long {
        let short = format!("long {}", &name[..1]);
        let (other, answer) = connect(frontend, &short, &short, Some(&token(&short, json!({})))).await;
        assert_eq!(answer["type"], "connected", "{answer}");
        socket = other;
    } else {
        assert_eq!(answer["payload"]["partition"].as_str().unwrap_or(name), name, "{answer}");
    }
    let event = json!({ "type": "set", "payload": { "target": "a", "value": 1 } });
    let drafted = kind(&submitted(&mut socket, name, event).await);
    let (mut accepted, mut refused) = (0, 0);
    for (index, event) in events_with(name).into_iter().enumerate() {
        match kind(&submitted(&mut socket, &format!("e{index}"), event).await).as_str() {
            "`event_accepted`" => accepted += 1,
            _ => refused += 1,
        }
    }
    is_alive(&mut socket).await;
    format!(
        "as client and partition {greeted}, as draft {drafted}; in events {accepted} accepted, {refused} refused"
    )
}

/// A message's type, or an error's code.
fn kind(message: &Value) -> String {
    let kind = if message["type"] == "error" { &message["payload"]["code"] } else { &message["type"] };
    format!("`{}`", kind.as_str().unwrap())
}

/// The answer to one submission.
async fn submitted(socket: &mut Socket, draft: &str, event: Value) -> Value {
    socket.send("submit_event", json!({ "draftId": draft, "event": event })).await.unwrap();
    loop {
        let message = socket.receive().await.unwrap();
        if message["type"] != "broadcast" {
            return message;
        }
    }
}

/// Writes one value after the other until told to stop; gives how many, and the longest wait for an answer.
async fn bystander(mut client: Client, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut written, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let since = Instant::now();
        client.commit("set", json!({ "target": "good", "value": written })).await;
        longest = longest.max(since.elapsed());
        written += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (written, longest)
}

#[tokio::test(flavor = "multi_thread")]
async fn table_of_attacks() {
    let cluster = Cluster::start()
        .set("auth.public_key_file", rsa_file("a.pub").display())
        .set("auth.audience", AUDIENCE)
        .set("frontend.upgrades_per_second_max", UPGRADES_PER_SECOND)
        .set("frontend.handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS)
        .set("frontend.write_stall_ms_max", WRITE_STALL_MS)
        .await;
    let frontend = &cluster.frontends[0];
    let client = cluster.client(0, "bystander").token(token("bystander", json!({}))).await;
    let stop = Arc::new(AtomicBool::new(false));
    let good = tokio::spawn(bystander(client, stop.clone()));
    let mut table = Table { frontend, growth_bytes_max: GROWTH_BYTES_MAX, lines: Vec::new() };

    tokens(&mut table).await;
    names(&mut table).await;
    for (attack, pieces, code, error) in too_much() {
        let closed = format!("closed with {code}");
        table
            .row(attack, TIMES, &[error, &closed], async || {
                let (code, said) = raw(frontend, pieces.clone()).await;
                let told = serde_json::from_str::<Value>(&said[said.find('{').unwrap()..]).unwrap();
                format!("{}, closed with {code}", kind(&told))
            })
            .await;
    }
    numbers(&mut table).await;
    many(&mut table).await;
    table.growth_bytes_max = GROWTH_WITH_EVENTS_BYTES_MAX;
    deaf(&mut table, &cluster).await;

    stop.store(true, Ordering::Relaxed);
    let (written, longest) = good.await.unwrap();
    println!("| attack | times | answer | MiB before | MiB after |\n|---|---|---|---|---|");
    println!("{}", table.lines.join("\n"));
    println!(
        "\nMeanwhile a bystander had {written} drafts accepted; the longest wait was {} ms.",
        longest.as_millis()
    );
    assert!(longest < BYSTANDER_WAIT_MAX, "the bystander waited {longest:?}");
    // And nobody has written where the bystander did.
    let log = cluster.log("default");
    assert_eq!(log.len() as u64, written);
    assert!(log.iter().all(|event| event["clientId"] == "bystander"), "{log:?}");
}

async fn tokens(table: &mut Table<'_>) {
    let frontend = table.frontend;
    let all = claims("mallory", json!({ "aud": AUDIENCE }));
    let pem = String::from_utf8(rsa_public_pem("a")).unwrap();
    let now = now_s();
    let attacks = [
        ("token with `alg: none`", forged(&json!({ "alg": "none" }), &all, ""), "cannot be read"),
        (
            "token signed with the RS256 public key as HS256 secret",
            TestKey::secret(&pem).sign(&all),
            "algorithm is not the key's",
        ),
        ("expired token", token("mallory", json!({ "exp": now - 3600 })), "has expired"),
        ("token not valid yet", token("mallory", json!({ "nbf": now + 3600 })), "not valid yet"),
        ("token for another audience", token("mallory", json!({ "aud": "others" })), "another audience"),
        ("another client's token", token("alice", json!({})), "another client's"),
    ];
    for (attack, token, says) in attacks {
        table
            .row(attack, TIMES, &["`auth_failed`, closed with 1008", says], async || {
                turned_away(frontend, &token).await
            })
            .await;
    }
    let own = token("mallory", json!({ "partition": "own" }));
    table
        .row("another partition than the token's", TIMES, &["`forbidden`"], async || {
            let (mut socket, answer) = connect(frontend, "mallory", "default", Some(&own)).await;
            // The connection stays, and is of nobody still.
            socket.send("heartbeat", json!({})).await.unwrap();
            let then = socket.receive().await.unwrap();
            format!("{}, and {} to whatever comes before `connect`", kind(&answer), kind(&then))
        })
        .await;
}

async fn names(table: &mut Table<'_>) {
    let frontend = table.frontend;
    let taken = "as client and partition `connected`, as draft `event_accepted`";
    let refused = "as client and partition `bad_request`, as draft `event_rejected`";
    let long = "n".repeat(3 * 1024);
    let wild = ">".repeat(3 * 1024);
    for (shown, name, expected) in [
        ("`..`", "..", taken),
        ("`*`", "*", taken),
        ("`>`", ">", taken),
        ("`a b`", "a b", taken),
        ("spaces", "   ", taken),
        ("NUL", "\0", taken),
        ("newline and a NATS command", "a\r\nPUB x 1\r\n1", taken),
        ("`__proto__`", "__proto__", taken),
        ("`constructor`", "constructor", taken),
        ("3 KiB", long.as_str(), refused),
        ("3 KiB of `>`", wild.as_str(), refused),
    ] {
        // Once: the second time the drafts would be known.
        table.row(&format!("{shown} as a name"), 1, &[expected], async || named(frontend, name).await).await;
    }
}

async fn numbers(table: &mut Table<'_>) {
    let frontend = table.frontend;
    let digits = "1".repeat(200_000);
    for (attack, value) in [
        ("a number of 200,000 digits", digits.clone()),
        ("200,000 digits of an exponent", format!("1e{digits}")),
    ] {
        let (mut socket, _) =
            connect(frontend, "numbers", "numbers", Some(&token("numbers", json!({})))).await;
        let text = format!(
            r#"{{"id":"m","type":"submit_event","timestamp":1,"payload":{{"draftId":"d","event":{{"type":"set","payload":{{"target":"a","value":{value}}}}}}}}}"#
        );
        table
            .row(attack, TIMES, &[], async || {
                socket.send_text(text.clone()).await.unwrap();
                let answer = kind(&socket.receive().await.unwrap());
                assert!(
                    ["`event_rejected`", "`bad_request`"].contains(&answer.as_str()),
                    "{attack}: {answer}"
                );
                socket.expect_alive().await;
                answer
            })
            .await;
    }
}

async fn many(table: &mut Table<'_>) {
    let frontend = table.frontend;
    let mut held = Vec::new();
    let times = 1000;
    table
        .row("a flood of upgrades (1000 at once)", 1, &["answered 429"], async || {
            let answers =
                join_all((0..times).map(|_| async { ask(frontend.port, &upgrade("")).await })).await;
            let mut refused = 0;
            for (response, stream) in answers {
                match response.status {
                    101 => held.push(stream),
                    _ => {
                        response.expect_retry_after(429, "rate_limited");
                        refused += 1;
                    }
                }
            }
            assert!(refused > 0 && held.len() as u64 >= UPGRADES_PER_SECOND, "{refused} refused");
            format!("{} let in, {refused} answered 429 `rate_limited` with `Retry-After`", held.len())
        })
        .await;
    drop(held);

    table
        .row("slow-loris (200 heads, a byte at a time)", 1, &["200 closed"], async || {
            let drips = (0..200).map(|_| async {
                let mut stream = TcpStream::connect(("127.0.0.1", frontend.port)).await.unwrap();
                while stream.write_all(b"G").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                http::ended(&mut stream).await
            });
            let since = Instant::now();
            let ended = join_all(drips).await.len();
            format!(
                "{ended} closed, {HANDSHAKE_TIMEOUT_MS} ms after they came; the last after {} ms",
                since.elapsed().as_millis()
            )
        })
        .await;
}

async fn deaf(table: &mut Table<'_>, cluster: &Cluster) {
    let frontend = table.frontend;
    let writing = cluster.client(0, "writer").token(token("writer", json!({}))).partition("loud");
    let mut writer = writing.await;
    let text = "x".repeat(200_000);
    table
        .row("ten connections that never read, of 30 MB of events", 1, &["closed with 1013"], async || {
            let closed = async || {
                frontend.metric("insieme_connections_closed_total", "code=\"try_again_later\"").await
            };
            let before = closed().await;
            let mut deaf = Vec::new();
            for n in 0..10 {
                let name = format!("deaf{n}");
                let (socket, answer) = connect(frontend, &name, "loud", Some(&token(&name, json!({})))).await;
                assert_eq!(answer["type"], "connected", "{answer}");
                deaf.push(socket.into_tcp());
            }
            for n in 0..150 {
                writer.commit("set", json!({ "target": format!("k{}", n % 4), "value": text })).await;
                writer.drain().await;
            }
            until("those who do not read to be closed", async || {
                (closed().await >= before + 10.0).then_some(())
            })
            .await;
            for stream in &mut deaf {
                http::ended(stream).await;
            }
            format!("all closed with 1013, {WRITE_STALL_MS} ms after the last byte that they took")
        })
        .await;
}

/// A page that names a story which is not there promises what nobody has seen.
#[test]
fn every_story_that_the_page_names_is_there() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut stories = String::new();
    for entry in std::fs::read_dir(tests).unwrap() {
        stories.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    let page = include_str!("../../docs/SECURITY.md");
    let (_, table) = page.split_once("# Which story shows what").unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 20, "{}", rows.len());
    for row in rows {
        let names: Vec<&str> = row.trim_end_matches(" |").rsplit(" | ").next().unwrap().split(", ").collect();
        for name in names {
            let name = name.trim_matches('`');
            assert!(stories.contains(&format!("fn {name}(")), "{name} is no story: {row}");
        }
    }
}
