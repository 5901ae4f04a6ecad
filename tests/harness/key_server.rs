//! An issuer's key set over HTTP, or an application that says who may come in, in every mood: good, changing, broken,
//! slow, and without end.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// How it answers.
#[derive(Clone)]
pub enum Mood {
    /// With this set.
    Set(String),
    /// With this, after so long.
    Late(Duration, String),
    /// With this status, and where that leads somewhere, to this set.
    Status(&'static str, String),
    /// Never.
    Silent,
    /// For ever.
    Endless,
}

/// What it was asked.
#[derive(Default)]
struct Asked {
    count: AtomicU32,
    at_once: AtomicU32,
    at_once_max: AtomicU32,
    /// Head and body of the last request.
    last: Mutex<(String, Vec<u8>)>,
}

/// A server that answers every request in the mood of the moment, until it is dropped.
pub struct KeyServer {
    pub url: String,
    /// The certificate that vouches for it, in PEM, if it speaks TLS.
    pub ca_pem: Option<String>,
    asked: Arc<Asked>,
    mood: Arc<Mutex<Mood>>,
    _serving: JoinSet<()>,
}

impl KeyServer {
    /// Starts on a free port of the loopback interface.
    pub async fn start(mood: Mood) -> Self {
        Self::serve(mood, None).await
    }

    /// The same with TLS, and a certificate of its own for 127.0.0.1.
    pub async fn start_tls(mood: Mood) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let certificate = CertificateDer::from(made.cert.der().to_vec());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::serve(mood, Some((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))).await
    }

    async fn serve(mood: Mood, tls: Option<(TlsAcceptor, String)>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/keys", listener.local_addr().unwrap());
        let (acceptor, ca_pem) = tls.unzip();
        let (asked, mood) = (Arc::new(Asked::default()), Arc::new(Mutex::new(mood)));
        let (count, moods) = (asked.clone(), mood.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (count, moods, acceptor) = (count.clone(), moods.clone(), acceptor.clone());
                connections.spawn(async move {
                    // A client that breaks off is part of the stories.
                    match acceptor {
                        None => answer(stream, &count, &moods).await.unwrap_or_default(),
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                answer(stream, &count, &moods).await.unwrap_or_default();
                            }
                        }
                    }
                });
            }
        });
        Self { url, ca_pem, asked, mood, _serving: serving }
    }

    pub fn change(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// How often it was asked.
    pub fn asked(&self) -> u32 {
        self.asked.count.load(Ordering::SeqCst)
    }

    /// How many questions it had before it at the same time, at most.
    pub fn asked_at_once_max(&self) -> u32 {
        self.asked.at_once_max.load(Ordering::SeqCst)
    }

    /// Head and body of the last request.
    pub fn last(&self) -> (String, Vec<u8>) {
        self.asked.last.lock().unwrap().clone()
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    asked: &Asked,
    mood: &Mutex<Mood>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    stream.read_exact(&mut body).await?;
    *asked.last.lock().unwrap() = (head, body);
    asked.count.fetch_add(1, Ordering::SeqCst);
    let mood = mood.lock().unwrap().clone();
    let (status, body) = match mood {
        Mood::Late(time, body) => {
            let at_once = asked.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            asked.at_once_max.fetch_max(at_once, Ordering::SeqCst);
            tokio::time::sleep(time).await;
            asked.at_once.fetch_sub(1, Ordering::SeqCst);
            ("200 OK", body)
        }
        Mood::Silent => {
            // Until the other side has had enough.
            stream.read_u8().await?;
            return Ok(());
        }
        Mood::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"keys\":[").await?;
            loop {
                stream.write_all(&[b' '; 4096]).await?;
            }
        }
        Mood::Set(set) => ("200 OK", set),
        Mood::Status(status, set) => (status, set),
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
