//! NATS goes away at whatever moment of a process's start: the process waits for it, and does not give up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::harness::cluster::{Cluster, binary};
use crate::harness::process::Process;
use crate::harness::{free_port, temp_dir};

/// More than any process asks or subscribes to while it starts.
const LINES_MAX: usize = 40;
/// A question for a stream.
const QUESTION: &[u8] = b".STREAM.INFO.";
const SUBSCRIPTION: &[u8] = b"SUB ";

/// What breaks the way to NATS.
#[derive(Clone, Copy)]
struct Cut {
    /// A line with this.
    line: &'static [u8],
    /// How many such lines pass before it.
    nth: usize,
    /// For how long nothing is passed on afterwards.
    outage: Duration,
}

/// A way to NATS that breaks with one line, which is lost.
struct Relay {
    port: u16,
    asked: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Relay {
    async fn start(nats: u16, cut: Cut) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let cut_at = Arc::new(OnceLock::<Instant>::new());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                if cut_at.get().is_some_and(|at| at.elapsed() < cut.outage) {
                    continue;
                }
                let far = TcpStream::connect(("127.0.0.1", nats)).await.unwrap();
                let ((mut told, mut tell), (mut heard, mut say)) = (near.into_split(), far.into_split());
                let (asked, cut_at) = (counter.clone(), cut_at.clone());
                connections.spawn(async move {
                    let up = async {
                        let mut buffer = vec![0; 64 * 1024];
                        while let Ok(count @ 1..) = told.read(&mut buffer).await {
                            let said = &buffer[..count];
                            let lines = said.windows(cut.line.len()).filter(|at| *at == cut.line).count();
                            let before = asked.fetch_add(lines, Ordering::SeqCst);
                            let is_lost = (before..before + lines).contains(&cut.nth);
                            if is_lost {
                                cut_at.get_or_init(Instant::now);
                            }
                            if is_lost || say.write_all(said).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        () = up => {}
                        _ = tokio::io::copy(&mut heard, &mut tell) => {}
                    }
                });
            }
        })
        .abort_handle();
        Self { port, asked, accepting }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Starts a role once for each such line that it says, and loses that one with the connection.
async fn start_losing_each(line: &'static [u8], outage: Duration, role: &[&str]) {
    let cluster = Cluster::start().await;
    let dir = temp_dir();
    for nth in 0..LINES_MAX {
        let relay = Relay::start(cluster.nats.servers[0].port(), Cut { line, nth, outage }).await;
        let mut command = binary();
        command.args(role).args(["--nats", &format!("nats://127.0.0.1:{}", relay.port)]);
        command.args(["--set", "nats.request_timeout_ms=500"]);
        command.args(["--set", &format!("metrics.listen=127.0.0.1:{}", free_port())]);
        let mut process = Process::spawn(&format!("{}-{nth}", role[0]), command, dir.path());
        process.line_with(" ready:").await;
        let asked = relay.asked.load(Ordering::SeqCst);
        process.kill9();
        if asked <= nth {
            assert!(
                nth > 3,
                "it asks for all streams and subscribes to orders when it starts: {asked} lines"
            );
            return;
        }
    }
    panic!("a start has more than {LINES_MAX} such lines");
}

const VALIDATOR: &[&str] = &["validator"];
const FRONTEND: &[&str] = &["frontend", "--allow-anyone", "--listen", "127.0.0.1:0"];
/// Longer than a request may take.
const OUTAGE: Duration = Duration::from_millis(1_200);

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_starts_whichever_answer_of_nats_it_misses() {
    start_losing_each(QUESTION, Duration::ZERO, VALIDATOR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_starts_whichever_answer_of_nats_it_misses() {
    start_losing_each(QUESTION, Duration::ZERO, FRONTEND).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_starts_though_nats_is_gone_when_it_subscribes() {
    start_losing_each(SUBSCRIPTION, OUTAGE, VALIDATOR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_starts_though_nats_is_gone_when_it_subscribes() {
    start_losing_each(SUBSCRIPTION, OUTAGE, FRONTEND).await;
}
