//! What the tests of this module share.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::feed::event::Entry;
use crate::event::{ClientId, ContentHash, Draft, EventId, EventRecord, PartitionKey};
use crate::log::StoredEvent;

/// An event of client `c`, whose draft id is `d<ordinal>`.
pub(crate) fn entry(id: u64, ordinal: u64) -> Arc<Entry> {
    let payload = RawValue::from_string(format!("{{\"n\":{ordinal}}}")).unwrap();
    let record = EventRecord {
        event_type: Cow::Borrowed("set"),
        payload: &payload,
        partition: PartitionKey::new("p").unwrap(),
        timestamp: 1,
        client_id: ClientId::new("c").unwrap(),
        user_id: None,
        draft_id: Cow::Owned(format!("d{ordinal}")),
        content_hash: ContentHash(0),
        ordinal,
        v1: None,
        rules: None,
        is_mark: false,
    };
    let body = record.to_json().unwrap().into();
    Arc::new(Entry::parse(StoredEvent { id: EventId(id), body }).unwrap())
}

/// The draft that became [`entry`].
pub(crate) fn draft(n: u64) -> Draft {
    Draft {
        draft_id: format!("d{n}"),
        event_type: "set".to_owned(),
        payload: RawValue::from_string(format!("{{\"n\":{n}}}")).unwrap(),
        base_event_id: None,
        v1: None,
    }
}
