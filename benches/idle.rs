//! What an idle connection costs the frontend in memory.
//!
//!     cargo bench --bench idle
//!     cargo bench --bench idle -- many
//!
//! The second is of 1,000 connections with 20 of the hundred partitions each, what they cost, and how long an event of
//! every partition takes to reach all of them.
//!
//! Many clients of both dialects connect, over a hundred partitions that are watched already, and say nothing
//! more. Then the frontend's memory (VmRSS, so whatever the allocator keeps counts too) is compared with that
//! before they came. Needs twenty thousand file descriptors (`ulimit -n 20000`).

// A bench stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

#[path = "../tests/harness/mod.rs"]
mod harness;

use harness::cluster::Cluster;
use harness::http::{ask, upgrade};
use harness::many::Many;
use serde_json::json;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 10_000;
const PARTITIONS: usize = 100;
const AT_ONCE: usize = 50;
const MANY_CONNECTIONS: usize = 1_000;
const MANY_PARTITIONS: usize = 20;
const ROUNDS: usize = 20;

#[tokio::main]
async fn main() {
    if std::env::args().any(|text| text == "many") {
        return many().await;
    }
    let connections = std::env::args().filter_map(|text| text.parse().ok()).next().unwrap_or(CONNECTIONS);
    let cluster = Cluster::start()
        .set("frontend.connections_max", connections + PARTITIONS + 10)
        .set("frontend.heartbeat_interval_ms", 3_600_000)
        .await;
    let frontend = &cluster.frontends[0];
    let mut held = open(frontend.port, 0..PARTITIONS).await;
    let before = frontend.process.memory_bytes();
    for (index, dialect) in ["classic", "v1"].into_iter().enumerate() {
        let (start, before) = (held.len(), frontend.process.memory_bytes());
        let half = connections / 2;
        let first = PARTITIONS + index * half;
        held.extend(open(frontend.port, first..first + half).await);
        let bytes = frontend.process.memory_bytes().saturating_sub(before) as usize;
        println!("{dialect}: {} connections, {:.1} KiB each", held.len() - start, each(bytes, half));
    }
    let bytes = frontend.process.memory_bytes().saturating_sub(before) as usize;
    println!("all: {connections} connections, {:.1} KiB each", each(bytes, connections));
}

/// Connections of many partitions.
async fn many() {
    let cluster = Cluster::start()
        .set("frontend.connections_max", MANY_CONNECTIONS + PARTITIONS + 10)
        .set("frontend.heartbeat_interval_ms", 3_600_000)
        .await;
    let frontend = &cluster.frontends[0];
    let _watched = open(frontend.port, 0..PARTITIONS).await;
    let before = frontend.process.memory_bytes();
    let mut held = Vec::new();
    for number in 0..MANY_CONNECTIONS {
        // Every partition has as many connections.
        let names: Vec<_> = (0..MANY_PARTITIONS)
            .map(|n| partition((number + n * (PARTITIONS / MANY_PARTITIONS)) % PARTITIONS))
            .collect();
        let mut client = Many::connect(&frontend.url(), &format!("many-{number}"), json!(names)).await;
        for name in &names {
            client.subscribed(name).await;
        }
        held.push(client);
    }
    let bytes = frontend.process.memory_bytes().saturating_sub(before) as usize;
    let lanes = MANY_CONNECTIONS * MANY_PARTITIONS;
    println!(
        "{MANY_CONNECTIONS} connections of {MANY_PARTITIONS} partitions: {:.1} KiB each, {:.2} KiB a partition",
        each(bytes, MANY_CONNECTIONS),
        each(bytes, lanes)
    );
    let names: Vec<_> = (0..PARTITIONS).map(partition).collect();
    let mut writer = Many::connect(&frontend.url(), "writer", json!(names)).await;
    for name in &names {
        writer.subscribed(name).await;
    }
    let (began, cpu) = (Instant::now(), frontend.process.cpu_seconds());
    let reading: Vec<_> = held
        .into_iter()
        .map(|mut client| {
            tokio::spawn(async move {
                while client.of.values().any(|seen| seen.events.len() < ROUNDS) {
                    client.step().await.unwrap();
                }
            })
        })
        .collect();
    for round in 0..ROUNDS {
        for name in &names {
            writer.submit(name, &format!("d-{round}"), json!(round)).await;
        }
        for name in &names {
            writer.answer(name, &format!("d-{round}")).await;
        }
    }
    for reader in reading {
        reader.await.unwrap();
    }
    let (took, cpu) = (began.elapsed().as_secs_f64(), frontend.process.cpu_seconds() - cpu);
    let written = (ROUNDS * lanes) as f64;
    println!(
        "{} events to {written} subscriptions in {took:.1} s: {:.0} broadcasts/s, {:.1} µs of the frontend's CPU each",
        ROUNDS * PARTITIONS,
        written / took,
        cpu / written * 1e6
    );
}

fn partition(number: usize) -> String {
    format!("partition-{number}")
}

fn each(bytes: usize, connections: usize) -> f64 {
    bytes as f64 / connections as f64 / 1024.0
}

/// Connections that have been greeted; the later half of the clients speaks v1.
async fn open(port: u16, clients: std::ops::Range<usize>) -> Vec<TcpStream> {
    let mut held = Vec::new();
    let clients: Vec<usize> = clients.collect();
    for some in clients.chunks(AT_ONCE) {
        let mut opening = tokio::task::JoinSet::new();
        for client in some.iter().copied() {
            opening.spawn(async move {
                let (response, mut stream) = ask(port, &upgrade("")).await;
                assert_eq!(response.status, 101, "{response:?}");
                stream.write_all(&masked(&connect(client))).await.unwrap();
                let said = receive(&mut stream).await;
                assert!(said.contains("\"connected\""), "{said}");
                stream
            });
        }
        held.extend(opening.join_all().await);
    }
    held
}

fn connect(client: usize) -> String {
    let (id, partition) = (format!("client-{client}"), format!("partition-{}", client % PARTITIONS));
    if client < PARTITIONS + CONNECTIONS / 2 {
        let payload = json!({ "clientId": id, "version": "1", "partition": partition });
        json!({ "id": "1", "type": "connect", "timestamp": 1, "payload": payload }).to_string()
    } else {
        let payload = json!({ "token": "t", "clientId": id, "projectId": partition });
        json!({ "type": "connect", "protocolVersion": "1.0", "msgId": "1", "payload": payload }).to_string()
    }
}

/// A client's frame of a short text; the mask is nought.
fn masked(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0xFE];
    frame.extend((text.len() as u16).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

async fn receive(stream: &mut TcpStream) -> String {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    let length = match head[1] {
        126 => usize::from(stream.read_u16().await.unwrap()),
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.unwrap();
    String::from_utf8(payload).unwrap()
}
