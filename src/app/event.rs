//! An event as an application's rules see it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::event::{EventRecord, Submitter};

/// An event, by itself: as JSON it is what a module's rules are handed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AppEvent {
    /// The event type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// The payload, as the client wrote it.
    pub payload: Box<RawValue>,
    /// v1's label within the project; in the classic dialect the partition.
    pub partition: String,
    /// The rest of the committed form.
    pub event: Committed,
    /// Who submitted it.
    pub client: Client,
    /// Of a draft: the partition that it is to be committed in, which its client must be let into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entered: Option<String>,
}

/// The committed form of an event, but for its payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Committed {
    /// The client's own name for the draft.
    pub id: String,
    /// The event type.
    #[serde(rename = "type")]
    pub event_type: String,
    /// v1's label within the project; in the classic dialect the partition.
    pub partition: String,
    /// The client.
    pub client_id: String,
    /// The user, if the token names one.
    pub user_id: Option<String>,
    /// When it was committed, in Unix milliseconds.
    pub server_ts: u64,
    /// The version of the payload's schema; `None` in the classic dialect, which has no such thing.
    pub schema_version: Option<u64>,
    /// v1's `meta`.
    pub meta: Option<Box<RawValue>>,
}

/// Who submits, as a module's rules see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// The client.
    pub client_id: String,
    /// The user, if the token names one.
    pub user_id: Option<String>,
    /// What the token says he is. The log does not keep that.
    #[serde(default)]
    pub roles: Vec<String>,
    /// What the token permits. The log does not keep that.
    #[serde(default)]
    pub permissions: Vec<String>,
    /// Those of the token's claims that rules are shown. The log does not keep them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Box<RawValue>>,
}

/// Somebody who wants to open a partition, as a module's rules see it.
#[derive(Debug, Serialize)]
pub(super) struct Entering<'a> {
    /// Who.
    pub client: Client,
    /// Which.
    pub partition: &'a str,
}

impl Client {
    /// Who submits, or wants to. An error if the claims are no JSON.
    pub(super) fn of(submitter: &Submitter) -> serde_json::Result<Self> {
        let Submitter { client_id, user_id, permissions, roles, claims } = submitter;
        Ok(Self {
            client_id: client_id.as_str().to_owned(),
            user_id: user_id.clone(),
            roles: roles.clone(),
            permissions: permissions.clone(),
            claims: claims.clone().map(RawValue::from_string).transpose()?,
        })
    }
}

impl AppEvent {
    /// A draft, as the event that it would be.
    pub(super) fn of_draft(
        record: &EventRecord<'_>,
        submitter: &Submitter,
    ) -> serde_json::Result<Option<Self>> {
        let Some(mut event) = Self::of(record) else { return Ok(None) };
        let user_id = event.client.user_id.take();
        event.client = Client { user_id, ..Client::of(submitter)? };
        event.entered = Some(record.partition.as_str().to_owned());
        Ok(Some(event))
    }

    /// An event of the log. `None` for a mark, which says nothing.
    pub fn of(record: &EventRecord<'_>) -> Option<Self> {
        if record.is_mark {
            return None;
        }
        let v1 = record.v1.as_ref();
        let partition = v1.map_or_else(|| record.partition.as_str().to_owned(), |v1| v1.label.clone());
        let user_id = v1.and_then(|v1| v1.user_id.clone()).or_else(|| record.user_id.clone());
        let client_id = record.client_id.as_str().to_owned();
        Some(Self {
            event_type: record.event_type.clone().into_owned(),
            payload: record.payload.to_owned(),
            partition: partition.clone(),
            client: Client {
                client_id: client_id.clone(),
                user_id: user_id.clone(),
                roles: Vec::new(),
                permissions: Vec::new(),
                claims: None,
            },
            entered: None,
            event: Committed {
                id: record.draft_id.clone().into_owned(),
                event_type: record.event_type.clone().into_owned(),
                partition,
                client_id,
                user_id,
                server_ts: record.timestamp,
                schema_version: v1.map(|v1| v1.schema_version),
                meta: v1.map(|v1| v1.meta.clone()),
            },
        })
    }
}
