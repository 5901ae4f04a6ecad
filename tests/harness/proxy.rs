//! A TCP proxy on one process's way to NATS: passes bytes on, slowly, in one direction only, not at all, or
//! refuses every connection. It can also reset a connection (RST) in the middle of what it carries, and take the
//! next one at once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// What the link does.
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

/// Which bytes count until a connection is reset. The reset happens in the middle of them: the last of the
/// counted bytes still passes, and nothing after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// So many bytes from NATS to the process.
    AfterTold(u64),
    /// So many bytes from the process to NATS.
    AfterSaid(u64),
    /// So many bytes from NATS to the process while an answer to a batched direct get is not complete.
    InRead(u64),
}

/// The proxy; ends when dropped.
pub struct Proxy {
    port: u16,
    link: watch::Sender<Link>,
    trap: Arc<Trap>,
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
        let trap = Arc::<Trap>::default();
        let accepting = tokio::spawn(accept(listener, upstream, watched, trap.clone())).abort_handle();
        Self { port, link, trap, accepting }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }

    /// Resets one connection, once it has carried what is named, counted from now. Replaces a reset that was
    /// asked for and has not happened.
    pub fn reset(&self, reset: Reset) {
        self.trap.arm(Some(reset));
    }

    /// Asks for no reset any more.
    pub fn disarm(&self) {
        self.trap.arm(None);
    }

    /// How many connections were reset so far.
    pub fn resets(&self) -> u64 {
        self.trap.resets.load(Ordering::Acquire)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, link: watch::Receiver<Link>, trap: Arc<Trap>) {
    // Ends its connections with itself.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((near, _)) = listener.accept().await else { continue };
        if *link.borrow() == Link::Cut {
            continue;
        }
        let (link, trap) = (link.clone(), trap.clone());
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(upstream).await else { return };
            let (near, far) = (without_delay(near), without_delay(far));
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            let mut cut = link.clone();
            let watch = Arc::new(Wiretap { trap, seen: Mutex::default() });
            let said = Way { link: link.clone(), stopped_by: Link::Mute, watch: watch.clone(), told: false };
            let told = Way { link, stopped_by: Link::Deaf, watch, told: true };
            // Whichever direction ends takes the other with it, as a connection does.
            tokio::select! {
                () = pass(near_read, far_write, said) => {}
                () = pass(far_read, near_write, told) => {}
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

/// One direction of a connection.
struct Way {
    link: watch::Receiver<Link>,
    stopped_by: Link,
    watch: Arc<Wiretap>,
    /// Whether it leads from NATS to the process.
    told: bool,
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: Way) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        if !is_open(&mut way.link, way.stopped_by).await {
            return;
        }
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        if !is_open(&mut way.link, way.stopped_by).await {
            return;
        }
        let now = *way.link.borrow();
        if let Link::Slow(by) = now {
            tokio::time::sleep(by).await;
        }
        let last = way.watch.carry(way.told, &buffer[..count]);
        if to.write_all(&buffer[..last.unwrap_or(count)]).await.is_err() {
            return;
        }
        if last.is_some() {
            // Both ends get a RST when their sockets are dropped. A failure here would make it a FIN.
            from.as_ref().set_zero_linger().expect("SO_LINGER on a socket to NATS");
            to.as_ref().set_zero_linger().expect("SO_LINGER on a socket to NATS");
            way.watch.trap.resets.fetch_add(1, Ordering::Release);
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

/// The reset that a proxy is to make.
#[derive(Default)]
struct Trap {
    /// Whether there is one: connections look at their bytes only then.
    is_armed: AtomicBool,
    /// The reset that was asked for last, and how often one was asked for.
    armed: Mutex<(u64, Option<Reset>)>,
    resets: AtomicU64,
}

impl Trap {
    fn arm(&self, reset: Option<Reset>) {
        let mut armed = self.armed.lock().expect("a proxy panicked");
        *armed = (armed.0 + 1, reset);
        self.is_armed.store(reset.is_some(), Ordering::Release);
    }
}

/// What one connection has carried.
struct Wiretap {
    trap: Arc<Trap>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// The reset that the figures are for.
    reset: u64,
    counted: u64,
    /// Batched direct gets that were asked for and are not answered completely.
    reading: u64,
    /// The end of the last chunk of each direction, in which a word may have begun.
    tails: [Vec<u8>; 2],
}

/// In a request for many stored messages, and nowhere else.
const READ_ASKED: &[u8] = b"DIRECT.GET.";
const READ_BATCHED: &[u8] = b"\"batch\":";
/// The status that ends the answer, and the one of an empty answer.
const READ_ENDS: [&[u8]; 2] = [b"NATS/1.0 204", b"NATS/1.0 404"];

impl Wiretap {
    /// Takes note of bytes that are to be passed on. If the connection is to be reset, gives how many of them
    /// still pass.
    fn carry(&self, told: bool, bytes: &[u8]) -> Option<usize> {
        if !self.trap.is_armed.load(Ordering::Acquire) {
            return None;
        }
        let mut armed = self.trap.armed.lock().expect("a proxy panicked");
        let (number, Some(reset)) = *armed else { return None };
        let mut seen = self.seen.lock().expect("a proxy panicked");
        if seen.reset != number {
            *seen = Seen { reset: number, ..Seen::default() };
        }
        let (counts, after) = match reset {
            Reset::AfterTold(after) => (told, after),
            Reset::AfterSaid(after) => (!told, after),
            Reset::InRead(after) => {
                let was_reading = seen.reading > 0;
                seen.look(told, bytes);
                // The chunk with the end of the last answer is not in its middle.
                (told && was_reading && seen.reading > 0, after)
            }
        };
        if !counts {
            return None;
        }
        let room = after - seen.counted;
        if bytes.len() as u64 <= room {
            seen.counted += bytes.len() as u64;
            return None;
        }
        *armed = (number, None);
        self.trap.is_armed.store(false, Ordering::Release);
        usize::try_from(room).ok()
    }
}

impl Seen {
    /// Counts the batched reads that begin or end in a chunk.
    fn look(&mut self, told: bool, bytes: &[u8]) {
        let tail = &mut self.tails[usize::from(told)];
        let mut text = std::mem::take(tail);
        let known = text.len();
        text.extend_from_slice(bytes);
        let count = |word: &[u8]| {
            let new = text.windows(word.len()).enumerate().skip(known.saturating_sub(word.len() - 1));
            new.filter(|(_, window)| *window == word).count() as u64
        };
        if told {
            let ended: u64 = READ_ENDS.iter().map(|end| count(end)).sum();
            self.reading = self.reading.saturating_sub(ended);
        } else if count(READ_ASKED) > 0 {
            self.reading += count(READ_BATCHED);
        }
        let keep = text.len().saturating_sub(READ_ENDS[0].len() - 1);
        self.tails[usize::from(told)] = text.split_off(keep);
    }
}
