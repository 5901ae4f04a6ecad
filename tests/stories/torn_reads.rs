//! Connections to NATS that are reset in the middle of large answers: the rest of an answer arrives over the next
//! connection, without what was on its way. Nothing may be built on such an answer.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use insieme_backend::event::{EventId, PartitionKey, Token};
use insieme_backend::log::{Log, LogSettings, SnapshotInfo, SnapshotPart};
use insieme_backend::partition::parse;
use insieme_backend::rules::Registry;
use insieme_backend::state::{Fold, IndexPart};
use serde_json::{Value, json};

use crate::harness::cluster::{Cluster, Plan};
use crate::harness::lossy::LossyProxy;
use crate::harness::proxy::{Proxy, Reset};
use crate::harness::rng::Rng;
use crate::harness::socket::Socket;
use crate::harness::v1::V1Client;
use crate::harness::{DEADLINE, until};

const EVENTS: u64 = 20_000;
const NONE: [u64; 0] = [];
const INCOMPLETE_INDEXES: &str = "insieme_log_incomplete_indexes_total";

/// What every event of these stories asks for.
fn draft() -> Value {
    json!({ "type": "set", "payload": { "target": "n", "value": "x".repeat(60) } })
}

/// A cluster whose partition `default` has events of client `ann`: draft `d-<n>` is the `n`th. They are written to
/// the log at once, as validators would have written them.
async fn filled(plan: Plan) -> Cluster {
    let cluster = plan.await;
    let mut ann = cluster.client(0, "ann").await;
    ann.submit_as("d-1", draft(), None).await;
    ann.expect_accepted("d-1").await;
    let mut record = cluster.log("default").remove(0);
    record.as_object_mut().unwrap().remove("eventId");
    store(&cluster, &mut record, 2..=EVENTS).await;
    cluster
}

/// Writes drafts to the log that differ from this event in their number alone.
async fn store(cluster: &Cluster, record: &mut Value, numbers: RangeInclusive<u64>) {
    let client = async_nats::connect(cluster.nats.url()).await.unwrap();
    let mut js = async_nats::jetstream::new(client);
    js.set_timeout(DEADLINE);
    let mut stored = Vec::new();
    let last = *numbers.end();
    for n in numbers {
        record["ordinal"] = n.into();
        record["draftId"] = format!("d-{n}").into();
        stored.push(js.publish("committed.default", record.to_string().into()).await.unwrap());
        if stored.len() == 200 || n == last {
            for stored in stored.drain(..) {
                stored.await.unwrap();
            }
        }
    }
}

async fn proxy_to(cluster: &Cluster) -> Proxy {
    let port = cluster.nats.url().rsplit(':').next().unwrap().parse().unwrap();
    Proxy::start(port).await
}

/// Resets so many reads over a proxy, or until it is dropped, each after so many bytes of it as chance has it.
struct Resetting(Arc<AtomicBool>);

impl Resetting {
    fn of(proxy: &Arc<Proxy>, seed: u64, count: u64, bytes: std::ops::Range<u64>) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (proxy, until_then, mut rng) = (proxy.clone(), ended.clone(), Rng::new(seed));
        tokio::spawn(async move {
            let upto = proxy.resets() + count;
            let mut armed = None;
            while !until_then.load(Ordering::Acquire) && proxy.resets() < upto {
                if armed != Some(proxy.resets()) {
                    armed = Some(proxy.resets());
                    let after = bytes.start + rng.below((bytes.end - bytes.start) as usize) as u64;
                    proxy.reset(Reset::InRead(after));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            proxy.disarm();
        });
        Self(ended)
    }
}

impl Drop for Resetting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A client that has nothing is told of all events, in order.
async fn catch_up(url: &str, client: &str) -> Vec<u64> {
    let mut socket = Socket::open(url).await.unwrap();
    socket.send("connect", json!({ "clientId": client, "version": "test", "lastEventId": 0 })).await.unwrap();
    socket.expect("connected").await;
    let mut ids = Vec::new();
    while ids.last() != Some(&EVENTS) {
        let message = socket.expect("broadcast").await;
        ids.push(message["payload"]["eventId"].as_u64().unwrap());
    }
    socket.close().await;
    ids
}

/// The first few numbers that are missing, or in the wrong place.
fn wrong(ids: &[u64]) -> Vec<u64> {
    let given: HashSet<&u64> = ids.iter().collect();
    let missing = (1..=EVENTS).filter(|id| !given.contains(id));
    let repeated = ids.windows(2).filter(|pair| pair[0] >= pair[1]).map(|pair| pair[1]);
    missing.chain(repeated).take(10).collect()
}

/// All events, as pages of the v1 dialect tell them.
async fn paged(url: &str) -> Vec<u64> {
    let mut v1 = V1Client::connect(url, "v1", "default").await;
    let (mut since, mut ids) = (0, Vec::new());
    loop {
        let page = v1.page_after(since, 1_000).await;
        let events = page["events"].as_array().unwrap();
        ids.extend(events.iter().map(|event| event["committedId"].as_u64().unwrap()));
        since = page["nextSinceCommittedId"].as_u64().unwrap();
        if page["hasMore"] == false {
            return ids;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_catches_up_through_resets_sees_every_event_and_so_does_everybody_after_it() {
    let mut cluster = filled(Cluster::start()).await;
    let proxy = Arc::new(proxy_to(&cluster).await);
    let frontend = cluster.add_frontend_by(&proxy.url(), "").await;
    let url = cluster.frontends[frontend].url();
    // The feed is there before.
    let (_keeper, _) = Socket::greeted(&url, "keeper").await;
    let resetting = Resetting::of(&proxy, 1, 100, 20_000..600_000);
    for client in ["ann", "bob", "eve"] {
        assert_eq!(wrong(&catch_up(&url, client).await), NONE, "{client}");
    }
    drop(resetting);
    assert!(proxy.resets() >= 3, "only {} resets", proxy.resets());
    // What was kept of it is whole.
    assert_eq!(wrong(&catch_up(&url, "later").await), NONE);
    assert_eq!(wrong(&paged(&url).await), NONE);
    let frontend = &cluster.frontends[frontend];
    assert!(frontend.metric("insieme_log_torn_reads_total", "").await >= 1.0);
    assert_eq!(frontend.metric("insieme_log_holes_total", "").await, 0.0);
}

/// The events of which each copy on its way to a process is lost, up to so many copies.
const LOST: [&str; 2] = ["Nats-Stream: COMMITTED", "\"draftId\":\"d-7"];
const LOST_COPIES: usize = 300;

async fn lossy_proxy_to(cluster: &Cluster) -> LossyProxy {
    LossyProxy::start(cluster.nats.url().rsplit(':').next().unwrap().parse().unwrap()).await
}

/// A client catches up while the frontend's answers from the log lose messages, and another one after it. What each
/// was not told.
async fn missed_through_losses(fault: &str) -> [Vec<u64>; 3] {
    let mut cluster = filled(Cluster::start()).await;
    let proxy = lossy_proxy_to(&cluster).await;
    let frontend = cluster.add_frontend_by(&proxy.url(), fault).await;
    let url = cluster.frontends[frontend].url();
    proxy.lose(LOST_COPIES, &LOST);
    let first = wrong(&catch_up(&url, "ann").await);
    assert_eq!(proxy.lost(), LOST_COPIES);
    let later = wrong(&catch_up(&url, "later").await);
    let pages = wrong(&paged(&url).await);
    assert_eq!(cluster.frontends[frontend].metric("insieme_log_holes_total", "").await, 0.0);
    [first, later, pages]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_lost_messages_is_asked_for_again_and_never_kept() {
    assert_eq!(missed_through_losses("").await, [NONE; 3]);
    for missed in missed_through_losses("believe_batches").await {
        assert_ne!(missed, NONE, "without the checks nothing is missed: the story is none");
    }
}

/// What tests may do to the log and its snapshots.
struct Hands {
    log: Log,
    token: Token,
    fold: Arc<dyn Fold>,
}

impl Hands {
    async fn on(cluster: &Cluster) -> Self {
        let settings = LogSettings { urls: vec![cluster.nats.url()], ..LogSettings::default() };
        let log = Log::connect(&settings, "test").await.unwrap();
        let token = PartitionKey::new("default").unwrap().token();
        Self { log, token, fold: Arc::new(Registry::built_in().unwrap()) }
    }

    /// Writes a snapshot of the state at the head.
    async fn write_state(&self) -> SnapshotInfo {
        let state = self.log.load_partition(&self.token, &self.fold, false).await.unwrap().state;
        let part = state.to_state_part().unwrap();
        let info = SnapshotInfo {
            event_id: part.event_id,
            ordinal: part.ordinal,
            log_bytes: part.log_bytes,
            ..SnapshotInfo::default()
        };
        self.log.write_snapshot(&self.token, SnapshotPart::State, info, part.encode()).await.unwrap();
        info
    }

    /// Writes a draft index up to an event, with the drafts that `keeps` says.
    async fn write_index(&self, upto: u64, keeps: impl Fn(u64) -> bool) {
        let mut index = self.rebuilt_index(upto).await;
        // The log's ids are those of one partition.
        index.entries.retain(|(_, id, _)| keeps(id.0));
        let info = SnapshotInfo {
            event_id: index.event_id,
            ordinal: index.entries.len() as u64,
            ..SnapshotInfo::default()
        };
        self.log.write_snapshot(&self.token, SnapshotPart::Index(0), info, index.encode()).await.unwrap();
    }

    /// The draft index up to an event, from the log.
    async fn rebuilt_index(&self, upto: u64) -> IndexPart {
        let mut index = IndexPart::default();
        let mut replay = self.log.replay(&self.token, EventId::NONE, EventId(upto));
        let mut entries = Vec::new();
        while let Some(stored) = replay.next().await.unwrap() {
            let record = parse(&stored).unwrap().record;
            entries.push((record.draft_key(), stored.id, record.content_hash));
        }
        index.extend(EventId(upto), entries);
        index
    }

    async fn index(&self) -> IndexPart {
        // One that is replaced while it is read cannot be read.
        let bytes = until("an index", async || {
            self.log.read_snapshot(&self.token, SnapshotPart::Index(0)).await.ok().flatten()
        })
        .await;
        IndexPart::decode(&bytes).unwrap()
    }
}

/// Drafts that were committed are sent again. Gives those of them that were committed a second time.
async fn committed_twice(cluster: &Cluster, drafts: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut ann = cluster.client(0, "ann").steadfast().await;
    let drafts: Vec<u64> = drafts.collect();
    let mut twice = Vec::new();
    for some in drafts.chunks(200) {
        for n in some {
            ann.submit_again(&format!("d-{n}"), draft()).await;
        }
        for n in some {
            let told = ann.expect_accepted(&format!("d-{n}")).await;
            if told["eventId"] != *n {
                twice.push(*n);
            }
        }
    }
    twice
}

/// A validator loads a partition whose index is older than its state while its reads are reset.
async fn load_through_resets(index_upto: u64) {
    let mut cluster = filled(Cluster::start().set("validator.snapshot_events_min", 50)).await;
    let hands = Hands::on(&cluster).await;
    let proxy = Arc::new(proxy_to(&cluster).await);
    cluster.validators[0].process.kill9();
    hands.write_state().await;
    hands.write_index(index_upto, |_| true).await;
    let validator = cluster.add_validator_by(&proxy.url(), "").await;
    let resetting = Resetting::of(&proxy, index_upto, 3, 20_000..400_000);
    assert_eq!(committed_twice(&cluster, (1..=EVENTS).step_by(41)).await, NONE);
    assert!(proxy.resets() >= 1, "nothing was reset");
    let said = cluster.validators[validator].process.output();
    assert!(!said.contains("does not fold"), "{said}");
    assert_eq!(cluster.validators[validator].counter("insieme_partitions_stopped_total").await, 0.0);
    // With as many new ones as it takes, it writes an index.
    drop(resetting);
    let _resetting = Resetting::of(&proxy, index_upto + 1, 3, 20_000..400_000);
    let mut eve = cluster.client(0, "eve").steadfast().await;
    until("an index of now", async || {
        for n in 0..50 {
            eve.submit("set", json!({ "target": "eve", "value": n })).await;
        }
        eve.settle().await;
        let index = hands.log.snapshot_info(&hands.token, SnapshotPart::Index(0)).await.unwrap().unwrap();
        (index.event_id.0 >= EVENTS).then_some(())
    })
    .await;
    let index = hands.index().await;
    assert_eq!(index.entries.len() as u64, index.event_id.0, "an index with holes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_loads_through_resets_commits_nothing_twice_and_calls_nothing_damage() {
    for index_upto in [5_000, 400] {
        load_through_resets(index_upto).await;
    }
}

/// A validator loads a partition whose index is older than its state while the answers from the log lose messages.
/// Gives the drafts that it committed a second time.
async fn committed_twice_through_losses(fault: &str) -> Vec<u64> {
    let mut cluster = filled(Cluster::start().set("validator.snapshot_events_min", 1_000_000)).await;
    let hands = Hands::on(&cluster).await;
    let proxy = lossy_proxy_to(&cluster).await;
    cluster.validators[0].process.kill9();
    hands.write_state().await;
    hands.write_index(400, |_| true).await;
    let validator = cluster.add_validator_by(&proxy.url(), fault).await;
    proxy.lose(LOST_COPIES, &LOST);
    let twice = committed_twice(&cluster, 7_000..7_100).await;
    assert_eq!(proxy.lost(), LOST_COPIES);
    let validator = &mut cluster.validators[validator];
    assert_eq!(validator.counter("insieme_partitions_stopped_total").await, 0.0);
    twice
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_does_not_forget_the_drafts_that_an_answer_lost() {
    assert_eq!(committed_twice_through_losses("").await, NONE);
    assert_ne!(
        committed_twice_through_losses("believe_batches").await,
        NONE,
        "without the checks nothing is committed twice: the story is none"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_an_older_version_wrote_with_holes_is_noticed_and_made_again() {
    let mut cluster = filled(Cluster::start().set("validator.snapshot_events_min", 50)).await;
    let hands = Hands::on(&cluster).await;
    let is_lost = |n: u64| (7_000..8_000).contains(&n);
    hands.write_state().await;
    // Of the head, and of an event before the state.
    for upto in [EVENTS, 15_000] {
        cluster.validators[0].process.kill9();
        hands.write_index(upto, |n| !is_lost(n)).await;
        cluster.restart_validator(0).await;
        assert_eq!(committed_twice(&cluster, (6_900..8_100).step_by(37)).await, NONE);
        assert_eq!(cluster.validators[0].counter(INCOMPLETE_INDEXES).await, 1.0);
        assert!(cluster.validators[0].process.output().contains("does not have a draft for every event"));
    }
    // The next one that is written is whole, though it goes on from the one with the holes.
    let mut eve = cluster.client(0, "eve").await;
    let index = until("an index of now", async || {
        for n in 0..50 {
            eve.submit("set", json!({ "target": "eve", "value": n })).await;
        }
        eve.settle().await;
        let index = hands.index().await;
        (index.event_id.0 > EVENTS).then_some(index)
    })
    .await;
    assert_eq!(index.entries.len() as u64, index.event_id.0);
    cluster.restart_validator(0).await;
    assert_eq!(committed_twice(&cluster, (6_900..8_100).step_by(37)).await, NONE);
    assert_eq!(cluster.validators[0].counter(INCOMPLETE_INDEXES).await, 0.0);

    // Without the check, such an index has drafts committed twice.
    cluster.validators[0].process.kill9();
    hands.write_state().await;
    hands.write_index(EVENTS, |n| !is_lost(n)).await;
    cluster.add_validator("believe_indexes").await;
    assert_ne!(committed_twice(&cluster, (7_000..7_010).chain([1])).await, NONE, "the story is none");
}

/// Found by the long torture, seeds 430 and 433.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_another_owner_replaces_while_it_is_loaded_is_whole() {
    let mut cluster = filled(Cluster::start().set("validator.snapshot_events_min", 1_000_000)).await;
    let hands = Hands::on(&cluster).await;
    cluster.validators[0].process.kill9();
    hands.write_state().await;
    hands.write_index(EVENTS, |_| true).await;
    let proxy = lossy_proxy_to(&cluster).await;
    let validator = cluster.add_validator_by(&proxy.url(), "").await;
    let mut eve = cluster.client(0, "eve").await;

    // When it has asked for the head, and others commit more and write an index, which comes after the state of then,
    proxy.hold(&["stream_msg_get_response", "committed.default"]);
    let draft = eve.submit("set", json!({ "target": "eve", "value": 1 })).await;
    proxy.held().await;
    let more = EVENTS + 500;
    let mut record = cluster.log("default").remove(0);
    record.as_object_mut().unwrap().remove("eventId");
    store(&cluster, &mut record, EVENTS + 1..=more).await;
    hands.write_index(more, |_| true).await;
    proxy.release();

    // then it reads up to that index, and calls nothing incomplete.
    assert_eq!(eve.expect_accepted(&draft).await["eventId"], more + 1);
    let validator = &mut cluster.validators[validator];
    assert_eq!(validator.counter(INCOMPLETE_INDEXES).await, 0.0, "{}", validator.process.output());
    assert_eq!(validator.counter("insieme_partitions_stopped_total").await, 0.0);
}

/// A frontend whose one read of a partition's head loses the event in it. At which event it says that the partition
/// ends.
async fn head_without_its_event(fault: &str) -> u64 {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let proxy = lossy_proxy_to(&cluster).await;
    let frontend = cluster.add_frontend_by(&proxy.url(), fault).await;
    proxy.lose(1, &["Nats-Subject: committed.default", "Nats-Num-Pending: 0"]);
    let v1 = V1Client::connect(&cluster.frontends[frontend].url(), "v1", "default").await;
    assert_eq!(proxy.lost(), 1);
    v1.connections.last().unwrap().began_at
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_whose_head_got_lost_on_the_way_is_not_taken_for_empty() {
    assert_eq!(head_without_its_event("").await, 1);
    assert_eq!(head_without_its_event("believe_batches").await, 0, "without the check");
}

/// An object of a snapshot may have 16 KiB here; a draft takes 32 bytes of an index, and 1 GiB holds 33 million of them.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_too_long_for_an_object_is_written_in_several_and_all_its_drafts_are_known() {
    const DRAFTS: usize = 1_300;
    const OF_OBJECT: usize = 510;
    let mut cluster = Cluster::start()
        .validators(0)
        .set("validator.snapshot_events_min", 50)
        .set("log.filter", "debug")
        .await;
    let hands = Hands::on(&cluster).await;
    let url = cluster.nats.url();
    let mut validator = cluster.add_validator_by(&url, "small_snapshots").await;
    let mut ann = cluster.client(0, "ann").await;
    let set = |n: usize| json!({ "type": "set", "payload": { "target": "n", "value": n } });
    let mut told = Vec::new();
    for n in 0..DRAFTS {
        ann.submit_again(&format!("d-{n}"), set(n)).await;
        told.push(ann.expect_accepted(&format!("d-{n}")).await);
    }
    let info =
        async |number| hands.log.snapshot_info(&hands.token, SnapshotPart::Index(number)).await.unwrap();
    // A snapshot that came due while another was written waits for more commits, as many as fit the third object.
    let mut more = 0;
    until("the third object", async || {
        if more < 3 * OF_OBJECT - DRAFTS {
            ann.submit_again(&format!("more-{more}"), set(more)).await;
            ann.expect_accepted(&format!("more-{more}")).await;
            more += 1;
        }
        info(2).await.filter(|third| third.ordinal >= 1_180)
    })
    .await;
    let (first, second, third) = (info(0).await.unwrap(), info(1).await.unwrap(), info(2).await.unwrap());
    assert_eq!((first.ordinal, second.ordinal), (OF_OBJECT as u64, 2 * OF_OBJECT as u64));
    assert_eq!((second.after, third.after), (first.event_id, second.event_id));
    assert!(first.bytes <= 16 << 10 && second.bytes <= 16 << 10 && info(3).await.is_none());
    assert_eq!(hands.index().await, hands.rebuilt_index(first.event_id.0).await);

    // Whoever loads it has the drafts of all three.
    let loads = async |cluster: &mut Cluster, validator: &mut usize| {
        cluster.validators[*validator].process.kill9();
        *validator = cluster.add_validator_by(&url, "small_snapshots").await;
    };
    loads(&mut cluster, &mut validator).await;
    for n in (0..DRAFTS).step_by(7) {
        ann.submit_again(&format!("d-{n}"), set(n)).await;
        assert_eq!(ann.expect_accepted(&format!("d-{n}")).await, told[n]);
    }
    let indexed = |line: String| -> u64 {
        let (_, rest) = line.split_once("indexed=").or(line.split_once("\"indexed\":")).unwrap();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    let line = cluster.validators[validator].process.line_with("partition loaded").await;
    assert!(indexed(line.clone()) >= third.ordinal, "{line}");
    assert_eq!(cluster.validators[validator].counter(INCOMPLETE_INDEXES).await, 0.0);

    // One that is damaged, and those after it, are none; they are made again from the log.
    let garbage = SnapshotInfo { bytes: 0, ..second };
    hands
        .log
        .write_snapshot(&hands.token, SnapshotPart::Index(1), garbage, b"garbage".to_vec())
        .await
        .unwrap();
    loads(&mut cluster, &mut validator).await;
    for n in (0..DRAFTS).step_by(7) {
        ann.submit_again(&format!("d-{n}"), set(n)).await;
        assert_eq!(ann.expect_accepted(&format!("d-{n}")).await, told[n]);
    }
    let line = cluster.validators[validator].process.line_with("partition loaded").await;
    assert_eq!(indexed(line), OF_OBJECT as u64);
    for n in DRAFTS..DRAFTS + 60 {
        ann.submit_again(&format!("d-{n}"), set(n)).await;
        ann.expect_accepted(&format!("d-{n}")).await;
    }
    until("the second object again", async || {
        ann.submit_again(&format!("more-{more}"), set(more)).await;
        ann.expect_accepted(&format!("more-{more}")).await;
        more += 1;
        info(1).await.filter(|info| info.bytes == second.bytes)
    })
    .await;
    assert_eq!(cluster.log("default").len(), DRAFTS + 60 + more);
}

/// The log loses its last events while nothing runs, less than a look at it after they were committed.
#[tokio::test(flavor = "multi_thread")]
async fn the_mark_follows_the_commits() {
    let cluster = Cluster::start().set("nats.look_ms", 3_600_000).await;
    let mut ann = cluster.client(0, "ann").await;
    let mut last = 0;
    for n in 0..3 {
        let event = ann.commit("set", json!({ "target": "a", "value": n })).await;
        last = event["eventId"].as_u64().unwrap();
        let store = async_nats::connect(cluster.nats.url()).await.unwrap();
        let store = async_nats::jetstream::new(store).get_object_store("SNAPSHOTS").await.unwrap();
        until("the mark of this event", async || {
            let mark = store.info("log.mark").await.ok()?;
            (mark.metadata["last"] == last.to_string()).then_some(())
        })
        .await;
    }
    assert_eq!(last, 3);
}

async fn js_of(cluster: &Cluster) -> async_nats::jetstream::Context {
    async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_at_a_hole_in_the_log_and_is_sent_nothing_after_it() {
    let mut cluster = Cluster::start().set("frontend.ring_events_max", 4).set("nats.look_ms", 100).await;
    let mut ann = cluster.client(0, "ann").await;
    for n in 0..20 {
        ann.commit("set", json!({ "target": "n", "value": n })).await;
    }
    let stream = js_of(&cluster).await.get_stream("COMMITTED").await.unwrap();
    assert!(stream.delete_message(10).await.unwrap());
    cluster.restart_frontend(0).await;
    for client in ["bob", "eve"] {
        let mut socket = Socket::open(&cluster.frontends[0].url()).await.unwrap();
        let connect = json!({ "clientId": client, "version": "test", "lastEventId": 0 });
        socket.send("connect", connect).await.unwrap();
        socket.expect("connected").await;
        let error = socket.expect_past_broadcasts("error").await;
        assert_eq!(error["payload"]["code"], "unavailable", "{error}");
        assert!(error["payload"]["message"].as_str().unwrap().contains("lacks events after"), "{error}");
        assert_eq!(socket.expect_closed().await, 1001);
    }
    assert!(cluster.frontends[0].metric("insieme_log_holes_total", "").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_deletes_an_index_that_holds_what_is_taken_out() {
    let mut cluster = Cluster::start().await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let mut record = cluster.log("default").remove(0);
    record.as_object_mut().unwrap().remove("eventId");
    record["ordinal"] = 2.into();
    record["payload"] = json!({ "target": 5 });
    record["draftId"] = "forged".into();
    ann.drop_connection();
    let js = js_of(&cluster).await;
    let forged = js.publish("committed.default", record.to_string().into()).await.unwrap().await.unwrap();
    let hands = Hands::on(&cluster).await;
    hands.write_index(forged.sequence, |_| true).await;
    let dir = crate::harness::temp_dir();
    let into = dir.path().join("taken");
    let from = forged.sequence.to_string();
    cluster.run(&["quarantine", "default", "--from", &from, "--into", into.to_str().unwrap()]);
    cluster.run(&["inspect", "default"]);
    cluster.restart_validator(0).await;
    cluster.restart_frontend(0).await;
    ann.reconnect().await;
    ann.commit("set", json!({ "target": "a", "value": 2 })).await;
    assert_eq!(cluster.log("default").len(), 2);

    // An index that an older version left there is told, and goes the same way.
    cluster.validators[0].process.kill9();
    let head = cluster.log("default").last().unwrap()["eventId"].as_u64().unwrap();
    let mut index = hands.rebuilt_index(head).await;
    index.event_id = EventId(head + 5);
    let info = SnapshotInfo { event_id: index.event_id, ordinal: 2, ..SnapshotInfo::default() };
    hands.log.write_snapshot(&hands.token, SnapshotPart::Index(0), info, index.encode()).await.unwrap();
    let inspected = cluster.try_run(&["inspect", "default"]);
    let said = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(!inspected.status.success() && said.contains("there is a draft index of it"), "{said}");
    let (into, from) = (dir.path().join("none"), index.event_id.0.to_string());
    cluster.run(&["quarantine", "default", "--from", &from, "--into", into.to_str().unwrap()]);
    cluster.restart_validator(0).await;
    ann.commit("set", json!({ "target": "a", "value": 3 })).await;
    assert_eq!(cluster.log("default").len(), 3);
}

/// `log` of all events while its consumer's deliveries lose some. What it lacks.
async fn printed_through_losses(cluster: &Cluster, fault: &str) -> Vec<u64> {
    let proxy = lossy_proxy_to(cluster).await;
    let lost = 20;
    proxy.lose(lost, &["$JS.ACK.COMMITTED.read-", "\"draftId\":\"d-150"]);
    let said = cluster.run_by(&proxy.url(), fault, &["log", "default"]).await;
    assert_eq!(proxy.lost(), lost, "it was not read through a consumer");
    let numbers = said.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["draftId"].as_str().unwrap().strip_prefix("d-").unwrap().parse::<u64>().unwrap()
    });
    let numbers: Vec<u64> = numbers.collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "out of order, or twice");
    let told: HashSet<u64> = numbers.into_iter().collect();
    (1..=EVENTS).filter(|number| !told.contains(number)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_history_is_read_through_a_consumer_and_what_it_loses_is_read_again() {
    let cluster = filled(Cluster::start()).await;
    assert_eq!(printed_through_losses(&cluster, "").await, NONE);
    assert_ne!(printed_through_losses(&cluster, "believe_consumers").await, NONE, "the story is none");
    // Nothing is left there.
    let js = async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap());
    let stream = js.get_stream("COMMITTED").await.unwrap();
    until("the consumers are gone", async || {
        let info = stream.get_info().await.unwrap();
        (info.state.consumer_count == 0).then_some(())
    })
    .await;
}
