//! NATS goes away at whatever moment of a process's start: the process waits for it, and does not give up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::harness::cluster::{Cluster, binary};
use crate::harness::process::Process;
use crate::harness::{free_port, temp_dir};

/// More than any process asks for streams while it starts.
const QUESTIONS_MAX: usize = 40;
const QUESTION: &[u8] = b".STREAM.INFO.";

/// A way to NATS that breaks with one question for a stream, the `nth` that is asked, which is lost; what comes
/// after it is passed on.
struct Relay {
    port: u16,
    asked: Arc<AtomicUsize>,
    accepting: AbortHandle,
}

impl Relay {
    async fn start(nats: u16, nth: usize) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(("127.0.0.1", nats)).await.unwrap();
                let ((mut told, mut tell), (mut heard, mut say)) = (near.into_split(), far.into_split());
                let asked = counter.clone();
                connections.spawn(async move {
                    let up = async {
                        let mut buffer = vec![0; 64 * 1024];
                        while let Ok(count @ 1..) = told.read(&mut buffer).await {
                            let said = &buffer[..count];
                            let questions = said.windows(QUESTION.len()).filter(|at| *at == QUESTION).count();
                            let before = asked.fetch_add(questions, Ordering::SeqCst);
                            let is_lost = (before..before + questions).contains(&nth);
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

/// Starts a role once for each question that it asks, and loses that one with the connection.
async fn start_losing_each_question(role: &[&str]) {
    let cluster = Cluster::start().await;
    let dir = temp_dir();
    for nth in 0..QUESTIONS_MAX {
        let relay = Relay::start(cluster.nats.servers[0].port(), nth).await;
        let mut command = binary();
        command.args(role).args(["--nats", &format!("nats://127.0.0.1:{}", relay.port)]);
        command.args(["--set", "nats.request_timeout_ms=500"]);
        command.args(["--set", &format!("metrics.listen=127.0.0.1:{}", free_port())]);
        let mut process = Process::spawn(&format!("{}-{nth}", role[0]), command, dir.path());
        process.line_with(" ready:").await;
        let asked = relay.asked.load(Ordering::SeqCst);
        process.kill9();
        if asked <= nth {
            assert!(nth > 3, "it looks at all streams when it starts, and has asked {asked} times");
            return;
        }
    }
    panic!("a start asks for streams more than {QUESTIONS_MAX} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_starts_whichever_answer_of_nats_it_misses() {
    start_losing_each_question(&["validator"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_starts_whichever_answer_of_nats_it_misses() {
    start_losing_each_question(&["frontend", "--allow-anyone", "--listen", "127.0.0.1:0"]).await;
}
