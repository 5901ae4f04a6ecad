//! Tests of snapshots, touches and the ordering of a partition's state.

use super::*;
use crate::event::{ClientId, CommittedEvent, ContentHash, DraftKey, EventId, EventRecord, PartitionKey};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A fold that knows one type: `set` at a target, without options.
struct OnlySet;

impl Fold for OnlySet {
    fn fold(
        &self,
        ty: &str,
        payload: &RawValue,
        first: bool,
        doc: &mut Document,
    ) -> Result<WriteSet, FoldError> {
        self.fold_parsed(ty, Node::of(payload)?, first, doc)?;
        Ok(self.touch(ty, payload))
    }

    fn fold_parsed(&self, _: &str, payload: Node, _: bool, doc: &mut Document) -> Result<(), FoldError> {
        let target = payload.get("target").and_then(Json::as_str).ok_or(FoldError::NotFirst)?;
        let value = payload.get("value").ok_or(FoldError::NotFirst)?;
        let value = Node::parse(&value.canonical())?;
        Ok(doc.set(target, value, false)?)
    }

    fn touch(&self, _: &str, payload: &RawValue) -> WriteSet {
        let payload = Node::of(payload).unwrap();
        WriteSet::Path(payload.get("target").and_then(Json::as_str).unwrap_or_default().into())
    }
}

/// The body of an event; partition events have ids 10, 20, 30 by their ordinals.
fn body(ordinal: u64, client: &str, target: &str, value: &str) -> Vec<u8> {
    let payload = RawValue::from_string(format!(r#"{{"target":"{target}","value":{value}}}"#)).unwrap();
    EventRecord {
        event_type: Cow::Borrowed("set"),
        payload: &payload,
        partition: PartitionKey::new("p").unwrap(),
        timestamp: 1000 + ordinal,
        client_id: ClientId::new(client).unwrap(),
        user_id: None,
        draft_id: Cow::Owned(format!("d{ordinal}")),
        content_hash: ContentHash(ordinal),
        ordinal,
        v1: None,
        rules: None,
        is_mark: false,
    }
    .to_json()
    .unwrap()
}

fn event(body: &[u8]) -> CommittedEvent<'_> {
    let record = EventRecord::parse(body).unwrap();
    CommittedEvent { id: EventId(record.ordinal * 10), record }
}

fn log(count: u64) -> Vec<Vec<u8>> {
    (1..=count)
        .map(|at| body(at, if at % 2 == 0 { "even" } else { "odd" }, &format!("k{at}"), "{\"a\":[1]}"))
        .collect()
}

fn index_of(log: &[Vec<u8>]) -> IndexPart {
    let mut index = IndexPart::default();
    for body in log {
        let event = event(body);
        index.extend(event.id, [(event.record.draft_key(), event.id, event.record.content_hash)]);
    }
    index
}

fn applied(log: &[Vec<u8>], mut state: PartitionState) -> PartitionState {
    for body in log {
        state.apply(&OnlySet, &event(body), body.len()).unwrap();
    }
    state
}

#[test]
fn events_apply_in_their_order_and_without_holes() {
    let log = log(4);
    let mut state = applied(&log[..2], PartitionState::new());
    assert_eq!((state.head(), state.ordinal(), state.last_timestamp()), (EventId(20), 2, 1002));
    assert_eq!(state.log_bytes(), (log[0].len() + log[1].len()) as u64);

    let before = state.document().canonical();
    let hole = state.apply(&OnlySet, &event(&log[3]), 0).unwrap_err();
    assert!(matches!(hole, ApplyError::Hole { found: 4, expected: 3, .. }), "{hole}");
    let again = state.apply(&OnlySet, &event(&log[1]), 0).unwrap_err();
    assert!(matches!(again, ApplyError::NotAfterHead { .. }), "{again}");
    let unfoldable = body(3, "odd", "k1.a.deeper", "1");
    let error = state.apply(&OnlySet, &event(&unfoldable), 0).unwrap_err();
    assert!(matches!(error, ApplyError::Fold { id: EventId(30), .. }), "{error}");
    assert_eq!(state.document().canonical(), before);
    assert_eq!(state.ordinal(), 2);
}

#[test]
fn an_index_is_parted_by_its_events() {
    let whole = index_of(&log(7));
    for count in [0, 1, 3, 6] {
        let mut first = whole.clone();
        let rest = first.split_off(count).unwrap();
        assert_eq!(first.entries.len(), count);
        assert_eq!((first.event_id, rest.event_id), (EventId(10 * count as u64), whole.event_id));
        assert!(first.entries.iter().all(|(_, id, _)| *id <= first.event_id));
        assert!(rest.entries.iter().all(|(_, id, _)| *id > first.event_id));
        let is_sorted = |index: &IndexPart| index.entries.is_sorted_by_key(|(key, ..)| *key);
        assert!(is_sorted(&first) && is_sorted(&rest));
        let (event_id, rest) = (rest.event_id, rest.entries);
        first.extend(event_id, rest);
        assert_eq!(first, whole);
    }
    for count in [7, 8] {
        let mut all = whole.clone();
        assert!(all.split_off(count).is_none() && all == whole);
    }
    let bytes = whole.encode().len();
    assert_eq!((IndexPart::drafts_in(bytes), IndexPart::drafts_in(bytes - 1)), (7, 6));
}

#[test]
fn snapshot_parts_survive_their_bytes() {
    let state = applied(&log(5), PartitionState::new());
    let written = (state.to_state_part().unwrap(), index_of(&log(5)));
    assert_eq!(written.0.sha256, state.document().hash());
    let part = StatePart::decode(&written.0.encode()).unwrap();
    let index = IndexPart::decode(&written.1.encode()).unwrap();
    assert_eq!((&part, &index), (&written.0, &written.1));

    let follower = PartitionState::from_state_part(&part).unwrap();
    assert_eq!(follower.document().canonical(), state.document().canonical());
    assert_eq!((follower.head(), follower.ordinal()), (state.head(), state.ordinal()));
    assert_eq!(follower.lookup(&DraftKey::classic("odd", "d1")), DraftLookup::NotFound);

    let loaded = PartitionState::from_snapshot(&part, &index).unwrap();
    let committed = DraftLookup::Committed(EventId(10), ContentHash(1));
    assert_eq!(loaded.lookup(&DraftKey::classic("odd", "d1")), committed);
    assert_eq!(loaded.lookup(&DraftKey::classic("even", "d1")), DraftLookup::NotFound);
}

#[test]
fn parts_of_different_events_replay_to_the_same() {
    let log = log(6);
    let whole = applied(&log, PartitionState::new());
    for state_at in 1..=6 {
        for index_at in 1..=6 {
            let state = applied(&log[..state_at], PartitionState::new()).to_state_part().unwrap();
            let mut index = index_of(&log[..index_at]);
            let from = PartitionState::replay_from(&state, &index);
            let mut loaded = PartitionState::from_snapshot(&state, &index).unwrap();
            for body in log.iter().filter(|body| event(body).id > from) {
                loaded.replay(&OnlySet, &event(body), body.len()).unwrap();
            }
            assert_eq!(loaded.to_state_part().unwrap(), whole.to_state_part().unwrap());
            for body in &log {
                let key = event(body).record.draft_key();
                assert_ne!(whole.lookup(&key), DraftLookup::NotFound);
                assert_eq!(loaded.lookup(&key), whole.lookup(&key));
            }
            // The next index is that of the whole log, wherever the replay began.
            let all = log.iter().map(|body| event(body));
            let entry =
                |event: &CommittedEvent<'_>| (event.record.draft_key(), event.id, event.record.content_hash);
            index.extend(whole.head(), all.filter(|event| event.id > from).map(|event| entry(&event)));
            assert_eq!(index, index_of(&log));
        }
    }
}

#[test]
fn damaged_snapshots_are_told_apart() {
    let (state, index) =
        (applied(&log(3), PartitionState::new()).to_state_part().unwrap(), index_of(&log(3)));
    type Decode = fn(&[u8]) -> Option<SnapshotError>;
    let version = crate::event::RulesVersion { number: 3, hash: [7; 16] };
    let rules = Some(crate::event::RulesInForceId { activation: 9, version });
    let by_app = StatePart { rules, ..state.clone() };
    assert_eq!(StatePart::decode(&by_app.encode()).unwrap(), by_app);
    let parts: [(Vec<u8>, Decode); 3] = [
        (state.encode(), |bytes| StatePart::decode(bytes).err()),
        (by_app.encode(), |bytes| StatePart::decode(bytes).err()),
        (index.encode(), |bytes| IndexPart::decode(bytes).err()),
    ];
    for (bytes, decode) in parts {
        assert!(decode(&bytes).is_none());
        for length in 0..bytes.len() {
            let error = decode(&bytes[..length]).unwrap();
            assert!(matches!(error, SnapshotError::Truncated(_)), "cut at {length}: {error}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(decode(&flipped).is_some(), "bit {bit} of byte {at}");
            }
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decode(&longer), Some(SnapshotError::Corrupted)));
        let mut future = bytes.clone();
        future[4] = 3;
        assert!(matches!(decode(&future), Some(SnapshotError::FutureVersion(3))));
        assert!(matches!(decode(b"{\"json\":1}"), Some(SnapshotError::NotASnapshot)));
    }
    // One kind is not the other.
    assert!(matches!(IndexPart::decode(&state.encode()), Err(SnapshotError::NotASnapshot)));
}

#[test]
fn touches_overlap_as_the_spec_says() {
    let path = |path: &str| WriteSet::Path(path.into());
    let node = |target: &str, id: &str| WriteSet::Node { target: target.into(), id: id.into() };
    let cases = [
        (path("a"), path("a"), true),
        (path("a"), path("a.b"), true),
        (path("a"), path("ab"), false),
        (path("a.b"), path("a.c"), false),
        (path("a"), path("a."), true),
        (node("t", "x"), node("t", "x"), true),
        (node("t", "x"), node("t", "y"), false),
        (node("t", "x"), node("u", "x"), false),
        (node("t", "x"), path("t"), true),
        (node("a.t", "x"), path("a"), true),
        (node("t", "x"), path("t.items"), true),
        (node("t", "x"), path("t.items.x"), true),
        (node("t", "x"), path("t.items.x.title"), true),
        (node("t", "x"), path("t.items.y"), false),
        (node("t", "x"), path("t.tree"), true),
        (node("t", "x"), path("t.title"), false),
        (node("t", "x"), node("t.items.x", "y"), true),
        (node("t", "x"), node("t.items.z", "y"), false),
        (node("t", "a.b"), path("t.items.a"), true),
        (WriteSet::Nothing, WriteSet::Everything, false),
        (WriteSet::Everything, path("a"), true),
        (WriteSet::Everything, node("t", "x"), true),
    ];
    for (a, b, expected) in cases {
        assert_eq!(a.overlaps(&b), expected, "{a:?} {b:?}");
        assert_eq!(b.overlaps(&a), expected, "{b:?} {a:?}");
    }
}

#[test]
fn older_touches_are_read_again_as_far_as_they_are_kept() {
    let log = log(8);
    let (part, odd, even) = (
        applied(&log[..6], PartitionState::new()).to_state_part().unwrap(),
        ClientId::new("odd").unwrap(),
        ClientId::new("even").unwrap(),
    );
    let load = |max| {
        let state = PartitionState::from_snapshot(&part, &index_of(&log[..6])).unwrap();
        applied(&log[6..], state.with_touches_max(max))
    };
    let k3 = WriteSet::Path("k3".into());
    // What the shell does when it is told `NeedHistory { from }`.
    let feed = |state: &mut PartitionState, from: EventId| {
        let mut read = 0;
        for body in log.iter().filter(|body| event(body).id > from) {
            read += 1;
            if !state.add_older_touch(&OnlySet, from, &event(body)) {
                break;
            }
        }
        read
    };

    let mut state = load(16);
    assert_eq!(state.touch_floor(), EventId(60));
    assert_eq!(state.touched_since(EventId(60), &even, &k3), ConflictCheck::Clear);
    assert_eq!(state.touched_since(EventId(25), &even, &k3), ConflictCheck::Unknown);
    assert_eq!(feed(&mut state, EventId(25)), 4);
    assert_eq!(state.touch_floor(), EventId(25));
    assert_eq!(state.touched_since(EventId(25), &even, &k3), ConflictCheck::Overlap(EventId(30)));
    assert_eq!(state.touched_since(EventId(30), &even, &k3), ConflictCheck::Clear);
    assert_eq!(state.touched_since(EventId(25), &odd, &k3), ConflictCheck::Clear);
    assert_eq!(state.touched_since(EventId::NONE, &even, &k3), ConflictCheck::Unknown);
    assert_eq!(feed(&mut state, EventId::NONE), 2);
    assert_eq!(state.touched_since(EventId::NONE, &even, &k3), ConflictCheck::Overlap(EventId(30)));

    // Five events are kept: three more than the two applied since the snapshot.
    let mut state = load(5);
    assert_eq!(feed(&mut state, EventId(20)), 1);
    assert_eq!(state.touched_since(EventId(20), &even, &k3), ConflictCheck::TooOld);
    assert_eq!(state.touched_since(EventId(30), &even, &k3), ConflictCheck::Unknown);
    assert_eq!(feed(&mut state, EventId(30)), 3);
    assert_eq!(state.touched_since(EventId(30), &even, &k3), ConflictCheck::Clear);
    assert_eq!(state.touched_since(EventId(29), &even, &k3), ConflictCheck::TooOld);
}
