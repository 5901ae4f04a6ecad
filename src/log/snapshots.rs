//! Snapshots in the object store, compressed.
//!
//! A snapshot has two objects that need not be of the same moment: the state, which frontends read too,
//! and the draft index, which only validators need. What is in them, and their hashes, is the concern of
//! `state`; here they are bytes.

use std::collections::HashMap;

use async_nats::jetstream::object_store::{self, GetErrorKind, InfoErrorKind, ObjectStore};
use tokio::io::AsyncReadExt;

use super::connection::Log;
use super::error::LogError;
use super::subjects::SNAPSHOT_BUCKET;
use crate::event::{EventId, Token};

/// The largest snapshot object that is read back, in bytes after decompression.
const SNAPSHOT_BYTES_MAX: usize = 1 << 30;
const COMPRESSION_LEVEL: i32 = 1;

/// One of the two objects of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPart {
    /// The state's JSON.
    State,
    /// The draft index.
    Index,
}

impl SnapshotPart {
    fn object(self, token: &Token) -> String {
        match self {
            Self::State => format!("state.{token}"),
            Self::Index => format!("index.{token}"),
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
}

impl SnapshotInfo {
    fn to_metadata(self) -> HashMap<String, String> {
        [
            ("event-id", self.event_id.0),
            ("ordinal", self.ordinal),
            ("log-bytes", self.log_bytes),
            ("bytes", self.bytes),
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
        })
    }
}

impl Log {
    async fn snapshot_store(&self) -> Result<&ObjectStore, LogError> {
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
        match self.snapshot_store().await?.info(part.object(token)).await {
            Ok(info) if info.deleted => Ok(None),
            Ok(info) => Ok(SnapshotInfo::from_metadata(&info.metadata)),
            Err(error) if error.kind() == InfoErrorKind::NotFound => Ok(None),
            Err(error) => Err(LogError::unavailable("looking for a snapshot", error)),
        }
    }

    /// Reads a snapshot object. One that cannot be read back whole is [`LogError::Malformed`]; it can
    /// always be made anew from the log.
    pub async fn read_snapshot(
        &self,
        token: &Token,
        part: SnapshotPart,
    ) -> Result<Option<Vec<u8>>, LogError> {
        const WHAT: &str = "reading a snapshot";
        let mut object = match self.snapshot_store().await?.get(part.object(token)).await {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::unavailable(WHAT, error)),
        };
        let mut packed = Vec::with_capacity(object.info.size);
        let reading = object.read_to_end(&mut packed);
        match tokio::time::timeout(self.settings.request_timeout, reading).await {
            Err(_) => return Err(LogError::unavailable(WHAT, "timed out")),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(LogError::malformed(WHAT, error));
            }
            Ok(Err(error)) => return Err(LogError::unavailable(WHAT, error)),
            Ok(Ok(_)) => {}
        }
        blocking(WHAT, move || {
            zstd::bulk::Decompressor::upper_bound(&packed)
                .filter(|bytes| *bytes <= SNAPSHOT_BYTES_MAX)
                .ok_or_else(|| std::io::Error::other("not zstd, or larger than any snapshot"))
                .and_then(|bytes| zstd::bulk::decompress(&packed, bytes))
        })
        .await
        .map(Some)
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
        let packed = blocking(WHAT, move || zstd::bulk::compress(&bytes, COMPRESSION_LEVEL)).await?;
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
