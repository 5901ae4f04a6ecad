//! One connection: its handshake, and the session behind it, in one task.
//!
//! The handshake (one HTTP request, and its answer) has one deadline over all of it, and its buffers are
//! given back before the session begins.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
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
use crate::frontend::admission::connection_limits;
use crate::frontend::net::{AddressKey, Stream, proxy_protocol};
use crate::frontend::websocket::WebSocket;
use crate::frontend::{metrics, session};
use crate::serving::Seat;

/// How long, and for how many bytes, a connection is read on when its request was refused: a socket closed on
/// unread input is reset, and takes the answer with it.
const REFUSED_LINGER: Duration = Duration::from_secs(1);
const REFUSED_BYTES_MAX: u64 = 64 * 1024;

/// Serves a connection until it ends.
pub(crate) async fn serve(edge: Arc<Listener>, stream: TcpStream, peer: IpAddr, seat: Seat<AddressKey>) {
    let wait = Duration::from_millis(edge.shared.settings.handshake_timeout_ms);
    let port = stream.peer_addr().map_or(0, |peer| peer.port());
    // Boxed, so that the task does not keep its room for as long as the session lasts.
    let greeting = Box::pin(edge.shared.drain.run_until_cancelled(shake_hands(&edge, stream, peer)));
    let upgraded = tokio::select! {
        biased;
        // What is here already is looked at first: nobody gives way whose request has come.
        upgraded = timeout(wait, greeting) => upgraded.map(Option::flatten),
        () = seat.given_way() => {
            metrics::count_by(metrics::GAVE_WAY, "stage", "handshake");
            debug!("a connection that made no request gave way to another");
            return;
        }
    };
    drop(seat);
    let (stream, read, granted) = match upgraded {
        Ok(Some(upgraded)) => upgraded,
        Ok(None) => return,
        Err(_) => {
            metrics::count_by(metrics::UPGRADES_REFUSED, "reason", "timeout");
            debug!("no request arrived in time");
            return;
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

/// Takes a connection's one request and answers it. Gives the stream back, and what was read of it beyond the
/// request, if that was granted an upgrade.
async fn shake_hands(
    edge: &Listener,
    mut stream: TcpStream,
    peer: IpAddr,
) -> Option<(Stream, Vec<u8>, Granted)> {
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
    request(edge, peer, stream).await
}

async fn request(edge: &Listener, peer: IpAddr, mut stream: Stream) -> Option<(Stream, Vec<u8>, Granted)> {
    let (answer, read, granted) = match head::read(&mut stream).await {
        Ok((head, read)) => {
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
    if let Some(granted) = granted {
        return Some((stream, read, granted));
    }
    if stream.shutdown().await.is_ok() {
        let mut rest = stream.take(REFUSED_BYTES_MAX);
        // Whatever comes and however it ends: the answer is out.
        let _ = timeout(REFUSED_LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
    None
}
