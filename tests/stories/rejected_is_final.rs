//! What a connection was told as rejected is never committed for that connection's draft, whatever stalls, is cut or
//! is replaced. Each way in which it once was is played here; and, in a product that is broken on purpose, the harm
//! shows.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, kv};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::harness::client::{Answer, Client};
use crate::harness::cluster::{Cluster, Plan};
use crate::harness::proxy::{Link, Proxy};
use crate::harness::{temp_dir, until};

/// How long a slot is held by a validator that is gone. Short, so that a story is.
const TTL_MS: u64 = 1_500;

fn cluster() -> Plan {
    Cluster::start().validators(0).set("nats.slots", 1).set("nats.ownership_ttl_ms", TTL_MS)
}

/// Rules under which a note needs a field.
fn rules(folder: &Path, name: &str, field: &str) -> String {
    let folder = folder.join(name);
    std::fs::create_dir(&folder).unwrap();
    let schema = json!({ "type": "object", "required": [field] }).to_string();
    std::fs::write(folder.join("note.json"), schema).unwrap();
    folder.display().to_string()
}

fn note() -> serde_json::Value {
    json!({ "schema": "note", "data": { "text": "x" } })
}

fn is_in_log(cluster: &Cluster, client: &str, draft: &str) -> bool {
    let mut log = cluster.log("default").into_iter();
    log.any(|event| event["clientId"] == client && event["draftId"] == draft)
}

async fn until_taken_over(cluster: &Cluster, validator: usize) {
    until("the slot to be taken over", async || {
        (cluster.validators[validator].counter("insieme_slot_takeovers_total").await >= 1.0).then_some(())
    })
    .await;
}

/// What an old owner has decided by its rules is on its way into the log while the slot's next owner rejects the same
/// draft by others. Whether the draft stays out of the log.
async fn keeps_its_word_between_two_rules(fault: &str) -> bool {
    let schemas = temp_dir();
    let (old, new) = (rules(schemas.path(), "old", "text"), rules(schemas.path(), "new", "body"));
    let mut cluster = cluster().set("rules.schema_dir", old).await;
    let proxy = Proxy::start(cluster.nats.servers[0].port()).await;
    cluster.add_validator_by(&proxy.url(), "").await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;

    // The old owner gets the draft, and its commit does not get to NATS.
    proxy.set(Link::Mute);
    let draft = ann.submit("event", note()).await;
    cluster.set("rules.schema_dir", new);
    let next = cluster.add_validator(fault).await;
    until_taken_over(&cluster, next).await;
    assert!(!ann.answer(&draft).await.is_accepted(), "the new rules refuse it");

    proxy.set(Link::Whole);
    until("the old owner to learn that it is none", async || {
        (cluster.validators[0].counter("insieme_commit_conflicts_total").await >= 1.0
            || is_in_log(&cluster, "ann", &draft))
        .then_some(())
    })
    .await;
    !is_in_log(&cluster, "ann", &draft)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_old_rules_accepted_is_not_committed_after_the_new_ones_rejected_it() {
    assert!(keeps_its_word_between_two_rules("").await);
    assert!(!keeps_its_word_between_two_rules("reject_unfenced").await, "the story is none");
}

/// A mark is an event that no client is shown; what comes after it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_in_the_log_and_shown_to_nobody() {
    let mut cluster = cluster().set("frontend.ring_events_max", 2).await;
    cluster.add_validator("").await;
    let mut ann = cluster.client(0, "ann").await;
    // The partition's first event may still be an `init`.
    let refused = ann.submit("treeDelete", json!({ "target": "t", "options": { "id": "n" } })).await;
    assert!(!ann.answer(&refused).await.is_accepted());
    let log = cluster.log_with_marks("default");
    assert_eq!((log.len(), &log[0]["isMark"]), (1, &json!(true)), "{log:?}");
    ann.commit("init", json!({ "value": { "t": { "items": {}, "tree": [] } } })).await;

    let mut bob = cluster.client(0, "bob").await;
    for n in 0..5 {
        cluster.restart_validator(0).await;
        let refused = ann.submit("treeDelete", json!({ "target": "t", "options": { "id": "n" } })).await;
        assert!(!ann.answer(&refused).await.is_accepted());
        ann.commit("set", json!({ "target": "a", "value": n })).await;
    }
    let (head, hash) = cluster.state_hash("default");
    let log = cluster.log_with_marks("default");
    let marks: Vec<u64> = log
        .iter()
        .filter(|event| event["isMark"] == true)
        .map(|event| event["eventId"].as_u64().unwrap())
        .collect();
    assert_eq!(marks.len(), 6, "one for each owner that rejects before it commits: {log:?}");
    // Live, from the ring, and from the log.
    bob.caught_up(head).await;
    ann.caught_up(head).await;
    let since_init = log[1]["eventId"].as_u64().unwrap();
    let shown =
        |client: &Client| client.event_ids().into_iter().filter(|id| *id > since_init).collect::<Vec<_>>();
    let events: Vec<u64> = log
        .iter()
        .map(|event| event["eventId"].as_u64().unwrap())
        .filter(|id| *id > since_init && !marks.contains(id))
        .collect();
    assert_eq!(shown(&bob), events);
    assert_eq!((bob.replica.hash(), ann.replica.hash()), (hash.clone(), hash));
    let page = ann.sync(json!({ "sinceEventId": since_init })).await;
    let paged: Vec<u64> =
        page["events"].as_array().unwrap().iter().map(|event| event["eventId"].as_u64().unwrap()).collect();
    assert_eq!(paged, events);
}

/// NATS has not removed a rejected draft from the queue when the slot changes hands, in good order. Whether the next
/// owner passes over it.
async fn passes_over_what_was_told(before: &str, after: &str) -> bool {
    let schemas = temp_dir();
    let (strict, lenient) =
        (rules(schemas.path(), "strict", "body"), rules(schemas.path(), "lenient", "text"));
    let mut cluster = cluster().set("rules.schema_dir", strict).await;
    let first = cluster.add_validator(before).await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let draft = ann.submit("event", note()).await;
    assert!(!ann.answer(&draft).await.is_accepted(), "the rules refuse it");

    cluster.validators[first].process.signal(libc::SIGTERM);
    assert!(cluster.validators[first].process.ended().await.success());
    cluster.set("rules.schema_dir", lenient);
    cluster.add_validator(after).await;
    // The next owner takes the slot's drafts in their order: the one that was left over before this one.
    ann.commit("set", json!({ "target": "a", "value": 2 })).await;
    !is_in_log(&cluster, "ann", &draft)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_owner_passes_over_what_was_told_as_rejected() {
    const REMAINS: &str = "lose_acknowledgements";
    assert!(passes_over_what_was_told(REMAINS, "").await);
    assert!(!passes_over_what_was_told(REMAINS, "forget_floor").await, "the story is none");
    let unwritten = format!("{REMAINS},tell_unwritten");
    assert!(!passes_over_what_was_told(&unwritten, "").await, "the story is none");
}

/// The same with three NATS servers, of which the one that leads the queue stalls for less than an election.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_rejected_comes_back_when_the_leader_of_the_queue_stalls() {
    const TRIALS: usize = 3;
    let schemas = temp_dir();
    let (strict, lenient) =
        (rules(schemas.path(), "strict", "body"), rules(schemas.path(), "lenient", "text"));
    let mut cluster = cluster().three_nats_servers().await;
    let mut ann = cluster.client(0, "ann").steadfast().await;
    for trial in 0..TRIALS {
        cluster.set("rules.schema_dir", &strict);
        let first = cluster.add_validator("").await;
        ann.commit("set", json!({ "target": "a", "value": trial })).await;
        let leader = cluster.nats.leader("DRAFTS").await;
        let draft = ann.submit("event", note()).await;
        let answer = ann.answer(&draft).await;
        cluster.nats.servers[leader].process().pause();
        assert!(!answer.is_accepted(), "the rules refuse it");

        cluster.validators[first].process.signal(libc::SIGTERM);
        cluster.set("rules.schema_dir", &lenient);
        let stalled = tokio::time::sleep(Duration::from_millis(3_500));
        let (next, ()) = tokio::join!(cluster.add_validator(""), async {});
        stalled.await;
        cluster.nats.servers[leader].process().resume();
        cluster.nats.healthy().await;
        until_taken_over(&cluster, next).await;
        ann.commit("set", json!({ "target": "b", "value": trial })).await;
        assert!(
            !is_in_log(&cluster, "ann", &draft),
            "trial {trial}: {draft} was rejected, and is in the log"
        );
        cluster.validators[first].process.ended().await;
        cluster.validators[next].process.signal(libc::SIGTERM);
        cluster.validators[next].process.ended().await;
    }
}

/// The bucket of slots as versions before this one made it: its keys expire.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_slots_from_an_older_version_goes_on_working() {
    let mut cluster = cluster().await;
    let js = jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap());
    js.delete_stream("KV_SLOTS").await.unwrap();
    let old = kv::Config {
        bucket: "SLOTS".to_owned(),
        history: 1,
        max_age: Duration::from_millis(TTL_MS),
        ..kv::Config::default()
    };
    js.create_key_value(old).await.unwrap();
    let said = cluster.run(&["bootstrap"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(
        said.contains("bucket SLOTS") && said.contains("nats stream edit KV_SLOTS --allow-msg-ttl"),
        "{said}"
    );

    cluster.add_validator("").await;
    let mut ann = cluster.client(0, "ann").await;
    for round in 0..3 {
        let refused = ann.submit("treeDelete", json!({ "target": "t", "options": { "id": "n" } })).await;
        assert!(!ann.answer(&refused).await.is_accepted());
        ann.commit("set", json!({ "target": "a", "value": round })).await;
        cluster.restart_validator(0).await;
    }
    cluster.validators[0].process.line_with("nats stream edit KV_SLOTS --allow-msg-ttl").await;

    // As the operator is told to do.
    let mut stream = js.get_stream("KV_SLOTS").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.allow_message_ttl = true;
    js.update_stream(config).await.unwrap();
    cluster.restart_validator(0).await;
    let refused = ann.submit("treeDelete", json!({ "target": "t", "options": { "id": "n" } })).await;
    assert!(!ann.answer(&refused).await.is_accepted());
    assert!(!cluster.validators[0].process.output().contains("--allow-msg-ttl"));
}

/// A way to NATS on which what a process says can be held up while the process connects anew.
struct HeldUp {
    port: u16,
    orders: mpsc::UnboundedSender<Order>,
    accepting: AbortHandle,
}

enum Order {
    /// From now on, what the process says is kept.
    Hold(oneshot::Sender<()>),
    /// The process's connection is closed, and NATS's is not.
    Replace(oneshot::Sender<()>),
    /// What was kept goes to NATS.
    Release(oneshot::Sender<()>),
}

impl HeldUp {
    async fn start(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (orders, taken) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(hold_up_the_first(listener, upstream, taken)).abort_handle();
        Self { port, orders, accepting }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    async fn order(&self, order: impl FnOnce(oneshot::Sender<()>) -> Order) {
        let (done, wait) = oneshot::channel();
        self.orders.send(order(done)).unwrap_or_else(|_| panic!("the way to NATS has ended"));
        wait.await.unwrap();
    }
}

impl Drop for HeldUp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Obeys orders on the first connection, and passes everything on on all others.
async fn hold_up_the_first(listener: TcpListener, upstream: u16, mut orders: mpsc::UnboundedReceiver<Order>) {
    let (mut near, _) = listener.accept().await.unwrap();
    let mut far = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
    let others = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
                // Either end may close it.
                drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
            });
        }
    });
    let _others = Arc::new(AbortOnDrop(others.abort_handle()));
    let (mut said, mut told) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let (mut kept, mut holds) = (Vec::new(), false);
    loop {
        tokio::select! {
            count = near.read(&mut said) => {
                let count = count.unwrap();
                assert!(count > 0, "the process has closed its connection by itself");
                if holds { kept.extend_from_slice(&said[..count]) } else { far.write_all(&said[..count]).await.unwrap() }
            }
            count = far.read(&mut told) => near.write_all(&told[..count.unwrap()]).await.unwrap(),
            order = orders.recv() => match order.unwrap() {
                Order::Hold(done) => {
                    holds = true;
                    done.send(()).unwrap();
                }
                Order::Replace(done) => {
                    drop(near);
                    done.send(()).unwrap();
                    break;
                }
                Order::Release(_) => panic!("nothing was replaced"),
            },
        }
    }
    loop {
        tokio::select! {
            count = far.read(&mut told) => assert!(count.unwrap() > 0, "NATS has closed the connection"),
            order = orders.recv() => {
                let Order::Release(done) = order.unwrap() else { panic!("nothing is held up") };
                far.write_all(&kept).await.unwrap();
                far.flush().await.unwrap();
                done.send(()).unwrap();
                break;
            }
        }
    }
    // It stays open, as a half-open connection does.
    std::future::pending::<()>().await;
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// When the publish that was held up arrives.
#[derive(Clone, Copy, PartialEq)]
enum Arrives {
    /// While it may still be stored.
    InTime,
    /// Once its draft was told as rejected.
    Late,
}

/// A publish is held up on a connection that is replaced. The draft is published again and rejected; then comes what
/// it lacked, the validator is replaced, and the first copy arrives. Whether what is told stays true.
async fn keeps_its_word_when_a_publish_stalls(arrives: Arrives, frontend: &str, validator: &str) -> bool {
    let mut cluster = cluster().set("frontend.answer_wait_ms", 60_000).await;
    cluster.add_validator(validator).await;
    let way = HeldUp::start(cluster.nats.servers[0].port()).await;
    let held_up = cluster.add_frontend_by(&way.url(), frontend).await;
    let mut bob = cluster.client(0, "bob").await;
    bob.commit("init", json!({ "value": { "t": { "items": {}, "tree": [] } } })).await;
    let mut ann = cluster.client(held_up, "ann").await;
    // Its first draft makes a connection ask NATS something; the one that matters must not.
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;

    way.order(Order::Hold).await;
    let draft = ann.submit("treeDelete", json!({ "target": "t", "options": { "id": "n" } })).await;
    until("the first copy to be on its way", async || {
        ann.drain().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        Some(())
    })
    .await;
    way.order(Order::Replace).await;
    let told = if arrives == Arrives::Late || !frontend.is_empty() {
        Some(ann.answer(&draft).await)
    } else {
        // Its next copy is rejected.
        until("a copy to be rejected", async || {
            (cluster.validators[0].counter("insieme_drafts_rejected_total").await >= 1.0).then_some(())
        })
        .await;
        None
    };
    bob.commit("treePush", json!({ "target": "t", "value": { "id": "n" } })).await;
    cluster.validators[0].process.kill9();
    let next = cluster.add_validator(validator).await;
    until_taken_over(&cluster, next).await;
    way.order(Order::Release).await;
    // The copy is decided before what NATS stores after it.
    bob.commit("set", json!({ "target": "a", "value": 2 })).await;
    bob.commit("set", json!({ "target": "a", "value": 3 })).await;
    let told = match told {
        Some(told) => told,
        None => ann.answer(&draft).await,
    };
    matches!(told, Answer::Accepted { .. }) == is_in_log(&cluster, "ann", &draft)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_arrives_late_changes_nothing() {
    assert!(keeps_its_word_when_a_publish_stalls(Arrives::Late, "", "").await);
    let broken = keeps_its_word_when_a_publish_stalls(Arrives::Late, "", "storable_for_ever");
    assert!(!broken.await, "the story is none");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_is_told_when_no_earlier_copy_can_arrive() {
    assert!(keeps_its_word_when_a_publish_stalls(Arrives::InTime, "", "").await);
    let broken = keeps_its_word_when_a_publish_stalls(Arrives::InTime, "believe_unsure", "");
    assert!(!broken.await, "the story is none");
}
