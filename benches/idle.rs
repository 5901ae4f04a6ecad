//! What an idle connection costs the frontend in memory.
//!
//!     cargo bench --bench idle
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
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECTIONS: usize = 10_000;
const PARTITIONS: usize = 100;
const AT_ONCE: usize = 50;

#[tokio::main]
async fn main() {
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
