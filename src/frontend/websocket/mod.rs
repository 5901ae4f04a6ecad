//! WebSockets (RFC 6455), the server's side, made for many connections that are mostly silent and for frames
//! that go to many.
//!
//! A silent connection holds no buffer at all: what comes is read into one on the stack first, and what was
//! handled is given back. A frame that goes to many is encoded once, and written from where it lies. No
//! extension is offered, and none agreed on. Everything that a peer can make grow is bounded: a message by
//! its size and its number of fragments, what is to be written by [`OUT_BYTES_MAX`].

#[cfg(test)]
mod cases;
mod frame;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf, Bytes};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::frame::{FrameHeader, HEADER_BYTES_MAX, Opcode};
use super::admission::memory::Hold;

/// How much is read at once; on the stack, so that nobody keeps it.
const READ_BYTES: usize = 4 * 1024;
/// How much room is made for a message before more of it has come.
const GROW_BYTES_MAX: usize = 16 * 1024;
/// How many bytes wait to be written before [`WebSocket::feed`] writes, rather than to leave it to a flush.
const OUT_BYTES_MAX: usize = 16 * 1024;
/// How many frames are written at once.
const SLICES_MAX: usize = 64;
/// How many frames' room an idle connection keeps.
const OUT_KEPT: usize = 4;
/// The most fragments of one message.
const FRAGMENTS_MAX: u32 = 1024;

/// A message that came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Text.
    Text(String),
    /// Binary, of so many bytes; the backend has no use for what is in it.
    Binary(usize),
    /// A ping, which is answered already, or a pong.
    PingPong,
    /// The peer has closed; the answer is ready to be flushed.
    Close,
}

/// Why nothing more can be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The connection ended without a close.
    Ended,
    /// It failed.
    Io(io::Error),
    /// A message is larger than allowed.
    TooLarge,
    /// A text, or the reason of a close, is not UTF-8.
    NotUtf8,
    /// What came is no WebSocket.
    Protocol(&'static str),
}

/// A frame as it goes over the wire: what goes to many is encoded once.
#[derive(Debug, Clone)]
pub(crate) struct EncodedFrames {
    bytes: Bytes,
    payload: usize,
}

impl EncodedFrames {
    /// A text.
    pub(crate) fn text(text: &str) -> Self {
        let bytes = frame::encode(Opcode::Text, text.as_bytes());
        Self { payload: bytes.len() - text.len(), bytes }
    }

    /// Several, one behind the other.
    pub(crate) fn joined(frames: &[&Self]) -> Self {
        let bytes = match frames {
            [one] => return Self::clone(one),
            many => many.iter().map(|frame| frame.bytes.len()).sum(),
        };
        let mut all = Vec::with_capacity(bytes);
        frames.iter().for_each(|frame| all.extend_from_slice(&frame.bytes));
        Self { payload: all.len(), bytes: all.into() }
    }

    /// A ping without content.
    pub(crate) fn ping() -> Self {
        Self { bytes: Bytes::from_static(&[0x89, 0]), payload: 2 }
    }

    /// A close.
    pub(crate) fn close(code: u16, reason: &str) -> Self {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason.as_bytes());
        Self { bytes: frame::encode(Opcode::Close, &payload), payload: 0 }
    }

    /// The text of a text frame.
    pub(crate) fn as_str(&self) -> &str {
        self.bytes.get(self.payload..).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }

    /// All of it, as it goes over the wire.
    #[cfg(test)]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The size of the payload.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.payload
    }
}

/// What a client's key is answered with.
pub(crate) fn accept_key(key: &[u8]) -> String {
    const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    BASE64_STANDARD.encode(Sha1::new().chain_update(key).chain_update(MAGIC).finalize())
}

/// A WebSocket on a connection that was upgraded.
pub(crate) struct WebSocket<S> {
    stream: S,
    /// What was read and not taken; no room while there is none.
    input: Vec<u8>,
    /// The header of the frame that is being read, already taken out of the input.
    head: Option<FrameHeader>,
    message: Option<Box<Fragments>>,
    bytes_max: usize,
    output: VecDeque<Bytes>,
    output_bytes: usize,
    /// How many bytes were written so far.
    written: u64,
    /// Counts what was read of a message that is not whole, once somebody is known to be counted.
    hold: Option<Hold>,
    /// A pong waits to be written; another ping makes it another pong.
    pong: Option<Bytes>,
}

/// A message whose last frame has not come.
struct Fragments {
    opcode: Opcode,
    payload: Vec<u8>,
    count: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// On a stream of which `read` was read already; messages have at most `bytes_max` bytes.
    pub(crate) fn new(stream: S, read: Vec<u8>, bytes_max: usize) -> Self {
        Self {
            stream,
            input: read,
            head: None,
            message: None,
            bytes_max,
            output: VecDeque::new(),
            output_bytes: 0,
            written: 0,
            hold: None,
            pong: None,
        }
    }

    /// From now on messages may have so many bytes.
    pub(crate) fn allow(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Has what was read of a message that is not whole be counted. Where there is no room, no more of it is read.
    pub(crate) fn count_input(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    /// The next message. Cancel safe. After an error, nothing more can be read.
    pub(crate) async fn next(&mut self) -> Result<Message, ReadError> {
        loop {
            if let Some(message) = self.take()? {
                if self.input.is_empty() {
                    self.input = Vec::new();
                }
                return Ok(message);
            }
            if let Some(hold) = &mut self.hold {
                let so_far = self.message.as_ref().map_or(0, |message| message.payload.len());
                hold.set(self.input.len() + so_far);
                hold.room().await;
            }
            if poll_fn(|context| self.poll_read(context)).await.map_err(ReadError::Io)? == 0 {
                return Err(ReadError::Ended);
            }
        }
    }

    /// Reads some more, whatever it is, and forgets it; false at the end.
    pub(crate) async fn discard(&mut self) -> bool {
        self.input = Vec::new();
        poll_fn(|context| self.poll_read(context)).await.is_ok_and(|read| read > 0)
    }

    /// Takes a message out of the input, if one is there.
    fn take(&mut self) -> Result<Option<Message>, ReadError> {
        loop {
            let head = match self.head {
                Some(head) => head,
                None => {
                    let Some(head) = frame::head(&self.input).map_err(ReadError::Protocol)? else {
                        return Ok(None);
                    };
                    self.check(&head)?;
                    self.input.drain(..head.bytes);
                    self.head = Some(head);
                    head
                }
            };
            // At most `bytes_max`: that was checked.
            let length = head.payload as usize;
            if self.input.len() < length {
                return Ok(None);
            }
            self.head = None;
            let rest = self.input.split_off(length);
            let mut payload = std::mem::replace(&mut self.input, rest);
            frame::unmask(&mut payload, head.mask);
            if let Some(message) = self.frame(head, payload)? {
                return Ok(Some(message));
            }
        }
    }

    /// Checks a frame's header against the message that it is part of, before room is made for the frame.
    fn check(&self, head: &FrameHeader) -> Result<(), ReadError> {
        if head.opcode.is_control() {
            return Ok(());
        }
        let so_far = match (&self.message, head.opcode) {
            (Some(message), Opcode::Continuation) if message.count >= FRAGMENTS_MAX => {
                return Err(ReadError::TooLarge);
            }
            (Some(message), Opcode::Continuation) => message.payload.len(),
            (None, Opcode::Continuation) => {
                return Err(ReadError::Protocol("a continuation of nothing"));
            }
            (Some(_), _) => {
                return Err(ReadError::Protocol("a message inside of another"));
            }
            (None, _) => 0,
        };
        match head.payload > self.bytes_max.saturating_sub(so_far) as u64 {
            true => Err(ReadError::TooLarge),
            false => Ok(()),
        }
    }

    /// Takes a frame; gives the message if it was its last.
    fn frame(&mut self, head: FrameHeader, mut payload: Vec<u8>) -> Result<Option<Message>, ReadError> {
        match head.opcode {
            Opcode::Ping => {
                self.pong = Some(frame::encode(Opcode::Pong, &payload));
                Ok(Some(Message::PingPong))
            }
            Opcode::Pong => Ok(Some(Message::PingPong)),
            Opcode::Close => {
                let code = match payload.as_slice() {
                    [] => None,
                    [_] => return Err(ReadError::Protocol("a close with half a code")),
                    [high, low, reason @ ..] => {
                        if std::str::from_utf8(reason).is_err() {
                            return Err(ReadError::NotUtf8);
                        }
                        Some(u16::from_be_bytes([*high, *low]))
                    }
                };
                if code.is_some_and(|code| !frame::may_close_with(code)) {
                    return Err(ReadError::Protocol("a close with a code that is not for use"));
                }
                let answer = code.map(u16::to_be_bytes);
                self.push(frame::encode(Opcode::Close, answer.as_ref().map_or(&[], |code| &code[..])));
                Ok(Some(Message::Close))
            }
            Opcode::Text | Opcode::Binary if head.last => whole(head.opcode, payload).map(Some),
            Opcode::Text | Opcode::Binary => {
                self.message = Some(Box::new(Fragments { opcode: head.opcode, payload, count: 1 }));
                Ok(None)
            }
            Opcode::Continuation => {
                let Some(message) = &mut self.message else { return Ok(None) };
                message.payload.append(&mut payload);
                message.count += 1;
                match self.message.take_if(|_| head.last) {
                    Some(message) => whole(message.opcode, message.payload).map(Some),
                    None => Ok(None),
                }
            }
        }
    }

    /// Reads what there is, and tells how much; 0 at the end.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let missing = match self.head {
            Some(head) => (head.payload as usize).saturating_sub(self.input.len()),
            None => HEADER_BYTES_MAX,
        };
        if missing <= READ_BYTES {
            let mut room = [std::mem::MaybeUninit::uninit(); READ_BYTES];
            let mut room = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut room))?;
            self.input.extend_from_slice(room.filled());
            return Poll::Ready(Ok(room.filled().len()));
        }
        // Most of a large frame is still to come. Room is made as it comes: its length is only a claim.
        let before = self.input.len();
        self.input.resize(before + missing.min(GROW_BYTES_MAX), 0);
        let mut room = ReadBuf::new(&mut self.input[before..]);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut room);
        let filled = room.filled().len();
        self.input.truncate(before + filled);
        ready!(read)?;
        Poll::Ready(Ok(filled))
    }

    /// Takes a frame to be written; tells whether there is a fair amount, that should be [`WebSocket::drain`]ed.
    pub(crate) fn feed(&mut self, frame: EncodedFrames) -> bool {
        self.push(frame.bytes);
        self.output_bytes >= OUT_BYTES_MAX
    }

    /// Takes a text to be written, without a copy of it.
    pub(crate) fn feed_text(&mut self, text: String) -> bool {
        self.push(frame::header(Opcode::Text, text.len()));
        self.push(text.into());
        self.output_bytes >= OUT_BYTES_MAX
    }

    /// Writes what there is. Cancel safe.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_write(context)).await
    }

    /// How many bytes were written so far: whether a write that waits gets on.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written
    }

    /// How many bytes wait to be written.
    pub(crate) fn output_bytes(&self) -> usize {
        self.output_bytes
    }

    /// Whether there is something to [`WebSocket::flush`].
    pub(crate) fn has_output(&self) -> bool {
        self.pong.is_some() || !self.output.is_empty()
    }

    /// Writes all that is to be written. Cancel safe.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if let Some(pong) = self.pong.take() {
            self.push(pong);
        }
        poll_fn(|context| {
            ready!(self.poll_write(context))?;
            Pin::new(&mut self.stream).poll_flush(context)
        })
        .await
    }

    /// Ends the connection. Cancel safe.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|context| Pin::new(&mut self.stream).poll_shutdown(context)).await
    }

    fn push(&mut self, frame: Bytes) {
        self.output_bytes += frame.len();
        self.output.push_back(frame);
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let alone = self.output.len() == 1 || !self.stream.is_write_vectored();
            let stream = Pin::new(&mut self.stream);
            let written = if alone {
                ready!(stream.poll_write(context, &self.output[0]))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let mut count = 0;
                for (slice, frame) in slices.iter_mut().zip(&self.output) {
                    *slice = IoSlice::new(frame);
                    count += 1;
                }
                ready!(stream.poll_write_vectored(context, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written(written);
        }
        if self.output.capacity() > OUT_KEPT {
            self.output = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    fn written(&mut self, mut bytes: usize) {
        self.output_bytes -= bytes;
        self.written += bytes as u64;
        while let Some(frame) = self.output.front_mut() {
            if frame.len() > bytes {
                frame.advance(bytes);
                return;
            }
            bytes -= frame.len();
            self.output.pop_front();
        }
    }
}

fn whole(opcode: Opcode, payload: Vec<u8>) -> Result<Message, ReadError> {
    match opcode {
        Opcode::Text => String::from_utf8(payload).map(Message::Text).map_err(|_| ReadError::NotUtf8),
        _ => Ok(Message::Binary(payload.len())),
    }
}
