//! One connection: its handshake, and the session behind it, in one task.
//!
//! The handshake (one HTTP request, and its answer) has one deadline over all of it, and its buffers are
//! given back before the session begins.

use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::{Instrument, debug, error, error_span};

use super::http::{self, Granted};
use super::{Edge, Stream};
use crate::fault;
use crate::frontend::ws::WebSocket;
use crate::frontend::{lock, metrics, session};

/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most headers in it.
const HEADERS_MAX: usize = 64;
/// How long, and for how many bytes, a connection is read on when its request was refused: a socket closed on
/// unread input is reset, and takes the answer with it.
const REFUSED_LINGER: Duration = Duration::from_secs(1);
const REFUSED_BYTES_MAX: u64 = 64 * 1024;

/// Serves a connection until it ends.
pub(super) async fn serve(edge: Arc<Edge>, stream: TcpStream, handshake: OwnedSemaphorePermit) {
    let wait = Duration::from_millis(edge.hub.settings.handshake_timeout_ms);
    let port = stream.peer_addr().map_or(0, |peer| peer.port());
    // Boxed, so that the task does not keep its room for as long as the session lasts.
    let greeting = Box::pin(edge.hub.drain.run_until_cancelled(shake_hands(&edge, stream)));
    let upgraded = timeout(wait, greeting).await.map(Option::flatten);
    drop(handshake);
    let (stream, read, granted) = match upgraded {
        Ok(Some(upgraded)) => upgraded,
        Ok(None) => return,
        Err(_) => {
            metrics::count_by(metrics::UPGRADES_REFUSED, "reason", "timeout");
            debug!("a connection made no request in time");
            return;
        }
    };
    let connection = fault::connection_number(edge.connections.fetch_add(1, Ordering::Relaxed) + 1, port);
    // Of the level that no filter leaves out: a warning without its connection helps nobody.
    let span = error_span!(
        "connection",
        connection,
        client = tracing::field::Empty,
        partition = tracing::field::Empty
    );
    let hub = edge.hub.clone();
    drop(edge);
    let socket = WebSocket::new(stream, read, hub.settings.frame_bytes_max);
    let serving = session::serve(hub, connection, socket, granted.admission, granted.token);
    let serving = Box::pin(serving.instrument(span.clone()));
    if AssertUnwindSafe(serving).catch_unwind().await.is_err() {
        let _in_span = span.enter();
        error!("a defect ended a connection: its task panicked");
    }
}

/// Takes a connection's one request and answers it. Gives the stream back, and what was read of it beyond the
/// request, if that was granted an upgrade.
async fn shake_hands(edge: &Edge, stream: TcpStream) -> Option<(Stream, Vec<u8>, Granted)> {
    let peer = stream.peer_addr().ok()?.ip();
    // A frame is flushed when nothing more is to come just now: the kernel has nothing to wait for.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot switch off a socket's delay");
    }
    let stream = match &edge.gate.tls {
        None => Stream::Plain(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Stream::Tls(Box::new(stream)),
            Err(error) => {
                metrics::count_by(metrics::UPGRADES_REFUSED, "reason", "tls");
                debug!(%error, "a TLS handshake failed");
                return None;
            }
        },
    };
    request(edge, peer, stream).await
}

async fn request(edge: &Edge, peer: IpAddr, stream: Stream) -> Option<(Stream, Vec<u8>, Granted)> {
    let granted = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| {
        let (response, grant) = http::answer(edge, peer, &request);
        *lock(&granted) = grant;
        std::future::ready(Ok::<Response<String>, Infallible>(response))
    });
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).header_read_timeout(None);
    let parts = match http.serve_connection(TokioIo::new(stream), service).without_shutdown().await {
        Ok(parts) => parts,
        Err(error) => {
            debug!(%error, "a connection made no request that could be answered");
            return None;
        }
    };
    let (mut stream, read) = (parts.io.into_inner(), parts.read_buf.to_vec());
    let granted = lock(&granted).take();
    match granted {
        Some(granted) => Some((stream, read, granted)),
        None => {
            if stream.shutdown().await.is_ok() {
                let mut rest = stream.take(REFUSED_BYTES_MAX);
                // Whatever comes and however it ends: the answer is out.
                let _ = timeout(REFUSED_LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
            }
            None
        }
    }
}
