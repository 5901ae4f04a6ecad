//! A request's head (RFC 9112), read as strictly as the RFC allows. A proxy in front that reads a request in another
//! way than we do could be made to pass on what it refuses.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Uri};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::refusal::Refusal;

/// The most bytes of a head.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The most headers in it.
const HEADERS_MAX: usize = 64;
/// How much is read at once.
const READ_BYTES: usize = 4 * 1024;

/// What a request says before its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub method: Method,
    pub target: Uri,
    /// Whether it is HTTP/1.1, and not 1.0.
    pub is_1_1: bool,
    pub headers: HeaderMap,
}

/// Why there is no head.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoHead {
    /// The connection is gone.
    Gone,
    /// It is none, or not one that is taken.
    Refused(Refusal),
}

/// Reads a head, of which some bytes may have come already. Gives it, and the bytes after it that have come too.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    mut bytes: Vec<u8>,
) -> Result<(Head, Vec<u8>), NoHead> {
    let (mut looked_at, mut is_new) = (0, !bytes.is_empty());
    loop {
        if !std::mem::take(&mut is_new) {
            let mut room = [0; READ_BYTES];
            let count = stream.read(&mut room).await.map_err(|_| NoHead::Gone)?;
            if count == 0 {
                return Err(NoHead::Gone);
            }
            bytes.extend_from_slice(&room[..count]);
        }
        if let Some(end) = end_of_head(&bytes, looked_at).map_err(NoHead::Refused)? {
            if end > HEAD_BYTES_MAX {
                return Err(NoHead::Refused(Refusal::HeadTooLarge));
            }
            let rest = bytes.split_off(end);
            return parse(&bytes).map(|head| (head, rest)).map_err(NoHead::Refused);
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(NoHead::Refused(Refusal::HeadTooLarge));
        }
        looked_at = bytes.len();
    }
}

/// Where the head ends, if it is all there; what cannot become one is told before that.
fn end_of_head(bytes: &[u8], looked_at: usize) -> Result<Option<usize>, Refusal> {
    // No request begins with anything else; such as TLS on a port without it. An empty line in front is passed
    // over, as some clients send one after a request before.
    if bytes.first().is_some_and(|first| !first.is_ascii_alphabetic() && *first != b'\r') {
        return Err(Refusal::Malformed);
    }
    for at in looked_at..bytes.len() {
        if bytes[at] == b'\n' {
            if !bytes[..at].ends_with(b"\r") {
                return Err(Refusal::LineEnd);
            }
            if bytes[..=at].ends_with(b"\r\n\r\n") {
                return Ok(Some(at + 1));
            }
        }
    }
    Ok(None)
}

fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    let mut room = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut room);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Refusal::Malformed),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(Refusal::HttpVersion),
        Err(_) => return Err(Refusal::Malformed),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::Malformed);
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::Malformed)?;
    let target = target.parse::<Uri>().map_err(|_| Refusal::Malformed)?;
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for header in request.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Refusal::Malformed)?;
        let value = HeaderValue::from_bytes(header.value).map_err(|_| Refusal::Malformed)?;
        headers.append(name, value);
    }
    Ok(Head { method, target, is_1_1: version == 1, headers })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_in(text: &[u8], piece: usize) -> Result<(Head, Vec<u8>), NoHead> {
        let (mut client, mut server) = tokio::io::duplex(piece);
        let write = async {
            // A head that is refused early is not read to its end.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client, text).await;
            drop(client);
        };
        let reading = async move { read(&mut server, Vec::new()).await };
        tokio::join!(write, reading).1
    }

    #[tokio::test]
    async fn a_head_is_read_however_it_is_cut_and_what_follows_is_kept() {
        let text = b"\r\nGET /ws?a=b HTTP/1.1\r\nHost: x\r\nx-a: 1\r\nX-A: 2\r\n\r\n\x81\x80";
        for piece in [1, 2, 3, 7, 1000] {
            let (head, rest) = read_in(text, piece).await.unwrap();
            assert_eq!((&head.method, head.target.path(), head.is_1_1), (&Method::GET, "/ws", true));
            assert_eq!(head.headers.get_all("x-a").iter().count(), 2);
            assert!(b"\x81\x80".starts_with(&rest), "{rest:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_head_is_refused_for_what_it_is() {
        let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(HEAD_BYTES_MAX));
        let endless = "x".repeat(2 * HEAD_BYTES_MAX);
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: 1\r\n".repeat(HEADERS_MAX + 1));
        let cases: [(&str, Refusal); 16] = [
            ("GET / HTTP/1.1\nHost: x\n\n", Refusal::LineEnd),
            ("GET / HTTP/1.1\r\nHost: x\n\r\n", Refusal::LineEnd),
            ("GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: x\0y\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: x\ry\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHo(st: x\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\n: x\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/2.0\r\n\r\n", Refusal::HttpVersion),
            ("GET / HTTP/3\r\n\r\n", Refusal::HttpVersion),
            ("\u{16}\u{3}\u{1}", Refusal::Malformed),
            ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", Refusal::Malformed),
            ("GET http://[ HTTP/1.1\r\n\r\n", Refusal::Malformed),
            (&large, Refusal::HeadTooLarge),
            (&endless, Refusal::HeadTooLarge),
            (&many, Refusal::HeadTooLarge),
        ];
        for (text, refusal) in cases {
            for piece in [1, 5, 100_000] {
                let refused = read_in(text.as_bytes(), piece).await.unwrap_err();
                assert_eq!(refused, NoHead::Refused(refusal), "{:?}", &text[..text.len().min(60)]);
            }
        }
        for text in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n"] {
            assert_eq!(read_in(text.as_bytes(), 100).await.unwrap_err(), NoHead::Gone, "{text:?}");
        }
    }
}
