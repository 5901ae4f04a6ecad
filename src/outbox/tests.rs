use super::*;
use crate::event::{FieldError, V1Fields};
use crate::frontend::testing::draft;
use proptest::prelude::*;
use std::collections::BTreeMap;

const CLIENT: &str = "c";

fn settings() -> FrontendSettings {
    FrontendSettings {
        pending_drafts_max: 8,
        submissions_unanswered_max: 100,
        submission_drafts_max: 3,
        answer_wait_ms: 5_000,
        submission_deadline_ms: 30_000,
        publish_retry_ms: 50,
        publish_retry_ms_max: 2_000,
        ..FrontendSettings::default()
    }
}

fn pending(settings: &FrontendSettings) -> Pending {
    Pending::new(settings, ClientId::new(CLIENT).unwrap(), 1 << 20)
}

fn key(n: u64) -> DraftKey {
    DraftKey::classic(CLIENT, &format!("d{n}"))
}

fn names(publish: &Publish) -> Vec<&str> {
    publish.drafts.iter().map(|draft| draft.draft_id.as_str()).collect()
}

fn answer(submission: u64, attempt: u32, outcomes: Vec<Outcome>) -> Answer {
    Answer { connection: 1, submission, attempt, outcomes }
}

fn rejected() -> Outcome {
    let error = FieldError { field: "f".into(), message: "m".into(), code: "C".into() };
    Outcome::Rejected { reason: Reason::Conflict, errors: vec![error] }
}

fn ask(id: &str) -> Asked {
    Asked::Request(id.to_owned())
}

/// Submits a draft as a unit of work.
fn submit(pending: &mut Pending, draft: Draft, id: &str, now: Instant) -> Taken {
    pending.begin_unit();
    pending.submit(draft, ask(id), now)
}

fn asked(done: &Done) -> &str {
    match &done.asked[0] {
        Asked::Request(id) => id,
        Asked::Item { .. } => panic!("{done:?}"),
    }
}

/// NATS's clock, which goes as ours.
fn nats_ms(now: Instant) -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    1_000_000_000 + u64::try_from(now.saturating_duration_since(start).as_millis()).unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn what_comes_during_a_publish_goes_together_in_the_next() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    for n in 1..=5 {
        assert_eq!(submit(&mut pending, draft(n), &format!("m{n}"), now), Taken::Queued(key(n)));
        if n == 1 {
            let first = pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
            assert_eq!((first.number, first.attempt, names(&first)), (1, 1, vec!["d1"]));
        }
        assert!(pending.next(now, EventId::NONE, nats_ms(now)).is_none(), "one publish at a time");
    }
    assert!(pending.published(Published::Stored, now).is_empty());
    let second = pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    assert_eq!((second.number, names(&second)), (2, vec!["d2", "d3", "d4"]));
    pending.published(Published::Stored, now);
    assert_eq!(names(&pending.next(now, EventId::NONE, nats_ms(now)).unwrap()), ["d5"]);
}

#[test]
fn the_next_submission_waits_for_the_answer_to_the_one_before() {
    let settings = FrontendSettings { submissions_unanswered_max: 1, ..settings() };
    let (mut pending, now) = (pending(&settings), Instant::now());
    for n in 1..=3 {
        submit(&mut pending, draft(n), "m", now);
        if n == 1 {
            pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
        }
    }
    pending.published(Published::Stored, now);
    assert!(pending.next(now, EventId::NONE, nats_ms(now)).is_none());
    pending.committed(key(1), |_| true).unwrap();
    assert_eq!(names(&pending.next(now, EventId::NONE, nats_ms(now)).unwrap()), ["d2", "d3"]);
}

#[test]
fn a_bundle_stays_within_its_bytes() {
    let settings = FrontendSettings { submission_bytes_max: 300, ..settings() };
    let (mut pending, now) = (pending(&settings), Instant::now());
    for n in 1..=3 {
        submit(&mut pending, draft(n), "m", now);
    }
    assert_eq!(names(&pending.next(now, EventId::NONE, nats_ms(now)).unwrap()), ["d1", "d2"]);
}

#[test]
fn an_event_answers_its_draft_even_before_the_publish_is_acknowledged() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    submit(&mut pending, draft(1), "m1", now);
    pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    let done = pending.committed(key(1), |_| true).unwrap();
    assert_eq!((done.asked, done.end), (vec![ask("m1")], End::Accepted));
    assert!(pending.is_empty() && !pending.holds(key(1)));
    assert!(pending.published(Published::Stored, now).is_empty());
    assert!(pending.next(now, EventId::NONE, nats_ms(now)).is_none());
    assert!(pending.committed(key(1), |_| true).is_none(), "once");
}

#[test]
fn a_full_queue_rejects_what_was_surely_not_stored_and_goes_on() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    submit(&mut pending, draft(1), "m1", now);
    pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    submit(&mut pending, draft(2), "m2", now);
    let done = pending.published(Published::NotStored, now);
    assert_eq!(done[0].end, End::Rejected(Reason::Unavailable, vec![]));
    assert_eq!(done[0].asked, [ask("m1")]);
    assert_eq!(names(&pending.next(now, EventId::NONE, nats_ms(now)).unwrap()), ["d2"]);
}

#[test]
fn an_unknown_publish_goes_again_before_anything_new_and_never_becomes_a_rejection() {
    let (mut pending, mut now) = (pending(&settings()), Instant::now());
    submit(&mut pending, draft(1), "m1", now);
    pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    submit(&mut pending, draft(2), "m2", now);
    assert!(pending.published(Published::Unknown, now).is_empty());
    assert!(pending.next(now, EventId::NONE, nats_ms(now)).is_none(), "after a pause");
    now += ms(51);
    let again = pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    assert_eq!((again.number, again.attempt, names(&again)), (1, 2, vec!["d1"]));
    // The queue is full now, but the first copy may be in it.
    assert!(pending.published(Published::NotStored, now).is_empty());
    now += ms(51);
    assert_eq!(pending.next(now, EventId::NONE, nats_ms(now)).unwrap().attempt, 3);
    pending.published(Published::Stored, now);
    assert_eq!(names(&pending.next(now, EventId::NONE, nats_ms(now)).unwrap()), ["d2"]);
}

#[test]
fn only_the_rejection_of_the_latest_copy_counts_but_any_commit_does() {
    let (mut pending, mut now) = (pending(&settings()), Instant::now());
    submit(&mut pending, draft(1), "m1", now);
    pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    pending.published(Published::Unknown, now);
    now += ms(51);
    pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    pending.published(Published::Stored, now);
    let (done, committed) = pending.answer(answer(1, 1, vec![rejected()]));
    assert!(done.is_empty() && committed.is_empty());
    let (done, committed) = pending.answer(answer(1, 1, vec![Outcome::Committed { event_id: EventId(9) }]));
    assert!(done.is_empty());
    assert_eq!(committed, [Committed { number: 1, place: 0, event_id: EventId(9) }]);
    assert!(!pending.is_empty(), "until the event was found");
    assert_eq!(pending.resolve(committed[0]).unwrap().end, End::Accepted);
    assert!(pending.resolve(committed[0]).is_none());
}

#[test]
fn the_rejection_of_the_latest_copy_ends_the_draft() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    submit(&mut pending, draft(1), "m1", now);
    pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    let (done, _) = pending.answer(answer(1, 1, vec![rejected()]));
    assert!(matches!(&done[0].end, End::Rejected(Reason::Conflict, errors) if errors.len() == 1));
    assert!(pending.answer(answer(1, 1, vec![rejected()])).0.is_empty());
    assert!(pending.answer(answer(7, 1, vec![rejected()])).0.is_empty());
}

#[test]
fn a_rejection_is_not_believed_while_an_earlier_copy_may_still_be_stored() {
    let (mut pending, mut now) = (pending(&settings()), Instant::now());
    submit(&mut pending, draft(1), "m1", now);
    let first = pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    assert!(first.storable_until > nats_ms(now));
    pending.published(Published::Unknown, now);
    now += ms(51);
    pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    pending.published(Published::Stored, now);
    assert!(pending.answer(answer(1, 2, vec![rejected()])).0.is_empty(), "the first may come after it");
    while nats_ms(now) <= first.storable_until + CLOCKS_APART_MS {
        assert!(pending.tick(now).is_empty());
        if let Some(publish) = pending.next(now, EventId::NONE, nats_ms(now)) {
            pending.published(Published::Stored, now);
            assert!(pending.answer(answer(1, publish.attempt, vec![rejected()])).0.is_empty());
        }
        let wake = pending.wake_at().unwrap();
        assert!(wake > now, "it wakes for nothing");
        now = wake;
    }
    pending.tick(now);
    let last = pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    pending.published(Published::Stored, now);
    let (done, _) = pending.answer(answer(1, last.attempt, vec![rejected()]));
    assert!(matches!(done[0].end, End::Rejected(Reason::Conflict, _)), "{done:?}");
}

/// Drafts `d1` to `d3` in one submission, number 2, that was published when the head was 10.
fn three_in_one(pending: &mut Pending, now: Instant) {
    submit(pending, draft(0), "m0", now);
    pending.next(now, EventId(9), nats_ms(now)).unwrap();
    for n in 1..=3 {
        submit(pending, draft(n), &format!("m{n}"), now);
    }
    pending.published(Published::Stored, now);
    pending.committed(key(0), |_| true).unwrap();
    let publish = pending.next(now, EventId(10), nats_ms(now)).unwrap();
    assert_eq!((publish.number, publish.since, publish.publish), (2, EventId(10), 2));
    pending.published(Published::Stored, now);
}

#[test]
fn what_goes_again_goes_with_what_is_committed_behind_it() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    three_in_one(&mut pending, now);
    pending.committed(key(2), |_| true).unwrap();
    pending.republish();
    let again = pending.next(now, EventId(20), nats_ms(now)).unwrap();
    assert_eq!((again.number, again.attempt, names(&again)), (2, 2, vec!["d1", "d2", "d3"]));
    assert_eq!((again.since, again.publish), (EventId(10), 3), "since the first attempt");
    pending.published(Published::Stored, now);
    let outcomes = vec![rejected(), Outcome::Committed { event_id: EventId(11) }, rejected()];
    let (done, committed) = pending.answer(answer(2, 2, outcomes));
    let told: Vec<_> = done.iter().map(asked).collect();
    assert_eq!((told, committed.len()), (vec!["m1", "m3"], 0));
    assert!(pending.is_empty());
}

#[test]
fn what_nobody_has_to_know_any_more_is_not_published_again() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    three_in_one(&mut pending, now);
    pending.committed(key(1), |_| true).unwrap();
    pending.republish();
    let again = pending.next(now, EventId(20), nats_ms(now)).unwrap();
    assert_eq!((again.number, again.attempt, names(&again)), (3, 2, vec!["d2", "d3"]));
    // The answer to the copy that had three drafts is nobody's now.
    assert!(pending.answer(answer(2, 1, vec![rejected(), rejected(), rejected()])).0.is_empty());
    assert_eq!(pending.answer(answer(3, 2, vec![rejected(), rejected()])).0.len(), 2);
}

#[test]
fn an_earlier_copy_s_rejection_counts_where_that_copy_has_committed_what_follows() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    three_in_one(&mut pending, now);
    pending.republish();
    assert_eq!(pending.next(now, EventId(20), nats_ms(now)).unwrap().attempt, 2);
    // Committed before the first attempt: that is no sign of an earlier copy.
    let old = Outcome::Committed { event_id: EventId(10) };
    assert!(pending.answer(answer(2, 1, vec![rejected(), old, rejected()])).0.is_empty());
    let new = Outcome::Committed { event_id: EventId(11) };
    let (done, committed) = pending.answer(answer(2, 1, vec![rejected(), new, rejected()]));
    assert_eq!(done.iter().map(asked).collect::<Vec<_>>(), ["m1"]);
    assert_eq!(committed, [Committed { number: 2, place: 1, event_id: EventId(11) }]);
}

#[test]
fn a_pause_before_the_next_publish_wakes_nobody_once_there_is_nothing_to_publish() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    submit(&mut pending, draft(1), "m1", now);
    pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    pending.published(Published::Unknown, now);
    assert_eq!(pending.wake_at(), Some(now + ms(50)));
    pending.committed(key(1), |_| true).unwrap();
    assert_eq!(pending.wake_at(), None, "it is over, and nothing waits for it to be");
    // Of the submission that waits for the answer to the one before it only the deadlines count.
    let settings = FrontendSettings { submissions_unanswered_max: 1, ..settings() };
    let mut pending = self::pending(&settings);
    submit(&mut pending, draft(1), "m1", now);
    pending.next(now, EventId::NONE, nats_ms(now)).unwrap();
    pending.published(Published::Unknown, now);
    assert!(pending.next(now + ms(50), EventId::NONE, nats_ms(now + ms(50))).is_some());
    pending.published(Published::Stored, now + ms(51));
    submit(&mut pending, draft(2), "m2", now + ms(51));
    assert!(!pending.has_next(now + ms(60)));
    assert_eq!(pending.wake_at(), Some(now + ms(5_051)));
}

#[test]
fn without_an_answer_everything_goes_again_in_order_and_at_last_is_given_up() {
    let (mut pending, start) = (pending(&settings()), Instant::now());
    for n in 1..=2 {
        submit(&mut pending, draft(n), &format!("m{n}"), start);
        pending.next(start, EventId::NONE, nats_ms(start)).unwrap();
        pending.published(Published::Stored, start);
    }
    assert_eq!(pending.wake_at(), Some(start + ms(5_000)));
    let later = start + ms(5_000);
    submit(&mut pending, draft(3), "m3", later);
    assert!(pending.tick(later).is_empty());
    for (name, attempt) in [("d1", 2), ("d2", 2), ("d3", 1)] {
        let publish = pending.next(later, EventId::NONE, nats_ms(later)).unwrap();
        assert_eq!((names(&publish), publish.attempt), (vec![name], attempt));
        pending.published(Published::Stored, later);
    }
    let done = pending.tick(start + ms(30_000));
    assert_eq!(done.len(), 2);
    assert!(done.iter().all(|done| done.end == End::Forgotten));
}

#[test]
fn what_was_never_published_is_rejected_when_its_time_is_over() {
    let (mut pending, start) = (pending(&settings()), Instant::now());
    submit(&mut pending, draft(1), "m1", start);
    pending.next(start, EventId::NONE, nats_ms(start)).unwrap();
    submit(&mut pending, draft(2), "m2", start);
    let ends: Vec<End> = pending.tick(start + ms(30_000)).into_iter().map(|done| done.end).collect();
    assert_eq!(ends, [End::Forgotten, End::Rejected(Reason::Unavailable, vec![])]);
    assert!(pending.is_empty());
}

#[test]
fn a_v1_event_that_differs_in_any_field_of_its_content_is_another_draft() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    let meta = |meta: &str| serde_json::value::RawValue::from_string(meta.into()).unwrap();
    let fields =
        V1Fields { label: "l".into(), schema_version: 1, user_id: None, meta: meta("{\"clientTs\":1}") };
    let event = |v1: &V1Fields| Draft { v1: Some(v1.clone()), ..draft(1) };
    let key = DraftKey::v1("d1");
    assert_eq!(submit(&mut pending, event(&fields), "0", now), Taken::Queued(key));
    assert_eq!(submit(&mut pending, event(&fields), "1", now), Taken::Attached);
    let others = [
        V1Fields { label: "m".into(), ..fields.clone() },
        V1Fields { schema_version: 2, ..fields.clone() },
        V1Fields { user_id: Some("u".into()), ..fields.clone() },
        V1Fields { meta: meta("{\"clientTs\":2}"), ..fields },
    ];
    for other in &others {
        assert_eq!(submit(&mut pending, event(other), "2", now), Taken::Queued(key), "{other:?}");
    }
}

#[test]
fn the_same_draft_twice_is_published_once_and_answered_twice() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    submit(&mut pending, draft(1), "m1", now);
    assert_eq!(submit(&mut pending, draft(1), "m2", now), Taken::Attached);
    let other = Draft { event_type: "unset".into(), ..draft(1) };
    assert_eq!(submit(&mut pending, other, "m3", now), Taken::Queued(key(1)));
    assert_eq!(names(&pending.next(now, EventId::NONE, nats_ms(now)).unwrap()), ["d1", "d1"]);
    let done = pending.committed(key(1), |draft| draft.event_type == "set").unwrap();
    assert_eq!(done.asked, [ask("m1"), ask("m2")]);
    assert!(pending.committed(key(1), |draft| draft.event_type == "set").is_none());
    assert!(pending.holds(key(1)), "the other one waits for its own answer");
}

#[test]
fn a_unit_of_work_is_not_divided_and_goes_with_others_where_they_fit() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    for (unit, drafts) in [(0, 1..=2), (1, 3..=3), (2, 4..=7)] {
        pending.begin_unit();
        for n in drafts {
            pending.submit(draft(n), Asked::Item { batch: unit, place: n as usize }, now);
        }
    }
    let mut submissions = Vec::new();
    while let Some(publish) = pending.next(now, EventId::NONE, nats_ms(now)) {
        let units = serde_json::to_string(&publish.units).unwrap();
        submissions.push((names(&publish).join(" "), units));
        pending.published(Published::Stored, now);
    }
    let expected = [("d1 d2 d3", "[2,1]"), ("d4 d5 d6 d7", "[4]")];
    assert_eq!(submissions, expected.map(|(drafts, units)| (drafts.to_owned(), units.to_owned())));
}

#[test]
fn what_a_unit_rejects_says_nothing_of_the_next_unit() {
    let settings = FrontendSettings { submission_drafts_max: 10, ..settings() };
    let (mut pending, now) = (pending(&settings), Instant::now());
    for batch in 0..2 {
        pending.begin_unit();
        for place in 0..2 {
            pending.submit(draft(batch * 2 + place as u64 + 1), Asked::Item { batch, place }, now);
        }
    }
    let publish = pending.next(now, EventId(10), nats_ms(now)).unwrap();
    assert_eq!(names(&publish), ["d1", "d2", "d3", "d4"]);
    pending.published(Published::Stored, now);
    pending.republish();
    assert_eq!(pending.next(now, EventId(20), nats_ms(now)).unwrap().attempt, 2);
    // The first copy's answer counts for what stands before the unit that it has committed something of.
    let new = Outcome::Committed { event_id: EventId(11) };
    let outcomes = vec![rejected(), Outcome::NotProcessed, new, rejected()];
    let (done, committed) = pending.answer(answer(1, 1, outcomes));
    let ends: Vec<_> = done.iter().map(|done| (done.draft.draft_id.as_str(), done.end.as_str())).collect();
    assert_eq!(ends, [("d1", "conflict"), ("d2", "not_processed")]);
    assert_eq!(committed, [Committed { number: 1, place: 2, event_id: EventId(11) }]);
}

#[test]
fn an_item_waits_for_no_copy_of_another_unit() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    for (batch, taken) in [(0, Taken::Queued(key(1))), (0, Taken::Attached), (1, Taken::Queued(key(1)))] {
        if pending.units < batch + 1 {
            pending.begin_unit();
        }
        assert_eq!(pending.submit(draft(1), Asked::Item { batch, place: 0 }, now), taken);
    }
    assert_eq!(names(&pending.next(now, EventId::NONE, nats_ms(now)).unwrap()), ["d1", "d1"]);
}

#[test]
fn too_many_drafts_are_not_taken() {
    let (mut pending, now) = (pending(&settings()), Instant::now());
    for n in 1..=8 {
        assert_eq!(submit(&mut pending, draft(n), "m", now), Taken::Queued(key(n)));
    }
    assert_eq!(submit(&mut pending, draft(9), "m", now), Taken::Full);
}

/// What may happen to a connection's drafts.
#[derive(Debug, Clone)]
enum Step {
    /// A draft comes, and begins a unit of work or not.
    Submit(bool),
    /// The publish under way ends: stored and told so, stored and not told, not stored and told so, not
    /// stored and not told, on its way and not told.
    Publish(u8),
    /// A publish whose fate was not told reaches NATS late.
    Arrive,
    /// The validator decides the oldest submission in the queue: a bit per draft, accept or reject.
    Decide(u8),
    Reconnect,
    /// NATS crashes: the queue is gone, what was acknowledged too, and a publish that was under way may
    /// still reach it when it is back, before anything else does.
    Crash(bool),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<bool>().prop_map(Step::Submit),
        4 => (0_u8..5).prop_map(Step::Publish),
        2 => Just(Step::Arrive),
        4 => any::<u8>().prop_map(Step::Decide),
        1 => Just(Step::Reconnect),
        1 => any::<bool>().prop_map(Step::Crash),
        2 => Just(Step::Wait),
    ]
}

proptest! {
    /// Whatever is lost, doubled or late between frontend and validator: first decisions come in the order
    /// sent, so do commits, every draft has at most one end, no rejected draft is ever committed, and once all
    /// goes well again every draft has its end.
    #[test]
    fn no_draft_is_lost_doubled_or_reordered(steps in proptest::collection::vec(step(), 0..120)) {
        let settings = FrontendSettings {
            pending_drafts_max: 10_000, submissions_unanswered_max: 1, submission_deadline_ms: u64::MAX / 4, ..settings()
        };
        let mut pending = pending(&settings);
        let mut now = Instant::now();
        pending.begin_unit();
        let mut submitted = 0_u64;
        let mut in_flight: Option<Publish> = None;
        let mut queue: VecDeque<Publish> = VecDeque::new();
        let mut late: VecDeque<Publish> = VecDeque::new();
        // What the validator knows, and what the client was told.
        let mut log: Vec<String> = Vec::new();
        let mut first_decided: Vec<u64> = Vec::new();
        let mut told: BTreeMap<String, End> = BTreeMap::new();
        let calm = (0..400).map(|n| if n % 3 == 0 { Step::Wait } else if n % 3 == 1 { Step::Publish(0) } else { Step::Decide(255) });
        for step in steps.into_iter().chain(calm) {
            if in_flight.is_none() {
                in_flight = pending.next(now, EventId(log.len() as u64), nats_ms(now));
            }
            let mut ended = Vec::new();
            match step {
                Step::Submit(begins) => {
                    submitted += 1;
                    if begins {
                        pending.begin_unit();
                    }
                    pending.submit(draft(submitted), ask(&format!("m{submitted}")), now);
                }
                Step::Publish(how) => {
                    let Some(publish) = in_flight.take() else { continue };
                    let result = match how {
                        0 => Published::Stored,
                        2 => Published::NotStored,
                        _ => Published::Unknown,
                    };
                    match how {
                        0 | 1 => queue.push_back(publish),
                        4 => late.push_back(publish),
                        _ => {}
                    }
                    ended.extend(pending.published(result, now));
                }
                Step::Arrive => {
                    let Some(publish) = late.pop_front() else { continue };
                    if nats_ms(now) <= publish.storable_until {
                        queue.push_back(publish);
                    }
                }
                Step::Decide(bits) => {
                    let Some(publish) = queue.pop_front() else { continue };
                    let mut outcomes = Vec::new();
                    let mut events = Vec::new();
                    let units = &publish.units;
                    for (place, draft) in publish.drafts.iter().enumerate() {
                        let n: u64 = draft.draft_id[1..].parse().unwrap();
                        if !first_decided.contains(&n) {
                            first_decided.push(n);
                        }
                        let is_stopped = |outcome: &Outcome| !matches!(outcome, Outcome::Committed { .. });
                        if outcomes[units.group_of(place).start..].last().is_some_and(is_stopped) {
                            outcomes.push(Outcome::NotProcessed);
                            continue;
                        }
                        if let Some(at) = log.iter().position(|id| *id == draft.draft_id) {
                            outcomes.push(Outcome::Committed { event_id: EventId(at as u64 + 1) });
                        } else if publish.drafts[units.group_of(place).end..].iter().any(|behind| {
                            log.iter().skip(publish.since.0 as usize).any(|id| *id == behind.draft_id)
                        }) {
                            outcomes.push(rejected());
                        } else if bits & (1 << (place % 8)) != 0 {
                            log.push(draft.draft_id.clone());
                            events.push(draft.draft_id.clone());
                            outcomes.push(Outcome::Committed { event_id: EventId(log.len() as u64) });
                        } else {
                            outcomes.push(rejected());
                        }
                    }
                    for id in events {
                        let n: u64 = id[1..].parse().unwrap();
                        ended.extend(pending.committed(key(n), |draft| draft.draft_id == id));
                    }
                    let (done, committed) = pending.answer(answer(publish.number, publish.attempt, outcomes));
                    ended.extend(done);
                    for one in committed {
                        ended.extend(pending.resolve(one));
                    }
                }
                Step::Reconnect => pending.republish(),
                Step::Crash(buffered) => {
                    queue.clear();
                    if let Some(publish) = in_flight.take() {
                        if buffered {
                            queue.push_back(publish);
                        }
                        ended.extend(pending.published(Published::Unknown, now));
                    }
                    pending.republish();
                }
                Step::Wait => {
                    now += ms(5_001);
                    ended.extend(pending.tick(now));
                }
            }
            for done in ended {
                let before = told.insert(done.draft.draft_id.clone(), done.end.clone());
                prop_assert_eq!(before, None, "{} was answered twice", done.draft.draft_id);
            }
            for (id, end) in &told {
                let committed = log.contains(id);
                prop_assert_eq!(*end == End::Accepted, committed, "{} was answered {:?}", id, end);
            }
        }
        prop_assert_eq!(told.len() as u64, submitted);
        prop_assert!(first_decided.is_sorted(), "{:?}", first_decided);
        let committed: Vec<u64> = log.iter().map(|id| id[1..].parse().unwrap()).collect();
        prop_assert!(committed.is_sorted(), "{:?}", committed);
    }
}
