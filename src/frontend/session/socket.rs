//! A client's socket: notices out, each write within its deadline; frames in.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::frontend::{metrics, now_ms};
use crate::protocol::{CloseCode, Dialect, ErrorCode, Header, Notice};

/// Why a session ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client closed the connection, or it broke.
    Gone,
    /// The client does not read what it is sent.
    Stalled,
    /// We close it; why was said already.
    Told(CloseCode),
    /// We close it: with an `error`, and a close code.
    Close(ErrorCode, Cow<'static, str>, CloseCode),
}

/// What came in.
pub(super) enum Incoming {
    /// A text frame.
    Text(Utf8Bytes),
    /// A binary frame.
    Binary,
    /// A ping or pong.
    Alive,
}

/// A client's socket.
pub(super) struct Socket {
    socket: WebSocket,
    dialect: Option<Dialect>,
    connection: u64,
    messages: u64,
    stall: Duration,
    dirty: bool,
    /// Nothing more can be read.
    deaf: bool,
}

impl Socket {
    pub(super) fn new(socket: WebSocket, connection: u64, stall: Duration) -> Self {
        Self { socket, dialect: None, connection, messages: 0, stall, dirty: false, deaf: false }
    }

    /// The dialect that the client speaks.
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect.unwrap_or_default()
    }

    /// Takes the client's first frame for what it speaks. A frame that says nothing of that decides nothing.
    pub(super) fn listen_to(&mut self, text: &str) {
        self.dialect = self.dialect.or_else(|| Dialect::of_first_frame(text));
    }

    /// Answers a message with an error after which the connection is closed.
    pub(super) async fn last_word(
        &mut self,
        reply_to: Option<&str>,
        code: ErrorCode,
        message: &str,
        close: CloseCode,
    ) -> End {
        match self.send(reply_to, &Notice::Error { code, message, details: None }).await {
            Ok(()) => End::Told(close),
            Err(end) => end,
        }
    }

    /// The next frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Incoming, End> {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => {
                metrics::hot().frames_in.increment(1);
                Ok(Incoming::Text(text))
            }
            Some(Ok(Message::Binary(_))) => {
                metrics::hot().frames_in.increment(1);
                Ok(Incoming::Binary)
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Incoming::Alive),
            Some(Ok(Message::Close(_))) | None => Err(End::Gone),
            Some(Err(error)) => {
                self.deaf = true;
                Err(broken(&error.to_string()))
            }
        }
    }

    /// Writes a notice; it leaves with the next [`Socket::flush`].
    pub(super) async fn send(&mut self, reply_to: Option<&str>, notice: &Notice<'_>) -> Result<(), End> {
        if let Notice::Error { code, .. } = notice {
            metrics::count_by(metrics::ERRORS, "code", code.as_str());
        }
        self.messages += 1;
        let id = format!("s{}-{}", self.connection, self.messages);
        let header = Header { id: &id, timestamp_ms: now_ms(), reply_to };
        let frame = self.dialect().encode(&header, notice);
        self.write(Message::Text(frame.into())).await
    }

    /// Writes a frame that was encoded before; it leaves with the next [`Socket::flush`].
    pub(super) async fn send_encoded(&mut self, frame: Utf8Bytes) -> Result<(), End> {
        self.write(Message::Text(frame)).await
    }

    /// Asks for a sign of life.
    pub(super) async fn ping(&mut self) -> Result<(), End> {
        self.write(Message::Ping(Bytes::new())).await
    }

    /// Sends off what was written.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if !self.dirty {
            return Ok(());
        }
        self.dirty = false;
        settle(timeout(self.stall, self.socket.flush()).await)
    }

    /// Ends the connection, and gives the client a little time to read why.
    pub(super) async fn close(mut self, end: End, linger: Duration) -> &'static str {
        let (error, close) = match end {
            End::Gone => {
                // The answer to the client's own close frame.
                let _ = timeout(linger, self.socket.flush()).await;
                return "gone";
            }
            End::Told(close) => (None, close),
            End::Stalled => {
                let why = Cow::Borrowed("frames are not read fast enough");
                (Some((ErrorCode::Unavailable, why)), CloseCode::TryAgainLater)
            }
            End::Close(code, message, close) => (Some((code, message)), close),
        };
        metrics::count_by(metrics::CLOSED, "code", close.as_str());
        self.stall = self.stall.min(linger);
        let frame = CloseFrame { code: close.as_u16(), reason: close.as_str().into() };
        let sent = async {
            if let Some((code, message)) = &error {
                self.send(None, &Notice::Error { code: *code, message, details: None }).await?;
            }
            self.write(Message::Close(Some(frame))).await?;
            self.flush().await
        };
        if sent.await.is_err() {
            return close.as_str();
        }
        // A socket closed on unread input is reset, and takes our last words with it.
        let until = Instant::now() + linger;
        if self.deaf {
            sleep_until(until).await;
        }
        while let Ok(Some(Ok(_))) = timeout_at(until, self.socket.next()).await {}
        close.as_str()
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        metrics::hot().frames_out.increment(1);
        self.dirty = true;
        settle(timeout(self.stall, self.socket.feed(message)).await)
    }
}

fn settle(written: Result<Result<(), axum::Error>, tokio::time::error::Elapsed>) -> Result<(), End> {
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(End::Stalled),
    }
}

/// What a read error means. The WebSocket library's errors come through `axum` as text only; the tests of
/// the protocol's limits hold this in place.
fn broken(error: &str) -> End {
    if error.contains("too long") {
        too_large()
    } else if error.contains("UTF-8") || error.contains("utf-8") {
        End::Close(ErrorCode::BadRequest, "a text frame is not UTF-8".into(), CloseCode::NotUtf8)
    } else {
        End::Gone
    }
}

/// A frame over the limit.
pub(super) fn too_large() -> End {
    End::Close(ErrorCode::MessageTooLarge, "the frame is larger than allowed".into(), CloseCode::TooLarge)
}
