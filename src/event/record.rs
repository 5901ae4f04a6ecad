//! The record of a committed event: the body of a message in COMMITTED.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    ClientId, ContentHash, Draft, DraftKey, EventId, PartitionKey, RulesInForceId, Submitter, V1Fields,
};

/// A committed event as it stands in the log, but for its id, which is its place there.
///
/// It borrows from the message that holds it: an event is parsed once where it comes in, and its payload
/// is passed on as it was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRecord<'a> {
    /// The event type.
    #[serde(rename = "type", borrow)]
    pub event_type: Cow<'a, str>,
    /// The payload, as the client wrote it.
    #[serde(borrow)]
    pub payload: &'a RawValue,
    /// The partition.
    pub partition: PartitionKey,
    /// When it was committed by NATS's clock, in Unix milliseconds. Not less than that of the event before it, unless
    /// that one was ahead of NATS's clock.
    pub timestamp: u64,
    /// Who submitted it; `server` for an initial state.
    pub client_id: ClientId,
    /// The user behind the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The client's own name for the draft.
    #[serde(borrow)]
    pub draft_id: Cow<'a, str>,
    /// The hash of what the draft said.
    pub content_hash: ContentHash,
    /// The how-manieth event of its partition this is, from 1: a hole in the log shows.
    pub ordinal: u64,
    /// What only v1 events have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v1: Option<V1Fields>,
    /// The application's rules that decided it, and by which it is folded for ever; `None` for the built-in ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<RulesInForceId>,
    /// Whether it is a mark: see [`EventRecord::mark`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_mark: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The type and the payload of a mark. No fold knows the type, so a mark changes no state.
const MARK_TYPE: &str = "mark";
const MARK_PAYLOAD: &str = "null";

impl<'a> EventRecord<'a> {
    /// A mark: an event that says nothing, that changes no state and that no client is shown. A validator
    /// commits one where it must know that nothing else can be committed on the state that it decides on, and
    /// has nothing else to commit. `head` is the event before it, which makes its draft key the only one.
    pub fn mark(
        partition: &PartitionKey,
        head: EventId,
        ordinal: u64,
        timestamp: u64,
    ) -> serde_json::Result<Self> {
        Ok(Self {
            event_type: Cow::Borrowed(MARK_TYPE),
            payload: serde_json::from_str(MARK_PAYLOAD)?,
            partition: partition.clone(),
            timestamp,
            client_id: ClientId::server(),
            user_id: None,
            draft_id: Cow::Owned(format!("mark-{head}")),
            content_hash: ContentHash(0),
            ordinal,
            v1: None,
            rules: None,
            is_mark: true,
        })
    }

    /// The record of an accepted draft.
    pub fn of_draft(
        draft: &'a Draft,
        partition: &PartitionKey,
        submitter: &Submitter,
        content_hash: ContentHash,
        ordinal: u64,
        timestamp: u64,
    ) -> Self {
        Self {
            event_type: Cow::Borrowed(&draft.event_type),
            payload: &draft.payload,
            partition: partition.clone(),
            timestamp,
            client_id: submitter.client_id.clone(),
            user_id: submitter.user_id.clone(),
            draft_id: Cow::Borrowed(&draft.draft_id),
            content_hash,
            ordinal,
            v1: draft.v1.clone(),
            rules: None,
            is_mark: false,
        }
    }

    /// Reads the body of a message in COMMITTED.
    pub fn parse(body: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(body)
    }

    /// The body of a message in COMMITTED.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }

    /// The key of the draft that it was.
    pub fn draft_key(&self) -> DraftKey {
        match self.v1 {
            _ if self.is_mark => DraftKey::mark(&self.draft_id),
            Some(_) => DraftKey::v1(&self.draft_id),
            None => DraftKey::classic(self.client_id.as_str(), &self.draft_id),
        }
    }
}

/// A committed event: its record and its place.
#[derive(Debug, Clone)]
pub struct CommittedEvent<'a> {
    /// Its place in the log.
    pub id: EventId,
    /// What stands there.
    pub record: EventRecord<'a>,
}
