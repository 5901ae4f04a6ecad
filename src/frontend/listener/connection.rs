//! One connection: its handshake, and the session behind it, in one task; or its requests of plain HTTP, one after the
//! other.
//!
//! The handshake (one HTTP request, and its answer) has one deadline over all of it, and its buffers are
//! given back before the session begins. A request of plain HTTP has that for its head.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{Instrument, debug, error, error_span};

use super::head;
use super::head::NoHead;
use super::http;
use super::http::Granted;
use super::policy::Listener;
use crate::faults;
use crate::frontend::admission::connection_limits::{self, FrameLimit};
use crate::frontend::net::{AddressKey, Stream, proxy_protocol};
use crate::frontend::plain::{self, After, Asked};
use crate::frontend::websocket::WebSocket;
use crate::frontend::{metrics, session};
use crate::serving::Seat;

/// How long, and for how many bytes, a connection is read on when its request was refused: a socket closed on
/// unread input is reset, and takes the answer with it.
const REFUSED_LINGER: Duration = Duration::from_secs(1);
const REFUSED_BYTES_MAX: u64 = 64 * 1024;

/// What a connection's first or next request comes to.
enum Came {
    /// It is upgraded; and what was read of it beyond the request.
    Upgraded(Stream, Vec<u8>, Granted),
    /// It is one of plain HTTP.
    Plain(Box<Asked>),
}

/// Serves a connection until it ends.
pub(crate) async fn serve(edge: Arc<Listener>, stream: TcpStream, peer: IpAddr, seat: Seat<AddressKey>) {
    let port = stream.peer_addr().map_or(0, |peer| peer.port());
    // Boxed, so that the task does not keep its room for as long as the session lasts.
    let mut came = in_time(&edge, &seat, true, Box::pin(shake_hands(&edge, stream, peer))).await;
    drop(seat);
    let limit = FrameLimit::new(&edge.shared.settings);
    let (stream, read, granted) = loop {
        match came {
            Some(Came::Upgraded(stream, read, granted)) => break (stream, read, granted),
            Some(Came::Plain(asked)) => {
                let client = asked.peer;
                let serving = AssertUnwindSafe(Box::pin(plain::serve(&edge, *asked, &limit))).catch_unwind();
                let (stream, read) = match serving.await {
                    Ok(After::Keep(stream, read)) => (stream, read),
                    Ok(After::Close(stream)) => return linger(stream).await,
                    Ok(After::Gone) => return,
                    Err(_) => return error!("a defect ended a request: its task panicked"),
                };
                // While it says nothing it is as one that has just come.
                let is_bounded = !edge.gate.proxies.trusts(peer);
                let seat = edge.handshakes.wait(AddressKey::of(peer), is_bounded);
                let Some(seat) = edge.shared.drain.run_until_cancelled(seat).await else { return };
                came = in_time(&edge, &seat, false, Box::pin(request(&edge, client, stream, read))).await;
            }
            None => return,
        }
    };
    let connection = faults::connection_number(edge.shared.number(), port);
    // Of the level that no filter leaves out: a warning without its connection helps nobody.
    let span = error_span!(
        "connection",
        connection,
        client = tracing::field::Empty,
        partition = tracing::field::Empty
    );
    let shared = edge.shared.clone();
    drop(edge);
    // The room for a token and no more, until it is known who it is.
    let bytes_max =
        connection_limits::before_connect_bytes_max(&shared.settings, shared.auth.token_bytes_max());
    let socket = WebSocket::new(stream, read, bytes_max);
    let serving = session::serve(shared, connection, socket, granted.entrance, granted.came_with);
    let serving = Box::pin(serving.instrument(span.clone()));
    if AssertUnwindSafe(serving).catch_unwind().await.is_err() {
        let _in_span = span.enter();
        error!("a defect ended a connection: its task panicked");
    }
}

/// Waits for a connection's request, for as long as it may take and nobody needs its seat.
async fn in_time(
    edge: &Listener,
    seat: &Seat<AddressKey>,
    is_first: bool,
    came: Pin<Box<impl Future<Output = Option<Came>>>>,
) -> Option<Came> {
    let wait = Duration::from_millis(edge.shared.settings.handshake_timeout_ms);
    let came = edge.shared.drain.run_until_cancelled(came);
    tokio::select! {
        biased;
        // What is here already is looked at first: nobody gives way whose request has come.
        came = timeout(wait, came) => match came {
            Ok(came) => came.flatten(),
            Err(_) => {
                if is_first {
                    metrics::count_by(metrics::UPGRADES_REFUSED, "reason", "timeout");
                }
                debug!("no request arrived in time");
                None
            }
        },
        () = seat.given_way() => {
            metrics::count_by(metrics::GAVE_WAY, "stage", "handshake");
            debug!("a connection that made no request gave way to another");
            None
        }
    }
}

/// Takes a connection's first request.
async fn shake_hands(edge: &Listener, mut stream: TcpStream, peer: IpAddr) -> Option<Came> {
    // A frame is flushed when nothing more is to come just now: the kernel has nothing to wait for.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "cannot switch off a socket's delay");
    }
    let peer = match edge.gate.proxies.trusts(peer) {
        false => peer,
        true => match proxy_protocol::take(&mut stream).await {
            Ok(client) => client.unwrap_or(peer),
            Err(error) => {
                metrics::count_by(metrics::UPGRADES_REFUSED, "reason", "proxy_protocol");
                debug!(%error, "a trusted proxy did not say whose a connection is");
                return None;
            }
        },
    };
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
    request(edge, peer, stream, Vec::new()).await
}

/// Reads a request, and answers it unless it is one of plain HTTP.
async fn request(edge: &Listener, peer: IpAddr, mut stream: Stream, read: Vec<u8>) -> Option<Came> {
    let (answer, read, granted) = match head::read(&mut stream, read).await {
        Ok((head, read)) => {
            if plain::is_for(head.target.path()) && http::names_a_host(&head) {
                return Some(Came::Plain(Box::new(Asked { head, stream, read, peer })));
            }
            let (answer, granted) = http::answer(edge, peer, &head);
            (answer, read, granted)
        }
        Err(NoHead::Refused(refusal)) => (http::refuse(refusal), Vec::new(), None),
        Err(NoHead::Gone) => {
            debug!("a connection ended before it had made a request");
            return None;
        }
    };
    let answered = async {
        stream.write_all(&answer).await?;
        stream.flush().await
    };
    if let Err(error) = answered.await {
        debug!(%error, "a connection ended before its request was answered");
        return None;
    }
    match granted {
        Some(granted) => Some(Came::Upgraded(stream, read, granted)),
        None => {
            linger(stream).await;
            None
        }
    }
}

/// Ends a connection that was told so.
async fn linger(mut stream: Stream) {
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(REFUSED_BYTES_MAX);
        // Whatever comes and however it ends: the answer is out.
        let _ = timeout(REFUSED_LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}
