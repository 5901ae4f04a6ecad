//! Connections of which nothing is known: those that say nothing, half of something, or all but who they are. They
//! take no place from anybody else, and hold next to nothing.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::attacks::{frame, raw};
use crate::harness::cluster::Cluster;
use crate::harness::http::{self, ask, get, upgrade};
use crate::harness::socket::Socket;
use crate::harness::until;

/// So long that no story sees the end of it: what is shown is not shown by a time-out.
const NEVER_MS: u64 = 600_000;
/// Longer than a seat is safe.
const SAFE: Duration = Duration::from_millis(400);
/// What 2,000 half messages may cost a process, all together: 16 KiB for each of the 1,024 connections that may be there
/// at once, twice while there is more to come, and what the allocator keeps.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// Opens so many connections a second, each of which says `words` and then nothing more, and holds them until it is
/// dropped.
fn flood(port: u16, per_second: u32, words: &'static str) -> JoinSet<()> {
    let mut flooding = JoinSet::new();
    flooding.spawn(async move {
        let mut held = Vec::new();
        loop {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
                // One that was closed already has said enough.
                let _ = stream.write_all(words.as_bytes()).await;
                held.push(stream);
            }
            if held.len() > 4_000 {
                held.drain(..1_000);
            }
            sleep(Duration::from_secs(1) / per_second).await;
        }
    });
    flooding
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_without_end_keep_nobody_out() {
    let cluster = Cluster::start()
        .set("frontend.handshakes_max", 64)
        .set("frontend.handshake_timeout_ms", NEVER_MS)
        .await;
    let frontend = &cluster.frontends[0];
    for words in ["", "GET /ws HTTP/1.1\r\nHost: a", "\u{16}"] {
        let _flood = flood(frontend.port, 125, words);
        // Until there are more of them than there are seats.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            frontend.connected("ann").await.expect_alive().await;
        }
        assert_eq!(ask(frontend.port, &get("/livez")).await.0.status, 200);
        assert!(frontend.readyz().await.starts_with("HTTP/1.1 200"), "the probe's own port");
    }
    let gave_way = frontend.metric("insieme_connections_gave_way_total", "stage=\"handshake\"").await;
    assert!(gave_way > 50.0, "{gave_way}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_silent_gives_way_the_oldest_first() {
    let cluster = Cluster::start()
        .set("frontend.handshakes_max", 8)
        .set("frontend.handshake_timeout_ms", NEVER_MS)
        .await;
    let frontend = &cluster.frontends[0];
    let connect = async |count: usize| {
        let mut opened = Vec::new();
        for _ in 0..count {
            opened.push(TcpStream::connect(("127.0.0.1", frontend.port)).await.unwrap());
        }
        opened
    };
    let mut old = connect(8).await;
    // Until then nobody gives way; a quarter of the seats is for one address then.
    sleep(SAFE).await;
    let young = connect(2).await;
    for stream in &mut old {
        assert!(http::ended(stream).await.is_empty());
    }
    for mut stream in young {
        stream.write_all(get("/livez").as_bytes()).await.unwrap();
        assert_eq!(http::answer(&mut stream).await.unwrap().status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_without_connect_take_no_seat() {
    let cluster = Cluster::start()
        .set("frontend.connections_max", 4)
        .set("frontend.unauthenticated_max", 40)
        .set("frontend.connect_timeout_ms", NEVER_MS)
        .await;
    let frontend = &cluster.frontends[0];
    let mut mute = Vec::new();
    let mut known = Vec::new();
    for round in 0..4 {
        sleep(SAFE).await;
        for _ in 0..10 {
            let (response, stream) = ask(frontend.port, &upgrade("")).await;
            assert_eq!(response.status, 101);
            mute.push(stream);
        }
        let mut client = frontend.connected(&format!("c{round}")).await;
        client.expect_alive().await;
        known.push(client);
    }
    // A quarter of the seats is for one address; the oldest were told why they gave way.
    let mut said = Vec::new();
    timeout(Duration::from_secs(30), mute[0].read_to_end(&mut said)).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("\"unavailable\"") && said.contains("retryAfterMs"), "{said}");
    for client in &mut known {
        client.expect_alive().await;
    }
    // Those who are known have as many places as before.
    let (response, _) = ask(frontend.port, &upgrade("")).await;
    response.expect_retry_after(503, "unavailable");
    known.pop();
    until("a place", async || Socket::open(&frontend.url()).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_connect_there_is_room_for_a_token_and_no_more() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let fragments = |count: usize| {
        let mut pieces = vec![frame(0x01, 1_000, &[b' '; 1_000])];
        pieces.extend((1..count).map(|_| frame(0x00, 1_000, &[b' '; 1_000])));
        pieces
    };
    for (what, pieces) in [
        ("announced", vec![frame(0x81, 16 * 1024 + 1, b"")]),
        ("announced, binary", vec![frame(0x82, 200_000, b"")]),
        ("in fragments", fragments(20)),
    ] {
        let (code, said) = raw(frontend, pieces).await;
        assert_eq!(code, 1009, "{what}: {said}");
        assert!(said.contains("\"message_too_large\""), "{what}: {said}");
    }
    // A long token fits, and who is known may say more.
    let mut socket = Socket::open(&frontend.url()).await.unwrap();
    let connect = json!({ "clientId": "ann", "version": "1", "token": "t".repeat(8 * 1024) });
    socket.send("connect", connect).await.unwrap();
    socket.expect("connected").await;
    let event = json!({ "type": "set", "payload": { "target": "a", "value": "x".repeat(200_000) } });
    socket.send("submit_event", json!({ "draftId": "d", "event": event })).await.unwrap();
    socket.expect("event_accepted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_half_messages_cost_next_to_nothing() {
    let cluster = Cluster::start().set("frontend.connect_timeout_ms", NEVER_MS).await;
    let frontend = &cluster.frontends[0];
    frontend.connected("warm").await.expect_alive().await;
    // As much as is taken at all, and as much as may be said by those who are known.
    for (what, bytes) in [("16 KiB", 16 * 1024), ("256 KiB", 256 * 1024)] {
        let before = frontend.process.memory_bytes();
        let half = frame(0x81, bytes, &vec![b' '; bytes as usize - 1]);
        let mut held = Vec::new();
        for _ in 0..2_000 {
            let (response, mut stream) = ask(frontend.port, &upgrade("")).await;
            assert_eq!(response.status, 101);
            // Of one that is refused early not all may be taken.
            let _ = timeout(Duration::from_secs(10), stream.write_all(&half)).await.unwrap();
            held.push(stream);
        }
        frontend.connected("among them").await.expect_alive().await;
        let after = frontend.process.memory_bytes();
        let grown = after.saturating_sub(before);
        println!(
            "2,000 connections that hold all but a byte of {what}: {before} bytes before, {after} after"
        );
        assert!(grown < GROWTH_BYTES_MAX, "{what}: {grown} bytes more than before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_asked_for_as_the_rfcs_have_it_or_not_granted() {
    let cluster = Cluster::start().await;
    let port = cluster.frontends[0].port;
    let without = |line: &str| upgrade("").replace(line, "");
    let cases = [
        ("HTTP/1.0", upgrade("").replace("HTTP/1.1", "HTTP/1.0"), 505),
        ("HTTP/2.0", upgrade("").replace("HTTP/1.1", "HTTP/2.0"), 505),
        ("no Host", without("Host: test\r\n"), 400),
        ("two Hosts", upgrade("Host: other\r\n"), 400),
        ("a Host that is none", upgrade("").replace("Host: test", "Host: a b"), 400),
        ("LF only", upgrade("").replace("\r\n", "\n"), 400),
        ("one line with LF only", upgrade("X: 1\n"), 400),
        ("a folded line", upgrade("X: 1\r\n 2\r\n"), 400),
        ("a space before the colon", upgrade("X : 1\r\n"), 400),
        ("a body", upgrade("Content-Length: 5\r\n") + "hello", 400),
        ("a length that is none", upgrade("Content-Length: -1\r\n"), 400),
        ("two lengths", upgrade("Content-Length: 0\r\nContent-Length: 5\r\n"), 400),
        ("chunks", upgrade("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n", 400),
        ("two keys", upgrade("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"), 400),
        ("a short key", upgrade("").replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="), 400),
        ("two versions", upgrade("Sec-WebSocket-Version: 13\r\n"), 400),
        ("a long head", upgrade(&format!("X: {}\r\n", "x".repeat(20_000))), 431),
        ("many headers", upgrade(&"X: 1\r\n".repeat(100)), 431),
        ("no HTTP", "\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), 400),
    ];
    for (what, request, status) in &cases {
        let (response, mut stream) = ask(port, request).await;
        assert_eq!(response.status, *status, "{what}: {response:?}");
        let code = if *status == 431 { "message_too_large" } else { "bad_request" };
        assert_eq!(response.json()["code"], code, "{what}");
        assert!(response.json()["message"].as_str().is_some_and(|message| message.len() > 10), "{what}");
        http::ended(&mut stream).await;
    }
    let refused = async |reason| cluster.frontends[0].metric("insieme_upgrades_refused_total", reason).await;
    assert_eq!(refused("reason=\"head_too_large\"").await, 2.0);
    assert_eq!(refused("reason=\"bad_request\"").await, cases.len() as f64 - 2.0);

    // What is not wrong: an empty line in front, no body said to be none, an empty Host, one of several subprotocols.
    let fine =
        ["\r\n".to_owned() + &upgrade(""), upgrade("Content-Length: 0\r\n"), upgrade("").replace("test", "")];
    for request in fine {
        assert_eq!(ask(port, &request).await.0.status, 101, "{request:?}");
    }
    let (response, _) = ask(port, &upgrade("Sec-WebSocket-Protocol: one, two\r\n")).await;
    assert_eq!(response.header("sec-websocket-protocol"), Some("one"));

    // Health is told to load balancers that speak HTTP/1.0 and name no host, and without a body to HEAD.
    let (response, _) = ask(port, "GET /readyz HTTP/1.0\r\n\r\n").await;
    assert_eq!((response.status, response.body.as_str()), (200, "ok"));
    for path in ["/livez", "/readyz", "/version"] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(get(path).replace("GET", "HEAD").as_bytes()).await.unwrap();
        let said = String::from_utf8(http::ended(&mut stream).await).unwrap();
        assert!(said.starts_with("HTTP/1.1 200 ") && said.ends_with("\r\n\r\n"), "{path}: {said:?}");
        assert!(said.contains("content-length: ") && said.contains("date: "), "{path}: {said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_requests_and_slow_readers_keep_nobody_from_the_metrics() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let files = || std::fs::read_dir(format!("/proc/{}/fd", frontend.process.id())).unwrap().count();
    let before = files();
    let port = frontend.metrics_port();
    let unread = get("/metrics").repeat(50);
    let mut half = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let words = ["", "GET /metr", "GET /metrics HTTP/1.1\r\nHost: x\r\n", &unread][n % 4];
        // Of one that gave way already not all may be taken.
        let _ = stream.write_all(words.as_bytes()).await;
        half.push(stream);
        if n % 50 == 0 {
            assert!(frontend.readyz().await.starts_with("HTTP/1.1 200"));
        }
    }
    assert!(frontend.readyz().await.starts_with("HTTP/1.1 200"));
    until("the oldest to have given way", async || (files() < before + 80).then_some(())).await;
    // And those that are left end by themselves.
    until("half requests to be closed", async || (files() <= before + 2).then_some(())).await;
}
