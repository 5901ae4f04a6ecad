//! An HTTP server for operators: metrics, health, the administration.
//!
//! It is bounded like the clients' edge, though only operators should reach it: a head that does not come to its
//! end, an answer that is not read, and connections without end cost nobody an answer.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::seats::{Seat, Seats};
use super::stall::Unstalled;

/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most headers in it.
const HEADERS_MAX: usize = 64;
/// The pause after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What a server's connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The most connections. The oldest gives way to one more, unless its [`Seat`], which every request has among
    /// its extensions, is kept.
    pub connections_max: usize,
    /// How long a request's head may take, and a connection be without a request.
    pub head_time_max: Duration,
    /// How long an answer may stand still because nobody reads it.
    pub stall_max: Duration,
}

/// Serves until told to stop, and then until what is under way is answered.
pub async fn serve(listener: TcpListener, routes: Router, bounds: Bounds, stop: CancellationToken) {
    let (seats, connections) = (Seats::new(bounds.connections_max, 0), TaskTracker::new());
    let mut failing = false;
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                let Some(seat) = stop.run_until_cancelled(seats.wait((), false)).await else { break };
                connections.spawn(connection(stream, routes.clone(), bounds, seat, stop.clone()));
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "failed to accept a connection; retrying");
                }
                if stop.run_until_cancelled(tokio::time::sleep(ACCEPT_PAUSE)).await.is_none() {
                    break;
                }
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(
    stream: TcpStream,
    routes: Router,
    bounds: Bounds,
    seat: Seat<()>,
    stop: CancellationToken,
) {
    let seat = Arc::new(seat);
    let service = TowerToHyperService::new(routes);
    let (told, of_requests) = (seat.clone(), seat);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(of_requests.clone());
        service.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(bounds.head_time_max)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let stream = TokioIo::new(Unstalled::new(stream, bounds.stall_max));
    let mut serving = std::pin::pin!(http.serve_connection(stream, service));
    let mut is_stopping = false;
    let ended = loop {
        tokio::select! {
            ended = serving.as_mut() => break ended,
            () = told.given_way() => {
                debug!("a connection gave way to another");
                return;
            }
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection ended");
    }
}
