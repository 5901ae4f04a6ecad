//! What connecting costs on a short and on a long log.
//!
//!     cargo bench --bench connect
//!
//! Two partitions, one with 2,000 and one with 200,000 events on a state of the same size, written through
//! the pipeline. For each, a client's way from opening the socket to `connected` with the state in it: cold,
//! as the first client of a frontend that has just started, and warm, with another client watching already.

// A bench stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

#[path = "../tests/harness/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use harness::cluster::Cluster;
use serde_json::json;

const SHORT: (&str, usize) = ("short", 2_000);
const LONG: (&str, usize) = ("long", 200_000);
const KEYS: usize = 500;
const CLIENTS: usize = 4;
const WINDOW: usize = 500;
const COLD_ROUNDS: usize = 9;
const WARM_ROUNDS: usize = 101;

#[tokio::main]
async fn main() {
    let mut cluster = Cluster::start().frontends(1).await;
    for (partition, events) in [SHORT, LONG] {
        let start = Instant::now();
        write(&cluster, partition, events).await;
        let seconds = start.elapsed().as_secs_f64();
        println!("{partition}: {events} events written in {seconds:.1} s ({:.0}/s)", events as f64 / seconds);
    }

    let mut cold = [Vec::new(), Vec::new()];
    for _ in 0..COLD_ROUNDS {
        for (index, (partition, _)) in [SHORT, LONG].into_iter().enumerate() {
            cluster.restart_frontend(0).await;
            cold[index].push(connect(&cluster, partition).await);
        }
    }
    let mut warm = [Vec::new(), Vec::new()];
    let _watching = (
        cluster.client(0, "watcher").partition(SHORT.0).await,
        cluster.client(0, "watcher").partition(LONG.0).await,
    );
    for _ in 0..WARM_ROUNDS {
        for (index, (partition, _)) in [SHORT, LONG].into_iter().enumerate() {
            warm[index].push(connect(&cluster, partition).await);
        }
    }

    println!("\n              {:>10} {:>10}   ratio", SHORT.1, LONG.1);
    for (name, [short, long]) in [("cold", cold), ("warm", warm)] {
        let (short, long) = (median(short), median(long));
        println!(
            "{name}, median  {:>7.2} ms {:>7.2} ms   {:.2}",
            short.as_secs_f64() * 1e3,
            long.as_secs_f64() * 1e3,
            long.as_secs_f64() / short.as_secs_f64()
        );
    }
}

/// Writes `events` events over a fixed number of keys, with several clients.
async fn write(cluster: &Cluster, partition: &str, events: usize) {
    let mut writing = Vec::new();
    for index in 0..CLIENTS {
        let mut client = cluster.client(0, &format!("writer-{index}")).partition(partition).await;
        writing.push(tokio::spawn(async move {
            for n in 0..events / CLIENTS {
                let target = format!("k{}", (n * CLIENTS + index) % KEYS);
                client
                    .submit("set", json!({ "target": target, "value": { "n": n, "text": "some words" } }))
                    .await;
                client.settle_to(WINDOW).await;
            }
            client.settle().await;
        }));
    }
    for writer in writing {
        writer.await.unwrap();
    }
}

async fn connect(cluster: &Cluster, partition: &str) -> Duration {
    let connecting = cluster.client(0, "newcomer").partition(partition);
    let start = Instant::now();
    let client = connecting.await;
    let elapsed = start.elapsed();
    assert_eq!(client.connected["initialState"].as_object().unwrap().len(), KEYS);
    elapsed
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}
