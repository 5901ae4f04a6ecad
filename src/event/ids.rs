//! The keys: partitions and their subject tokens, slots, event ids, draft keys.
//!
//! Newtypes, parsed once where they come in, so that nothing further in has to check them again.

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The longest partition name, in bytes of UTF-8.
pub const PARTITION_BYTES_MAX: usize = 256;
/// The longest partition name that is its own subject token, in bytes.
const PLAIN_TOKEN_BYTES_MAX: usize = 64;

/// Why a name was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The partition's name has more than [`PARTITION_BYTES_MAX`] bytes.
    #[error("a partition name has at most {PARTITION_BYTES_MAX} bytes, this one has {0}")]
    PartitionTooLong(usize),
    /// The client id or draft id is empty.
    #[error("must not be empty")]
    Empty,
    /// The client id or draft id is too long.
    #[error("has at most {max} bytes, this one has {len}")]
    TooLong {
        /// The bytes it has.
        len: usize,
        /// The bytes it may have.
        max: usize,
    },
    /// The token is not one that [`PartitionKey::token`] makes.
    #[error("{0:?} is no partition token")]
    NotAToken(String),
}

/// A partition: the unit of order, validation and state. Any Unicode string of at most 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartitionKey(Arc<str>);

impl PartitionKey {
    /// Takes a name. Fails when it is longer than [`PARTITION_BYTES_MAX`].
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, KeyError> {
        let name = name.into();
        if name.len() > PARTITION_BYTES_MAX {
            return Err(KeyError::PartitionTooLong(name.len()));
        }
        Ok(Self(name))
    }

    /// The name as the client gave it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one subject token of this partition: the name itself where it is plain, else `~` and its
    /// base64url. A plain name never starts with `~`, so the two kinds cannot collide.
    pub fn token(&self) -> Token {
        if is_plain(&self.0) {
            Token(self.0.clone())
        } else {
            Token(format!("~{}", URL_SAFE_NO_PAD.encode(self.0.as_bytes())).into())
        }
    }

    /// The slot of this partition among `slots`: FNV-1a of the name, so that it depends on nothing but
    /// the name and the number of slots, in every version and on every machine.
    pub fn slot(&self, slots: u16) -> Slot {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        for byte in self.0.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // FNV's low bits are weak for short names; fold the high half in.
        let hash = hash ^ (hash >> 32);
        Slot((hash % u64::from(slots.max(1))) as u16)
    }
}

impl TryFrom<String> for PartitionKey {
    type Error = KeyError;
    fn try_from(name: String) -> Result<Self, KeyError> {
        Self::new(name)
    }
}

impl From<PartitionKey> for String {
    fn from(key: PartitionKey) -> String {
        key.0.as_ref().to_owned()
    }
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a name can stand as it is where NATS takes names apart or forbids characters: in one part of a subject,
/// in a key.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= PLAIN_TOKEN_BYTES_MAX
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// A partition as one token of a NATS subject. Made by [`PartitionKey::token`], read back by
/// [`Token::parse`]: always safe to put into a subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(Arc<str>);

impl Token {
    /// Reads a token out of a subject, and the partition that it stands for.
    pub fn parse(token: &str) -> Result<(Self, PartitionKey), KeyError> {
        let wrong = || KeyError::NotAToken(token.to_owned());
        let key = match token.strip_prefix('~') {
            None => PartitionKey::new(token)?,
            Some(encoded) => {
                let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| wrong())?;
                PartitionKey::new(String::from_utf8(bytes).map_err(|_| wrong())?)?
            }
        };
        // One partition, one token: a plain name in base64 clothes is refused.
        let canonical = key.token();
        if canonical.as_str() != token {
            return Err(wrong());
        }
        Ok((canonical, key))
    }

    /// The token's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a validator owns: partitions are hashed onto a fixed number of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a committed event: its sequence number in COMMITTED. Strictly increasing within a
/// partition, with gaps where other partitions' events lie; 0 stands for 'before the first'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct EventId(pub u64);

impl EventId {
    /// Before the first event.
    pub const NONE: EventId = EventId(0);
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The longest client id and draft id, in bytes.
const ID_BYTES_MAX: usize = 256;

/// A client's own name for itself: 1 to 256 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(Arc<str>);

impl ClientId {
    /// Takes a client id of 1 to 256 bytes.
    pub fn new(id: impl Into<Arc<str>>) -> Result<Self, KeyError> {
        let id = id.into();
        check_id(&id)?;
        Ok(Self(id))
    }

    /// The client id of what the server itself commits.
    pub fn server() -> Self {
        Self("server".into())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClientId {
    type Error = KeyError;
    fn try_from(id: String) -> Result<Self, KeyError> {
        Self::new(id)
    }
}

impl From<ClientId> for String {
    fn from(id: ClientId) -> String {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Checks a client id or draft id: 1 to 256 bytes.
pub(crate) fn check_id(id: &str) -> Result<(), KeyError> {
    match id.len() {
        0 => Err(KeyError::Empty),
        len if len > ID_BYTES_MAX => Err(KeyError::TooLong { len, max: ID_BYTES_MAX }),
        _ => Ok(()),
    }
}

/// What makes a draft the same draft, within its partition: the first 128 bits of a SHA-256 over the
/// dialect, in the classic dialect the client id (two clients may both call a draft `draft-1`), and the
/// draft id. A digest, because a partition's index of them is kept for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DraftKey(pub [u8; 16]);

impl DraftKey {
    /// The key of a classic draft.
    pub fn classic(client: &str, draft_id: &str) -> Self {
        Self::digest(b"classic", &[client, draft_id])
    }

    /// The key of a v1 event: its id alone, whoever sends it.
    pub fn v1(id: &str) -> Self {
        Self::digest(b"v1", &[id])
    }

    /// The key of a mark, which no client's draft has.
    pub fn mark(id: &str) -> Self {
        Self::digest(b"mark", &[id])
    }

    fn digest(dialect: &[u8], parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        hash.update(dialect);
        for part in parts {
            // The length first: ("ab", "c") is not ("a", "bc").
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        Self(key)
    }
}

/// What makes two drafts under one key the same content: the first 64 bits of the SHA-256 of the
/// canonical form. Only who holds the draft key could profit from a collision, and would fool himself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentHash(pub u64);

impl ContentHash {
    /// The hash of a canonical form.
    pub fn of(canonical: &[u8]) -> Self {
        let digest = Sha256::digest(canonical);
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        Self(u64::from_be_bytes(first))
    }
}

impl TryFrom<String> for ContentHash {
    type Error = std::num::ParseIntError;
    fn try_from(hex: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&hex, 16).map(Self)
    }
}

impl From<ContentHash> for String {
    fn from(hash: ContentHash) -> String {
        format!("{:016x}", hash.0)
    }
}
