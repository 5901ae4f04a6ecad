//! The PROXY protocol, versions 1 and 2: what a load balancer that passes bytes on says of the client before the first
//! of them. Asked for only of trusted proxies; whoever else sends it is speaking no HTTP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How version 1 begins.
const V1: &[u8] = b"PROXY ";
/// How version 2 begins.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest head of version 1, with its line end.
const V1_BYTES_MAX: usize = 107;
/// The most bytes of addresses and additions of version 2 that are taken.
const V2_BYTES_MAX: usize = 4 * 1024;
/// How long to leave a connection alone whose first bytes could still become either.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Takes what a proxy says of the client, if it says anything. `None`: the proxy speaks for itself, or says that it does
/// not know. What comes behind stays unread. It waits for as long as its caller lets it.
pub(crate) async fn take(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    match version(stream).await? {
        Some(1) => take_v1(stream).await,
        Some(_) => take_v2(stream).await,
        None => Ok(None),
    }
}

/// Which version the connection begins with.
async fn version(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut first = [0; V2.len()];
    loop {
        let read = stream.peek(&mut first).await?;
        let first = &first[..read];
        if first.starts_with(V1) {
            return Ok(Some(1));
        }
        if first.starts_with(V2) {
            return Ok(Some(2));
        }
        if read == 0 || !(V1.starts_with(first) || V2.starts_with(first)) {
            return Ok(None);
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn take_v1(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut line = Vec::with_capacity(V1_BYTES_MAX);
    // A byte at a time, so that nothing behind it is taken: it is short.
    while !line.ends_with(b"\r\n") {
        if line.len() == V1_BYTES_MAX {
            return Err(malformed("its line does not end"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = std::str::from_utf8(&line).map_err(|_| malformed("its line is no text"))?;
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| malformed("its address is none"));
    match words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4", from, _, _, _] => Ok(Some(address(from)?).filter(IpAddr::is_ipv4)),
        ["PROXY", "TCP6", from, _, _, _] => Ok(Some(address(from)?).filter(IpAddr::is_ipv6)),
        _ => Err(malformed("its line has other words")),
    }
}

async fn take_v2(stream: &mut TcpStream) -> io::Result<Option<IpAddr>> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let [.., command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if command >> 4 != 2 || length > V2_BYTES_MAX {
        return Err(malformed("its head is not as it must be"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    let too_short = || malformed("its addresses are not whole");
    match (command & 0xf, family) {
        // The proxy's own, such as a look at our health.
        (0, _) => Ok(None),
        (1, 0x11) => {
            let from: [u8; 4] = *rest.first_chunk().filter(|_| rest.len() >= 12).ok_or_else(too_short)?;
            Ok(Some(IpAddr::V4(Ipv4Addr::from(from))))
        }
        (1, 0x21) => {
            let from: [u8; 16] = *rest.first_chunk().filter(|_| rest.len() >= 36).ok_or_else(too_short)?;
            Ok(Some(IpAddr::V6(Ipv6Addr::from(from))))
        }
        (1, _) => Ok(None),
        _ => Err(malformed("its command is not known")),
    }
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the PROXY protocol: {why}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What is taken of these bytes, sent in pieces, and what is left behind it.
    async fn taken(bytes: &[u8], piece: usize) -> Result<(Option<String>, Vec<u8>), String> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let bytes = bytes.to_vec();
        let sending = tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in bytes.chunks(piece) {
                // A head that is refused is not read to its end.
                if stream.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        let from = take(&mut stream).await.map_err(|error| error.to_string())?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        sending.await.unwrap();
        Ok((from.map(|from| from.to_string()), rest))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length[..], rest].concat()
    }

    #[tokio::test]
    async fn a_proxy_says_whose_a_connection_is_and_nothing_behind_that_is_taken() {
        let (four, mut six) = ([1, 2, 3, 4, 9, 9, 9, 9, 0, 80, 1, 187], [0; 36]);
        six[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        let with_more = [&four[..], &[3, 0, 2, 7, 7]].concat();
        let cases = [
            (b"PROXY TCP4 1.2.3.4 9.9.9.9 80 443\r\n".to_vec(), Some("1.2.3.4")),
            (b"PROXY TCP6 2001:db8::7 ::1 80 443\r\n".to_vec(), Some("2001:db8::7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN and what not\r\n".to_vec(), None),
            (v2(0x21, 0x11, &four), Some("1.2.3.4")),
            (v2(0x21, 0x11, &with_more), Some("1.2.3.4")),
            (v2(0x21, 0x21, &six), Some("2001:db8::7")),
            (v2(0x20, 0, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
            (Vec::new(), None),
        ];
        for (head, from) in cases {
            for piece in [1, 7, 1000] {
                for rest in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 6.6.6.6 "] {
                    if head.is_empty() && rest.starts_with(b"PROXY") {
                        continue;
                    }
                    let found = taken(&[&head, rest].concat(), piece).await.unwrap();
                    assert_eq!(found, (from.map(str::to_owned), rest.to_vec()), "{head:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn what_only_looks_like_it_is_refused_or_left_alone() {
        for wrong in [
            b"PROXY TCP4 nobody 9.9.9.9 80 443\r\n".to_vec(),
            b"PROXY TCP4 1.2.3.4\r\n".to_vec(),
            b"PROXY TCP9 1.2.3.4 9.9.9.9 80 443\r\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(),
            b"PROXY TCP4 1.2.3.4".to_vec(),
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x11, &[0; V2_BYTES_MAX + 1]),
            v2(0x21, 0x11, &[0; 12])[..20].to_vec(),
        ] {
            assert!(taken(&wrong, 1000).await.is_err(), "{wrong:?}");
        }
        for other in [&b"POST / HTTP/1.1\r\n\r\n"[..], b"\r\nGET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"] {
            assert_eq!(taken(other, 1000).await, Ok((None, other.to_vec())));
        }
    }
}
