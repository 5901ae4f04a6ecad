//! A request's body (RFC 9112, 6 and 7), read as strictly as its head: one way to say how long it is, and every line
//! ended by CR and LF. A proxy in front that reads it in another way could be made to pass on what it refuses.

use hyper::header::{self, HeaderMap};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::frontend::admission::memory::Hold;

/// How much is read at once.
const READ_BYTES: usize = 8 * 1024;
/// The longest line between chunks, and all lines behind the last one.
const LINE_BYTES_MAX: usize = 256;
const TRAILER_BYTES_MAX: usize = 4 * 1024;

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes; none where nothing is said.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Why there is no body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoBody {
    /// The connection is gone.
    Gone,
    /// It has more bytes than it may.
    TooLarge,
    /// Its chunks are none.
    Malformed,
}

impl Framing {
    /// What a head says of its body; an error where that can be understood in two ways.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, &'static str> {
        let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        match (lengths.next(), lengths.next(), codings.next(), codings.next()) {
            (None, None, None, None) => Ok(Self::Length(0)),
            (Some(length), None, None, None) => {
                let text = length.to_str().unwrap_or_default();
                let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let length = text.parse().ok().filter(|_| is_number);
                length.map(Self::Length).ok_or("`Content-Length` is no number of bytes")
            }
            (None, None, Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                Ok(Self::Chunked)
            }
            (None, None, _, _) => Err("the one transfer coding that is understood is `chunked`"),
            _ => Err("a body's length is told once, by `Content-Length` or by `Transfer-Encoding: chunked`"),
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(self) -> bool {
        self == Self::Length(0)
    }
}

/// What a connection sends, from behind a request's head on.
pub(super) struct Input<S> {
    pub stream: S,
    bytes: Vec<u8>,
    /// How much of `bytes` is taken.
    taken: usize,
}

impl<S: AsyncRead + Unpin> Input<S> {
    /// With what was read of it already.
    pub(super) fn new(stream: S, bytes: Vec<u8>) -> Self {
        Self { stream, bytes, taken: 0 }
    }

    /// The stream, and what was read of it beyond the request.
    pub(super) fn into_rest(mut self) -> (S, Vec<u8>) {
        let rest = self.bytes.split_off(self.taken);
        (self.stream, rest)
    }

    /// Reads a body of at most `bytes_max`. What it holds is told, and nothing is read while it may hold no more.
    pub(super) async fn body(
        &mut self,
        framing: Framing,
        bytes_max: usize,
        hold: &mut Hold,
    ) -> Result<Vec<u8>, NoBody> {
        let mut body = Vec::new();
        match framing {
            Framing::Length(length) => {
                let length = usize::try_from(length).map_err(|_| NoBody::TooLarge)?;
                self.copy(length, bytes_max, &mut body, hold).await?;
            }
            Framing::Chunked => {
                loop {
                    let size = chunk_size(&self.line(LINE_BYTES_MAX).await?).ok_or(NoBody::Malformed)?;
                    if size == 0 {
                        break;
                    }
                    self.copy(size, bytes_max, &mut body, hold).await?;
                    if !self.line(LINE_BYTES_MAX).await?.is_empty() {
                        return Err(NoBody::Malformed);
                    }
                }
                self.pass_trailers().await?;
            }
        }
        Ok(body)
    }

    /// Passes over what stands behind the last chunk: it means nothing here.
    async fn pass_trailers(&mut self) -> Result<(), NoBody> {
        let mut room = TRAILER_BYTES_MAX;
        loop {
            let line = self.line(room).await?;
            if line.is_empty() {
                return Ok(());
            }
            room = room.saturating_sub(line.len() + 2);
        }
    }

    /// Takes so many bytes to a body that may have `bytes_max`.
    async fn copy(
        &mut self,
        mut count: usize,
        bytes_max: usize,
        body: &mut Vec<u8>,
        hold: &mut Hold,
    ) -> Result<(), NoBody> {
        if count > bytes_max.saturating_sub(body.len()) {
            return Err(NoBody::TooLarge);
        }
        while count > 0 {
            if self.taken == self.bytes.len() {
                hold.room().await;
                self.more().await?;
            }
            let here = &self.bytes[self.taken..];
            let here = &here[..here.len().min(count)];
            body.extend_from_slice(here);
            self.taken += here.len();
            count -= here.len();
            hold.set(body.len());
        }
        Ok(())
    }

    /// Takes a line, without its end.
    async fn line(&mut self, bytes_max: usize) -> Result<Vec<u8>, NoBody> {
        let mut line = Vec::new();
        loop {
            if self.taken == self.bytes.len() {
                self.more().await?;
            }
            let byte = self.bytes[self.taken];
            self.taken += 1;
            match (line.last(), byte) {
                (Some(b'\r'), b'\n') => {
                    line.pop();
                    return Ok(line);
                }
                (Some(b'\r'), _) | (_, b'\n') => return Err(NoBody::Malformed),
                _ => line.push(byte),
            }
            if line.len() > bytes_max {
                return Err(NoBody::Malformed);
            }
        }
    }

    async fn more(&mut self) -> Result<(), NoBody> {
        self.taken = 0;
        self.bytes.resize(READ_BYTES, 0);
        let read = self.stream.read(&mut self.bytes).await;
        self.bytes.truncate(*read.as_ref().unwrap_or(&0));
        match read {
            Ok(count) if count > 0 => Ok(()),
            _ => Err(NoBody::Gone),
        }
    }
}

/// How many bytes a chunk has. What stands behind a semicolon means nothing here.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| *byte == b';').next()?;
    let digits = if digits.len() < line.len() { digits.trim_ascii_end() } else { digits };
    let is_number = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    usize::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frontend::admission::memory::Memory;
    use crate::frontend::settings::FrontendSettings;
    use hyper::header::{HeaderName, HeaderValue};

    fn headers(of: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        of.iter().map(pair).collect()
    }

    #[test]
    fn a_length_that_can_be_read_in_two_ways_is_refused() {
        for (of, framing) in [
            (&[][..], Some(Framing::Length(0))),
            (&[("content-length", "12")], Some(Framing::Length(12))),
            (&[("transfer-encoding", "Chunked")], Some(Framing::Chunked)),
            (&[("content-length", "+12")], None),
            (&[("content-length", "0x1")], None),
            (&[("content-length", "")], None),
            (&[("content-length", "1, 1")], None),
            (&[("content-length", "99999999999999999999")], None),
            (&[("content-length", "1"), ("content-length", "1")], None),
            (&[("content-length", "1"), ("transfer-encoding", "chunked")], None),
            (&[("transfer-encoding", "gzip, chunked")], None),
            (&[("transfer-encoding", "identity")], None),
            (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], None),
        ] {
            assert_eq!(Framing::of(&headers(of)).ok(), framing, "{of:?}");
        }
    }

    async fn read(text: &[u8], framing: Framing, piece: usize) -> Result<(Vec<u8>, Vec<u8>), NoBody> {
        let (mut client, server) = tokio::io::duplex(piece);
        let write = async {
            // A body that is refused early is not read to its end.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client, text).await;
            drop(client);
        };
        let reading = async move {
            let mut hold = Memory::new(&FrontendSettings::default()).shared();
            let mut input = Input::new(server, Vec::new());
            let body = input.body(framing, 10, &mut hold).await?;
            let (mut stream, mut rest) = input.into_rest();
            stream.read_to_end(&mut rest).await.unwrap();
            Ok((body, rest))
        };
        tokio::join!(write, reading).1
    }

    #[tokio::test]
    async fn a_body_is_read_however_it_is_cut_and_what_follows_is_kept() {
        let chunked = b"3\r\nabc\r\n002 ;x=y\r\nde\r\n0\r\nTrailer: 1\r\n\r\nGET";
        for piece in [1, 2, 3, 7, 1000] {
            let kept = Ok((b"abcde".to_vec(), b"GET".to_vec()));
            assert_eq!(read(chunked, Framing::Chunked, piece).await, kept);
            assert_eq!(read(b"abcdeGET", Framing::Length(5), piece).await, kept);
        }
    }

    #[tokio::test]
    async fn what_is_no_body_is_refused() {
        let long = format!("1;{}\r\n", "x".repeat(LINE_BYTES_MAX));
        let trailers = format!("0\r\n{}", "A: b\r\n".repeat(TRAILER_BYTES_MAX));
        for text in [
            "3\nabc\r\n0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "-1\r\n",
            "\r\n",
            " 3\r\nabc\r\n",
            "3 \r\nabc\r\n",
            "+3\r\nabc\r\n",
            "0x3\r\nabc\r\n",
            "000000003\r\nabc\r\n",
            "3\r\nabc\r\n0\r\nA: b\n\r\n",
            "3\r\rabc",
            &long,
            &trailers,
        ] {
            assert_eq!(read(text.as_bytes(), Framing::Chunked, 5).await, Err(NoBody::Malformed), "{text:?}");
        }
        assert_eq!(read(b"b\r\n", Framing::Chunked, 5).await, Err(NoBody::TooLarge));
        assert_eq!(read(b"6\r\nabcdef\r\n6\r\n", Framing::Chunked, 5).await, Err(NoBody::TooLarge));
        assert_eq!(read(b"", Framing::Length(11), 5).await, Err(NoBody::TooLarge));
        assert_eq!(read(b"", Framing::Length(u64::MAX), 5).await, Err(NoBody::TooLarge));
        assert_eq!(read(b"abc", Framing::Length(5), 5).await, Err(NoBody::Gone));
        assert_eq!(read(b"3\r\nab", Framing::Chunked, 5).await, Err(NoBody::Gone));
    }
}
