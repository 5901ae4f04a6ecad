//! What the networks and the machines bring that a process runs among: load balancers that say whose a connection is,
//! and variables that others put into the environment.

use std::net::Ipv4Addr;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::cluster::{Cluster, Frontend, binary};
use crate::harness::http;

/// Opens a connection that begins with these bytes and asks for an upgrade; gives the status.
async fn upgraded_behind(frontend: &Frontend, first: &[u8], headers: &str) -> (Option<u16>, TcpStream) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, frontend.port)).await.unwrap();
    stream.write_all(first).await.unwrap();
    stream.write_all(http::upgrade(headers).as_bytes()).await.unwrap();
    let status = http::answer(&mut stream).await.map(|response| response.status);
    if status == Some(101) {
        // An address's connections count as soon as it is known who they are.
        let payload = json!({ "clientId": "c", "version": "1" });
        let connect = json!({ "id": "c", "type": "connect", "timestamp": 1, "payload": payload });
        stream.write_all(&super::attacks::text(&connect.to_string())).await.unwrap();
        stream.read_exact(&mut [0; 4]).await.unwrap();
    }
    (status, stream)
}

fn v2(from: [u8; 4]) -> Vec<u8> {
    let [a, b, c, d] = from;
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &[a, b, c, d, 127, 0, 0, 1, 0, 80, 0, 81][..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_whose_a_connection_is_whatever_way_it_says_it() {
    let cluster = Cluster::start()
        .set("frontend.trusted_proxies", "127.0.0.1")
        .set("frontend.connections_per_address_max", 1)
        .await;
    let frontend = &cluster.frontends[0];
    let forwarded = |word: &str| format!("X-Forwarded-For: {word}\r\n");
    let ways: [(&str, Vec<u8>, String); 6] = [
        ("a port", Vec::new(), forwarded("1.1.1.1:4711")),
        ("brackets", Vec::new(), forwarded("[2001:db8:2::7]:443")),
        ("no port", Vec::new(), forwarded("1.1.1.3")),
        ("version 1", b"PROXY TCP4 1.1.1.4 127.0.0.1 80 81\r\n".to_vec(), String::new()),
        ("version 2", v2([1, 1, 1, 5]), String::new()),
        // The load balancer in front of it says it; the proxy behind adds its word.
        ("both", b"PROXY TCP4 127.0.0.1 127.0.0.1 80 81\r\n".to_vec(), forwarded("1.1.1.6:9")),
    ];
    let mut open = Vec::new();
    for (way, first, headers) in &ways {
        // Each is a client of its own: the proxy's address has no more than one connection either.
        let (status, stream) = upgraded_behind(frontend, first, headers).await;
        assert_eq!(status, Some(101), "{way}");
        open.push(stream);
    }
    for (way, first, headers) in &ways {
        // And no more than one.
        let (status, _) = upgraded_behind(frontend, first, headers).await;
        assert_eq!(status, Some(429), "{way}");
    }
    // What is no such head ends the connection, and is counted.
    let (status, _) = upgraded_behind(frontend, b"PROXY TCP4 nobody 127.0.0.1 80 81\r\n", "").await;
    assert_eq!(status, None);
    let refused = frontend.metric("insieme_upgrades_refused_total", "reason=\"proxy_protocol\"").await;
    assert_eq!(refused, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_trusted_proxy_is_not_believed() {
    let cluster = Cluster::start().set("frontend.trusted_proxies", "10.0.0.1").await;
    let frontend = &cluster.frontends[0];
    let head = b"PROXY TCP4 1.1.1.4 127.0.0.1 80 81\r\n";
    let (status, _) = upgraded_behind(frontend, head, "").await;
    assert!(
        status.is_some_and(|status| status >= 400),
        "of whoever is not trusted it is no request: {status:?}"
    );
}

#[test]
fn variables_that_kubernetes_and_compose_put_in_end_no_command() {
    let of_a_service = [
        ("INSIEME_SERVICE_HOST", "10.96.0.7"),
        ("INSIEME_SERVICE_PORT", "3001"),
        ("INSIEME_SERVICE_PORT_WS", "3001"),
        ("INSIEME_PORT", "tcp://10.96.0.7:3001"),
        ("INSIEME_PORT_3001_TCP", "tcp://10.96.0.7:3001"),
        ("INSIEME_PORT_3001_TCP_PROTO", "tcp"),
        ("INSIEME_PORT_3001_TCP_PORT", "3001"),
        ("INSIEME_PORT_3001_TCP_ADDR", "10.96.0.7"),
        ("INSIEME_FRONTEND_SERVICE_HOST", "10.96.0.8"),
        ("INSIEME_FRONTEND_PORT_8080_TCP_ADDR", "10.96.0.8"),
    ];
    let checked = binary().arg("check-config").envs(of_a_service).output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.is_empty(), "{said}");

    let checked = binary().arg("check-config").env("INSIEME_HOMEPAGE_COLOUR", "red").output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.contains("INSIEME_HOMEPAGE_COLOUR"), "{said}");

    let checked = binary().arg("check-config").env("INSIEME_FRONTEND_CONECTIONS_MAX", "7").output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(!checked.status.success() && said.contains("INSIEME_FRONTEND_CONNECTIONS_MAX"), "{said}");
}
