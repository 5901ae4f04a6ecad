//! As much of WebSocket (RFC 6455) as a load generator needs, and cheaply.
//!
//! The generator shares its machine with what it measures, so what it spends on a frame is taken from the
//! server. Whatever one read brought is taken apart in place, and nothing is kept for a connection that
//! has nothing half-read: 10,000 idle connections cost the generator hardly any memory.
//! No extensions, no TLS, no binary messages.

use std::io::ErrorKind;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The longest request or answer of an upgrade.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest message, against a peer that talks nonsense.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How much of its output buffer a connection keeps for the next time.
const OUT_KEPT: usize = 4096;
/// Any key will do where nobody listens in, and a key that is not zero makes the server do its work.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Where to connect to.
#[derive(Debug, Clone)]
pub struct Address {
    authority: String,
    path: String,
}

impl Address {
    /// Takes a `ws://` URL apart.
    pub fn parse(url: &str) -> Result<Self> {
        let rest = url
            .strip_prefix("ws://")
            .with_context(|| format!("{url}: a URL of the form ws://HOST:PORT/PATH is needed"))?;
        let (authority, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, "/"),
        };
        ensure!(authority.contains(':'), "{url}: the port is missing");
        Ok(Self { authority: authority.to_owned(), path: path.to_owned() })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// An open WebSocket.
pub struct Socket {
    stream: TcpStream,
    side: Side,
    /// A frame of which only a part has come.
    rest: Vec<u8>,
    /// A message of which not all fragments have come.
    message: Vec<u8>,
    /// What is to be sent with the next flush.
    out: Vec<u8>,
}

impl Socket {
    /// Connects.
    pub async fn open(address: &Address) -> Result<Self> {
        let mut stream = TcpStream::connect(&address.authority)
            .await
            .with_context(|| format!("connecting to {}", address.authority))?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            address.path, address.authority
        );
        stream.write_all(request.as_bytes()).await?;
        let (head, rest) = read_head(&mut stream).await?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.split(' ').nth(1) == Some("101"), "the upgrade was answered {status:?}");
        Ok(Self { stream, side: Side::Client, rest, message: Vec::new(), out: Vec::new() })
    }

    /// Answers an upgrade. The accept key is the one for the key that [`Self::open`] sends: this is not for
    /// browsers.
    pub async fn accept(mut stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let (_, rest) = read_head(&mut stream).await?;
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(answer.as_bytes()).await?;
        Ok(Self { stream, side: Side::Server, rest, message: Vec::new(), out: Vec::new() })
    }

    /// Puts a text message behind what the next flush sends.
    pub fn queue(&mut self, text: &[u8]) {
        put_frame(&mut self.out, TEXT, text, self.side);
    }

    /// Puts a whole frame there that was made by [`text_frame`].
    pub fn queue_frame(&mut self, frame: &[u8]) {
        self.out.extend_from_slice(frame);
    }

    /// Sends of what was queued as much as fits.
    pub fn flush(&mut self) -> Result<()> {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(count) if count == self.out.len() => {
                    self.out.clear();
                    self.out.shrink_to(OUT_KEPT);
                }
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Bytes that the other side has not taken yet.
    pub fn unsent(&self) -> usize {
        self.out.len()
    }

    /// Waits until there is something to read, or room for what did not fit. Nothing is lost when this is
    /// dropped.
    pub async fn ready(&self) -> Result<()> {
        if matches!(frame_at(&self.rest), Ok(Some(_))) {
            return Ok(());
        }
        let interest =
            if self.out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        self.stream.ready(interest).await?;
        Ok(())
    }

    /// Takes apart what has come, one read at most, and gives each text message to `on`. An error says why
    /// the connection is no more. `scratch` is only for this call.
    pub fn read(&mut self, scratch: &mut [u8], mut on: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let fresh = match self.stream.try_read(scratch) {
            Ok(0) => bail!("the other side ended the connection"),
            Ok(count) => &scratch[..count],
            Err(error) if error.kind() == ErrorKind::WouldBlock => &[],
            Err(error) => return Err(error.into()),
        };
        let mut rest = std::mem::take(&mut self.rest);
        if rest.is_empty() && self.side == Side::Client {
            // A server's frames are not masked and can be read where they are.
            let used = self.frames(fresh, &mut on)?;
            self.rest = fresh[used..].to_vec();
            return Ok(());
        }
        rest.extend_from_slice(fresh);
        if self.side == Side::Server {
            unmask_whole(&mut rest)?;
        }
        let used = self.frames(&rest, &mut on)?;
        rest.drain(..used);
        self.rest = rest;
        Ok(())
    }

    /// Says goodbye and drops the connection.
    pub fn close(mut self) {
        put_frame(&mut self.out, CLOSE, &1000u16.to_be_bytes(), self.side);
        // It is gone either way.
        drop(self.flush());
    }

    /// Takes whole frames off the front of `bytes`; gives how much that was.
    fn frames(&mut self, bytes: &[u8], on: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut at = 0;
        while let Some(frame) = frame_at(&bytes[at..])? {
            let payload = &bytes[at + frame.head..at + frame.end];
            at += frame.end;
            match frame.opcode {
                TEXT if frame.last => on(payload)?,
                TEXT | CONTINUATION => {
                    self.message.extend_from_slice(payload);
                    ensure!(self.message.len() <= MESSAGE_BYTES_MAX, "a message without end");
                    if frame.last {
                        let whole = std::mem::take(&mut self.message);
                        on(&whole)?;
                    }
                }
                PING => put_frame(&mut self.out, PONG, payload, self.side),
                PONG => {}
                CLOSE => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    bail!("the server closed the connection with {code:?}");
                }
                other => bail!("a frame of kind {other}, which nobody asked for"),
            }
        }
        Ok(at)
    }
}

/// A whole frame for [`Socket::queue_frame`], from a server.
pub fn text_frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(text.len() + 10);
    put_frame(&mut frame, TEXT, text, Side::Server);
    frame
}

/// Where a frame's parts are.
struct FrameAt {
    opcode: u8,
    last: bool,
    masked: bool,
    head: usize,
    end: usize,
}

/// The frame at the front, if all of it is there.
fn frame_at(bytes: &[u8]) -> Result<Option<FrameAt>> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    let masked = second & 0x80 != 0;
    let (mut head, length) = match second & 0x7f {
        126 => match bytes.get(2..4) {
            Some(&[a, b]) => (4, usize::from(u16::from_be_bytes([a, b]))),
            _ => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|eight| eight.first_chunk()) {
            Some(eight) => (10, usize::try_from(u64::from_be_bytes(*eight))?),
            None => return Ok(None),
        },
        short => (2, usize::from(short)),
    };
    ensure!(length <= MESSAGE_BYTES_MAX, "a frame of {length} bytes");
    if masked {
        head += 4;
    }
    let end = head + length;
    let frame = FrameAt { opcode: first & 0x0f, last: first & 0x80 != 0, masked, head, end };
    Ok((bytes.len() >= end).then_some(frame))
}

/// Takes the mask off every whole frame, in place.
fn unmask_whole(bytes: &mut [u8]) -> Result<()> {
    let mut at = 0;
    while let Some(frame) = frame_at(&bytes[at..])? {
        if frame.masked {
            let (head, payload) = bytes[at..at + frame.end].split_at_mut(frame.head);
            if let Some(mask) = head.last_chunk::<4>() {
                apply_mask(payload, *mask);
            }
            // So that it is not done again when the rest of the next frame comes.
            if let Some(key) = bytes[at..at + frame.head].last_chunk_mut::<4>() {
                *key = [0; 4];
            }
        }
        at += frame.end;
    }
    Ok(())
}

fn apply_mask(payload: &mut [u8], mask: [u8; 4]) {
    let (chunks, tail) = payload.as_chunks_mut::<4>();
    for chunk in chunks {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    for (byte, key) in tail.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

fn put_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8], side: Side) {
    out.push(0x80 | opcode);
    let masked = if side == Side::Client { 0x80 } else { 0 };
    match payload.len() {
        short @ 0..126 => out.push(masked | short as u8),
        middle @ 126..0x1_0000 => {
            out.push(masked | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(masked | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    if side == Side::Client {
        out.extend_from_slice(&MASK);
        let start = out.len();
        out.extend_from_slice(payload);
        apply_mask(&mut out[start..], MASK);
    } else {
        out.extend_from_slice(payload);
    }
}

/// Reads to the end of an HTTP head; gives it, and what came behind it.
async fn read_head(stream: &mut TcpStream) -> Result<(String, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if let Some(at) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        ensure!(bytes.len() < HEAD_BYTES_MAX, "a head without end");
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the other side ended the connection in its head");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads until `count` messages are there.
    async fn messages(socket: &mut Socket, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        let mut scratch = vec![0; 1000];
        while all.len() < count {
            socket.ready().await.expect("it stands");
            socket
                .read(&mut scratch, |text| {
                    all.push(String::from_utf8_lossy(text).into_owned());
                    Ok(())
                })
                .expect("whole frames");
        }
        all
    }

    #[tokio::test]
    async fn messages_of_all_lengths_arrive_both_ways_whatever_one_read_brings() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address =
            Address::parse(&format!("ws://{}/x", listener.local_addr().expect("bound"))).expect("a URL");
        let (client, server) = tokio::join!(Socket::open(&address), async {
            Socket::accept(listener.accept().await.expect("a connection").0).await
        });
        let (mut client, mut server) = (client.expect("open"), server.expect("open"));
        let sent: Vec<String> = [0, 1, 125, 126, 3000, 70_000].map(|length| "x".repeat(length)).into();
        for text in &sent {
            client.queue(text.as_bytes());
            server.queue_frame(&text_frame(text.as_bytes()));
        }
        let sending = async |socket: &mut Socket| {
            while socket.unsent() > 0 {
                socket.flush().expect("it stands");
                tokio::task::yield_now().await;
            }
        };
        sending(&mut client).await;
        assert_eq!(messages(&mut server, sent.len()).await, sent);
        sending(&mut server).await;
        assert_eq!(messages(&mut client, sent.len()).await, sent);
    }
}
