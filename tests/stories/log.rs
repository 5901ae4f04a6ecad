//! The log by itself, against a real NATS: what everything above it relies on.

use bytes::Bytes;
use insieme_backend::event::{Decided, EventId, PartitionKey, Slot, Token};
use insieme_backend::log::{
    CommitError, CommitPart, Log, LogError, LogSettings, SnapshotInfo, SnapshotPart, bootstrap,
};

use tokio::time::timeout;

use crate::harness::DEADLINE;
use crate::harness::nats::NatsServer;
use crate::harness::proxy::{Link, Proxy};

async fn log() -> (NatsServer, Log) {
    let nats = NatsServer::start().await;
    let settings = LogSettings { urls: vec![nats.url()], slots: 4, ..LogSettings::default() };
    let log = Log::connect(&settings, "test").await.unwrap();
    bootstrap(&log).await.unwrap();
    (nats, log)
}

fn partition(name: &str) -> (PartitionKey, Token) {
    let key = PartitionKey::new(name).unwrap();
    let token = key.token();
    (key, token)
}

fn body(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

#[tokio::test]
async fn streams_are_made_once_and_told_apart_from_others() {
    let (nats, log) = log().await;
    let again = bootstrap(&log).await.unwrap();
    assert!(again.created.is_empty() && again.present.len() == 6, "{again:?}");
    log.check().await.unwrap();

    let other = LogSettings { urls: vec![nats.url()], slots: 8, ..LogSettings::default() };
    let other = Log::connect(&other, "test").await.unwrap();
    let refused = other.check().await.unwrap_err().to_string();
    assert!(refused.contains("the number of slots"), "{refused}");
}

#[tokio::test]
async fn a_commit_is_stored_only_behind_the_event_that_it_names() {
    let (_nats, log) = log().await;
    let ((_, a), (_, b)) = (partition("a"), partition("b.*> \u{1F600}"));
    let first = log.commit_one(&a, EventId::NONE, body("a1"), None).await.unwrap();
    let stale = log.commit_one(&a, EventId::NONE, body("x"), None).await;
    assert!(matches!(stale, Err(CommitError::Conflict)), "{stale:?}");

    let part = |token: &Token, expected, texts: &[&str]| CommitPart {
        token: token.clone(),
        expected,
        bodies: texts.iter().map(|text| body(text)).collect(),
    };
    let parts = [part(&a, first, &["a2", "a3"]), part(&b, EventId::NONE, &["b1", "b2"])];
    let firsts = log.commit_batch(&parts, &[]).await.unwrap();
    assert_eq!(firsts, [EventId(first.0 + 1), EventId(first.0 + 3)]);

    // One failing check refuses the whole batch.
    let parts = [part(&a, first, &["x"]), part(&b, EventId(first.0 + 4), &["x"])];
    let refused = log.commit_batch(&parts, &[]).await;
    assert!(matches!(refused, Err(CommitError::Conflict)), "{refused:?}");

    let texts = |events: Vec<insieme_backend::log::StoredEvent>| -> Vec<String> {
        events.iter().map(|event| String::from_utf8(event.body.to_vec()).unwrap()).collect()
    };
    let page = log.page(&a, EventId::NONE, 10, usize::MAX).await.unwrap();
    let head_of_a = page.last().unwrap().id;
    assert_eq!(texts(page), ["a1", "a2", "a3"]);
    // Cut by their number, by their bytes, at the end, and with nothing behind.
    for (events, bytes, count, more) in
        [(2, usize::MAX, 2, true), (9, 1, 1, true), (3, usize::MAX, 3, false), (9, 1 << 20, 3, false)]
    {
        let mut reader = log.open_page(&a, EventId::NONE, events, bytes).await.unwrap();
        let mut read = Vec::new();
        while let Some(event) = reader.next().await.unwrap() {
            read.push(event);
        }
        assert_eq!((read.len(), reader.more()), (count, more), "{events} events, {bytes} bytes");
    }
    let mut reader = log.open_page(&a, head_of_a, 9, usize::MAX).await.unwrap();
    assert!(reader.next().await.unwrap().is_none() && !reader.more());
    let head = log.head(&b).await.unwrap().unwrap();
    let mut replay = log.replay(&b, EventId::NONE, head.id);
    let mut replayed = Vec::new();
    while let Some(event) = replay.next().await.unwrap() {
        replayed.push(event);
    }
    assert_eq!(texts(replayed), ["b1", "b2"]);
    let (token, event) = log.event(head.id).await.unwrap().unwrap();
    assert_eq!((token, &event.body[..]), (b, &b"b2"[..]));
}

#[tokio::test]
async fn live_events_name_the_one_before() {
    let (_nats, log) = log().await;
    let (_, token) = partition("p");
    let mut live = log.live(&token).await.unwrap();
    let first = log.commit_one(&token, EventId::NONE, body("1"), None).await.unwrap();
    let part = CommitPart { token: token.clone(), expected: first, bodies: vec![body("2"), body("3")] };
    log.commit_batch(&[part], &[]).await.unwrap();
    let mut previous = EventId::NONE;
    for text in ["1", "2", "3"] {
        let seen = live.next().await.unwrap();
        assert_eq!((&seen.event.body[..], seen.previous), (text.as_bytes(), previous));
        previous = seen.event.id;
    }
}

#[tokio::test]
async fn who_has_lost_a_slot_can_confirm_nothing() {
    let (_nats, log) = log().await;
    let (key, token) = partition("p");
    let slot = key.slot(log.slots());
    let mut old = log.slot_consumer(slot, 1).await.unwrap();
    log.publish_draft(&key, &token, body("d1")).await.unwrap();
    log.publish_draft(&key, &token, body("d2")).await.unwrap();
    let kept = old.next().await.unwrap();
    assert_eq!(kept.partition().unwrap(), (token, key));
    let acknowledged = old.next().await.unwrap();
    acknowledged.acknowledge().await.unwrap();
    log.flush().await.unwrap();

    let mut new = log.slot_consumer(slot, 2).await.unwrap();
    assert!(old.next().await.is_err(), "the old owner's pull has ended");
    // 'No responders' is not a confirmation.
    let late = kept.confirm(&log).await;
    assert!(matches!(late, Err(LogError::Unavailable { .. })), "{late:?}");
    let again = new.next().await.unwrap();
    assert_eq!(&again.body()[..], b"d1");
    again.confirm(&log).await.unwrap();
}

/// One NATS server holds the queue and the slots' keys in memory. Whoever is cut off when it is restarted holds on to its
/// slots for a while after it is back, and pulls and writes as before.
#[tokio::test]
async fn who_held_a_slot_before_nats_was_restarted_has_no_part_in_what_is_made_again() {
    // Given an owner of a slot, with a draft in hand, that is cut off while NATS is restarted,
    let (mut nats, log) = log().await;
    let proxy = Proxy::start(nats.port()).await;
    let settings = LogSettings { urls: vec![proxy.url()], slots: 4, ..LogSettings::default() };
    let cut_off = Log::connect(&settings, "test").await.unwrap();
    let (key, token) = partition("p");
    let slot = key.slot(log.slots());
    let held = cut_off.take_slot(slot, "one", None).await.unwrap().unwrap();
    let mut old = cut_off.slot_consumer(slot, held.since).await.unwrap();
    log.publish_draft(&key, &token, body("lost")).await.unwrap();
    let in_hand = old.next().await.unwrap();
    proxy.set(Link::Cut);
    nats.kill9();
    nats.restart().await;

    // and another one that takes the slot, first of all as the first one did,
    let settings = LogSettings { urls: vec![nats.url()], slots: 4, ..LogSettings::default() };
    let log = Log::connect(&settings, "test").await.unwrap();
    log.open_queue().await.unwrap();
    let owned = log.take_slot(slot, "two", None).await.unwrap().unwrap();
    let mut new = log.slot_consumer(slot, owned.since).await.unwrap();

    // when the first one is back,
    let mut state = cut_off.state();
    proxy.set(Link::Whole);
    state.wait_for(|state| state.connected && state.reconnects > 0).await.unwrap();
    cut_off.flush().await.unwrap();

    // then the drafts come to the second one alone, in order, and only that one can take them off the queue
    let takes = tokio::spawn(async move { old.next().await.map(|draft| draft.body().clone()) });
    for number in 1..=100 {
        log.publish_draft(&key, &token, body(&number.to_string())).await.unwrap();
        let taken = timeout(DEADLINE, new.next()).await.expect("the owner gets every draft").unwrap();
        assert_eq!(taken.body(), &body(&number.to_string()));
        if taken.sequence() == in_hand.sequence() {
            let late = in_hand.confirm(&cut_off).await;
            assert!(matches!(late, Err(LogError::Unavailable { .. })), "{late:?}");
        }
        taken.confirm(&log).await.unwrap();
    }
    let taken = timeout(DEADLINE, takes).await.expect("who has lost a slot hears of it").unwrap();
    assert!(taken.is_err(), "{taken:?}");

    // and write the slot's key.
    assert_ne!(owned.since, held.since);
    assert!(cut_off.write_slot(held, "one", &Decided::default()).await.unwrap().is_none());
    assert!(log.write_slot(owned, "two", &Decided::default()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_slot_has_one_owner() {
    let (_nats, log) = log().await;
    log.announce("one").await.unwrap();
    let held = log.take_slot(Slot(3), "one", None).await.unwrap().unwrap();
    assert!(log.take_slot(Slot(3), "two", None).await.unwrap().is_none());
    let decided = Decided { queue: "1".to_owned(), upto: 7, open: vec![3, 5] };
    let renewed = log.write_slot(held, "one", &decided).await.unwrap().unwrap();
    assert_eq!(renewed.since, held.since);
    assert!(log.write_slot(held, "one", &decided).await.unwrap().is_none(), "written at an old revision");
    let view = log.ownership().await.unwrap();
    assert_eq!(view.owners[&Slot(3)], "one");
    assert!(view.validators.contains("one"));

    log.release_slot(renewed, &decided).await.unwrap();
    log.withdraw("one").await.unwrap();
    let view = log.ownership().await.unwrap();
    assert!(view.owners.is_empty() && view.validators.is_empty(), "{view:?}");
    assert_eq!(view.keys[&Slot(3)].decided, decided, "the next owner hears of it");
    let taken = log.take_slot(Slot(3), "two", view.keys.get(&Slot(3))).await.unwrap().unwrap();
    assert!(taken.since > held.since, "a new hold has a new name");
}

#[tokio::test]
async fn a_snapshot_is_read_back_as_it_was_written() {
    let (_nats, log) = log().await;
    let (_, token) = partition("p");
    assert!(log.snapshot_info(&token, SnapshotPart::State).await.unwrap().is_none());
    assert!(log.read_snapshot(&token, SnapshotPart::State).await.unwrap().is_none());
    let info = SnapshotInfo { event_id: EventId(7), ordinal: 5, log_bytes: 900, ..SnapshotInfo::default() };
    for length in [300_000, 1_000_000] {
        let bytes: Vec<u8> = (0..length).map(|n: u32| (n % 251) as u8).collect();
        log.write_snapshot(&token, SnapshotPart::State, info, bytes.clone()).await.unwrap();
        let found = log.snapshot_info(&token, SnapshotPart::State).await.unwrap().unwrap();
        assert_eq!(found, SnapshotInfo { bytes: u64::from(length), ..info });
        assert_eq!(log.read_snapshot(&token, SnapshotPart::State).await.unwrap().unwrap(), bytes);
    }
}
