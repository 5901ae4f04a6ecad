//! Facing the internet: whoever comes in bad faith, in too great a number or too slowly gets an answer, or
//! no place at all, and takes nothing from the others.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::backend::Backend;
use crate::harness::cluster::Cluster;
use crate::harness::http::{self, ask, get, upgrade};
use crate::harness::socket::Socket;
use crate::harness::until;

#[tokio::test(flavor = "multi_thread")]
async fn http_is_answered_and_what_is_no_upgrade_is_told_so() {
    let cluster = Cluster::start().await;
    let port = cluster.frontends[0].port;
    let version = format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION"));
    for (path, body) in [("/livez", "ok"), ("/readyz", "ok"), ("/version", &version)] {
        let (response, mut stream) = ask(port, &get(path)).await;
        assert!(response.status == 200 && response.body.contains(body), "{path}: {}", response.body);
        assert!(http::ended(&mut stream).await.is_empty(), "one request a connection");
    }
    let cases = [
        (get("/"), 400),
        (get("/none"), 404),
        (get("/ws/../etc"), 404),
        (get("/ws"), 400),
        ("POST /ws HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc".to_owned(), 405),
        (upgrade("").replace("Upgrade: websocket", "Upgrade: h2c"), 400),
        (upgrade("").replace("Connection: Upgrade", "Connection: close"), 400),
        (upgrade("").replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), 400),
        (upgrade("").replace("Version: 13", "Version: 8"), 426),
    ];
    for (request, status) in cases {
        let (response, mut stream) = ask(port, &request).await;
        assert_eq!(response.status, status, "{request:?}: {response:?}");
        assert_eq!(response.json()["code"], "bad_request");
        http::ended(&mut stream).await;
    }
    // What is no HTTP, and heads without end.
    let (response, _) = ask(port, "\u{16}\u{3}\u{1}\r\n\r\n").await;
    assert_eq!(response.status, 400);
    let (response, _) = ask(port, &upgrade(&format!("X: {}\r\n", "x".repeat(20_000)))).await;
    assert_eq!(response.status, 431);
    let (response, _) = ask(port, &upgrade(&"X: 1\r\n".repeat(100))).await;
    assert_eq!(response.status, 431);
    let (response, _) = ask(port, &upgrade("")).await;
    assert_eq!(response.status, 101);
    // The key and the answer of RFC 6455.
    assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
}

/// Load balancers ask with `HEAD`.
#[tokio::test(flavor = "multi_thread")]
async fn every_health_endpoint_answers_head_as_it_answers_get() {
    let backend = Backend::start().await;
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let admin: u16 = backend.address.rsplit(':').next().unwrap().parse().unwrap();
    let of_metrics = ["/livez", "/readyz", "/metrics"];
    for (port, paths) in [
        (frontend.port, ["/livez", "/readyz", "/version"]),
        (frontend.metrics_port(), of_metrics),
        (cluster.validators[0].health_port(), of_metrics),
        (admin, ["/livez", "/readyz", "/version"]),
    ] {
        for path in paths {
            for version in ["HTTP/1.1", "HTTP/1.0"] {
                let mut answers = Vec::new();
                for method in ["HEAD", "GET"] {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    let request =
                        format!("{method} {path} {version}\r\nHost: x\r\nConnection: close\r\n\r\n");
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let answer = String::from_utf8(http::ended(&mut stream).await).unwrap();
                    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                    assert!(head.split(' ').nth(1) == Some("200"), "{method} {path} at {port}: {head}");
                    answers.push(body.to_owned());
                }
                assert!(answers[0].is_empty(), "HEAD {path} at {port} has a body: {}", answers[0]);
                assert!(!answers[1].is_empty(), "GET {path} at {port}");
            }
        }
    }
}

/// Electron says `file://` where browsers say `null`.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_from_a_file_is_let_in_where_that_is_allowed() {
    for (allowed, statuses) in [
        (None, [101, 101, 101]),
        (Some("https://app.example.com"), [403, 403, 403]),
        (Some("null"), [101, 101, 403]),
        (Some("file://"), [101, 101, 403]),
        (Some("app://."), [403, 403, 101]),
    ] {
        let mut plan = Cluster::start().validators(0);
        if let Some(allowed) = allowed {
            plan = plan.set("frontend.allowed_origins", allowed);
        }
        let cluster = plan.await;
        for (origin, status) in ["file://", "null", "app://."].into_iter().zip(statuses) {
            let (response, _) =
                ask(cluster.frontends[0].port, &upgrade(&format!("Origin: {origin}\r\n"))).await;
            assert_eq!(response.status, status, "{origin} where {allowed:?} is allowed: {response:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_opens_connections_and_says_little_or_nothing_keeps_nobody_out() {
    let cluster = Cluster::start()
        .set("frontend.handshakes_max", 8)
        .set("frontend.handshake_timeout_ms", 500)
        .set("frontend.connections_max", 3)
        .await;
    let frontend = &cluster.frontends[0];
    let mut before = frontend.connected("before").await;
    let mut slow = Vec::new();
    for n in 0..40 {
        let mut stream = TcpStream::connect(("127.0.0.1", frontend.port)).await.unwrap();
        if n % 2 == 0 {
            stream.write_all(b"GET /ws HTTP/1.1\r\nHost: a").await.unwrap();
        }
        slow.push(stream);
    }
    // One of them goes on with a byte at a time, which buys it nothing.
    let mut dripping = slow.pop().unwrap();
    let drip = tokio::spawn(async move {
        while dripping.write_all(b"X").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    before.expect_alive().await;
    let mut after = frontend.connected("after").await;
    after.expect_alive().await;
    for mut stream in slow {
        http::ended(&mut stream).await;
    }
    drip.await.unwrap();
    before.expect_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_upgrades_is_told_when_to_come_again() {
    let cluster = Cluster::start().set("frontend.upgrades_per_second_max", 5).await;
    let frontend = &cluster.frontends[0];
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..60 {
        let (response, stream) = ask(frontend.port, &upgrade("")).await;
        match response.status {
            101 => held.push(stream),
            _ => {
                let wait = response.expect_retry_after(429, "rate_limited");
                assert!(wait >= Duration::from_secs(1) && wait < Duration::from_secs(4), "{wait:?}");
                refused += 1;
            }
        }
    }
    assert!(held.len() >= 5 && refused > 0, "{} let in, {refused} refused", held.len());
    // Probes are no upgrades, and who comes again in good time is let in.
    assert_eq!(ask(frontend.port, &get("/livez")).await.0.status, 200);
    until("a place in the flood", async || Socket::open(&frontend.url()).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_only_so_many_connections_and_a_trusted_proxy_speaks_for_others() {
    let cluster = Cluster::start()
        .set("frontend.connections_per_address_max", 2)
        .set("frontend.trusted_proxies", "127.0.0.1")
        .await;
    let port = cluster.frontends[0].port;
    let from = |address: &str| upgrade(&format!("X-Forwarded-For: {address}\r\n"));
    // Counted as soon as it is known who it is.
    let known = async |address: &str, client: &str| {
        let (response, mut stream) = ask(port, &from(address)).await;
        if response.status == 101 {
            let payload = json!({ "clientId": client, "version": "1" });
            let connect = json!({ "id": "c", "type": "connect", "timestamp": 1, "payload": payload });
            stream.write_all(&super::attacks::text(&connect.to_string())).await.unwrap();
            let mut said = vec![0; 4];
            stream.read_exact(&mut said).await.unwrap();
        }
        (response, stream)
    };
    let (first, stream) = known("6.6.6.6, 1.2.3.4", "a").await;
    let (second, _second) = known("1.2.3.4", "b").await;
    assert_eq!((first.status, second.status), (101, 101));
    let (third, _) = ask(port, &from("1.2.3.4")).await;
    third.expect_retry_after(429, "rate_limited");
    // What a client writes in front of the proxy's own word does not count.
    let (third, _) = ask(port, &from("9.9.9.9, 1.2.3.4")).await;
    third.expect_retry_after(429, "rate_limited");
    let (other, _) = ask(port, &from("1.2.3.5")).await;
    assert_eq!(other.status, 101);
    // A network of IPv6 addresses is one.
    let mut held = Vec::new();
    for n in 0..3 {
        held.push(known(&format!("2001:db8::{n}"), &format!("v6-{n}")).await);
    }
    assert_eq!(held.iter().map(|(response, _)| response.status).collect::<Vec<_>>(), [101, 101, 429]);

    drop(stream);
    until("the place of the one that left", async || {
        (ask(port, &from("1.2.3.4")).await.0.status == 101).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_frontend_says_so_before_the_upgrade_and_lives_on() {
    let cluster = Cluster::start().set("frontend.connections_max", 2).await;
    let frontend = &cluster.frontends[0];
    let first = frontend.connected("first").await;
    let mut second = frontend.connected("second").await;
    let (response, _) = ask(frontend.port, &upgrade("")).await;
    let wait = response.expect_retry_after(503, "unavailable");
    assert!(wait >= Duration::from_secs(1) && wait <= Duration::from_secs(2), "{wait:?}");
    assert_eq!(ask(frontend.port, &get("/livez")).await.0.status, 200);
    drop(first);
    until("a place", async || Socket::open(&frontend.url()).await.ok()).await;
    second.expect_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_without_file_descriptors_goes_on_and_takes_connections_again() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let mut before = frontend.connected("before").await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", frontend.process.id())).unwrap().count() as u64;
    limit_files(frontend.process.id(), open + 10);
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(("127.0.0.1", frontend.port)).await.unwrap());
    }
    until("accepting to fail", async || {
        frontend.process.output().contains("failed to accept a connection").then_some(())
    })
    .await;
    before.expect_alive().await;
    drop(held);
    let mut after =
        until("a connection to be accepted again", async || Socket::open(&frontend.url()).await.ok()).await;
    after.send("connect", json!({ "clientId": "after", "version": "test" })).await.unwrap();
    after.expect("connected").await;
    before.expect_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_may_not_have_its_visitors_connect() {
    let cluster = Cluster::start()
        .set("frontend.allowed_origins", "https://app.example.com, https://*.example.org")
        .await;
    let port = cluster.frontends[0].port;
    for (headers, status) in [
        ("", 101),
        ("Origin: https://app.example.com\r\n", 101),
        ("Origin: https://a.b.example.org\r\n", 101),
        ("Origin: https://example.org\r\n", 403),
        ("Origin: http://app.example.com\r\n", 403),
        ("Origin: https://app.example.com.evil.net\r\n", 403),
        ("Origin: null\r\n", 403),
        ("Origin: \r\n", 403),
        ("Origin: https://app.example.com\r\nOrigin: https://evil.net\r\n", 403),
    ] {
        let (response, _) = ask(port, &upgrade(headers)).await;
        assert_eq!(response.status, status, "{headers:?}: {response:?}");
        if status == 403 {
            assert_eq!(response.json()["code"], "forbidden");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_turned_away_is_told_when_to_come_again() {
    let mut cluster = Cluster::start()
        .set("frontend.connections_per_client_max", 1)
        .set("frontend.feed_wait_ms", 300)
        .set("frontend.retry_after_ms", 500)
        .await;
    let frontend = &cluster.frontends[0];
    let wait = |error: &serde_json::Value| {
        let wait = error["payload"]["details"]["retryAfterMs"].as_u64();
        assert!(wait >= Some(500) && wait <= Some(1_001), "{error}");
    };
    let _first = frontend.connected("ann").await;
    let mut second = Socket::open(&frontend.url()).await.unwrap();
    second.send("connect", json!({ "clientId": "ann", "version": "1" })).await.unwrap();
    wait(&second.expect_error("rate_limited").await);
    assert_eq!(second.expect_closed().await, 1008);

    // The log does not answer: whoever needs it is told so, and stays.
    cluster.nats.servers[0].process().pause();
    let mut third = Socket::open(&frontend.url()).await.unwrap();
    let connect = json!({ "clientId": "carl", "version": "1", "partition": "new" });
    third.send("connect", connect.clone()).await.unwrap();
    wait(&third.expect_error("unavailable").await);
    let mut vera = Socket::open(&frontend.url()).await.unwrap();
    let payload = json!({ "token": "t", "clientId": "vera", "projectId": "new" });
    vera.send_text(crate::harness::v1::envelope("connect", "c", &payload)).await.unwrap();
    wait(&vera.expect_error("server_error").await);
    cluster.nats.servers[0].process().resume();
    until("the log to answer again", async || {
        third.send("connect", connect.clone()).await.unwrap();
        (third.receive().await.unwrap()["type"] == "connected").then_some(())
    })
    .await;
}

/// Gives a running process at most so many file descriptors.
fn limit_files(process: u32, max: u64) {
    let limit = libc::rlimit { rlim_cur: max, rlim_max: max };
    // SAFETY: the pointer is to a value that outlives the call, and no old limit is asked for.
    let done =
        unsafe { libc::prlimit(process as libc::pid_t, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
