//! What the wall between the accounts of `nats/users.conf` costs, and how fast history is read.
//!
//!     cargo bench --bench accounts
//!
//! The same calls on the same server, as `operator` in the streams' account and as `frontend` across the border:
//! storing a draft, reading a partition's head, reading a page, and reading a whole partition; and that once more
//! as commands do, through a consumer. In turns, so that whatever else the
//! machine does is shared.

// A bench stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use bytes::Bytes;
use harness::nats;
use insieme_backend::event::{EventId, PartitionKey, Token};
use insieme_backend::log::{CommitPart, Credentials, Log, LogSettings, Password, bootstrap};

const EVENTS: usize = 100_000;
const EVENT_BYTES: usize = 300;
const BATCH: usize = 1_000;
const CALLS: usize = 2_000;
const PAGE: usize = 500;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    let dir = harness::temp_dir();
    let (url, _server) = nats::start_shipped(dir.path()).await;

    let core = connect(&url, "operator", "$JS.API", "validator").await;
    let command = connect(&url, "operator", "$JS.API", "log").await;
    bootstrap(&core).await.expect("an empty server");
    let edge = connect(&url, "frontend", "core", "frontend").await;
    let partition = PartitionKey::new("p").expect("a name");
    let token = partition.token();
    let head = fill(&core, &token).await;

    println!("{:<34} {:>12} {:>12}   ratio", "median", "in CORE", "from EDGE");
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        for (log, times) in [(&core, &mut a), (&edge, &mut b)] {
            times.push(time(log.publish_draft(&partition, &token, body())).await);
        }
    }
    line("a draft stored", a, b);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        for (log, times) in [(&core, &mut a), (&edge, &mut b)] {
            times.push(time(log.head(&token)).await);
        }
    }
    line("a partition's head", a, b);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..CALLS / 10 {
        for (log, times) in [(&core, &mut a), (&edge, &mut b)] {
            times.push(time(log.page(&token, EventId(EVENTS as u64 / 2), PAGE, usize::MAX)).await);
        }
    }
    line(&format!("a page of {PAGE} events"), a, b);
    let (mut a, mut b, mut by_consumer) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (log, times) in [(&core, &mut a), (&edge, &mut b), (&command, &mut by_consumer)] {
            times.push(replay(log, &token, head).await);
        }
    }
    let direct = median(a.clone());
    line(&format!("{EVENTS} events"), a, b);
    let by_consumer = median(by_consumer);
    let ratio = by_consumer.as_secs_f64() / direct.as_secs_f64();
    println!("{:<34} {:>9.2} ms {:>12}   {ratio:.2}", "the same by a consumer", millis(by_consumer), "");
}

async fn connect(url: &str, user: &str, api_prefix: &str, role: &str) -> Log {
    let settings = LogSettings {
        urls: vec![url.to_owned()],
        credentials: Some(Credentials::Password {
            user: user.to_owned(),
            password: Password::Given(format!("{user}Secret")),
        }),
        api_prefix: api_prefix.to_owned(),
        ..LogSettings::default()
    };
    Log::connect(&settings, role).await.expect("a server that is ready")
}

/// Commits the events; gives the last one's id.
async fn fill(log: &Log, token: &Token) -> EventId {
    let mut head = EventId::NONE;
    for _ in 0..EVENTS / BATCH {
        let bodies = (0..BATCH).map(|_| body()).collect();
        let part = CommitPart { token: token.clone(), expected: head, bodies };
        let first = log.commit_batch(&[part], &[]).await.expect("nobody else commits");
        head = EventId(first[0].0 + BATCH as u64 - 1);
    }
    head
}

fn body() -> Bytes {
    Bytes::from(vec![b'x'; EVENT_BYTES])
}

async fn time<T, E: std::fmt::Display>(call: impl Future<Output = Result<T, E>>) -> Duration {
    let start = Instant::now();
    if let Err(error) = call.await {
        panic!("{error}");
    }
    start.elapsed()
}

async fn replay(log: &Log, token: &Token, head: EventId) -> Duration {
    let start = Instant::now();
    let mut replay = log.replay(token, EventId::NONE, head);
    let mut events = 0;
    while replay.next().await.expect("a log that is whole").is_some() {
        events += 1;
    }
    assert_eq!(events, EVENTS);
    start.elapsed()
}

fn line(what: &str, core: Vec<Duration>, edge: Vec<Duration>) {
    let (core, edge) = (median(core), median(edge));
    let ratio = edge.as_secs_f64() / core.as_secs_f64();
    println!("{what:<34} {:>9.2} ms {:>9.2} ms   {ratio:.2}", millis(core), millis(edge));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
