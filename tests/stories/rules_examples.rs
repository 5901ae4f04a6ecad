//! The examples under load: two clients write at once, one in each dialect, what cannot both be; the log is then judged by
//! rules that are written anew here.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::client::{Answer, Client};
use crate::harness::cluster::Cluster;
use crate::harness::temp_dir;
use crate::harness::tokens::{SECRET, TestKey};
use crate::harness::v1::{Item, V1Client};
use crate::stories::rules_in_force::{example, put_in_force, with_tokens};

/// The same one on every run.
const SEED: u64 = 20;

/// A backend under an example, Ann in the classic dialect and Vera in that of the published client.
async fn both(dir: &Path, name: &str, ann_is: &str) -> (Cluster, Client, V1Client) {
    let cluster = with_tokens(dir).frontends(2).await;
    put_in_force(&cluster, &example(name)).await;
    let key = TestKey::secret(SECRET);
    let token = key.token("ann", json!({ "roles": [ann_is] }));
    let ann = Client::of(&cluster.frontends[0].url(), "ann").token(token).await;
    let mut vera = V1Client::new(&cluster.frontends[1].url(), "vera", "default");
    vera.token = key.token("vera", json!({}));
    vera.reconnect().await;
    (cluster, ann, vera)
}

/// Both submit at once. The codes of what stands against each; none where it is committed.
async fn at_once(
    ann: &mut Client,
    vera: &mut V1Client,
    number: usize,
    by_ann: (&str, Value),
    by_vera: (&str, Value),
) -> (Vec<String>, Vec<String>) {
    let event = vera.event(&format!("v{number}"), by_vera.0, by_vera.1);
    let draft = ann.submit(by_ann.0, by_ann.1).await;
    vera.submit(vec![event]).await;
    let of_ann = match ann.answer(&draft).await {
        Answer::Accepted { .. } => Vec::new(),
        Answer::Rejected { errors, .. } => codes(&errors),
    };
    vera.settle().await;
    (of_ann, codes_of(&vera.batches.last().unwrap()[0]))
}

fn codes(errors: &[Value]) -> Vec<String> {
    errors.iter().map(|error| error["code"].as_str().unwrap_or_default().to_owned()).collect()
}

fn codes_of(item: &Item) -> Vec<String> {
    match item.status() {
        "committed" => Vec::new(),
        _ => codes(item.result["errors"].as_array().unwrap()),
    }
}

fn state(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.state("default")).unwrap()
}

/// What the server says the state is stays so over a validator that has only the log, which then goes on.
async fn goes_on_after_a_restart(cluster: &mut Cluster) {
    let before = cluster.state_hash("default");
    cluster.restart_validator(0).await;
    assert_eq!(cluster.state_hash("default"), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_never_overdraw_an_account_and_correct_a_transfer_once() {
    let dir = temp_dir();
    let (mut cluster, mut ann, mut vera) = both(dir.path(), "ledger", "teller").await;
    for id in ["a", "b", "c"] {
        ann.commit("account.opened", json!({ "id": id, "name": id })).await;
    }
    let transfer = |id: String, from: &str, to: &str, cents: u64| {
        ("money.transferred", json!({ "id": id, "from": from, "to": to, "cents": cents }))
    };
    let (kind, payload) = transfer("in".into(), "bank", "a", 100);
    ann.commit(kind, payload).await;
    // Only a teller takes money from the bank.
    let results = vera.results(vec![vera.event("no", kind, transfer("no".into(), "bank", "a", 5).1)]).await;
    assert_eq!(results[0].result["reason"], "forbidden", "{:?}", results[0]);

    // The same hundred cents, twice at once: one transfer is in.
    let (of_ann, of_vera) = at_once(
        &mut ann,
        &mut vera,
        0,
        transfer("t-ann".into(), "a", "b", 80),
        transfer("t-vera".into(), "a", "c", 80),
    )
    .await;
    let (done, refused) = if of_ann.is_empty() { ("t-ann", of_vera) } else { ("t-vera", of_ann) };
    assert_eq!(refused, ["NOT_COVERED"]);
    assert_eq!(state(&cluster)["accounts"]["a"]["balance"], 20);

    // A correction gives it back, once, and only a teller makes one.
    let correction = |id: &str| ("transfer.corrected", json!({ "id": id, "transfer": done }));
    let results = vera.results(vec![vera.event("c0", correction("c0").0, correction("c0").1)]).await;
    assert_eq!(results[0].result["reason"], "forbidden");
    ann.commit(correction("c1").0, correction("c1").1).await;
    let draft = ann.submit(correction("c2").0, correction("c2").1).await;
    assert_eq!(codes(&ann.expect_rejected(&draft, "validation_failed").await), ["CORRECTED_ALREADY"]);
    assert_eq!(state(&cluster)["accounts"]["a"]["balance"], 100);

    // Many at once, of accounts that hold little.
    let mut dice = crate::harness::rng::Rng::new(SEED);
    let mut accounts = || ["a", "b", "c"][dice.below(3)];
    let mut refusals = 0;
    for number in 1..=40 {
        let cents = 40 + number as u64;
        let by_ann = transfer(format!("x{number}"), accounts(), accounts(), cents);
        let by_vera = transfer(format!("y{number}"), accounts(), accounts(), cents);
        let (of_ann, of_vera) = at_once(&mut ann, &mut vera, number, by_ann, by_vera).await;
        refusals += of_ann.len() + of_vera.len();
    }
    assert!(refusals > 0, "nothing was ever refused");
    goes_on_after_a_restart(&mut cluster).await;
    ann.commit("account.opened", json!({ "id": "d", "name": "d" })).await;

    let mut balances = BTreeMap::from([("bank".to_owned(), 0i64)]);
    let mut transfers: BTreeMap<String, (String, String, i64, bool)> = BTreeMap::new();
    for event in cluster.log("default") {
        let text = |key: &str| event["payload"][key].as_str().unwrap().to_owned();
        let (from, to, cents) = match event["type"].as_str().unwrap() {
            "account.opened" => {
                assert_eq!(balances.insert(text("id"), 0), None);
                continue;
            }
            "money.transferred" => (text("from"), text("to"), event["payload"]["cents"].as_i64().unwrap()),
            _ => {
                let (from, to, cents, is_corrected) = transfers.get_mut(&text("transfer")).unwrap();
                assert!(!*is_corrected, "{event}");
                *is_corrected = true;
                (to.clone(), from.clone(), *cents)
            }
        };
        assert!(cents > 0 && from != to, "{event}");
        *balances.get_mut(&from).unwrap() -= cents;
        *balances.get_mut(&to).unwrap() += cents;
        assert!(from == "bank" || balances[&from] >= 0, "{event}");
        assert!(transfers.insert(text("id"), (from, to, cents, false)).is_none(), "{event}");
    }
    assert_eq!(balances.values().sum::<i64>(), 0);
    let state = state(&cluster);
    for (id, balance) in balances {
        assert_eq!(state["accounts"][&id]["balance"], balance, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_never_have_the_same_room_at_the_same_time() {
    let dir = temp_dir();
    let (mut cluster, mut ann, mut vera) = both(dir.path(), "booking", "host").await;
    let room = json!({ "id": "r1", "name": "The room" });
    let results = vera.results(vec![vera.event("no", "room.added", room.clone())]).await;
    assert_eq!(results[0].result["reason"], "forbidden");
    ann.commit("room.added", room).await;
    let booking = |id: String, start: u64, end: u64| {
        ("room.booked", json!({ "id": id, "room": "r1", "start": start, "end": end, "title": id }))
    };
    // An hour that both want: one has it.
    let (of_ann, of_vera) =
        at_once(&mut ann, &mut vera, 0, booking("ann".into(), 60, 120), booking("vera".into(), 90, 150))
            .await;
    let ann_has_it = of_ann.is_empty();
    assert_eq!(if ann_has_it { of_vera } else { of_ann }, ["TAKEN"]);
    // Who has none begins where the other's ends, which is no overlap.
    if ann_has_it {
        let (kind, payload) = booking("vera".into(), 120, 150);
        vera.commit(vera.event("v-after", kind, payload)).await;
    } else {
        let (kind, payload) = booking("ann".into(), 30, 90);
        ann.commit(kind, payload).await;
    }
    // A booking is changed by who made it.
    let moved =
        |id: &str, start: u64| ("booking.moved", json!({ "id": id, "start": start, "end": start + 10 }));
    let draft = ann.submit(moved("vera", 500).0, moved("vera", 500).1).await;
    assert_eq!(codes(&ann.expect_rejected(&draft, "validation_failed").await), ["NOT_YOURS"]);
    vera.commit(vera.event("v-moves", moved("vera", 500).0, moved("vera", 500).1)).await;
    let draft = ann.submit(moved("ann", 505).0, moved("ann", 505).1).await;
    assert_eq!(codes(&ann.expect_rejected(&draft, "validation_failed").await), ["TAKEN"]);
    vera.commit(vera.event("v-cancels", "booking.cancelled", json!({ "id": "vera" }))).await;
    ann.commit(moved("ann", 505).0, moved("ann", 505).1).await;

    let mut dice = crate::harness::rng::Rng::new(SEED);
    let mut refusals = 0;
    for number in 1..=40 {
        let mut times = || {
            let start = dice.below(900);
            (start as u64, (start + 1 + dice.below(60)) as u64)
        };
        let ((s, e), (t, f)) = (times(), times());
        let (by_ann, by_vera) = (booking(format!("x{number}"), s, e), booking(format!("y{number}"), t, f));
        let (of_ann, of_vera) = at_once(&mut ann, &mut vera, number, by_ann, by_vera).await;
        refusals += of_ann.len() + of_vera.len();
    }
    assert!(refusals > 0, "nothing was ever refused");
    goes_on_after_a_restart(&mut cluster).await;
    ann.commit("booking.cancelled", json!({ "id": "ann" })).await;

    let mut bookings: BTreeMap<String, (u64, u64, String)> = BTreeMap::new();
    for event in cluster.log("default") {
        let (payload, client) = (&event["payload"], event["clientId"].as_str().unwrap());
        let id = payload["id"].as_str().unwrap().to_owned();
        let times = || (payload["start"].as_u64().unwrap(), payload["end"].as_u64().unwrap());
        match event["type"].as_str().unwrap() {
            "room.added" => continue,
            "booking.cancelled" => {
                assert_eq!(bookings.remove(&id).unwrap().2, client, "{event}");
                continue;
            }
            "booking.moved" => assert_eq!(bookings.remove(&id).unwrap().2, client, "{event}"),
            _ => assert!(!bookings.contains_key(&id), "{event}"),
        }
        let (start, end) = times();
        let overlap = bookings.values().find(|other| other.0 < end && start < other.1);
        assert!(start < end && overlap.is_none(), "{event} overlaps {overlap:?}");
        bookings.insert(id, (start, end, client.to_owned()));
    }
    let of_room = &state(&cluster)["rooms"]["r1"]["bookings"];
    let told: Vec<u64> =
        of_room.as_array().unwrap().iter().map(|one| one["start"].as_u64().unwrap()).collect();
    let mut starts: Vec<u64> = bookings.values().map(|booking| booking.0).collect();
    starts.sort_unstable();
    assert_eq!(told, starts);
}
