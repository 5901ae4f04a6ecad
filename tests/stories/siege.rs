//! A siege: 200 well-behaved clients write all the time, while one attacker after the other does what was tried on the
//! edge. What the well-behaved notice of it is measured, and nobody of them is cut off.
//!
//! It takes minutes and says something only on a machine that does nothing else, so it is run by itself:
//!
//!     cargo nextest run --release --features fault-points --run-ignored only --no-capture siege
//!
//! `SIEGE_RATE` (1,000 events a second), `SIEGE_SECONDS` (20 for each attacker).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::attacks::{frame, text};
use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, Frontend};
use crate::harness::http::{ask, get, upgrade};
use crate::harness::socket::Socket;
use crate::harness::v1::envelope;

const CLIENTS: usize = 200;
const CLIENTS_PER_PARTITION: usize = 10;
/// By how much an attacker may make the well-behaved wait longer.
const FACTOR_MAX: f64 = 3.0;
/// Below this, a wait is one that nobody notices.
const UNNOTICED: Duration = Duration::from_millis(50);

/// The pause of one attacker between two turns.
const ATTACK_PAUSE: Duration = Duration::from_millis(10);

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

/// How long the well-behaved waited lately.
#[derive(Default)]
struct Waits(std::sync::Mutex<Vec<Duration>>);

impl Waits {
    fn take(&self) -> Vec<Duration> {
        let mut waits = std::mem::take(&mut *self.0.lock().unwrap());
        waits.sort();
        waits
    }
}

fn p99(waits: &[Duration]) -> Duration {
    waits.get(waits.len() * 99 / 100).copied().unwrap_or_default()
}

/// Writes one value after the other, each at its time, until told to stop. A connection that ends is a panic.
async fn well_behaved(mut client: Client, every: Duration, waits: Arc<Waits>, stop: Arc<AtomicBool>) {
    let mut next = Instant::now() + every.mul_f64(rand::random());
    let mut written = 0;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep_until(next).await;
        // From when it was due: one that had to wait makes those after it wait too.
        let due = next;
        next += every;
        client.commit("set", json!({ "target": format!("k{}", written % 50), "value": written })).await;
        waits.0.lock().unwrap().push(due.elapsed());
        written += 1;
    }
}

/// What an attacker does over and over.
#[derive(Clone, Copy)]
enum Attack {
    DeepConnect,
    Silent,
    HalfMessages,
    Mute,
    HalfRequests,
    Batches,
    Sync,
    CommitAndSync,
    SlowReader,
    RefusedConnects,
    BadHeads,
    CutOff,
}

const ATTACKS: [(&str, Attack, usize); 12] = [
    ("a `connect` nested deep in text (1)", Attack::DeepConnect, 4),
    ("silent connections, 125 a second (2)", Attack::Silent, 2),
    ("half messages before `connect` (3)", Attack::HalfMessages, 2),
    ("upgrades without `connect`, 50 a second (4)", Attack::Mute, 1),
    ("half requests for metrics (5)", Attack::HalfRequests, 2),
    ("v1 batches of 250 KB, pending (9)", Attack::Batches, 8),
    ("`sync` from the beginning, 200 a second (10)", Attack::Sync, 2),
    ("a commit and a `sync` in turn (10)", Attack::CommitAndSync, 2),
    ("states that are asked for and read slowly (9, 11)", Attack::SlowReader, 8),
    ("refused connects (12)", Attack::RefusedConnects, 8),
    ("heads that are none (14)", Attack::BadHeads, 4),
    ("drafts, and the connection broken off (16)", Attack::CutOff, 4),
];

/// One turn of an attacker. However the server answers, the next turn comes.
async fn turn(attack: Attack, frontend: (u16, u16), held: &mut Vec<TcpStream>, n: u64) -> Option<()> {
    let (port, metrics) = frontend;
    let url = format!("ws://127.0.0.1:{port}/ws");
    let open = async |words: Vec<u8>, port: u16| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(&words).await.ok()?;
        Some(stream)
    };
    if held.len() > 2_000 {
        held.drain(..500);
    }
    let client = format!("mallory-{n}");
    match attack {
        Attack::DeepConnect => {
            let arrays = format!("{}1{}", "[".repeat(7_000), "]".repeat(7_000));
            let inner = json!({ "$serde_json::private::RawValue": arrays });
            let connect = format!(
                r#"{{"type":"connect","protocolVersion":"1.0","msgId":"c","payload":{{"clientId":"m","projectId":"p","token":{inner}}}}}"#
            );
            held.push(open([upgrade("").into_bytes(), text(&connect)].concat(), port).await?);
        }
        Attack::Silent => {
            held.push(open(Vec::new(), port).await?);
            // With the pause, 125 a second over two of them.
            sleep(Duration::from_millis(6)).await;
        }
        Attack::HalfMessages => {
            let half = frame(0x81, 256 * 1024, &vec![b' '; 256 * 1024 - 1]);
            held.push(open([upgrade("").into_bytes(), half].concat(), port).await?);
        }
        Attack::Mute => {
            held.push(open(upgrade("").into_bytes(), port).await?);
            sleep(Duration::from_millis(10)).await;
        }
        Attack::HalfRequests => {
            held.push(open(get("/metrics").trim_end().as_bytes().to_vec(), metrics).await?);
            sleep(Duration::from_millis(5)).await;
        }
        Attack::Batches => {
            let mut socket = Socket::open(&url).await.ok()?;
            let payload = json!({ "token": "t", "clientId": client, "projectId": "siege" });
            socket.send_text(envelope("connect", "c", &payload)).await.ok()?;
            socket.receive().await.ok()?;
            let event = json!({
                "id": format!("{client}-e"), "projectId": "siege", "partition": "siege", "type": "note", "schemaVersion": 1,
                "payload": { "text": "x".repeat(230_000) }, "meta": { "clientId": client, "clientTs": 1 }
            });
            for batch in 0..20 {
                let batch = envelope("submit_events", &format!("b{batch}"), &json!({ "events": [event] }));
                timeout(Duration::from_secs(5), socket.send_text(batch)).await.ok()?.ok()?;
            }
        }
        Attack::Sync | Attack::CommitAndSync | Attack::RefusedConnects | Attack::CutOff => {
            let mut socket = Socket::open(&url).await.ok()?;
            let mut connect = json!({ "clientId": client, "version": "1", "partition": "siege" });
            if matches!(attack, Attack::RefusedConnects) {
                connect["lastEventId"] = json!("evt-999999999");
                for _ in 0..4 {
                    socket.send("connect", connect.clone()).await.ok()?;
                    socket.receive().await.ok()?;
                }
                return Some(());
            }
            socket.send("connect", connect).await.ok()?;
            socket.receive().await.ok()?;
            for turn in 0..50 {
                let event = json!({ "type": "set", "payload": { "target": "a", "value": turn } });
                let draft = json!({ "draftId": format!("{client}-{turn}"), "event": event });
                match attack {
                    Attack::CutOff => drop(socket.send("submit_event", draft).await.ok()?),
                    Attack::CommitAndSync => {
                        socket.send("submit_event", draft).await.ok()?;
                        socket.send("sync", json!({})).await.ok()?;
                        socket.receive().await.ok()?;
                    }
                    _ => {
                        socket.send("sync", json!({})).await.ok()?;
                        sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        }
        Attack::SlowReader => {
            let payload = json!({ "clientId": client, "version": "1", "partition": "siege" });
            let connect = json!({ "id": "c", "type": "connect", "timestamp": 1, "payload": payload });
            held.push(open([upgrade("").into_bytes(), text(&connect.to_string())].concat(), port).await?);
            sleep(Duration::from_millis(50)).await;
        }
        Attack::BadHeads => {
            let request = upgrade("").replace("\r\n", if n.is_multiple_of(2) { "\n" } else { "\r\n \r\n" });
            drop(timeout(Duration::from_secs(5), ask(port, &request)).await.ok()?);
        }
    }
    Some(())
}

fn attackers(attack: Attack, count: usize, frontend: &Frontend) -> (JoinSet<()>, Arc<AtomicU64>) {
    let (mut running, turns) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for _ in 0..count {
        let (turns, ports) = (turns.clone(), (frontend.port, frontend.metrics_port()));
        running.spawn(async move {
            let mut held = Vec::new();
            loop {
                let n = turns.fetch_add(1, Ordering::Relaxed);
                // However it was answered: the next turn comes.
                let _ = turn(attack, ports, &mut held, n).await;
                // Attackers are on the same machine, and are not to win by taking its processor for themselves.
                sleep(ATTACK_PAUSE).await;
            }
        });
    }
    (running, turns)
}

#[ignore = "takes minutes, and a machine of its own; the file says how"]
#[tokio::test(flavor = "multi_thread")]
async fn siege() {
    let (rate, seconds) = (variable("SIEGE_RATE", 1_000), variable("SIEGE_SECONDS", 20));
    let cluster = Cluster::start()
        .set("frontend.frames_per_second_max", 200)
        .set("frontend.bytes_per_second_max", 32 << 20)
        .await;
    let frontend = &cluster.frontends[0];
    // Something to ask for.
    let mut writer = cluster.client(0, "writer").partition("siege").await;
    for n in 0..50 {
        let value: Value = json!("x".repeat(50_000));
        writer.commit("set", json!({ "target": format!("k{n}"), "value": value })).await;
    }
    let (waits, stop) = (Arc::new(Waits::default()), Arc::new(AtomicBool::new(false)));
    let every = Duration::from_secs_f64(CLIENTS as f64 / rate as f64);
    let mut good = JoinSet::new();
    for number in 0..CLIENTS {
        let partition = format!("p{}", number / CLIENTS_PER_PARTITION);
        let client = cluster.client(0, &format!("c{number}")).partition(&partition).await;
        good.spawn(well_behaved(client, every, waits.clone(), stop.clone()));
    }
    let phase = Duration::from_secs(seconds);
    sleep(phase / 2).await;
    waits.take();
    sleep(phase).await;
    let undisturbed = waits.take();
    let bound = p99(&undisturbed).max(UNNOTICED).mul_f64(FACTOR_MAX);
    println!(
        "| attacker | turns | events of the well-behaved | p99, ms | longest, ms | frontend, MiB |\n|---|---|---|---|---|---|"
    );
    let mut late = Vec::new();
    let mut tell = |who: &str, turns: u64, waits: &[Duration]| {
        let longest = waits.last().copied().unwrap_or_default();
        println!(
            "| {who} | {turns} | {} | {:.1} | {:.1} | {} |",
            waits.len(),
            p99(waits).as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3,
            frontend.process.memory_bytes() >> 20
        );
        if p99(waits) > bound || waits.is_empty() {
            late.push(who.to_owned());
        }
    };
    tell("nobody", 0, &undisturbed);
    for (who, attack, count) in ATTACKS {
        let (running, turns) = attackers(attack, count, frontend);
        sleep(phase).await;
        let disturbed = waits.take();
        drop(running);
        tell(who, turns.load(Ordering::Relaxed), &disturbed);
        // One that was cut off has panicked.
        while let Some(ended) = good.try_join_next() {
            ended.unwrap_or_else(|error| panic!("somebody well-behaved was cut off during {who}: {error}"));
        }
        sleep(phase / 4).await;
        waits.take();
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = good.join_next().await {
        ended.unwrap();
    }
    assert!(late.is_empty(), "the well-behaved waited longer than {bound:?} during {late:?}");
}
