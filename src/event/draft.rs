//! Drafts: events that clients propose, and the message in which a frontend hands them to a validator.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ids::check_id;
use super::{AtomicGroups, ClientId, DraftKey, EventId, KeyError, PartitionKey};

/// One event that a client proposes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Draft {
    /// The client's own name for it (`draftId`; in v1 `id`), 1 to 256 bytes.
    pub draft_id: String,
    /// The event type, built in or an application's.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The payload, as the client wrote it.
    pub payload: Box<RawValue>,
    /// The last event id of the partition that the client had seen, where it wants conflicts refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_event_id: Option<EventId>,
    /// What only v1 events have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v1: Option<V1Fields>,
}

impl Draft {
    /// Checks what the types do not: the length of the draft id.
    pub fn check(&self) -> Result<(), KeyError> {
        check_id(&self.draft_id)
    }

    /// How many bytes it takes in JSON, at most.
    pub fn json_bytes(&self) -> usize {
        /// The names of the fields, and the numbers.
        const FIELDS: usize = 124;
        const V1_FIELDS: usize = 96;
        let v1 = self.v1.as_ref().map_or(0, |v1| {
            let user = v1.user_id.as_deref().map_or(0, json_text_bytes);
            V1_FIELDS + json_text_bytes(&v1.label) + user + v1.meta.get().len()
        });
        let names = json_text_bytes(&self.draft_id) + json_text_bytes(&self.event_type);
        FIELDS + names + self.payload.get().len() + v1
    }

    /// The key under which this draft is committed at most once.
    pub fn key(&self, client: &ClientId) -> DraftKey {
        match self.v1 {
            Some(_) => DraftKey::v1(&self.draft_id),
            None => DraftKey::classic(client.as_str(), &self.draft_id),
        }
    }
}

/// How many bytes a string takes in JSON.
pub(crate) fn json_text_bytes(text: &str) -> usize {
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0x00..=0x1f => 6,
        _ => 1,
    });
    2 + escaped.sum::<usize>()
}

/// The fields that only the v1 dialect has (`protocol-v1.md`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct V1Fields {
    /// v1's `partition`: a label within the project, no unit of its own.
    pub label: String,
    /// The version of the event type's schema, from 1.
    pub schema_version: u64,
    /// The event's own `userId`, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The `meta` object, as the client wrote it.
    pub meta: Box<RawValue>,
}

impl V1Fields {
    /// Whether all of them are the same, to the byte.
    pub fn is_as_written(&self, other: &Self) -> bool {
        let Self { label, schema_version, user_id, meta } = self;
        *label == other.label
            && *schema_version == other.schema_version
            && *user_id == other.user_id
            && meta.get() == other.meta.get()
    }
}

/// Who submits, as the frontend verified it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Submitter {
    /// The client.
    pub client_id: ClientId,
    /// The user, if the token names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// What the client may do: `<action>` or `<action>:<target>`, `*` for all.
    pub permissions: Vec<String>,
    /// What the token says he is, for an application's rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Of the token's claims those that an application's rules are shown: a JSON object, as text. `None` where there
    /// are none. They go no further than to the validator: no record has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<String>,
}

impl Submitter {
    /// How many bytes one takes in JSON, at most.
    pub fn json_bytes_of(
        client: &ClientId,
        user: Option<&str>,
        permissions: &[String],
        roles: &[String],
        claims: Option<&str>,
    ) -> usize {
        /// The names of the fields.
        const FIELDS: usize = 92;
        let permissions: usize = permissions.iter().chain(roles).map(|text| json_text_bytes(text) + 1).sum();
        FIELDS
            + json_text_bytes(client.as_str())
            + user.map_or(0, json_text_bytes)
            + permissions
            + claims.map_or(0, json_text_bytes)
    }
}

/// Where a validator's answer goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The frontend process.
    pub frontend: String,
    /// The connection on it.
    pub connection: u64,
    /// The submission on that connection, counted from 1.
    pub submission: u64,
    /// How often the frontend has published this submission, counted from 1. A rejection counts only
    /// when it answers the last attempt: an earlier copy's rejection says nothing of the copy behind it.
    pub attempt: u32,
    /// The partition's head, as the frontend knew it before the first attempt: what is committed behind it may
    /// have been committed by an earlier attempt, what is not was there before.
    #[serde(default = "no_event_is_later")]
    pub since: EventId,
    /// The how-manieth publish of the connection this is, counted from 1; 0 if that is not known.
    #[serde(default)]
    pub publish: u64,
    /// Until when this copy may be stored, by NATS's clock, in Unix milliseconds. A validator drops what NATS
    /// stored later: its connection may have been told of a later copy's rejection by then. An older frontend
    /// does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storable_until: Option<u64>,
}

/// For what an older frontend has published, which does not say since when.
fn no_event_is_later() -> EventId {
    EventId(u64::MAX)
}

/// What one message on DRAFTS holds: drafts of one connection for one partition, in the order sent.
/// Without drafts it only asks that the partition be opened: its initial state committed, if one is
/// configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Submission<D = Draft> {
    /// The partition.
    pub partition: PartitionKey,
    /// Who submits.
    pub submitter: Submitter,
    /// Where the answer goes.
    pub reply_to: ReplyTo,
    /// Which of them stand or fall together: a batch of v1 is a unit of work, a classic draft is one by itself.
    #[serde(default, skip_serializing_if = "AtomicGroups::all_single")]
    pub units: AtomicGroups,
    /// The drafts.
    pub drafts: Vec<D>,
}
