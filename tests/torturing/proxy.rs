//! A TCP proxy on one process's way to NATS: passes bytes on, slowly, in one direction only, not at all, or
//! refuses every connection.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What the link does just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Passes everything on.
    Whole,
    /// Every connection is closed, and new ones are refused.
    Cut,
    /// Nothing passes in either direction, and nobody is told.
    Silent,
    /// What the process says arrives; what it is told does not.
    Deaf,
    /// What the process is told arrives; what it says does not.
    Mute,
    /// Everything takes this much longer.
    Slow(Duration),
}

/// The proxy; ends when dropped.
pub struct Proxy {
    port: u16,
    link: watch::Sender<Link>,
    accepting: AbortHandle,
}

const CHUNK_BYTES: usize = 32 * 1024;

impl Proxy {
    /// Listens on a free port, and passes on to `upstream`.
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port for a proxy");
        let port = listener.local_addr().expect("its address").port();
        let (link, watched) = watch::channel(Link::Whole);
        let upstream = SocketAddr::from(([127, 0, 0, 1], upstream));
        let accepting = tokio::spawn(accept(listener, upstream, watched)).abort_handle();
        Self { port, link, accepting }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, link: watch::Receiver<Link>) {
    // Ends its connections with itself.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((near, _)) = listener.accept().await else { continue };
        if *link.borrow() == Link::Cut {
            continue;
        }
        let link = link.clone();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(upstream).await else { return };
            let (near, far) = (without_delay(near), without_delay(far));
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            let mut cut = link.clone();
            // Whichever direction ends takes the other with it, as a connection does.
            tokio::select! {
                () = pass(near_read, far_write, link.clone(), Link::Mute) => {}
                () = pass(far_read, near_write, link, Link::Deaf) => {}
                _ = cut.wait_for(|link| *link == Link::Cut) => {}
            }
        });
    }
}

fn without_delay(stream: TcpStream) -> TcpStream {
    // Only speed is lost where this fails.
    drop(stream.set_nodelay(true));
    stream
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
    stopped_by: Link,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        if !is_open(&mut link, stopped_by).await {
            return;
        }
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if !is_open(&mut link, stopped_by).await {
            return;
        }
        let now = *link.borrow();
        if let Link::Slow(by) = now {
            tokio::time::sleep(by).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits until something may pass. Nothing is lost where a link is healed: a half-open connection only waits, as TCP
/// would. Where it is cut, what was held back must not get through at the last moment.
async fn is_open(link: &mut watch::Receiver<Link>, stopped_by: Link) -> bool {
    let decided = link.wait_for(|link| *link != stopped_by && *link != Link::Silent).await;
    decided.is_ok_and(|link| *link != Link::Cut)
}
