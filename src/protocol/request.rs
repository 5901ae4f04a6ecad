//! What a client may ask for.

use super::v1::SubmitItem;
use crate::event::{ClientId, Draft, EventId, FieldError, PartitionKey};

/// A frame as it was understood.
#[derive(Debug)]
pub struct Frame {
    /// The client's id of the message, to be repeated in the answer, where it has one.
    pub id: Option<String>,
    /// What it asks for.
    pub request: Request,
}

/// What a client may ask for.
#[derive(Debug)]
pub enum Request {
    /// To be let in; comes first.
    Connect(Connect),
    /// To commit an event.
    Submit(Box<Submit>),
    /// To commit several events as one unit of work.
    SubmitBatch(SubmitBatch),
    /// A stretch of the log.
    Sync(Sync),
    /// A partition, on a connection that names its partitions.
    Subscribe(Subscribe),
    /// No longer a partition.
    Unsubscribe {
        /// The partition.
        partition: PartitionKey,
    },
    /// A sign of life.
    Heartbeat,
    /// To go on under a fresh token.
    RefreshToken {
        /// The token.
        token: String,
    },
    /// Whatever it is, it is in a version of its dialect that we do not speak.
    UnsupportedVersion,
}

/// To be let in.
#[derive(Debug)]
pub struct Connect {
    /// Who the client says it is.
    pub client_id: ClientId,
    /// The partition that the connection is to be for, unless it names its partitions.
    pub partition: PartitionKey,
    /// The partitions that it begins with, if it names them: none, one or many. Then it subscribes to more, and names
    /// the partition in what it asks.
    pub partitions: Option<Vec<Subscribe>>,
    /// The client's token, where it comes in the message.
    pub token: Option<String>,
    /// The last event that the client has, where it has any.
    pub last_event_id: Option<EventId>,
    /// Whether it begins at the head and wants no state: it catches up by asking.
    pub live: bool,
    /// What it says of itself.
    pub about: About,
}

/// A partition, on a connection that names its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// The partition.
    pub partition: PartitionKey,
    /// The last event of it that the client has, if it has any.
    pub last_event_id: Option<EventId>,
}

/// What a client says of itself, which nothing depends on: for those who want to know what is out there. What is longer
/// than its bound is not kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Its version.
    pub version: Option<String>,
    /// Whatever else it says, as JSON text.
    pub metadata: Option<String>,
}

impl About {
    /// The most bytes of a version.
    pub const VERSION_BYTES_MAX: usize = 64;
    /// The most bytes of metadata.
    pub const METADATA_BYTES_MAX: usize = 1_024;

    /// What a client says, as far as it is kept.
    pub fn new(version: Option<String>, metadata: Option<&str>) -> Self {
        Self {
            version: version.filter(|version| version.len() <= Self::VERSION_BYTES_MAX),
            metadata: metadata.filter(|text| text.len() <= Self::METADATA_BYTES_MAX).map(str::to_owned),
        }
    }
}

/// To commit an event.
#[derive(Debug)]
pub struct Submit {
    /// The client's own name for the draft, of any length.
    pub draft_id: String,
    /// The partition that the client named, where it named one, and the draft; or what is wrong with it.
    pub draft: Result<(Option<PartitionKey>, Draft), FieldError>,
}

/// To commit several events as one unit of work.
#[derive(Debug)]
pub struct SubmitBatch {
    /// The items, in order; at least one.
    pub items: Vec<SubmitItem>,
}

/// A stretch of the log.
#[derive(Debug)]
pub struct Sync {
    /// The last event that the client has; without it the answer has the state.
    pub since: Option<EventId>,
    /// The partition that the client named, where it named one.
    pub partition: Option<PartitionKey>,
    /// The most events that it wants; the frontend clamps it.
    pub limit: Option<u64>,
    /// Whether the state is asked for besides the events.
    pub snapshot: bool,
}

/// Why a frame could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// It is nested deeper than a frame may be, elsewhere than in an event.
    TooDeep,
    /// It was not understood.
    Bad(BadRequest),
}

/// A frame that was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// The client's id of the message, where it could be read.
    pub reply_to: Option<String>,
    /// What is wrong with it, for a person.
    pub message: String,
}
