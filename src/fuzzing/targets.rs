//! What is fuzzed: both dialects' frames, the records of the log and their fold, names of partitions, snapshots.
//! (The frames of WebSockets are tried beside their codec.)

use super::fuzz;
use crate::event::{CommittedEvent, EventId, EventRecord, PartitionKey, Submission, Token};
use crate::protocol::{DecodeError, Dialect};
use crate::rules::Registry;
use crate::state::{IndexPart, PartitionState, StatePart};

/// Frames of clients, as the published client and the classic one send them.
const FRAMES: [&[u8]; 9] = [
    br#"{"id":"1","type":"connect","timestamp":0,"payload":{"clientId":"me","version":"0.0.8","partition":"default","lastEventId":17}}"#,
    br#"{"id":"2","type":"submit_event","timestamp":1760000000000,"payload":{"draftId":"d1","baseEventId":3,"event":{"type":"set","payload":{"target":"greeting.a","value":{"b":[1,2.5e-7,null,"\u00e9\ud83d\ude00"]},"options":{"replace":true}}}}}"#,
    br#"{"id":"3","type":"sync","timestamp":0,"payload":{"partition":"default","sinceEventId":0,"limit":50}}"#,
    br#"{"id":"4","type":"heartbeat","timestamp":0,"payload":{}}"#,
    br#"{"type":"connect","protocolVersion":"1.0","msgId":"m-1","timestamp":0,"payload":{"token":"any","clientId":"me","projectId":"p"}}"#,
    br#"{"type":"submit_events","protocolVersion":"1.0","msgId":"m-2","timestamp":0,"payload":{"events":[{"id":"e1","projectId":"p","partition":"doc","type":"note.added","schemaVersion":1,"payload":{"n":1},"meta":{"clientId":"me","clientTs":1}},{"id":"e2","projectId":"p","partition":"doc","type":"set","schemaVersion":1,"payload":{"target":"a","value":1},"meta":{"clientId":"me","clientTs":2}}]}}"#,
    br#"{"type":"sync","protocolVersion":"1.0","msgId":"m-3","timestamp":0,"payload":{"projectId":"p","sinceCommittedId":4,"limit":20}}"#,
    br#"{"type":"heartbeat","protocolVersion":"1.0","msgId":"m-4","timestamp":0,"payload":{}}"#,
    br#"{"id":"5","type":"refresh_token","timestamp":0,"payload":{"token":"a.b.c"}}"#,
];

/// Records of the log, some behind each other.
const RECORDS: [&[u8]; 3] = [
    concat!(
        r#"{"type":"set","payload":{"target":"a.b","value":{"c":[1,"x"]}},"partition":"p","timestamp":5,"clientId":"c1","draftId":"d1","contentHash":"0000000000000001","ordinal":1}"#, "\n",
        r#"{"type":"treePush","payload":{"target":"t","value":{"id":"n1","k":1},"options":{"parent":"_root"}},"partition":"p","timestamp":6,"clientId":"c1","draftId":"d2","contentHash":"0000000000000002","ordinal":2}"#, "\n",
        r#"{"type":"treePush","payload":{"target":"t","value":{"id":"n2"},"options":{"parent":"n1","position":"first"}},"partition":"p","timestamp":6,"clientId":"c2","draftId":"d3","contentHash":"0000000000000003","ordinal":3}"#, "\n",
        r#"{"type":"treeMove","payload":{"target":"t","options":{"id":"n2","parent":"_root","position":"last"}},"partition":"p","timestamp":7,"clientId":"c2","draftId":"d4","contentHash":"0000000000000004","ordinal":4}"#, "\n",
        r#"{"type":"treeUpdate","payload":{"target":"t","value":{"k":2},"options":{"id":"n1","replace":false}},"partition":"p","timestamp":8,"clientId":"c2","draftId":"d5","contentHash":"0000000000000005","ordinal":5}"#, "\n",
        r#"{"type":"treeDelete","payload":{"target":"t","options":{"id":"n1"}},"partition":"p","timestamp":9,"clientId":"c2","draftId":"d6","contentHash":"0000000000000006","ordinal":6}"#,
    ).as_bytes(),
    concat!(
        r#"{"type":"init","payload":{"value":{"t":{"items":{},"tree":[]},"x":1}},"partition":"p","timestamp":5,"clientId":"server","draftId":"init","contentHash":"0000000000000001","ordinal":1}"#, "\n",
        r#"{"type":"unset","payload":{"target":"x"},"partition":"p","timestamp":6,"clientId":"c","userId":"u","draftId":"d","contentHash":"0000000000000009","ordinal":2}"#,
    ).as_bytes(),
    br#"{"type":"note.added","payload":{"n":1.0e2},"partition":"p","timestamp":5,"clientId":"c","draftId":"e1","contentHash":"ffffffffffffffff","ordinal":1}"#,
];

/// Names of partitions and what subjects make of them.
const NAMES: [&[u8]; 7] =
    [b"default", b"a-b_C9", "caf\u{e9} / 7".as_bytes(), b"~ZGVmYXVsdA", b"~", b"a.b.*.>", b"~w6k"];

#[test]
fn frames_of_both_dialects() {
    fuzz("frames", &FRAMES, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        Dialect::of_first_frame(&text);
        for dialect in [Dialect::Classic, Dialect::V1] {
            // Who is refused is told why, and which of its messages.
            if let Err(DecodeError::Bad(refused)) = dialect.decode(&text, 64) {
                assert!(!refused.message.is_empty());
            }
        }
        drop(serde_json::from_slice::<Submission>(bytes));
    });
}

#[test]
fn the_fold_of_a_log() {
    let fold = Registry::built_in().unwrap();
    let hash = |state: &PartitionState| state.document().hash();
    fuzz("fold", &RECORDS, |bytes| {
        let (mut state, mut other) = (PartitionState::new(), PartitionState::follower());
        let mut index = IndexPart::default();
        for (line, id) in bytes.split(|byte| *byte == b'\n').zip(1..) {
            let Ok(mut record) = EventRecord::parse(line) else { continue };
            // Where it stands is not what is tried here.
            record.ordinal = state.ordinal() + 1;
            let before = hash(&state);
            let event = CommittedEvent { id: EventId(id), record: record.clone() };
            match state.apply(&fold, &event, line.len()) {
                Ok(()) => {
                    other.apply(&fold, &event, line.len()).unwrap();
                    index.extend(event.id, [(record.draft_key(), event.id, record.content_hash)]);
                }
                Err(_) => assert_eq!(hash(&state), before, "what does not fold changed the state"),
            }
            for dialect in [Dialect::Classic, Dialect::V1] {
                let frame = dialect.encode_broadcast(&event);
                serde_json::from_str::<serde::de::IgnoredAny>(&frame.frame).unwrap();
            }
        }
        assert_eq!(hash(&state), hash(&other), "two folds of the same events differ");
        // What was folded survives a snapshot, both parts of it.
        let part = StatePart::decode(&state.to_state_part().unwrap().encode()).unwrap();
        let index = IndexPart::decode(&index.encode()).unwrap();
        let again = PartitionState::from_snapshot(&part, &index).unwrap();
        assert_eq!(
            (hash(&again), again.head(), again.ordinal()),
            (hash(&state), state.head(), state.ordinal())
        );
    });
}

#[test]
fn names_of_partitions() {
    fuzz("names", &NAMES, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(key) = PartitionKey::new(text.as_ref()) {
            let token = key.token();
            let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
            assert!(!token.as_str().is_empty() && token.as_str().bytes().all(is_safe), "{token}");
            assert_eq!(Token::parse(token.as_str()).unwrap(), (token, key));
        }
        // No two tokens are the same partition's.
        if let Ok((token, key)) = Token::parse(&text) {
            assert_eq!(key.token(), token);
        }
    });
}

#[test]
fn snapshots() {
    let state = br#"{"a":1,"t":{"items":{"n1":{"id":"n1"}},"tree":[{"id":"n1","children":[]}]}}"#.to_vec();
    let part = |state: Vec<u8>| {
        use sha2::{Digest, Sha256};
        let sha256 = Sha256::digest(&state).into();
        StatePart {
            event_id: EventId(7),
            ordinal: 3,
            log_bytes: 99,
            last_timestamp: 5,
            rules: None,
            sha256,
            state,
        }
    };
    let index = IndexPart {
        event_id: EventId(7),
        entries: vec![(crate::event::DraftKey::v1("e1"), EventId(3), crate::event::ContentHash(9))],
    };
    let (encoded_state, encoded_index) = (part(state.clone()).encode(), index.encode());
    fuzz("snapshots", &[&encoded_state, &encoded_index, &state], |bytes| {
        // What is read is what was written, bit for bit.
        if let Ok(part) = StatePart::decode(bytes) {
            assert_eq!(part.encode(), bytes);
        }
        if let Ok(part) = IndexPart::decode(bytes) {
            assert_eq!(part.encode(), bytes);
        }
        // One that is whole, of a state that is none.
        let whole = StatePart::decode(&part(bytes.to_vec()).encode()).unwrap();
        if let Ok(state) = PartitionState::from_state_part(&whole) {
            assert_eq!(state.head(), EventId(7));
        }
    });
}
