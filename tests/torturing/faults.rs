//! The ways in which the product is broken on purpose, and what finds each. The switches are names in
//! `INSIEME_FAULT`; each stands in the product in a call of `fault::broken`.

/// A way of breaking the product.
pub struct Mutation {
    /// The switch.
    pub fault: &'static str,
    /// Other switches and a setting that it takes to be seen soon.
    pub with: &'static str,
    pub setting: Option<&'static str>,
    pub what: &'static str,
    pub found_by: FoundBy,
}

/// What finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FoundBy {
    /// `tests/torture --mutations`.
    Torture,
    /// Something else, every time; the torture would need a rare coincidence. Named as a test filter.
    Test(&'static str),
}

const fn torture(fault: &'static str, what: &'static str) -> Mutation {
    Mutation { fault, with: "", setting: None, what, found_by: FoundBy::Torture }
}

const fn test(fault: &'static str, what: &'static str, by: &'static str) -> Mutation {
    Mutation { fault, with: "", setting: None, what, found_by: FoundBy::Test(by) }
}

/// Switches that are no mutation: with them the product must keep its promises all the same. What uses each.
#[allow(dead_code)] // a story compares it with what the product has
pub const HARMLESS: &[(&str, &str)] = &[
    ("weak_marks", "many drafts share the short key of the draft index: idempotency, torture"),
    ("clock_ms", "the process's clock is off: clocks, torture"),
    (
        "die_after_commit",
        "a validator dies between a commit and the acknowledgement of its drafts: killed_validator",
    ),
    ("die_in_import", "an import dies after a batch of events: moving"),
    ("never_lose_slots", "a validator believes that it owns every slot: two_owners, torture"),
    ("lose_acknowledgements", "no draft is taken off the queue: rejected_is_final"),
    ("small_snapshots", "an object of a snapshot has no more than 16 KiB: torn_reads"),
    (
        "old_leader",
        "the first reads at the log's leader are answered by a server that was cut off: old_leader",
    ),
    ("tell_origin", "an event says for which copy of its draft it was committed: torture"),
];

/// All of them.
pub const MUTATIONS: &[Mutation] = &[
    torture("commit_unchecked", "commits do not name the partition's last event"),
    torture(
        "answer_before_ack",
        "what was decided is told before the commit that it rests on is acknowledged",
    ),
    test(
        "tell_unwritten",
        "a rejection is told before the slot's key says that the draft is decided",
        "rejected_is_final",
    ),
    test("forget_floor", "the next owner does not heed which drafts are decided", "rejected_is_final"),
    test(
        "reject_unfenced",
        "a rejection is told with no event of the owner's before it",
        "rejected_is_final",
    ),
    test("storable_for_ever", "a copy is decided that was stored after its last moment", "rejected_is_final"),
    test(
        "believe_unsure",
        "a frontend believes a rejection while an earlier copy may still be stored",
        "rejected_is_final",
    ),
    test(
        "decide_unowned",
        "a state is read and nothing proves that the slot is still held",
        "the_products_own_faults_are_found",
    ),
    test(
        "stale_cache",
        "a state that was kept from an earlier ownership is taken for current",
        "broken_on_purpose",
    ),
    test(
        "skip_unpaged",
        "a classic client that does not page is told nothing of what did not fit on its page",
        "incomplete_sync",
    ),
    torture(
        "assume_committed",
        "a commit that failed, or was not answered, is taken for done, and the next one builds on it",
    ),
    torture("forget_drafts", "a state is loaded without the drafts that are committed"),
    Mutation {
        setting: Some("validator.snapshot_events_min=20"),
        ..torture("snapshot_off_by_one", "a snapshot names the event before its last one")
    },
    torture("decide_again", "what an earlier copy rejected is decided again"),
    torture("batch_goes_on", "a batch goes on after its first rejected event"),
    test("keep_consumers", "slots are not taken again after a reconnect to NATS", "broken_on_purpose"),
    Mutation {
        setting: Some("frontend.answer_wait_ms=300"),
        ..torture("believe_any_attempt", "a frontend believes the rejection of any attempt")
    },
    test(
        "believe_live",
        "a frontend takes a live event whatever it says it follows, and fills no gap",
        "broken_on_purpose",
    ),
    test(
        "never_compare",
        "a frontend never compares itself with the log, not even after a reconnect",
        "broken_on_purpose",
    ),
    // And every time by the_products_own_faults_are_found.
    Mutation {
        with: "weak_marks",
        setting: Some("validator.cache_bytes_max=536870912"),
        ..torture("keep_told", "what the log said of a draft is believed after the draft is committed")
    },
    Mutation {
        with: "clock_ms=3600000",
        ..torture("own_clock", "events get the time of their validator's clock, which is an hour ahead")
    },
    test("any_size", "a draft that the log cannot take is published all the same", "limits"),
    test(
        "believe_headers",
        "whatever is on a live subject is taken for an event that JetStream has repeated there",
        "broken_on_purpose",
    ),
    torture("unknown_is_unstored", "a publish whose fate nobody knows is told as not stored"),
    test("believe_consumers", "a long read by a consumer that lost events is taken for whole", "torn_reads"),
    torture("believe_batches", "answers from the log that lost messages are taken for whole"),
    test(
        "believe_old_leader",
        "a partition is called broken when a server that only believes to lead lacks its events",
        "old_leader",
    ),
    test("believe_indexes", "a draft index that lacks drafts is taken for whole", "torn_reads"),
    test("believe_pieces", "a backup that lost a piece is taken for whole", "a_backup_that_lost_a_piece"),
    torture("ring_repeats", "a connection is served one event twice"),
    torture("own_broadcast", "a v1 client is sent its own events"),
];
