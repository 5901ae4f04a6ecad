//! The test harness: real NATS, real processes of the built binary, real sockets.
//!
//! Everything is started per test on free loopback ports with its own folders, and ends with the test even
//! when the test panics. Nothing here sleeps and hopes: what has to become true is waited for, with a
//! deadline that is far away from what it takes.
#![allow(dead_code)] // not every story uses every part

pub mod admin;
pub mod backend;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod http;
pub mod key_server;
pub mod lossy;
pub mod many;
#[path = "../../src/simulation/model.rs"]
pub mod model;
pub mod nats;
pub mod nats_cluster;
pub mod plain;
pub mod process;
pub mod proxy;
#[path = "../../src/simulation/rng.rs"]
pub mod rng;
pub mod shipped;
pub mod socket;
pub mod tokens;
pub mod tree_input;
pub mod v1;
pub mod verdict;

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long anything may take before the test gives up. No test measures time: this only ends a hang.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long to leave a condition alone between two looks at it.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A wait for something to become true: looks again and again, and ends the test at the [`DEADLINE`].
pub struct Patience(Instant);

impl Patience {
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// Call between two looks. Panics with `what` when it has taken too long.
    pub async fn wait_for(&self, what: &str) {
        assert!(self.0.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until `look` finds something; panics with `what` at the [`DEADLINE`].
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let patience = Patience::new();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        patience.wait_for(what).await;
    }
}

/// A free loopback port below the range that the kernel gives to outgoing connections: a process that is
/// killed and started again on its port must not find a client's socket there.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap();
    let given = given.get_or_insert_default();
    loop {
        let port = 12_000 + (std::process::id().wrapping_mul(31) + rand::random::<u32>() % 20_000) % 20_000;
        let port = u16::try_from(port).unwrap();
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
}

/// Where a test's files go: under cargo's own folder for it, so that `cargo clean` removes what a killed
/// test left.
pub fn temp_dir() -> tempfile::TempDir {
    let folder = FOLDER.get().map_or(Path::new(env!("CARGO_TARGET_TMPDIR")), |folder| folder);
    tempfile::Builder::new().prefix("story-").tempdir_in(folder).unwrap()
}

/// Another folder for the files of this process's tests, set before the first of them.
pub static FOLDER: OnceLock<PathBuf> = OnceLock::new();
