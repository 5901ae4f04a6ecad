//! A TCP proxy on one process's way to NATS that loses single messages: what a reset of the connection does, at the
//! one place that a story is about.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// The proxy; ends when dropped.
pub struct LossyProxy {
    port: u16,
    losing: Arc<Mutex<Losing>>,
    accepting: AbortHandle,
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
        let accepting = tokio::spawn(accept(listener, upstream, losing.clone())).abort_handle();
        Self { port, losing, accepting }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Loses the next `count` messages that hold all these words.
    pub fn lose(&self, count: usize, words: &[&str]) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        *self.losing.lock().expect("a proxy panicked") = Losing { words, left: count, lost: 0 };
    }

    /// How many of those were lost.
    pub fn lost(&self) -> usize {
        self.losing.lock().expect("a proxy panicked").lost
    }
}

impl Drop for LossyProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, losing: Arc<Mutex<Losing>>) {
    // Ends its connections with itself.
    let mut connections = JoinSet::new();
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let losing = losing.clone();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(upstream).await else { return };
            let (mut near_read, near_write) = near.into_split();
            let (far_read, mut far_write) = far.into_split();
            tokio::select! {
                _ = copy(&mut near_read, &mut far_write) => {}
                _ = pass(far_read, near_write, &losing) => {}
            }
        });
    }
}

/// Passes on what NATS says, message by message.
async fn pass(from: OwnedReadHalf, mut to: OwnedWriteHalf, losing: &Mutex<Losing>) -> std::io::Result<()> {
    let mut from = BufReader::new(from);
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
        }
        to.write_all(&said).await?;
    }
}

fn is_lost(losing: &mut Losing, message: &[u8]) -> bool {
    let holds = |word: &String| message.windows(word.len()).any(|window| window == word.as_bytes());
    if losing.left == 0 || !losing.words.iter().all(holds) {
        return false;
    }
    losing.left -= 1;
    losing.lost += 1;
    true
}
