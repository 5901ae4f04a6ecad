//! What a client can make the processes hold and compute has a bound: for each, a story that goes to it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::attacks::frame;
use crate::harness::client::{Answer, Client};
use crate::harness::cluster::Cluster;
use crate::harness::socket::Socket;
use crate::harness::v1::envelope;
use crate::harness::{temp_dir, until};

/// How long a draft of a bystander may wait for its answer, on a machine that is busy with other tests.
const BYSTANDER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Writes one value after the other until told to stop; gives how many, and the longest wait for an answer.
async fn bystander(mut client: Client, stop: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut written, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let since = Instant::now();
        client.commit("set", json!({ "target": "good", "value": written })).await;
        longest = longest.max(since.elapsed());
        written += 1;
    }
    (written, longest)
}

/// A rich-text document as editors have it: every node is one of several kinds, which hold nodes again.
fn put_recursive_schema(folder: &Path) {
    let inner = json!({ "type": "array", "items": { "$ref": "#/$defs/node" } });
    let kinds: Vec<Value> = ["doc", "paragraph", "heading", "list", "item", "quote"]
        .iter()
        .map(|kind| {
            json!({
                "type": "object",
                "properties": { "kind": { "enum": [kind, format!("{kind}-x")] }, "content": inner },
                "required": ["kind", "content"],
            })
        })
        .collect();
    let schema = json!({ "$defs": { "node": { "anyOf": kinds } }, "$ref": "#/$defs/node" });
    std::fs::write(folder.join("note.json"), schema.to_string()).unwrap();
}

/// A document of 240 KB, fifteen levels deep, whose innermost nodes are of no kind that there is.
fn misfit() -> Value {
    let one =
        (0..15).fold(json!({ "kind": "none" }), |below, _| json!({ "kind": "quote", "content": [below] }));
    let count = 240_000 / one.to_string().len();
    json!({ "kind": "doc", "content": vec![one; count] })
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cost_a_schema_much_hold_nobody_up() {
    let schemas = temp_dir();
    put_recursive_schema(schemas.path());
    let cluster = Cluster::start().set("rules.schema_dir", schemas.path().display()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let good = tokio::spawn(bystander(cluster.client(0, "bystander").await, stop.clone()));
    let attacks = (0..8).map(|n| {
        let attacker = cluster.client(0, &format!("mallory-{n}")).partition(&format!("theirs-{n}"));
        async move {
            let mut attacker = attacker.await;
            for _ in 0..4 {
                let draft = attacker.submit("event", json!({ "schema": "note", "data": misfit() })).await;
                match attacker.answer(&draft).await {
                    Answer::Rejected { errors, .. } => assert_eq!(errors[0]["code"], "SCHEMA_ERROR"),
                    Answer::Accepted { event, .. } => panic!("{event}"),
                }
            }
        }
    });
    join_all(attacks).await;
    stop.store(true, Ordering::Relaxed);
    let (written, longest) = good.await.unwrap();
    println!("the bystander had {written} drafts accepted; the longest wait was {} ms", longest.as_millis());
    assert!(written > 0 && longest < BYSTANDER_WAIT_MAX, "the bystander waited {longest:?}");
    assert_eq!(cluster.validators[0].counter("insieme_slots_lost_total").await, 0.0);
}

/// What a frontend's limit on memory is in these stories: so low that a test can reach it.
const MEMORY_BYTES_MAX: u64 = 128 << 20;
/// What a process takes besides, in a test build on a busy machine.
const BESIDES_BYTES: u64 = 160 << 20;

/// Writes values of 200 KB into a partition until its state has so many bytes.
async fn fill(cluster: &Cluster, partition: &str, bytes: usize) -> Client {
    let name = format!("writer-of-{partition}");
    let mut client = cluster.client(0, &name).partition(partition).await;
    let text = "x".repeat(200_000);
    for n in 0..bytes.div_ceil(text.len()) {
        client.submit("set", json!({ "target": format!("k{n}"), "value": text })).await;
        client.settle_to(4).await;
    }
    client.settle().await;
    client
}

/// A v1 client that sends batch after batch of one large event, and reads nothing. Counts what it has sent.
async fn pushes_batches(url: String, number: usize, sent: Arc<AtomicU64>) {
    let client = format!("pusher-{number}");
    let mut socket = Socket::open(&url).await.unwrap();
    let connect = json!({ "token": "", "clientId": client, "projectId": "default" });
    socket.send_text(envelope("connect", "c", &connect)).await.unwrap();
    let text = "x".repeat(250_000);
    for n in 0.. {
        let event = json!({
            "id": format!("{client}-{n}"), "partition": "p", "projectId": "default", "type": "note", "schemaVersion": 1,
            "payload": { "text": text }, "meta": { "clientId": client, "clientTs": 1 },
        });
        let frame = envelope("submit_events", &format!("m{n}"), &json!({ "events": [event] }));
        let bytes = frame.len() as u64;
        // It stands still where the frontend reads no more, until the test ends it.
        if socket.send_text(frame).await.is_err() {
            return;
        }
        sent.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_wait_are_held_up_to_a_bound_and_then_nothing_is_read() {
    // Nobody decides: what is sent stays pending.
    let cluster = Cluster::start().validators(0).set("frontend.submission_deadline_ms", 600_000).await;
    let frontend = &cluster.frontends[0];
    let before = frontend.process.memory_bytes();
    let sent = Arc::new(AtomicU64::new(0));
    let pushing: Vec<_> =
        (0..8).map(|n| tokio::spawn(pushes_batches(frontend.url(), n, sent.clone()))).collect();
    // Until all stand still; without a bound that is never before 1,024 batches each, two gigabytes.
    let mut last = (0, Instant::now());
    let stood_still = until("the pushers to stand still, or far too much to be read", async || {
        let now = sent.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 600 << 20 || now > 0 && last.1.elapsed() > Duration::from_secs(3)).then_some(now)
    })
    .await;
    let grown = frontend.process.memory_bytes().saturating_sub(before);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!("{:.0} MiB were sent, and the frontend has grown by {:.0} MiB", mib(stood_still), mib(grown));
    assert!(grown < 320 << 20, "the frontend has grown by {grown} bytes for {stood_still} sent");
    // Who means well is let in, and answered.
    frontend.connected("bystander").await.expect_alive().await;
    pushing.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn states_at_hand_have_a_bound_over_all_partitions() {
    let cluster = Cluster::start().set("frontend.memory_bytes_max", MEMORY_BYTES_MAX).await;
    let frontend = &cluster.frontends[0];
    let partitions: Vec<String> = (0..6).map(|n| format!("p{n}")).collect();
    for partition in &partitions {
        fill(&cluster, partition, 3 << 20).await;
    }
    for round in 0..2 {
        for partition in &partitions {
            let client = cluster.client(0, &format!("reader-{round}")).partition(partition).await;
            assert_eq!(client.connected["initialState"].as_object().unwrap().len(), 16);
            let held = frontend.metric("insieme_frontend_memory_bytes", "").await;
            assert!(held <= (MEMORY_BYTES_MAX + MEMORY_BYTES_MAX / 2) as f64, "{held} bytes are counted");
        }
    }
    until("room to be made", async || {
        let held = frontend.metric("insieme_frontend_memory_bytes", "").await;
        (held <= MEMORY_BYTES_MAX as f64).then_some(())
    })
    .await;
    let memory = frontend.process.memory_bytes();
    println!("with six states of 3 MiB asked for twice the frontend has {} MiB", memory >> 20);
    assert!(memory < MEMORY_BYTES_MAX + BESIDES_BYTES, "{memory} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_many_ask_for_and_do_not_read_is_there_once() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    fill(&cluster, "default", 8 << 20).await;
    // One who reads it, so that it is at hand.
    let (mut reader, told) = Socket::greeted(&frontend.url(), "reader").await;
    reader.state_in_parts(&told["payload"]).await;
    let before = frontend.process.memory_bytes();
    let asked = || async { frontend.metric("insieme_frames_received_total", "").await };
    let answered = || async { frontend.metric("insieme_frames_sent_total", "").await };
    let (asked_before, answered_before) = (asked().await, answered().await);
    let mut deaf = Vec::new();
    for n in 0..60 {
        let mut socket = Socket::open(&frontend.url()).await.unwrap();
        let connect = json!({ "clientId": format!("deaf-{n}"), "version": "test" });
        socket.send("connect", connect).await.unwrap();
        deaf.push(socket);
    }
    until("all to be told", async || {
        let told = asked().await >= asked_before + 60.0 && answered().await >= answered_before + 60.0;
        told.then_some(())
    })
    .await;
    reader.expect_alive().await;
    let grown = frontend.process.memory_bytes().saturating_sub(before);
    println!("60 who ask for a state of 8 MiB and do not read: {} MiB more", grown >> 20);
    assert!(grown < 160 << 20, "{grown} bytes more");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_but_steadily_gets_all_of_a_large_state() {
    let cluster = Cluster::start().set("frontend.write_stall_ms_max", 1_000).await;
    let frontend = &cluster.frontends[0];
    fill(&cluster, "default", 8 << 20).await;
    let mut socket = Socket::open(&frontend.url()).await.unwrap();
    socket.send("connect", json!({ "clientId": "slow", "version": "test" })).await.unwrap();
    let mut stream = socket.into_tcp();
    let (mut read, mut piece) = (0, vec![0; 64 * 1024]);
    // Eight megabytes at about one megabyte a second: several times the time of a stall.
    while read < 8 << 20 {
        let more = stream.read(&mut piece).await.unwrap();
        assert!(more > 0, "cut off after {read} bytes");
        read += more;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(frontend.metric("insieme_connections_closed_total", "").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_state_comes_in_parts_that_any_library_takes() {
    let cluster = Cluster::start().await;
    let frontend = &cluster.frontends[0];
    let mut writer = fill(&cluster, "default", 3 << 20).await;
    // With quotes, backslashes and characters of several bytes wherever the parts are cut.
    let odd = "\"\\é😀\n".repeat(20_000);
    writer.commit("set", json!({ "target": "odd", "value": odd })).await;
    let (mut socket, told) = Socket::greeted_with_frames_of(&frontend.url(), "reader", 1 << 20).await;
    assert!(told["payload"].get("initialState").is_none());
    let state = socket.state_in_parts(&told["payload"]).await.unwrap();
    assert_eq!(state["odd"], odd.as_str());
    assert_eq!(state, serde_json::from_str::<Value>(&cluster.state("default")).unwrap());
    // What comes while it asks for it again is in it, or in the page beside it, or comes after it.
    let id = socket.send("sync", json!({})).await.unwrap();
    writer.commit("set", json!({ "target": "more", "value": 1 })).await;
    let page = socket.expect_past_broadcasts("sync_response").await;
    assert_eq!(page["replyTo"], id);
    let snapshot = &page["payload"]["snapshot"];
    let state = socket.state_in_parts(snapshot).await.unwrap();
    assert_eq!(state["odd"], odd.as_str());
    let beside = page["payload"]["events"].as_array().unwrap();
    if state.get("more").is_none() && beside.is_empty() {
        assert_eq!(socket.expect("broadcast").await["payload"]["event"]["payload"]["target"], "more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_serialised_at_most_so_often_and_answers_have_a_budget() {
    const BYTES_OUT: u64 = 1 << 20;
    let cluster = Cluster::start().set("frontend.bytes_out_per_second_max", BYTES_OUT).await;
    let frontend = &cluster.frontends[0];
    fill(&cluster, "default", 1 << 20).await;
    let serialised = || async { frontend.metric("insieme_states_serialised_total", "").await };
    let (mut greedy, told) = Socket::greeted(&frontend.url(), "greedy").await;
    assert!(greedy.state_in_parts(&told["payload"]).await.is_some());
    let (before, since) = (serialised().await, Instant::now());
    for n in 0..8 {
        // A commit and a sync in turn.
        let event = json!({ "type": "set", "payload": { "target": "n", "value": n } });
        greedy.send("submit_event", json!({ "draftId": format!("d{n}"), "event": event })).await.unwrap();
        greedy.send("sync", json!({})).await.unwrap();
    }
    let (mut bytes, mut answered) = (0, 0);
    while answered < 8 {
        let message = greedy.receive().await.unwrap();
        if message["type"] == "sync_response" {
            bytes += message["payload"]["snapshot"]["stateParts"]["bytes"].as_u64().unwrap();
            answered += 1;
        }
    }
    let seconds = since.elapsed().as_secs_f64();
    let made = serialised().await - before;
    println!("{bytes} bytes in {seconds:.1} s, of a state serialised {made} times");
    assert!(made <= seconds + 2.0, "{made} times in {seconds} s");
    // Four seconds' worth at once, and the last answer before it is paid for.
    let allowed = (seconds + 4.0) * BYTES_OUT as f64 + 2.0 * (1 << 20) as f64;
    assert!(bytes as f64 <= allowed, "{bytes} bytes in {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_memory_is_full_whoever_holds_most_is_closed() {
    const BYTES_MAX: u64 = 16 << 20;
    let cluster = Cluster::start().set("frontend.memory_bytes_max", BYTES_MAX).await;
    let frontend = &cluster.frontends[0];
    let mut bystander = cluster.client(0, "bystander").await;
    let before = frontend.process.memory_bytes();
    // Each holds all but the last byte of a message; together they would be 50 MB.
    let mut held = Vec::new();
    for n in 0..200 {
        let mut stream = frontend.connected(&format!("mallory-{n}")).await.into_tcp();
        let unfinished = frame(0x81, 250_000, &vec![b'x'; 249_999]);
        let sent = tokio::time::timeout(Duration::from_millis(200), stream.write_all(&unfinished)).await;
        // Where there is no room it is not taken, and that is as it should be.
        held.push((stream, sent.is_ok()));
        if n % 20 == 0 {
            bystander.commit("set", json!({ "target": "good", "value": n })).await;
        }
    }
    let closed = || async { frontend.metric("insieme_connections_closed_for_memory_total", "").await };
    until("somebody to give way", async || (closed().await > 0.0).then_some(())).await;
    until("room to be made", async || {
        let held = frontend.metric("insieme_frontend_memory_bytes", "").await;
        (held <= BYTES_MAX as f64).then_some(())
    })
    .await;
    bystander.commit("set", json!({ "target": "good", "value": "still" })).await;
    frontend.connected("newcomer").await.expect_alive().await;
    let grown = frontend.process.memory_bytes().saturating_sub(before);
    println!("{} gave way; the frontend has {} MiB more", closed().await, grown >> 20);
    assert!(grown < 48 << 20, "{grown} bytes more");
}
