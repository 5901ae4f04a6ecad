//! A TCP proxy on one process's way to NATS that loses single messages, as a reset of the connection does, or holds them
//! up, at the one place that a story is about.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::DEADLINE;

/// The proxy; ends when dropped.
pub struct LossyProxy {
    port: u16,
    losing: Arc<Mutex<Losing>>,
    gate: watch::Sender<Gate>,
    accepting: AbortHandle,
}

/// Whether messages to the process pass.
enum Gate {
    Open,
    /// It closes before a message that holds all these words.
    Closes(Vec<String>),
    Closed,
}

/// Which messages to the process are lost.
#[derive(Default)]
struct Losing {
    /// What is in the message, headers included. All must be.
    words: Vec<String>,
    /// How many more.
    left: usize,
    lost: usize,
}

impl LossyProxy {
    /// Listens on a free port, and passes on to `upstream`.
    pub async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a loopback port for a proxy");
        let port = listener.local_addr().expect("its address").port();
        let losing = Arc::<Mutex<Losing>>::default();
        let upstream = SocketAddr::from(([127, 0, 0, 1], upstream));
        let gate = watch::Sender::new(Gate::Open);
        let accepting = tokio::spawn(accept(listener, upstream, losing.clone(), gate.clone())).abort_handle();
        Self { port, losing, gate, accepting }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Loses the next `count` messages that hold all these words.
    pub fn lose(&self, count: usize, words: &[&str]) {
        let words = owned(words);
        *self.losing.lock().expect("a proxy panicked") = Losing { words, left: count, lost: 0 };
    }

    /// How many of those were lost.
    pub fn lost(&self) -> usize {
        self.losing.lock().expect("a proxy panicked").lost
    }

    /// Holds up the next message that holds all these words, and all after it.
    pub fn hold(&self, words: &[&str]) {
        self.gate.send_replace(Gate::Closes(owned(words)));
    }

    /// Waits until that message has come.
    pub async fn held(&self) {
        let mut gate = self.gate.subscribe();
        let closed = gate.wait_for(|gate| matches!(gate, Gate::Closed));
        drop(timeout(DEADLINE, closed).await.expect("the message to hold up").expect("a proxy panicked"));
    }

    /// Lets what was held up pass.
    pub fn release(&self) {
        self.gate.send_replace(Gate::Open);
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    losing: Arc<Mutex<Losing>>,
    gate: watch::Sender<Gate>,
) {
    // Ends its connections with itself.
    let mut connections = JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let (losing, gate) = (losing.clone(), gate.clone());
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(upstream).await else { return };
            let (mut near_read, near_write) = near.into_split();
            let (far_read, mut far_write) = far.into_split();
            tokio::select! {
                _ = copy(&mut near_read, &mut far_write) => {}
                _ = pass(far_read, near_write, &losing, &gate) => {}
            }
        });
    }
}

/// Passes on what NATS says, message by message.
async fn pass(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    losing: &Mutex<Losing>,
    gate: &watch::Sender<Gate>,
) -> std::io::Result<()> {
    let (mut from, mut opened) = (BufReader::new(from), gate.subscribe());
    loop {
        let mut said = Vec::new();
        if from.read_until(b'\n', &mut said).await? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&said).into_owned();
        if line.starts_with("MSG ") || line.starts_with("HMSG ") {
            let bytes: usize = line.trim_end().rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap();
            let begin = said.len();
            said.resize(begin + bytes + 2, 0);
            from.read_exact(&mut said[begin..]).await?;
            if is_lost(&mut losing.lock().expect("a proxy panicked"), &said) {
                continue;
            }
            gate.send_if_modified(|gate| {
                let closes = matches!(gate, Gate::Closes(words) if holds_all(words, &said));
                if closes {
                    *gate = Gate::Closed;
                }
                closes
            });
            // The proxy is gone, and so is its story.
            if opened.wait_for(|gate| !matches!(gate, Gate::Closed)).await.is_err() {
                return Ok(());
            }
        }
        to.write_all(&said).await?;
    }
}

fn is_lost(losing: &mut Losing, message: &[u8]) -> bool {
    if losing.left == 0 || !holds_all(&losing.words, message) {
        return false;
    }
    losing.left -= 1;
    losing.lost += 1;
    true
}

fn holds_all(words: &[String], message: &[u8]) -> bool {
    words.iter().all(|word| message.windows(word.len()).any(|window| window == word.as_bytes()))
}
