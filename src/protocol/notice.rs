//! What a client may be told.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::{EventId, FieldError, Reason};

/// What every server message carries besides what it says.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// The message's own id, unique on its connection.
    pub id: &'a str,
    /// Unix milliseconds.
    pub timestamp_ms: u64,
    /// The id of the client message that this answers, where it answers one.
    pub reply_to: Option<&'a str>,
}

/// What a client may be told; events come as their encoded form, since that is made once for all.
#[derive(Debug)]
pub enum Notice<'a> {
    /// It is let in.
    Connected {
        /// The frontend.
        server_id: &'a str,
        /// The client.
        client_id: &'a str,
        /// The partition.
        partition: &'a str,
        /// The partition's last event.
        head: EventId,
        /// How many events the partition has behind its latest snapshot.
        since_snapshot: u64,
        /// The state at `head`, where the client has nothing yet.
        initial_state: Option<StateForm<'a>>,
        /// How often the server looks for a sign of life, in milliseconds.
        heartbeat_interval_ms: u64,
    },
    /// It is let in, and names its partitions: what it is told of each comes as [`Notice::Subscribed`].
    ConnectedToMany {
        /// The frontend.
        server_id: &'a str,
        /// The partitions that it subscribes to with that.
        partitions: &'a [&'a str],
        /// How often the server looks for a sign of life, in milliseconds.
        heartbeat_interval_ms: u64,
    },
    /// It gets a partition's events from now on.
    Subscribed {
        /// The partition.
        partition: &'a str,
        /// The partition's last event.
        head: EventId,
        /// How many events the partition has after its latest snapshot.
        since_snapshot: u64,
        /// The state at `head`, if the client has nothing yet.
        initial_state: Option<StateForm<'a>>,
    },
    /// It gets no more of a partition.
    Unsubscribed {
        /// The partition.
        partition: &'a str,
        /// The last event that it was sent, or that it had when it came.
        last_event_id: EventId,
        /// Why, if it did not ask for that.
        why: Option<(ErrorCode, &'a str)>,
    },
    /// A draft is in the log.
    Accepted {
        /// The draft.
        draft_id: &'a str,
        /// Its place.
        event_id: EventId,
        /// The event, encoded in this dialect.
        event: &'a str,
    },
    /// A draft is not in the log, and will not be unless it is sent again.
    Rejected {
        /// The draft.
        draft_id: &'a str,
        /// Why.
        reason: Reason,
        /// All that was found wrong with it.
        errors: &'a [FieldError],
        /// When another try makes sense, where that is known.
        retry_after_ms: Option<u64>,
    },
    /// What became of a batch.
    BatchResult {
        /// An entry per item, in order.
        items: &'a [ItemResult<'a>],
    },
    /// A page of the log.
    SyncPage {
        /// The partition.
        partition: &'a str,
        /// Where it begins, if it begins from a snapshot.
        snapshot: Option<Snapshot<'a>>,
        /// The events, encoded in this dialect.
        events: &'a [&'a str],
        /// Where the next page begins: the last event of this one, or on the last page the end of the cycle.
        next: EventId,
        /// The end of the cycle.
        head: EventId,
        /// Whether to ask again.
        has_more: bool,
        /// Whether the connection names its partitions.
        of_many: bool,
    },
    /// A part of a state that is too large for one frame.
    StatePart {
        /// The partition.
        partition: &'a str,
        /// The last event in the state.
        event_id: EventId,
        /// The how-manieth part it is, from 1.
        part: usize,
        /// How many there are.
        parts: usize,
        /// Its text, as a JSON string.
        text: &'a str,
    },
    /// A sign of life.
    Heartbeat,
    /// The fresh token was taken.
    TokenRefreshed {
        /// When it expires, in Unix seconds; `None` if it does not.
        expires_at: Option<u64>,
    },
    /// Something went wrong.
    Error {
        /// What, for a program.
        code: ErrorCode,
        /// What, for a person.
        message: &'a str,
        /// More for a program, where there is more.
        details: Option<Details<'a>>,
    },
}

/// More about an error, for a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details<'a> {
    /// The draft that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draft_id: Option<&'a str>,
    /// When another try makes sense, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// The partition that it is about, on a connection that names its partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<&'a str>,
}

/// What became of one item of a batch. Ids are JSON as the client wrote it.
#[derive(Debug, Clone, Copy)]
pub enum ItemResult<'a> {
    /// It is in the log, now or since an earlier submission.
    Committed {
        /// The item.
        id: &'a RawValue,
        /// Its place.
        event_id: EventId,
        /// When it was committed, in Unix milliseconds.
        timestamp: u64,
    },
    /// It is not in the log.
    Rejected {
        /// The item.
        id: &'a RawValue,
        /// Why, as the dialect calls it.
        reason: &'static str,
        /// All that was found wrong with it.
        errors: &'a [FieldError],
    },
    /// It stood behind a rejected one.
    NotProcessed {
        /// The item.
        id: &'a RawValue,
        /// The rejected one.
        blocked_by: &'a RawValue,
    },
}

/// A state, and the event up to which it is folded.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    /// The state.
    pub state: StateForm<'a>,
    /// The event.
    pub event_id: EventId,
}

/// How a state is told.
#[derive(Debug, Clone, Copy)]
pub enum StateForm<'a> {
    /// Here it is.
    Whole(&'a RawValue),
    /// It comes behind, as so many [`Notice::StatePart`]s, of so many bytes together.
    InParts {
        /// How many.
        parts: usize,
        /// The bytes.
        bytes: usize,
    },
}

/// The codes of [`Notice::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The frame was not understood, or came out of turn.
    BadRequest,
    /// The token is not good, or no longer.
    AuthFailed,
    /// Not with this token, or not on this connection.
    Forbidden,
    /// Too much in too short a time.
    RateLimited,
    /// The frame is too large or too deep.
    MessageTooLarge,
    /// The client has seen events that the log does not have.
    CursorBeyondLog,
    /// Not just now.
    Unavailable,
    /// A defect of ours.
    ServerError,
    /// A version of the v1 dialect that we do not speak.
    ProtocolVersionUnsupported,
}

impl ErrorCode {
    /// The code's name on the wire, the same in every dialect that has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::AuthFailed => "auth_failed",
            Self::Forbidden => "forbidden",
            Self::RateLimited => "rate_limited",
            Self::MessageTooLarge => "message_too_large",
            Self::CursorBeyondLog => "cursor_beyond_log",
            Self::Unavailable => "unavailable",
            Self::ServerError => "server_error",
            Self::ProtocolVersionUnsupported => "protocolVersion_unsupported",
        }
    }
}

/// Why the server closes a connection, as WebSocket tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// Nothing is wrong.
    Normal,
    /// This frontend goes away, or took the client for gone.
    GoingAway,
    /// What came is no WebSocket.
    Protocol,
    /// A text frame was not UTF-8.
    NotUtf8,
    /// Auth, or a limit on behaviour.
    Policy,
    /// A frame over the limit.
    TooLarge,
    /// A defect of ours.
    Internal,
    /// Overload: try again later.
    TryAgainLater,
}

impl CloseCode {
    /// The number on the wire.
    pub fn as_u16(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
            Self::Policy => 1008,
            Self::TooLarge => 1009,
            Self::Internal => 1011,
            Self::TryAgainLater => 1013,
        }
    }

    /// The name by which metrics and logs call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::GoingAway => "going_away",
            Self::Protocol => "protocol_error",
            Self::NotUtf8 => "not_utf8",
            Self::Policy => "policy",
            Self::TooLarge => "too_large",
            Self::Internal => "internal",
            Self::TryAgainLater => "try_again_later",
        }
    }
}

/// A broadcast frame, and where in it the event itself stands.
#[derive(Debug, Clone)]
pub struct EncodedEvent {
    /// The frame.
    pub frame: String,
    /// The event's first byte in the frame.
    pub event_start: usize,
    /// The byte behind the event's last.
    pub event_end: usize,
}
