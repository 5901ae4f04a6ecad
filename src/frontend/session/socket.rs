//! A client's socket: notices out, each write within its deadline; frames in.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use crate::frontend::edge::Stream;
use crate::frontend::metrics;
use crate::frontend::settings::FrontendSettings;
use crate::frontend::ws::{Message, ReadError, WebSocket, Wire};
use crate::protocol::{CloseCode, Dialect, ErrorCode, Header, Notice};
use crate::unix_time;

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
    Text(String),
    /// A binary frame of so many bytes.
    Binary(usize),
    /// A ping or pong.
    Alive,
}

/// A client's socket.
pub(super) struct Socket {
    socket: WebSocket<Stream>,
    dialect: Option<Dialect>,
    connection: u64,
    messages: u64,
    stall: Duration,
    retry_after: Duration,
    /// Nothing more can be read.
    deaf: bool,
}

impl Socket {
    pub(super) fn new(socket: WebSocket<Stream>, connection: u64, settings: &FrontendSettings) -> Self {
        Self {
            socket,
            dialect: None,
            connection,
            messages: 0,
            stall: Duration::from_millis(settings.write_stall_ms_max),
            retry_after: Duration::from_millis(settings.retry_after_ms),
            deaf: false,
        }
    }

    /// From now on a message may have so many bytes.
    pub(super) fn allow(&mut self, bytes_max: usize) {
        self.socket.allow(bytes_max);
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
        match self.error(reply_to, code, message, None).await {
            Ok(()) => End::Told(close),
            Err(end) => end,
        }
    }

    /// Answers with an error. Where another try makes sense, it says when: after `wait`, or where nobody knows,
    /// after a while.
    pub(super) async fn error(
        &mut self,
        reply_to: Option<&str>,
        code: ErrorCode,
        message: &str,
        wait: Option<Duration>,
    ) -> Result<(), End> {
        let wait_ms = match (wait, code) {
            (Some(wait), _) => Some(wait.as_millis() as u64 + 1),
            (None, ErrorCode::Unavailable | ErrorCode::RateLimited) => Some(self.retry_after_ms()),
            (None, _) => None,
        };
        let details = wait_ms.map(|wait_ms| json!({ "retryAfterMs": wait_ms }));
        self.send(reply_to, &Notice::Error { code, message, details: details.as_ref() }).await
    }

    /// When to try again what did not work just now, in milliseconds: by chance, so that not all come at once.
    pub(super) fn retry_after_ms(&self) -> u64 {
        self.retry_after.mul_f64(1.0 + rand::random::<f64>()).as_millis() as u64
    }

    /// The next frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Incoming, End> {
        let incoming = match self.socket.next().await {
            Ok(Message::Text(text)) => Incoming::Text(text),
            Ok(Message::Binary(bytes)) => Incoming::Binary(bytes),
            Ok(Message::Alive) => return Ok(Incoming::Alive),
            Ok(Message::Close) => return Err(End::Gone),
            Err(error) => {
                self.deaf = true;
                return Err(broken(error));
            }
        };
        metrics::hot().frames_in.increment(1);
        Ok(incoming)
    }

    /// Writes a notice; it leaves with the next [`Socket::flush`].
    pub(super) async fn send(&mut self, reply_to: Option<&str>, notice: &Notice<'_>) -> Result<(), End> {
        if let Notice::Error { code, .. } = notice {
            metrics::count_by(metrics::ERRORS, "code", code.as_str());
        }
        self.messages += 1;
        let id = format!("s{}-{}", self.connection, self.messages);
        let header = Header { id: &id, timestamp_ms: unix_time::now_ms(), reply_to };
        let frame = self.dialect().encode(&header, notice);
        self.write(Wire::text(&frame)).await
    }

    /// Writes so many frames that were encoded before; they leave with the next [`Socket::flush`].
    pub(super) async fn send_encoded(&mut self, wire: Wire, frames: usize) -> Result<(), End> {
        metrics::hot().frames_out.increment(frames as u64);
        in_time(self.stall, self.socket.feed(wire)).await
    }

    /// Asks for a sign of life.
    pub(super) async fn ping(&mut self) -> Result<(), End> {
        self.write(Wire::ping()).await
    }

    /// Sends off what was written.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if !self.socket.has_output() {
            return Ok(());
        }
        in_time(self.stall, self.socket.flush()).await
    }

    /// Ends the connection, and gives the client a little time to read why.
    pub(super) async fn close(mut self, end: End, linger: Duration) -> &'static str {
        let (error, close) = match end {
            End::Gone => {
                // The answer to the client's own close frame.
                let _ = timeout(linger, async {
                    self.socket.flush().await?;
                    self.socket.shutdown().await
                })
                .await;
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
        let sent = async {
            if let Some((code, message)) = &error {
                self.error(None, *code, message, None).await?;
            }
            self.write(Wire::close(close.as_u16(), close.as_str())).await?;
            self.flush().await
        };
        if sent.await.is_err() {
            return close.as_str();
        }
        // A socket closed on unread input is reset, and takes our last words with it.
        let until = Instant::now() + linger;
        if !self.deaf {
            while let Ok(Ok(message)) = timeout_at(until, self.socket.next()).await {
                if message == Message::Close {
                    break;
                }
            }
        }
        let _ = timeout_at(until, self.socket.shutdown()).await;
        while let Ok(true) = timeout_at(until, self.socket.discard()).await {}
        close.as_str()
    }

    async fn write(&mut self, frame: Wire) -> Result<(), End> {
        self.send_encoded(frame, 1).await
    }
}

/// Awaits a write for at most so long. Most are done at once, and those need no timer.
async fn in_time(stall: Duration, write: impl Future<Output = io::Result<()>>) -> Result<(), End> {
    let mut write = std::pin::pin!(write);
    let at_once = poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await;
    let written = match at_once {
        Poll::Ready(written) => written,
        Poll::Pending => timeout(stall, write).await.map_err(|_| End::Stalled)?,
    };
    written.map_err(|_| End::Gone)
}

/// What a read error means.
fn broken(error: ReadError) -> End {
    match error {
        ReadError::TooLarge => {
            let why = "the frame is larger than allowed";
            End::Close(ErrorCode::MessageTooLarge, why.into(), CloseCode::TooLarge)
        }
        ReadError::NotUtf8 => {
            End::Close(ErrorCode::BadRequest, "a text frame is not UTF-8".into(), CloseCode::NotUtf8)
        }
        ReadError::Protocol(why) => End::Close(ErrorCode::BadRequest, why.into(), CloseCode::Protocol),
        ReadError::Ended => End::Gone,
        ReadError::Io(error) => {
            debug!(%error, "a connection broke");
            End::Gone
        }
    }
}
