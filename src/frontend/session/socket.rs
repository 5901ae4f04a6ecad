//! A client's socket: notices out, as long as they get on; frames in.

use std::borrow::Cow;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::told::Told;
use crate::frontend::admission::memory::{Account, Hold};
use crate::frontend::metrics;
use crate::frontend::net::Stream;
use crate::frontend::settings::FrontendSettings;
use crate::frontend::websocket::{EncodedFrames, Message, ReadError, WebSocket};
use crate::protocol::{CloseCode, Details, Dialect, ErrorCode, Header, Notice};
use crate::util::backoff::chance;
use crate::util::time;

/// Why a session ends.
#[derive(Debug)]
pub(crate) enum End {
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
pub(crate) enum Incoming {
    /// A text frame.
    Text(String),
    /// A binary frame of so many bytes.
    Binary(usize),
    /// A ping or pong.
    PingPong,
}

impl Incoming {
    /// Its length.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Incoming::Text(text) => text.len(),
            Incoming::Binary(bytes) => *bytes,
            Incoming::PingPong => 0,
        }
    }
}

/// A client's socket; or what stands for it in one exchange of plain HTTP, where nothing comes in and what is told last
/// is the answer.
pub(crate) struct Socket {
    socket: Option<WebSocket<Stream>>,
    told: Option<Box<Told>>,
    dialect: Option<Dialect>,
    connection: u64,
    messages: u64,
    stall: Duration,
    retry_after: Duration,
    /// Counts what the client does not read.
    output: Option<Hold>,
    /// Nothing more can be read.
    deaf: bool,
    /// The client has left: nothing more is written.
    departed: bool,
}

impl Socket {
    pub(crate) fn new(socket: WebSocket<Stream>, connection: u64, settings: &FrontendSettings) -> Self {
        Self { socket: Some(socket), ..Self::of_exchange(connection, settings) }
    }

    /// What stands for a socket in one exchange of plain HTTP.
    pub(crate) fn of_exchange(connection: u64, settings: &FrontendSettings) -> Self {
        Self {
            socket: None,
            told: None,
            dialect: None,
            connection,
            messages: 0,
            stall: Duration::from_millis(settings.write_stall_ms_max),
            retry_after: Duration::from_millis(settings.retry_after_ms),
            output: None,
            deaf: false,
            departed: false,
        }
    }

    /// The answer of an exchange, if there is one.
    pub(crate) fn take_told(&mut self) -> Option<Told> {
        self.told.take().map(|told| *told)
    }

    /// Whether an exchange has its answer.
    pub(crate) fn has_told(&self) -> bool {
        self.told.is_some()
    }

    /// From now on a message may have so many bytes.
    pub(crate) fn allow(&mut self, bytes_max: usize) {
        if let Some(socket) = &mut self.socket {
            socket.allow(bytes_max);
        }
    }

    /// Has what is read and written be counted.
    pub(crate) fn count_on(&mut self, account: &Arc<Account>) {
        if let Some(socket) = &mut self.socket {
            socket.count_input(account.hold());
        }
        self.output = Some(account.hold());
    }

    /// The client has left: answers its close, and drops whatever is still to be sent to it. Waits at most so long.
    pub(crate) async fn depart(&mut self, wait: Duration) {
        self.departed = true;
        if let Some(socket) = &mut self.socket {
            // Whether it still reads the answer is its own affair.
            let _ = timeout(wait, socket.flush()).await;
        }
    }

    /// The dialect that the client speaks.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect.unwrap_or_default()
    }

    /// Takes the client's first frame for what it speaks. A frame that says nothing of that decides nothing.
    pub(crate) fn detect_dialect(&mut self, text: &str) {
        self.dialect = self.dialect.or_else(|| Dialect::of_first_frame(text));
    }

    /// Answers a message with an error after which the connection is closed.
    pub(crate) async fn error_and_close(
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
    pub(crate) async fn error(
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
        let details = wait_ms.map(|wait_ms| Details { retry_after_ms: Some(wait_ms), ..Details::default() });
        self.send(reply_to, &Notice::Error { code, message, details }).await
    }

    /// When to try again what did not work just now, in milliseconds: by chance, so that not all come at once.
    pub(crate) fn retry_after_ms(&self) -> u64 {
        self.retry_after.mul_f64(1.0 + chance()).as_millis() as u64
    }

    /// The next frame. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Incoming, End> {
        let Some(socket) = &mut self.socket else { return pending().await };
        let incoming = match socket.next().await {
            Ok(Message::Text(text)) => Incoming::Text(text),
            Ok(Message::Binary(bytes)) => Incoming::Binary(bytes),
            Ok(Message::PingPong) => return Ok(Incoming::PingPong),
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
    pub(crate) async fn send(&mut self, reply_to: Option<&str>, notice: &Notice<'_>) -> Result<(), End> {
        if let Notice::Error { code, .. } = notice {
            metrics::count_by(metrics::ERRORS, "code", code.as_str());
        }
        let Some(socket) = &mut self.socket else {
            self.told = Told::of(notice).map(Box::new).or(self.told.take());
            return Ok(());
        };
        self.messages += 1;
        let id = format!("s{}-{}", self.connection, self.messages);
        let header = Header { id: &id, timestamp_ms: time::now_ms(), reply_to };
        let frame = self.dialect.unwrap_or_default().encode(&header, notice);
        if self.departed {
            return Ok(());
        }
        metrics::hot().frames_out.increment(1);
        if socket.feed_text(frame) { self.write_out(false).await } else { Ok(()) }
    }

    /// Writes so many frames that were encoded before; they leave with the next [`Socket::flush`].
    pub(crate) async fn send_encoded(&mut self, wire: EncodedFrames, frames: usize) -> Result<(), End> {
        let Some(socket) = self.socket.as_mut().filter(|_| !self.departed) else { return Ok(()) };
        metrics::hot().frames_out.increment(frames as u64);
        if socket.feed(wire) { self.write_out(false).await } else { Ok(()) }
    }

    /// Asks for a sign of life.
    pub(crate) async fn ping(&mut self) -> Result<(), End> {
        self.write(EncodedFrames::ping()).await
    }

    /// Sends off what was written.
    pub(crate) async fn flush(&mut self) -> Result<(), End> {
        if self.departed || !self.socket.as_ref().is_some_and(WebSocket::has_output) {
            return Ok(());
        }
        self.write_out(true).await
    }

    /// Writes what there is, and with `all` has nothing left anywhere. A client that takes nothing for the time of a
    /// stall is given up; one that takes something, however slowly, is not. Most writes are done at once, and those
    /// need no timer.
    async fn write_out(&mut self, all: bool) -> Result<(), End> {
        let Self { socket: Some(socket), output, stall, .. } = self else { return Ok(()) };
        let written = socket.written_bytes();
        {
            let mut write = std::pin::pin!(write_once(socket, all));
            let at_once = poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await;
            if let Poll::Ready(written) = at_once {
                return written.map_err(|_| End::Gone);
            }
        }
        let mut written = written.max(socket.written_bytes());
        loop {
            if let Some(output) = output {
                output.set(socket.output_bytes());
            }
            let done = timeout(*stall, write_once(socket, all)).await;
            let before = std::mem::replace(&mut written, socket.written_bytes());
            let end = match done {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(End::Gone),
                Err(_) if written > before => continue,
                Err(_) => Err(End::Stalled),
            };
            if let Some(output) = output {
                output.set(0);
            }
            return end;
        }
    }

    /// Ends the connection, and gives the client a little time to read why.
    pub(crate) async fn close(mut self, end: End, linger: Duration) -> &'static str {
        let (error, close) = match end {
            End::Gone => {
                if let Some(socket) = &mut self.socket {
                    // The answer to the client's own close frame.
                    let _ = timeout(linger, async {
                        socket.flush().await?;
                        socket.shutdown().await
                    })
                    .await;
                }
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
            self.write(EncodedFrames::close(close.as_u16(), close.as_str())).await?;
            self.flush().await
        };
        if sent.await.is_err() {
            return close.as_str();
        }
        // A socket closed on unread input is reset, and takes our last words with it.
        let until = Instant::now() + linger;
        let Some(socket) = &mut self.socket else { return close.as_str() };
        if !self.deaf {
            while let Ok(Ok(message)) = timeout_at(until, socket.next()).await {
                if message == Message::Close {
                    break;
                }
            }
        }
        let _ = timeout_at(until, socket.shutdown()).await;
        while let Ok(true) = timeout_at(until, socket.discard()).await {}
        close.as_str()
    }

    async fn write(&mut self, frame: EncodedFrames) -> Result<(), End> {
        self.send_encoded(frame, 1).await
    }
}

async fn write_once(socket: &mut WebSocket<Stream>, all: bool) -> std::io::Result<()> {
    if all { socket.flush().await } else { socket.drain().await }
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

/// Says that this version of the dialect is not spoken here.
pub(crate) async fn unsupported_version(socket: &mut Socket, id: Option<&str>) -> End {
    let code = ErrorCode::ProtocolVersionUnsupported;
    socket.error_and_close(id, code, "Unsupported protocol version", CloseCode::Policy).await
}
