//! A precaution that the torture seldom needs, in the one situation that it is for: with it all is well, and
//! without it, in a product broken on purpose, the harm shows.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::TryStreamExt;
use serde_json::json;
use tokio::time::timeout;

use crate::harness::cluster::Cluster;
use crate::harness::lossy::LossyProxy;
use crate::harness::proxy::{Link, Proxy};
use crate::harness::socket::Socket;
use crate::harness::until;

#[path = "../torturing/faults.rs"]
#[allow(dead_code)] // the torture uses all of it
mod faults;

/// A way of breaking the product that nothing looks for proves nothing. (`tests/torture --mutations` fails where the
/// product does not have one that is listed.)
#[test]
fn every_way_of_breaking_the_product_has_a_test() {
    let (mut in_product, mut folders) =
        (BTreeSet::new(), vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let switches = text.split("broken(\"").skip(1).filter_map(|rest| rest.split_once("\")"));
            in_product.extend(switches.map(|(name, _)| name.to_owned()));
            if path.ends_with("src/faults.rs") {
                // Those with a name of their own.
                let names = text.split("&str = \"").skip(1).filter_map(|rest| rest.split_once("\";"));
                in_product.extend(names.map(|(name, _)| name.to_owned()));
                in_product
                    .extend(text.contains("strip_prefix(\"clock_ms=\")").then(|| "clock_ms".to_owned()));
            }
        }
    }
    assert!(in_product.len() > 30, "the switches were not found: {in_product:?}");
    let mutations: BTreeSet<&str> = faults::MUTATIONS.iter().map(|mutation| mutation.fault).collect();
    assert!(mutations.len() >= 22, "{} ways of breaking the product", mutations.len());
    let harmless: BTreeSet<&str> = faults::HARMLESS.iter().map(|(switch, _)| *switch).collect();
    assert!(mutations.is_disjoint(&harmless));
    let listed: BTreeSet<&str> = mutations.union(&harmless).copied().collect();
    let in_product: BTreeSet<&str> = in_product.iter().map(String::as_str).collect();
    assert_eq!(in_product, listed, "the product's switches, and those in tests/torturing/faults.rs");
}

/// What finds a mutation is there, and names it.
#[test]
fn every_test_that_is_to_find_a_mutation_breaks_the_product_in_this_way() {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut stories = String::new();
    for entry in std::fs::read_dir(tests).unwrap() {
        stories.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for mutation in faults::MUTATIONS {
        let faults::FoundBy::Test(name) = mutation.found_by else { continue };
        let is_named = |end: &str| stories.contains(&format!("{}{end}", mutation.fault));
        let of_simulation = name == "the_products_own_faults_are_found";
        assert!(of_simulation || is_named("\"") || is_named(","), "no story switches {} on", mutation.fault);
    }
}

/// How long harm is waited for that must not come; and harm that must, several times as long.
const HARM: Duration = Duration::from_secs(4);

/// A frontend misses the last events while it is cut off, and nothing comes after them. Whether it tells of them.
async fn tells_what_it_missed(fault: &str) -> bool {
    let mut cluster = Cluster::start().set("frontend.gap_check_ms", 500).await;
    let proxy = Proxy::start(cluster.nats.servers[0].port()).await;
    let cut_off = cluster.add_frontend_by(&proxy.url(), fault).await;
    let mut bob = cluster.client(cut_off, "bob").await;
    let mut ann = cluster.client(0, "ann").await;
    let seen = ann.commit("set", json!({ "target": "a", "value": 1 })).await["eventId"].as_u64().unwrap();
    bob.caught_up(seen).await;
    proxy.set(Link::Cut);
    until("the frontend to be cut off", async || {
        let connected = cluster.frontends[cut_off].metric("insieme_nats_connected", "").await;
        (connected == 0.0).then_some(())
    })
    .await;
    let missed = ann.commit("set", json!({ "target": "a", "value": 2 })).await["eventId"].as_u64().unwrap();
    proxy.set(Link::Whole);
    until("the frontend to be back", async || {
        let connected = cluster.frontends[cut_off].metric("insieme_nats_connected", "").await;
        (connected == 1.0).then_some(())
    })
    .await;
    if fault.is_empty() {
        bob.caught_up(missed).await;
        return true;
    }
    timeout(HARM, bob.caught_up(missed)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_was_cut_off_looks_at_what_it_missed() {
    assert!(tells_what_it_missed("").await);
    assert!(
        !tells_what_it_missed("never_compare").await,
        "without the comparison nothing shows: the story is none"
    );
}

/// Waits until so many drafts are delivered, as NATS sees it, and not acknowledged.
async fn until_undecided(cluster: &Cluster, drafts: usize) {
    let js = async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await.unwrap());
    let queue = js.get_stream("DRAFTS").await.unwrap();
    until(&format!("{drafts} drafts to be under way"), async || {
        let consumers: Vec<_> = queue.consumers().try_collect().await.unwrap();
        (consumers.iter().map(|consumer| consumer.num_ack_pending).sum::<usize>() == drafts).then_some(())
    })
    .await;
}

/// A validator's connection breaks while a draft is on its way to it. The draft is rejected, then comes what it
/// lacked, and then the slot changes hands. Whether a draft that is told as rejected stays out of the log. The next
/// owner would pass over it, too.
async fn keeps_its_word(fault: &str, next: &str) -> bool {
    let mut cluster =
        Cluster::start().validators(0).set("nats.slots", 1).set("frontend.answer_wait_ms", 500).await;
    let proxy = Proxy::start(cluster.nats.servers[0].port()).await;
    let cut_off = cluster.add_validator_by(&proxy.url(), fault).await;
    let mut ann = cluster.client(0, "ann").await;
    let mut bob = cluster.client(0, "bob").await;
    bob.commit("init", json!({ "value": { "t": { "items": {}, "tree": [] } } })).await;
    until_undecided(&cluster, 0).await;

    proxy.set(Link::Deaf);
    let draft = ann.submit("treeDelete", json!({ "target": "t", "options": { "id": "n" } })).await;
    // When its next copy is under way too, the first has surely been given to the connection.
    until_undecided(&cluster, 2).await;
    proxy.set(Link::Cut);
    until("the validator to be cut off", async || {
        (cluster.validators[cut_off].counter("insieme_nats_connected").await == 0.0).then_some(())
    })
    .await;
    proxy.set(Link::Whole);
    // Broken, it is a later copy that is answered.
    assert!(!ann.answer(&draft).await.is_accepted(), "there is no such node");

    bob.commit("treePush", json!({ "target": "t", "value": { "id": "n" } })).await;
    cluster.validators[cut_off].process.signal(libc::SIGTERM);
    assert!(cluster.validators[cut_off].process.ended().await.success());
    cluster.add_validator(next).await;
    // The new owner decides the slot's drafts in their order: whatever was left over before this one.
    bob.commit("set", json!({ "target": "a", "value": 1 })).await;
    let mut log = cluster.log("default").into_iter();
    !log.any(|event| event["clientId"] == "ann" && event["draftId"] == draft.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_was_cut_off_takes_its_slots_anew() {
    assert!(keeps_its_word("", "forget_floor").await);
    assert!(keeps_its_word("keep_consumers", "").await);
    assert!(!keeps_its_word("keep_consumers", "forget_floor").await, "it does no harm: the story is none");
}

/// A validator loses its slot while it sleeps, and has it back after others have committed. Whether it decides on what
/// they left.
async fn decides_on_todays_state(fault: &str) -> bool {
    let mut cluster = Cluster::start().validators(0).set("nats.slots", 1).await;
    let first = cluster.add_validator(fault).await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("init", json!({ "value": { "t": { "items": {}, "tree": [] } } })).await;
    cluster.validators[first].process.pause();

    let second = cluster.add_validator("").await;
    // As long as the sleeper's consumer is there, the draft would also be in its hands, and show it on waking up that
    // the state is an old one.
    until("the slot to be taken over", async || {
        (cluster.validators[second].counter("insieme_slot_takeovers_total").await == 1.0).then_some(())
    })
    .await;
    ann.commit("treePush", json!({ "target": "t", "value": { "id": "n" } })).await;

    cluster.validators[first].process.resume();
    cluster.validators[second].process.signal(libc::SIGTERM);
    assert!(cluster.validators[second].process.ended().await.success());
    let draft = ann.submit("treeDelete", json!({ "target": "t", "options": { "id": "n" } })).await;
    ann.answer(&draft).await.is_accepted()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_that_has_its_slot_back_decides_on_what_others_left() {
    assert!(decides_on_todays_state("").await);
    assert!(!decides_on_todays_state("stale_cache").await, "a stale state does no harm: the story is none");
}

/// Somebody has an answer of the log sent to where live events come. Whether a client is shown what is not of its
/// partition.
async fn shows_its_own_events_only(fault: &str) -> bool {
    let mut cluster = Cluster::start().await;
    let url = cluster.nats.url();
    let frontend = cluster.add_frontend_by(&url, fault).await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": 1 })).await;
    let mut olga = cluster.client(0, "olga").partition("other").await;
    // Her second event, as the next one of the other partition would be.
    olga.commit("set", json!({ "target": "a", "value": 1 })).await;
    olga.commit("set", json!({ "target": "a", "value": "of the others" })).await;
    let (mut watcher, _) = Socket::greeted(&cluster.frontends[frontend].url(), "watcher").await;

    let nats = async_nats::connect(&url).await.unwrap();
    let both = json!({ "multi_last": ["committed.default", "committed.other"], "batch": 9 });
    let request = both.to_string().into();
    nats.publish_with_reply("$JS.API.DIRECT.GET.COMMITTED", "live.default", request).await.unwrap();
    nats.flush().await.unwrap();
    ann.commit("set", json!({ "target": "a", "value": "the last" })).await;
    loop {
        let told = watcher.receive_text().await.expect("the connection goes on");
        if told.contains("of the others") {
            return false;
        }
        if told.contains("the last") {
            return true;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_log_on_a_live_subject_is_no_event() {
    assert!(shows_its_own_events_only("").await);
    assert!(!shows_its_own_events_only("believe_headers").await, "it does no harm: the story is none");
}

/// A live event is lost between NATS and a frontend, over a connection that goes on, and the next one arrives. Whether a
/// client of that frontend is told of both.
async fn tells_of_a_live_event_that_was_lost(fault: &str) -> bool {
    // Later comparisons with the log's head see nothing amiss: the feed has the last event.
    let mut cluster = Cluster::start().set("frontend.gap_check_ms", 600_000).await;
    let proxy = LossyProxy::start(cluster.nats.servers[0].port()).await;
    let frontend = cluster.add_frontend_by(&proxy.url(), fault).await;
    let (mut watcher, _) = Socket::greeted(&cluster.frontends[frontend].url(), "watcher").await;
    let mut ann = cluster.client(0, "ann").await;
    ann.commit("set", json!({ "target": "a", "value": "before it" })).await;
    while !watcher.receive_text().await.expect("the connection goes on").contains("before it") {}

    proxy.lose(1, &["HMSG live.default ", "the lost one"]);
    ann.commit("set", json!({ "target": "a", "value": "the lost one" })).await;
    until("the live event to be lost", async || (proxy.lost() == 1).then_some(())).await;
    ann.commit("set", json!({ "target": "a", "value": "after it" })).await;
    loop {
        let told = watcher.receive_text().await.expect("the connection goes on");
        if told.contains("the lost one") {
            return true;
        }
        if told.contains("after it") {
            return false;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_event_that_was_lost_is_read_from_the_log_before_the_next_one_is_told() {
    assert!(tells_of_a_live_event_that_was_lost("").await);
    assert!(!tells_of_a_live_event_that_was_lost("believe_live").await, "it does no harm: the story is none");
}
