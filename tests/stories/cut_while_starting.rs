//! NATS goes away at whatever moment of a process's start: the process waits for it, and does not give up.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::harness::cluster::{Cluster, binary};
use crate::harness::http::{ask, get};
use crate::harness::process::Process;
use crate::harness::{free_port, temp_dir, until};

/// More than any process asks or subscribes to while it starts.
const LINES_MAX: usize = 60;
/// Whatever is asked or published.
const REQUEST: &[u8] = b"PUB ";
const SUBSCRIPTION: &[u8] = b"SUB ";
/// What begins a connection.
const GREETING: &[u8] = b"CONNECT ";

/// What breaks the way to NATS.
#[derive(Clone, Copy)]
struct Cut {
    /// A line with this.
    line: &'static [u8],
    /// How many such lines pass before it.
    nth: usize,
    /// Whether it still passes, and what breaks is the way of its answer.
    passes: bool,
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
                    // From when on nothing that NATS says arrives.
                    let deaf = AtomicBool::new(false);
                    let up = async {
                        let mut buffer = vec![0; 64 * 1024];
                        while let Ok(count @ 1..) = told.read(&mut buffer).await {
                            let said = &buffer[..count];
                            let lines = said.windows(cut.line.len()).filter(|at| *at == cut.line).count();
                            let before = asked.fetch_add(lines, Ordering::SeqCst);
                            let is_lost = (before..before + lines).contains(&cut.nth);
                            if is_lost {
                                cut_at.get_or_init(Instant::now);
                                deaf.store(true, Ordering::SeqCst);
                            }
                            if is_lost && !cut.passes {
                                return;
                            }
                            if say.write_all(said).await.is_err() {
                                return;
                            }
                            if is_lost {
                                // NATS does what it is asked, and then ends the connection.
                                drop(say.shutdown().await);
                                std::future::pending::<()>().await;
                            }
                        }
                    };
                    let down = async {
                        let mut buffer = vec![0; 64 * 1024];
                        while let Ok(count @ 1..) = heard.read(&mut buffer).await {
                            if !deaf.load(Ordering::SeqCst) && tell.write_all(&buffer[..count]).await.is_err()
                            {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        () = up => {}
                        () = down => {}
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

/// Starts a role once for each such line that it says until it works, and breaks its way to NATS there.
async fn start_losing_each(line: &'static [u8], passes: bool, outage: Duration, role: Role) {
    let cluster = Cluster::start().validators(0).set("nats.slots", 1).await;
    let dir = temp_dir();
    for nth in 0..LINES_MAX {
        let cut = Cut { line, nth, passes, outage };
        let relay = Relay::start(cluster.nats.servers[0].port(), cut).await;
        let (metrics, mut command) = (free_port(), binary());
        command.args(role.arguments()).args(["--nats", &format!("nats://127.0.0.1:{}", relay.port)]);
        command.args(["--set", "nats.request_timeout_ms=500", "--set", "nats.slots=1"]);
        command.args(["--set", &format!("metrics.listen=127.0.0.1:{metrics}")]);
        let mut process = Process::spawn(&format!("{role:?}-{nth}"), command, dir.path());
        process.line_with(" ready:").await;
        until("it to do its work", async || {
            assert!(process.is_running(), "line {nth}, lost: {}", process.tail());
            role.works(metrics).await.then_some(())
        })
        .await;
        let asked = relay.asked.load(Ordering::SeqCst);
        // In order, so that the next one need not wait for the end of its hold.
        process.signal(libc::SIGTERM);
        assert!(process.ended().await.success(), "{}", process.tail());
        if asked <= nth {
            assert!(nth > role.least(line), "it says more than {asked} such lines until it works");
            return;
        }
    }
    panic!("a start has more than {LINES_MAX} such lines");
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Frontend,
    Validator,
}

impl Role {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Frontend => &["frontend", "--allow-anyone", "--listen", "127.0.0.1:0"],
            Self::Validator => &["validator"],
        }
    }

    /// Whether it does what it is for: a validator has taken the slot.
    async fn works(self, metrics: u16) -> bool {
        let said = async |path: &str| ask(metrics, &get(path)).await.0;
        match self {
            Self::Frontend => said("/readyz").await.status == 200,
            Self::Validator => {
                let told = said("/metrics").await.body;
                let mut lines =
                    told.lines().filter_map(|line| line.strip_prefix("insieme_slot_takeovers_total"));
                lines.any(|count| count.rsplit(' ').next() != Some("0"))
            }
        }
    }

    /// At the least so many such lines come before it works, beside the last.
    fn least(self, line: &[u8]) -> usize {
        match (self, line) {
            (_, GREETING) => 0,
            (_, SUBSCRIPTION) => 3,
            (Self::Frontend, _) => 6,
            // Its slot's key, and its consumer.
            (Self::Validator, _) => 12,
        }
    }
}

/// Longer than a request may take.
const OUTAGE: Duration = Duration::from_millis(1_200);

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_starts_whichever_request_is_lost() {
    start_losing_each(REQUEST, false, Duration::ZERO, Role::Validator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_starts_whichever_answer_of_nats_it_misses() {
    start_losing_each(REQUEST, true, Duration::ZERO, Role::Validator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_starts_whichever_request_is_lost() {
    start_losing_each(REQUEST, false, Duration::ZERO, Role::Frontend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_starts_whichever_answer_of_nats_it_misses() {
    start_losing_each(REQUEST, true, Duration::ZERO, Role::Frontend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_starts_though_nats_is_gone_when_it_subscribes() {
    start_losing_each(SUBSCRIPTION, false, OUTAGE, Role::Validator).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_starts_though_nats_is_gone_when_it_subscribes() {
    start_losing_each(SUBSCRIPTION, false, OUTAGE, Role::Frontend).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_start_though_their_greeting_of_nats_is_lost() {
    for role in [Role::Frontend, Role::Validator] {
        start_losing_each(GREETING, false, Duration::ZERO, role).await;
        start_losing_each(GREETING, true, Duration::ZERO, role).await;
    }
}
