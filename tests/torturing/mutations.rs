//! The product broken on purpose, in one way after the other: the judge must find each. A checker that has
//! never failed proves nothing.

use std::time::Instant;

use super::engine::Kind;
use super::world::Plan;
use super::{Arguments, torture};

/// A way of breaking the product.
struct Mutation {
    /// The switch in `INSIEME_FAULT`.
    fault: &'static str,
    /// What else it takes to be seen soon.
    setting: Option<&'static str>,
    what: &'static str,
}

const MUTATIONS: [Mutation; 17] = [
    Mutation {
        fault: "commit_unchecked",
        setting: None,
        what: "commits do not name the partition's last event",
    },
    Mutation {
        fault: "answer_before_ack",
        setting: None,
        what: "what was decided is told before the commit that it rests on is acknowledged",
    },
    Mutation {
        fault: "reject_unconfirmed",
        setting: None,
        what: "a rejection is told without the queue's confirmation",
    },
    Mutation {
        fault: "same_consumer_name",
        setting: None,
        what: "a slot is taken over without making its consumer anew under a new name",
    },
    Mutation {
        fault: "decide_unowned",
        setting: None,
        what: "a state is read without making sure that the slot is still held",
    },
    Mutation {
        fault: "stale_cache",
        setting: None,
        what: "a state that was kept from an earlier ownership is taken for current",
    },
    Mutation {
        fault: "assume_committed",
        setting: None,
        what: "a commit that failed, or was not answered, is taken for done, and the next one built on it",
    },
    Mutation {
        fault: "forget_drafts",
        setting: None,
        what: "which drafts are committed is forgotten when a state is loaded",
    },
    Mutation {
        fault: "snapshot_off_by_one",
        setting: Some("validator.snapshot_events_min=20"),
        what: "a snapshot names the event before its last one",
    },
    Mutation { fault: "decide_again", setting: None, what: "what an earlier copy rejected is decided again" },
    Mutation {
        fault: "batch_goes_on",
        setting: None,
        what: "a batch goes on behind its first rejected event",
    },
    Mutation {
        fault: "keep_consumers",
        setting: None,
        what: "slots are not taken anew after a reconnect to NATS",
    },
    Mutation {
        fault: "believe_any_attempt",
        setting: Some("frontend.answer_wait_ms=300"),
        what: "a frontend believes the rejection of any attempt",
    },
    Mutation {
        fault: "believe_live",
        setting: None,
        what: "a frontend ignores which event a live one says it follows, and fills no gap",
    },
    Mutation {
        fault: "never_compare",
        setting: None,
        what: "a frontend never compares itself with the log, not even after a reconnect",
    },
    Mutation { fault: "ring_repeats", setting: None, what: "a connection is served one event twice" },
    Mutation { fault: "own_broadcast", setting: None, what: "a v1 client is sent its own events" },
];

/// Runs each until it is found; false if one is not.
pub async fn run(arguments: &Arguments, seed: u64) -> Result<bool, String> {
    println!("| broken | how it shows | found after |\n|---|---|---:|");
    let mut all = true;
    let chosen = |mutation: &&Mutation| {
        arguments.only.is_empty() || arguments.only.iter().any(|name| name == mutation.fault)
    };
    for mutation in MUTATIONS.iter().filter(chosen) {
        let began = Instant::now();
        let plan = Plan::of(seed, Kind::Single).broken(mutation.fault, mutation.setting);
        let (_, found) = torture(arguments, seed, plan, arguments.minutes_per_mutation, false).await?;
        let seconds = began.elapsed().as_secs();
        match found.first() {
            Some(first) => {
                let first: String = first.chars().take(140).collect();
                println!(
                    "| `{}`: {} | {} | {seconds} s |",
                    mutation.fault,
                    mutation.what,
                    first.replace('|', "/")
                );
            }
            None => {
                all = false;
                println!("| `{}`: {} | **NOT FOUND** | {seconds} s |", mutation.fault, mutation.what);
            }
        }
    }
    Ok(all)
}
