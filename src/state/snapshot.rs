//! The two parts of a snapshot as bytes: the state, and the index of draft keys.
//!
//! They are separate because a frontend needs only the first, and because each is complete in itself: they
//! need not be of the same event. Both are a header, a body and a SHA-256 over all before it, so whatever
//! is cut off, flipped or newer than this program is told apart and never taken for a state.

use sha2::{Digest, Sha256};

use crate::event::{ContentHash, DraftKey, EventId, RulesInForceId, RulesVersion};
use crate::json::value::CanonicalError;

/// The version of both forms.
const VERSION: u32 = 1;
/// That of a state under an application's rules, which are named in front of the rest. An earlier program does not
/// read it, and could not fold on from it.
const APP_VERSION: u32 = 2;
const STATE_MAGIC: [u8; 4] = *b"InsS";
const INDEX_MAGIC: [u8; 4] = *b"InsI";
const HASH_BYTES: usize = 32;
const INDEX_HEAD_BYTES: usize = 24;
const ENTRY_BYTES: usize = 32;

/// Why a snapshot was not read, or not made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not even the beginning of one.
    #[error("this is no snapshot part of the kind expected")]
    NotASnapshot,
    /// It ends too soon.
    #[error("the snapshot is cut off after {0} bytes")]
    Truncated(usize),
    /// Its bytes are not those written.
    #[error("the snapshot is damaged: its SHA-256 does not match")]
    Corrupted,
    /// A later program wrote it.
    #[error("the snapshot has format version {0}; this program reads {APP_VERSION} at most")]
    FutureVersion(u32),
    /// The state in it is not the JSON of a state.
    #[error("the state in the snapshot cannot be read: {0}")]
    Json(#[from] CanonicalError),
    /// The state in it is not an object.
    #[error("the state in the snapshot is not an object")]
    NotAState,
    /// Staged events are in the document and not in the log.
    #[error("a snapshot cannot be made while events are staged")]
    Staged,
    /// The application's rules do not give the state.
    #[error(transparent)]
    App(#[from] super::AppError),
}

/// The state as of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePart {
    /// The event.
    pub event_id: EventId,
    /// How many events the partition has up to it.
    pub ordinal: u64,
    /// The bytes of their records.
    pub log_bytes: u64,
    /// The timestamp of the event.
    pub last_timestamp: u64,
    /// The application's rules that decided the last event that is no mark; `None` for the built-in ones.
    pub rules: Option<RulesInForceId>,
    /// The state's hash.
    pub sha256: [u8; 32],
    /// The state's canonical form.
    pub state: Vec<u8>,
}

/// A committed draft: its key, the event that it is, and what it says.
pub type IndexEntry = (DraftKey, EventId, ContentHash);

/// The index of draft keys as of an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexPart {
    /// The event.
    pub event_id: EventId,
    /// Every committed draft up to it, sorted by key.
    pub entries: Vec<IndexEntry>,
}

impl StatePart {
    /// The part as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let version = if self.rules.is_some() { APP_VERSION } else { VERSION };
        let mut out = begin(STATE_MAGIC, version, self.state.len() + 160);
        if let Some(RulesInForceId { activation, version }) = self.rules {
            out.extend_from_slice(&activation.to_le_bytes());
            out.extend_from_slice(&version.number.to_le_bytes());
            out.extend_from_slice(&version.hash);
        }
        for number in [self.event_id.0, self.ordinal, self.log_bytes, self.last_timestamp] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.sha256);
        out.extend_from_slice(&(self.state.len() as u64).to_le_bytes());
        // The state has its own hash; one over the head in front of it, and no byte is hashed twice.
        let digest = Sha256::digest(&out);
        out.extend_from_slice(&digest);
        out.extend_from_slice(&self.state);
        out
    }

    /// Reads the part, and verifies it.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let (mut reader, version) = Reader::begin(bytes, STATE_MAGIC, APP_VERSION)?;
        let rules = match version {
            APP_VERSION => Some(RulesInForceId {
                activation: reader.number()?,
                version: RulesVersion { number: reader.number()?, hash: reader.array()? },
            }),
            _ => None,
        };
        let (event_id, ordinal) = (EventId(reader.number()?), reader.number()?);
        let (log_bytes, last_timestamp) = (reader.number()?, reader.number()?);
        let sha256 = reader.array()?;
        let length = reader.number()?;
        reader.check_hash()?;
        let state = reader.rest(length)?;
        if Sha256::digest(state)[..] != sha256 {
            return Err(SnapshotError::Corrupted);
        }
        Ok(Self { event_id, ordinal, log_bytes, last_timestamp, rules, sha256, state: state.to_vec() })
    }
}

impl IndexPart {
    /// Enters the drafts of the events behind [`event_id`](Self::event_id), up to and including `upto`. Those of
    /// earlier events are passed over.
    pub fn extend(&mut self, upto: EventId, drafts: impl IntoIterator<Item = IndexEntry>) {
        let (from, known) = (self.event_id, self.entries.len());
        self.entries.extend(drafts.into_iter().filter(|(_, id, _)| *id > from));
        self.event_id = self.event_id.max(upto);
        if let Some(new) = self.entries.get_mut(known..) {
            new.sort_unstable_by_key(|(key, ..)| *key);
        }
        // Two sorted runs: this sort merges them.
        self.entries.sort_by_key(|(key, ..)| *key);
    }

    /// The most drafts of an index of so many bytes.
    pub fn drafts_in(bytes: usize) -> usize {
        bytes.saturating_sub(INDEX_HEAD_BYTES + HASH_BYTES) / ENTRY_BYTES
    }

    /// Takes out all but the first `count` events; gives an index of those, if there are any.
    pub fn split_off(&mut self, count: usize) -> Option<Self> {
        if self.entries.len() <= count {
            return None;
        }
        let mut ids: Vec<EventId> = self.entries.iter().map(|(_, id, _)| *id).collect();
        let last = match count.checked_sub(1) {
            Some(last) => *ids.select_nth_unstable(last).1,
            None => EventId::NONE,
        };
        let (first, rest) = std::mem::take(&mut self.entries).into_iter().partition(|(_, id, _)| *id <= last);
        self.entries = first;
        let event_id = std::mem::replace(&mut self.event_id, last);
        Some(Self { event_id, entries: rest })
    }

    /// The part as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = begin(INDEX_MAGIC, VERSION, self.entries.len() * 32 + 64);
        out.extend_from_slice(&self.event_id.0.to_le_bytes());
        out.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        for (key, id, hash) in &self.entries {
            out.extend_from_slice(&key.0);
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&hash.0.to_le_bytes());
        }
        let digest = Sha256::digest(&out);
        out.extend_from_slice(&digest);
        out
    }

    /// Reads the part, and verifies it.
    pub fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let (mut reader, _) = Reader::begin(bytes, INDEX_MAGIC, VERSION)?;
        let event_id = EventId(reader.number()?);
        let count = reader.number()?;
        let mut entries = Vec::new();
        for _ in 0..count {
            // Grows with what is there, not with what the count claims.
            let key = DraftKey(reader.array()?);
            entries.push((key, EventId(reader.number()?), ContentHash(reader.number()?)));
        }
        reader.check_hash()?;
        reader.rest(0)?;
        Ok(Self { event_id, entries })
    }
}

fn begin(magic: [u8; 4], version: u32, capacity: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.extend_from_slice(&magic);
    out.extend_from_slice(&version.to_le_bytes());
    out
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// The reader behind the version, which is at most `version_max`.
    fn begin(bytes: &'a [u8], magic: [u8; 4], version_max: u32) -> Result<(Self, u32), SnapshotError> {
        let mut reader = Self { bytes, at: 0 };
        if reader.array()? != magic {
            return Err(SnapshotError::NotASnapshot);
        }
        match u32::from_le_bytes(reader.array()?) {
            version @ 1.. if version <= version_max => Ok((reader, version)),
            0 => Err(SnapshotError::Corrupted),
            later => Err(SnapshotError::FutureVersion(later)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let rest = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        let taken = *rest.ok_or(SnapshotError::Truncated(self.bytes.len()))?;
        self.at += N;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, SnapshotError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads the hash of all that was read so far.
    fn check_hash(&mut self) -> Result<(), SnapshotError> {
        let read = self.bytes.get(..self.at).unwrap_or_default();
        let found: [u8; HASH_BYTES] = self.array()?;
        if Sha256::digest(read)[..] == found { Ok(()) } else { Err(SnapshotError::Corrupted) }
    }

    /// Takes what is left, which must be `length` bytes.
    fn rest(&mut self, length: u64) -> Result<&'a [u8], SnapshotError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match (rest.len() as u64).cmp(&length) {
            std::cmp::Ordering::Equal => Ok(rest),
            std::cmp::Ordering::Less => Err(SnapshotError::Truncated(self.bytes.len())),
            std::cmp::Ordering::Greater => Err(SnapshotError::Corrupted),
        }
    }
}
