//! Snapshots in the object store, compressed.
//!
//! A snapshot has two objects that need not be of the same moment: the state, which frontends read too,
//! and the draft index, which only validators need. What is in them, and their hashes, is the concern of
//! `state`; here they are bytes.
//!
//! They are written through `async-nats`'s object store, and read by direct gets: its reader makes a consumer,
//! for which a frontend would need rights that it must not have.

use std::collections::HashMap;

use async_nats::jetstream::object_store::{self, ObjectStore};
use async_nats::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::append::CommitError;
use super::client::Log;
use super::error::LogError;
use super::read::batch_get::BatchGet;
use super::streams::bootstrap::stream_info;
use super::subjects::{self, SNAPSHOT_BUCKET, SNAPSHOT_STREAM};
use crate::event::{EventId, Token, is_plain};
use crate::faults;

/// The largest snapshot object that is read back, in bytes, before decompression and after.
const SNAPSHOT_BYTES_MAX: usize = 1 << 30;

/// The most bytes of a snapshot object.
pub(crate) fn snapshot_bytes_max() -> usize {
    if faults::is_on(faults::SMALL_SNAPSHOTS) { 16 << 10 } else { SNAPSHOT_BYTES_MAX }
}

/// Whether a snapshot part of so many bytes can be read back. One that cannot is not written.
fn fits_snapshot(bytes: u64) -> bool {
    bytes <= snapshot_bytes_max() as u64
}

/// The most chunks and bytes of an object that are asked for at a time.
const CHUNKS_AT_ONCE: usize = 4096;
const BYTES_AT_ONCE: usize = 4 << 20;
/// The most objects that are looked at at a time.
const OBJECTS_AT_ONCE: usize = 256;
const COMPRESSION_LEVEL: i32 = 1;

/// One of the two objects of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPart {
    /// The state's JSON.
    State,
    /// The draft index, or the first objects of a long one: it goes on in the objects 1, 2 and so on, each of which has as
    /// many drafts as an object may have but for the last.
    Index(u32),
}

impl SnapshotPart {
    fn object(self, token: &Token) -> String {
        match self {
            Self::State => format!("state.{token}"),
            // The only one that older versions know.
            Self::Index(0) => format!("index.{token}"),
            Self::Index(number) => format!("index.{token}.{number}"),
        }
    }
}

/// What is known of a snapshot object without reading it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last event in it.
    pub event_id: EventId,
    /// That event's ordinal: how many events it stands for.
    pub ordinal: u64,
    /// The bytes of those events in the log.
    pub log_bytes: u64,
    /// Its own bytes, uncompressed.
    pub bytes: u64,
    /// Of a draft index that goes on in this object: the last event in the object before it.
    pub after: EventId,
}

impl SnapshotInfo {
    fn to_metadata(self) -> HashMap<String, String> {
        [
            ("event-id", self.event_id.0),
            ("ordinal", self.ordinal),
            ("log-bytes", self.log_bytes),
            ("bytes", self.bytes),
            ("after", self.after.0),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_string()))
        .collect()
    }

    fn from_metadata(metadata: &HashMap<String, String>) -> Option<Self> {
        let number = |key: &str| metadata.get(key)?.parse().ok();
        Some(Self {
            event_id: EventId(number("event-id")?),
            ordinal: number("ordinal")?,
            log_bytes: number("log-bytes")?,
            bytes: number("bytes")?,
            // Older versions have not written it.
            after: EventId(number("after").unwrap_or(0)),
        })
    }
}

/// An object as the object store describes it; the field names are NATS's.
#[derive(Deserialize)]
struct StoredObject {
    #[serde(default)]
    name: String,
    #[serde(default)]
    metadata: HashMap<String, String>,
    #[serde(default)]
    nuid: String,
    #[serde(default)]
    size: usize,
    #[serde(default)]
    chunks: usize,
    digest: Option<String>,
    #[serde(default)]
    deleted: bool,
    /// The place of this description in the stream.
    #[serde(skip)]
    sequence: u64,
}

impl Log {
    pub(crate) async fn snapshot_store(&self) -> Result<&ObjectStore, LogError> {
        self.snapshots
            .get_or_try_init(|| self.js.get_object_store(SNAPSHOT_BUCKET))
            .await
            .map_err(|error| LogError::unavailable("opening the snapshots", error))
    }

    /// What snapshot of the partition there is. One without readable metadata counts as none.
    pub async fn snapshot_info(
        &self,
        token: &Token,
        part: SnapshotPart,
    ) -> Result<Option<SnapshotInfo>, LogError> {
        #[cfg(test)]
        if self.stand_in.is_some() {
            return Ok(None);
        }
        let object = match self.snapshot_object("looking for a snapshot", token, part).await {
            Err(LogError::Malformed { .. }) => None,
            other => other?,
        };
        Ok(object.and_then(|object| SnapshotInfo::from_metadata(&object.metadata)))
    }

    /// Reads a snapshot object. One that cannot be read back whole is [`LogError::Malformed`]; it can
    /// always be made anew from the log.
    pub async fn read_snapshot(
        &self,
        token: &Token,
        part: SnapshotPart,
    ) -> Result<Option<Vec<u8>>, LogError> {
        const WHAT: &str = "reading a snapshot";
        let Some(object) = self.snapshot_object(WHAT, token, part).await? else { return Ok(None) };
        let packed = self.chunks(WHAT, &object).await?;
        blocking(WHAT, move || {
            zstd::bulk::Decompressor::upper_bound(&packed)
                .filter(|bytes| fits_snapshot(*bytes as u64))
                .ok_or_else(|| std::io::Error::other("not zstd, or larger than any snapshot"))
                .and_then(|bytes| zstd::bulk::decompress(&packed, bytes))
        })
        .await
        .map(Some)
    }

    /// What was written beside an object, by its name, and the place of that in the stream.
    pub(crate) async fn object_metadata(
        &self,
        what: &'static str,
        name: &str,
    ) -> Result<Option<(HashMap<String, String>, u64)>, LogError> {
        Ok(self.stored_object(what, name).await?.map(|object| (object.metadata, object.sequence)))
    }

    /// Writes an object without bytes in place of the one that was there, in one publish. With `expected`, only if
    /// that is still the place of the one that is there. False if it is not.
    pub(crate) async fn write_metadata(
        &self,
        what: &'static str,
        name: &str,
        metadata: HashMap<String, String>,
        expected: Option<u64>,
    ) -> Result<bool, LogError> {
        let inbox = self.client.new_inbox();
        let object = serde_json::json!({
            "name": name,
            "bucket": SNAPSHOT_BUCKET,
            "nuid": inbox.rsplit('.').next(),
            "size": 0,
            "chunks": 0,
            "digest": format!("SHA-256={}", URL_SAFE.encode(Sha256::digest([]))),
            "metadata": metadata,
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_ROLLUP, "sub");
        if let Some(expected) = expected {
            headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        }
        let subject = subjects::snapshot_info(&URL_SAFE.encode(name));
        match self.stored_publish(subject, headers, object.to_string().into()).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict) => Ok(false),
            Err(CommitError::NotStored(why)) => Err(LogError::refused(what, why)),
            Err(CommitError::Unknown(error)) => Err(error),
        }
    }

    /// What the object store says of a snapshot object. Where the object store is gone, there is none, and the log has
    /// it all; where it only does not answer, that is an error.
    async fn snapshot_object(
        &self,
        what: &'static str,
        token: &Token,
        part: SnapshotPart,
    ) -> Result<Option<StoredObject>, LogError> {
        match self.stored_object(what, &part.object(token)).await {
            Err(LogError::Unavailable { why, .. })
                if matches!(stream_info(self, SNAPSHOT_STREAM).await, Ok(None)) =>
            {
                tracing::warn!(%token, ?part, why, "there is no object store for snapshots; reading the log instead");
                Ok(None)
            }
            found => found,
        }
    }

    async fn stored_object(&self, what: &'static str, name: &str) -> Result<Option<StoredObject>, LogError> {
        let name = URL_SAFE.encode(name);
        let get =
            BatchGet { multi_last: vec![subjects::snapshot_info(&name)], batch: 1, ..BatchGet::default() };
        let Some(stored) = self.batch_get(what, SNAPSHOT_STREAM, get).await?.pop() else { return Ok(None) };
        let mut object: StoredObject = serde_json::from_slice(&stored.message.payload)
            .map_err(|error| LogError::malformed(what, error))?;
        object.sequence = stored.sequence;
        Ok((!object.deleted).then_some(object))
    }

    /// An object's bytes.
    async fn chunks(&self, what: &'static str, object: &StoredObject) -> Result<Vec<u8>, LogError> {
        let wrong = |why: &str| LogError::malformed(what, why);
        if !fits_snapshot(object.size as u64) {
            return Err(wrong("larger than any snapshot"));
        }
        if object.chunks > 0 && !is_plain(&object.nuid) {
            return Err(wrong("an object without a name for its chunks"));
        }
        let subject = subjects::snapshot_chunks(&object.nuid);
        let mut bytes = Vec::with_capacity(object.size);
        let (mut chunks, mut last) = (0, 0);
        while chunks < object.chunks {
            let get = BatchGet {
                seq: Some(last + 1),
                next_by_subj: Some(subject.clone()),
                batch: CHUNKS_AT_ONCE.min(object.chunks - chunks),
                max_bytes: Some(BYTES_AT_ONCE),
                ..BatchGet::default()
            };
            let before = chunks;
            let mut batch = self.open_batch(what, SNAPSHOT_STREAM, get).await?;
            while let Some(stored) = batch.next().await? {
                (chunks, last) = (chunks + 1, stored.sequence);
                if bytes.len() + stored.message.payload.len() > object.size {
                    return Err(wrong("more bytes than the object has"));
                }
                bytes.extend_from_slice(&stored.message.payload);
            }
            if chunks == before {
                return Err(LogError::unavailable(what, "its chunks are gone: it was replaced meanwhile"));
            }
        }
        let digest = format!("SHA-256={}", URL_SAFE.encode(Sha256::digest(&bytes)));
        if bytes.len() != object.size || object.digest.as_ref().is_some_and(|is| *is != digest) {
            return Err(wrong("not the bytes that were written"));
        }
        Ok(bytes)
    }

    /// Deletes the snapshots of states behind event `last`, and those of which it is not known. Tells how many
    /// objects that were.
    pub(crate) async fn delete_snapshots_behind(&self, last: u64) -> Result<u64, LogError> {
        const WHAT: &str = "deleting snapshots";
        let store = self.snapshot_store().await?;
        let (mut outdated, mut after) = (Vec::new(), 0);
        loop {
            let get = BatchGet {
                seq: Some(after + 1),
                next_by_subj: Some(subjects::snapshot_info(">")),
                batch: OBJECTS_AT_ONCE,
                ..BatchGet::default()
            };
            let found = self.batch_get(WHAT, SNAPSHOT_STREAM, get).await?;
            let Some(last_found) = found.last() else { break };
            after = last_found.sequence;
            for stored in found {
                let object: StoredObject = serde_json::from_slice(&stored.message.payload)
                    .map_err(|error| LogError::malformed(WHAT, error))?;
                let is_ours = object.name.starts_with("state.") || object.name.starts_with("index.");
                let within =
                    SnapshotInfo::from_metadata(&object.metadata).is_some_and(|info| info.event_id.0 <= last);
                if is_ours && !within && !object.deleted {
                    outdated.push(object.name);
                }
            }
        }
        for name in &outdated {
            store
                .delete(name)
                .await
                .map_err(|error| LogError::unavailable(WHAT, format!("{name}: {error}")))?;
        }
        Ok(outdated.len() as u64)
    }

    /// Deletes a partition's draft index. The next one is made from the log.
    pub async fn delete_index(&self, token: &Token) -> Result<(), LogError> {
        for number in 0.. {
            let part = SnapshotPart::Index(number);
            if self.snapshot_info(token, part).await?.is_none() {
                break;
            }
            let deleted = self.snapshot_store().await?.delete(part.object(token)).await;
            deleted.map_err(|error| LogError::unavailable("deleting a draft index", error))?;
        }
        Ok(())
    }

    /// The last event in a partition's draft index.
    pub async fn indexed_to(&self, token: &Token) -> Result<Option<EventId>, LogError> {
        let mut last = None;
        for number in 0.. {
            let info = self.snapshot_info(token, SnapshotPart::Index(number)).await?;
            match info.filter(|info| info.after == last.unwrap_or_default()) {
                Some(info) => last = Some(info.event_id),
                None => break,
            }
        }
        Ok(last)
    }

    /// Writes a snapshot object in place of the one that was there.
    pub async fn write_snapshot(
        &self,
        token: &Token,
        part: SnapshotPart,
        info: SnapshotInfo,
        bytes: Vec<u8>,
    ) -> Result<(), LogError> {
        const WHAT: &str = "writing a snapshot";
        let info = SnapshotInfo { bytes: bytes.len() as u64, ..info };
        let too_long =
            |bytes: u64| LogError::refused(WHAT, format!("{bytes} bytes are more than a snapshot may have"));
        if !fits_snapshot(info.bytes) {
            return Err(too_long(info.bytes));
        }
        let packed = blocking(WHAT, move || zstd::bulk::compress(&bytes, COMPRESSION_LEVEL)).await?;
        if !fits_snapshot(packed.len() as u64) {
            return Err(too_long(packed.len() as u64));
        }
        let metadata = object_store::ObjectMetadata {
            name: part.object(token),
            metadata: info.to_metadata(),
            ..Default::default()
        };
        self.snapshot_store()
            .await?
            .put(metadata, &mut packed.as_slice())
            .await
            .map(drop)
            .map_err(|error| LogError::unavailable(WHAT, error))
    }
}

async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| LogError::malformed(what, error))?
        .map_err(|error| LogError::malformed(what, error))
}
