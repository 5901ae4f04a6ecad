//! The budget: for each thing that a client can make a process hold, what bounds it, and what the process takes when a
//! client goes to that bound and beyond. `docs/SECURITY.md` has the table as it is printed by
//!
//!     cargo nextest run --features fault-points --no-capture table_of_budgets

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::attacks::frame;
use crate::harness::cluster::{Cluster, Frontend};
use crate::harness::http::{get, upgrade};
use crate::harness::socket::Socket;
use crate::harness::tokens::{TestKey, rsa_file};

const MIB: u64 = 1 << 20;
/// So long that nothing is given back because its time is up.
const NEVER_MS: u64 = 600_000;

#[derive(Default)]
struct Table(Vec<String>);

/// A thing that a client can make a process hold.
struct Thing<'a> {
    what: &'a str,
    bound: &'a str,
    setting: &'a str,
    /// How much more memory the process may take for all of it.
    bytes_max: u64,
}

impl Table {
    /// Has a client go to the bound and beyond. What `go` gives is held until the memory was measured.
    async fn row<T>(&mut self, frontend: &Frontend, thing: Thing<'_>, go: impl AsyncFnOnce() -> T) {
        let before = frontend.process.memory_bytes();
        let held = go().await;
        let after = frontend.process.memory_bytes();
        drop(held);
        let Thing { what, bound, setting, bytes_max } = thing;
        let mib = |bytes: u64| bytes as f64 / MIB as f64;
        let line = format!(
            "| {what} | {bound} | {setting} | {} | {:.1} | {:.1} |",
            bytes_max / MIB,
            mib(before),
            mib(after)
        );
        println!("{line}");
        self.0.push(line);
        let grown = after.saturating_sub(before);
        assert!(grown <= bytes_max, "{what}: {:.1} MiB more than before", mib(grown));
    }
}

/// Opens so many connections that say this, and holds them. Of one that gave way already not all may be taken.
async fn held(port: u16, count: usize, words: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let _ = stream.write_all(words).await;
        held.push(stream);
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn table_of_budgets() {
    let mut table = Table::default();
    let cluster = Cluster::start()
        .set("auth.public_key_file", rsa_file("a.pub").display())
        .set("frontend.handshake_timeout_ms", NEVER_MS)
        .set("frontend.connect_timeout_ms", NEVER_MS)
        .set("frontend.connections_per_client_max", 10_000)
        .await;
    let frontend = &cluster.frontends[0];
    let token = |client: &str| TestKey::rsa("a").token(client, json!({ "partition": "home" }));
    let good = token("ann");
    let connect = async || {
        let mut socket = Socket::open(&frontend.url()).await.unwrap();
        let connect = json!({ "clientId": "ann", "version": "1", "partition": "home", "token": good });
        socket.send("connect", connect).await.unwrap();
        socket.expect("connected").await;
        socket
    };
    // What is there once anything was asked for is nobody's doing.
    connect().await.expect_alive().await;

    let head = format!("GET /ws HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(16_000));
    let handshakes = Thing {
        what: "2,000 connections with a head that does not end",
        bound: "1,024 heads of 16 KiB",
        setting: "`frontend.handshakes_max`",
        bytes_max: 64 * MIB,
    };
    table.row(frontend, handshakes, async || held(frontend.port, 2_000, head.as_bytes()).await).await;

    let mute = Thing {
        what: "2,000 upgrades without `connect`",
        bound: "1,024 connections",
        setting: "`frontend.unauthenticated_max`",
        bytes_max: 32 * MIB,
    };
    table.row(frontend, mute, async || held(frontend.port, 2_000, upgrade("").as_bytes()).await).await;

    let half = Thing {
        what: "2,000 messages before `connect` that lack a byte",
        bound: "1,024 messages of 16 KiB",
        setting: "`frontend.unauthenticated_max`, `auth.token_bytes_max`",
        bytes_max: 64 * MIB,
    };
    let message = [upgrade("").into_bytes(), frame(0x81, 16 * 1024, &[b' '; 16 * 1024 - 1])].concat();
    table.row(frontend, half, async || held(frontend.port, 2_000, &message).await).await;

    let known = Thing {
        what: "1,000 connections with `connect`",
        bound: "10,000 connections of some KiB",
        setting: "`frontend.connections_max`",
        bytes_max: 24 * MIB,
    };
    let all_known = async || {
        let mut all = Vec::new();
        for _ in 0..1_000 {
            all.push(connect().await);
        }
        all
    };
    table.row(frontend, known, all_known).await;

    let many = Thing {
        what: "60 connections of four clients, with 100 partitions each, no two the same",
        bound: "100 partitions a connection, each counted with 16 KiB",
        setting: "`frontend.memory_bytes_max`",
        bytes_max: 100 * MIB,
    };
    let all_subscribed = async || {
        let mut all = Vec::new();
        for n in 0..60 {
            let mut socket = Socket::open(&frontend.url()).await.unwrap();
            let names: Vec<String> = (0..100).map(|of| format!("many-{n}-{of}")).collect();
            let client = format!("many-{}", n % 4);
            let token = TestKey::rsa("a").token(&client, json!({}));
            let connect = json!({ "clientId": client, "version": "1", "partitions": names, "token": token });
            socket.send("connect", connect).await.unwrap();
            socket.expect("connected").await;
            for _ in 0..100 {
                socket.expect("subscribed").await;
            }
            all.push(socket);
        }
        all
    };
    table.row(frontend, many, all_subscribed).await;

    let unread = Thing {
        what: "300 connections to `metrics.listen` that ask 50 times and read nothing",
        bound: "64 connections",
        setting: "",
        bytes_max: 48 * MIB,
    };
    let questions = get("/metrics").repeat(50);
    table
        .row(frontend, unread, async || held(frontend.metrics_port(), 300, questions.as_bytes()).await)
        .await;

    let lines = Thing {
        what: "4,000 refusals of a `connect` with names of 250 bytes",
        bound: "100 log lines of a kind in a second, of some hundred bytes",
        setting: "",
        bytes_max: 8 * MIB,
    };
    let said_before = frontend.process.output().len();
    let refusals = async || {
        for _ in 0..20 {
            let mut socket = Socket::open(&frontend.url()).await.unwrap();
            let partition = "p".repeat(250);
            let refused = json!({ "clientId": "ann", "version": "1", "partition": partition, "token": good });
            for _ in 0..200 {
                socket.send("connect", refused.clone()).await.unwrap();
                socket.expect_error("forbidden").await;
            }
            let accepted = json!({ "clientId": "ann", "version": "1", "partition": "home", "token": good });
            socket.send("connect", accepted).await.unwrap();
            socket.expect("connected").await;
        }
    };
    table.row(frontend, lines, refusals).await;
    let said = frontend.process.output().len() - said_before;
    println!("4,000 refusals wrote {said} bytes of log lines");
    assert!(said < 100_000, "{said} bytes of log lines");

    spans(&mut table).await;
    println!(
        "\n| what | bound | setting | at most MiB more | MiB before | MiB after |\n|---|---|---|---|---|---|"
    );
    println!("{}", table.0.join("\n"));
}

async fn spans(table: &mut Table) {
    // Nobody listens there.
    let cluster = Cluster::start()
        .set("traces.endpoint", "http://127.0.0.1:9/v1/traces")
        .set("traces.sample_ratio", 1)
        .set("traces.queue_spans_max", 1_000)
        .await;
    let frontend = &cluster.frontends[0];
    let mut ann = cluster.client(0, "ann").await;
    for n in 0..50 {
        ann.commit("set", json!({ "target": "a", "value": n })).await;
    }
    let thing = Thing {
        what: "1,000 drafts that are traced, and no collector",
        bound: "1,000 spans (8,192 by default)",
        setting: "`traces.queue_spans_max`",
        bytes_max: 24 * MIB,
    };
    let drafts = async || {
        for n in 0..1_000 {
            ann.commit("set", json!({ "target": "a", "value": n })).await;
        }
    };
    table.row(frontend, thing, drafts).await;
}
