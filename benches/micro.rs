//! What the steps of an event's way cost, each by itself: time (criterion) and allocations.
//!
//!     cargo bench --bench micro              both
//!     cargo bench --bench micro -- decode    only the times of what is called so, and all allocations
//!
//! Events are of 200 bytes, as those of the comparison.

// A bench stops at the first surprise.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::borrow::Cow;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use insieme_backend::event::{
    ClientId, CommittedEvent, ContentHash, Draft, EventId, EventRecord, PartitionKey, Submitter, V1Fields,
};
use insieme_backend::frontend::bench_support::RingTurn;
use insieme_backend::protocol::{Dialect, ItemContext, Request, SubmitItem};
use insieme_backend::rules::{Decision, Rules, RulesConfig};
use insieme_backend::state::PartitionState;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(size.saturating_sub(layout.size()) as u64, Ordering::Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// How often a step is done to count its allocations.
const COUNTED: u64 = 1000;
const CLIENT: &str = "client-1";
const PROJECT: &str = "project-1";
/// Where the events of a ring end that a cursor reads.
const BEHIND: u64 = 100;
const RING: usize = 1000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    println!("{:<28} {:>12} {:>12}", "one event", "allocations", "bytes");
    let steps = steps();
    for (name, mut step) in steps {
        step();
        let (allocations, bytes) = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
        (0..COUNTED).for_each(|_| step());
        let each = |counter: &AtomicU64, before: u64| {
            (counter.load(Ordering::Relaxed) - before) as f64 / COUNTED as f64
        };
        println!("{name:<28} {:>12.1} {:>12.0}", each(&ALLOCATIONS, allocations), each(&BYTES, bytes));
        criterion
            .bench_function(name, |bencher| bencher.iter_batched(|| (), |()| step(), BatchSize::SmallInput));
    }
    criterion.final_summary();
}

type Step = Box<dyn FnMut()>;

fn steps() -> Vec<(&'static str, Step)> {
    let classic_frame = json!({ "type": "submit_event", "id": "m1", "timestamp": 1, "payload": {
        "draftId": "d1", "event": { "type": "set", "payload": payload() } } })
    .to_string();
    let v1_frame = json!({ "type": "submit_events", "protocolVersion": "1.0", "msgId": "m1",
        "payload": { "events": [v1_event()] } })
    .to_string();
    let record = record(None);
    let v1_record = self::record(Some(v1_fields()));
    let (body, v1_body) = (Bytes::from(record), Bytes::from(v1_record));
    let mut full = RingTurn::full(&v1_body, RING).expect("a record");
    let warm = RingTurn::full(&v1_body, RING).expect("a record");
    let (body_again, v1_body_again) = (body.clone(), v1_body.clone());
    vec![
        (
            "decode a classic submit",
            Box::new(move || {
                let frame = Dialect::Classic.decode(black_box(&classic_frame), 64).expect("a frame");
                assert!(matches!(frame.request, Request::Submit(_)), "{frame:?}");
            }),
        ),
        ("decode a v1 submit", Box::new(move || assert_eq!(decode_v1(&v1_frame), 1))),
        ("decide and fold: set", decide("set", None)),
        ("decide and fold: v1", decide("note", Some(v1_fields()))),
        (
            "parse a record",
            Box::new(move || {
                let record = EventRecord::parse(black_box(&body_again)).expect("a record");
                assert_eq!(record.ordinal, 1);
            }),
        ),
        ("encode a classic broadcast", encode(Dialect::Classic, body)),
        ("encode a v1 broadcast", encode(Dialect::V1, v1_body)),
        ("ring: take an event in", Box::new(move || full.push(&v1_body_again).expect("a record"))),
        ("ring: a cursor reads 100", Box::new(move || assert!(warm.read(BEHIND, Dialect::V1) > 0))),
    ]
}

fn decode_v1(frame: &str) -> usize {
    let context = ItemContext {
        client_id: CLIENT,
        user_id: None,
        any_user: false,
        project_id: PROJECT,
        items_max: 1_024,
    };
    match Dialect::V1.decode(frame, 64).map(|frame| frame.request) {
        Ok(Request::SubmitBatch(batch)) => {
            let checked = SubmitItem::check(batch.items, &context);
            assert!(checked.refused.is_none(), "{:?}", checked.refused);
            checked.drafts.len()
        }
        other => panic!("{other:?}"),
    }
}

/// Decides events of a kind, each a draft of its own, and folds them.
fn decide(kind: &'static str, v1: Option<V1Fields>) -> Step {
    let rules = Rules::new(RulesConfig::default()).expect("the built-in rules");
    let mut state = PartitionState::new();
    let submitter = Submitter {
        client_id: ClientId::new(CLIENT).expect("an id"),
        user_id: None,
        permissions: vec!["*".to_owned()],
        roles: Vec::new(),
        claims: None,
    };
    let mut number = 0_u64;
    let payload = raw(&payload());
    Box::new(move || {
        number += 1;
        let draft = Draft {
            draft_id: format!("d{number}"),
            event_type: kind.to_owned(),
            payload: payload.clone(),
            base_event_id: None,
            v1: v1.clone(),
        };
        match rules.decide(&state, &submitter, &draft) {
            Decision::Commit(accepted) => {
                state.stage(rules.fold().as_ref(), *accepted).expect("an accepted event folds");
                state.confirm(EventId(number), 0, &[payload.get().len()]);
            }
            other => panic!("{other:?}"),
        }
    })
}

fn encode(dialect: Dialect, body: Bytes) -> Step {
    Box::new(move || {
        let record = EventRecord::parse(&body).expect("a record");
        black_box(dialect.encode_broadcast(&CommittedEvent { id: EventId(7), record }));
    })
}

fn payload() -> Value {
    json!({ "target": "a.b", "value": { "title": "x".repeat(140) } })
}

fn v1_event() -> Value {
    json!({ "id": "e1", "projectId": PROJECT, "partition": "doc", "type": "note", "schemaVersion": 1,
        "payload": payload(), "meta": { "clientId": CLIENT, "clientTs": 1 } })
}

fn v1_fields() -> V1Fields {
    let meta = raw(&json!({ "clientId": CLIENT, "clientTs": 1 }));
    V1Fields { label: "doc".to_owned(), schema_version: 1, user_id: None, meta }
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("a value")
}

fn record(v1: Option<V1Fields>) -> Vec<u8> {
    let payload = raw(&payload());
    let record = EventRecord {
        event_type: Cow::Borrowed("set"),
        payload: &payload,
        partition: PartitionKey::new(PROJECT).expect("a key"),
        timestamp: 1,
        client_id: ClientId::new(CLIENT).expect("an id"),
        user_id: None,
        draft_id: Cow::Borrowed("d1"),
        content_hash: ContentHash(1),
        ordinal: 1,
        v1,
        rules: None,
        is_mark: false,
    };
    record.to_json().expect("a record")
}
