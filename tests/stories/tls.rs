//! TLS on the clients' side: with a certificate of its own, which is taken anew when it changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::cluster::Cluster;
use crate::harness::{DEADLINE, http, temp_dir, until};

/// A certificate for `localhost` and its key.
struct Pair {
    certificate: String,
    key: String,
}

impl Pair {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
    }

    /// Puts both files in place, each at once.
    fn install(&self, files: &Files) {
        put(&files.key, &self.key);
        put(&files.certificate, &self.certificate);
    }
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn below(dir: &Path) -> Self {
        Self { certificate: dir.join("cert.pem"), key: dir.join("key.pem") }
    }
}

fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

type Wss = WebSocketStream<TlsStream<TcpStream>>;

/// A WebSocket of a client that trusts this one certificate.
async fn open(port: u16, trusted: &Pair, alpn: &str) -> Result<Wss, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.certificate.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let opening = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from("localhost").unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let tls = tls.map_err(|error| error.to_string())?;
        client_async("wss://localhost/ws", tls)
            .await
            .map(|(socket, _)| socket)
            .map_err(|error| error.to_string())
    };
    timeout(DEADLINE, opening).await.expect("a TLS handshake ends")
}

async fn ask(socket: &mut Wss, kind: &str, payload: Value) -> Value {
    let message = json!({ "id": "m", "type": kind, "timestamp": 1, "payload": payload });
    socket.send(Message::text(message.to_string())).await.unwrap();
    let answer = timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
    serde_json::from_str(answer.to_text().unwrap()).unwrap()
}

async fn is_alive(socket: &mut Wss) {
    assert_eq!(ask(socket, "heartbeat", json!({})).await["type"], "heartbeat");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_certificate_is_taken_and_one_that_is_broken_is_not() {
    let dir = temp_dir();
    let files = Files::below(dir.path());
    let (first, second) = (Pair::new(), Pair::new());
    first.install(&files);
    let mut cluster = Cluster::start()
        .frontends(0)
        .set("frontend.tls_cert_file", files.certificate.display())
        .set("frontend.tls_key_file", files.key.display())
        .set("frontend.tls_poll_ms", 50)
        .set("frontend.handshake_timeout_ms", 5_000)
        .await;
    cluster.add_frontend().await;
    let frontend = &cluster.frontends[0];
    let port = frontend.port;
    assert!(frontend.process.output().contains(&format!("frontend ready: wss://127.0.0.1:{port}/ws")));

    let mut old = open(port, &first, "http/1.1").await.unwrap();
    let connected = ask(&mut old, "connect", json!({ "clientId": "ann", "version": "1" })).await;
    assert_eq!(connected["type"], "connected");
    // Enough to be more than one TLS record, both ways.
    let event = json!({ "type": "set", "payload": { "target": "a", "value": "x".repeat(100_000) } });
    let answer = ask(&mut old, "submit_event", json!({ "draftId": "d", "event": event })).await;
    assert_eq!(answer["payload"]["event"]["payload"], event["payload"]);
    let broadcast = timeout(DEADLINE, old.next()).await.unwrap().unwrap().unwrap();
    assert!(broadcast.to_text().unwrap().contains("\"broadcast\""));

    // A client that trusts another, one that speaks HTTP/2 only, one that speaks no TLS, one that says nothing.
    assert!(open(port, &second, "http/1.1").await.is_err());
    assert!(open(port, &first, "h2").await.is_err());
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    plain.write_all(http::upgrade("").as_bytes()).await.unwrap();
    let said = http::ended(&mut plain).await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    let mut silent = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert!(http::ended(&mut silent).await.is_empty());

    second.install(&files);
    until("the new certificate", async || open(port, &second, "http/1.1").await.ok()).await;
    assert!(open(port, &first, "http/1.1").await.is_err(), "the old one is not shown any more");
    is_alive(&mut old).await;

    // A key that is not the certificate's, and what is no certificate at all.
    put(&files.key, &first.key);
    until("the wrong key to be reported", async || {
        frontend.process.output().contains("the one before stays in force").then_some(())
    })
    .await;
    put(&files.certificate, "nothing");
    open(port, &second, "http/1.1").await.unwrap();
    first.install(&files);
    until("a good one again", async || open(port, &first, "http/1.1").await.ok()).await;
    is_alive(&mut old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_does_not_start_with_half_a_pair_or_a_broken_one() {
    let dir = temp_dir();
    let files = Files::below(dir.path());
    Pair::new().install(&files);
    put(&files.key, "no key");
    let refusal = |settings: &[String]| {
        let mut command = crate::harness::cluster::binary();
        command.args(["frontend", "--allow-anyone", "--nats", "nats://127.0.0.1:1"]);
        for setting in settings {
            command.args(["--set", setting.as_str()]);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let certificate = format!("frontend.tls_cert_file={}", files.certificate.display());
    let key = format!("frontend.tls_key_file={}", files.key.display());
    let said = refusal(std::slice::from_ref(&certificate));
    assert!(said.contains("tls_key_file"), "{said}");
    let said = refusal(&[certificate, key]);
    assert!(said.contains("key.pem"), "{said}");
}
