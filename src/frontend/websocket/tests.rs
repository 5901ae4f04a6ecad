//! The codec against an independent one, and against what no client should send.

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self as other};

use futures_util::{SinkExt, StreamExt};

use super::frame;
use super::frame::Opcode;
use super::*;

pub(crate) const BYTES_MAX: usize = 100_000;

/// A client's frame.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 77, 177, 3];
    let mut bytes = frame::encode(Opcode::Text, payload).to_vec();
    let head = bytes.len() - payload.len();
    bytes[0] = first;
    bytes[1] |= 0x80;
    let mut body = bytes.split_off(head);
    frame::unmask(&mut body, mask);
    bytes.extend(mask);
    bytes.extend(body);
    bytes
}

/// What comes of bytes, in pieces of this size, up to the first that is no message.
pub(crate) fn read(bytes: &[u8], piece: usize) -> (Vec<Message>, Option<ReadError>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (client, server) = duplex(piece);
        let (_reading, mut writing) = tokio::io::split(client);
        let mut socket = WebSocket::new(server, Vec::new(), BYTES_MAX);
        let write = async {
            let _ = writing.write_all(bytes).await;
            let _ = writing.shutdown().await;
        };
        let take = async {
            let mut messages = Vec::new();
            loop {
                match socket.next().await {
                    Ok(message) => messages.push(message),
                    Err(ReadError::Ended) => return (messages, None),
                    Err(error) => return (messages, Some(error)),
                }
            }
        };
        let result = tokio::select! {
            result = take => result,
            () = async { write.await; std::future::pending().await } => unreachable!(),
        };
        result
    })
}

fn text(text: &str) -> Message {
    Message::Text(text.to_owned())
}

#[test]
fn the_example_of_the_rfc_reads_and_the_key_is_answered() {
    // RFC 6455, 5.7: a masked "Hello", and "Hel" and "lo" in two frames.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(read(&hello, 64).0, [text("Hello")]);
    let parts = [masked(0x01, b"Hel"), masked(0x89, b"?"), masked(0x80, b"lo")].concat();
    assert_eq!(read(&parts, 3).0, [Message::PingPong, text("Hello")]);
    assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(&EncodedFrames::text("Hello").bytes[..], [0x81, 5, b'H', b'e', b'l', b'l', b'o']);
    assert_eq!(EncodedFrames::text(&"x".repeat(70_000)).len(), 70_000);
}

#[test]
fn what_no_client_may_send_ends_the_reading() {
    let protocol = |error: Option<ReadError>| matches!(error, Some(ReadError::Protocol(_)));
    let large = |error: Option<ReadError>| matches!(error, Some(ReadError::TooLarge));
    let not_utf8 = |error: Option<ReadError>| matches!(error, Some(ReadError::NotUtf8));
    type Is = fn(Option<ReadError>) -> bool;
    let cases: [(Vec<u8>, Is); 16] = [
        (vec![0x81, 5, b'H', b'e', b'l', b'l', b'o'], protocol),
        (masked(0xC1, b"x"), protocol),
        (masked(0x83, b"x"), protocol),
        (masked(0x8B, b"x"), protocol),
        (masked(0x80, b"x"), protocol),
        ([masked(0x01, b"x"), masked(0x81, b"y")].concat(), protocol),
        (masked(0x09, b"x"), protocol),
        (masked(0x89, &[b'x'; 126]), protocol),
        (masked(0x88, b"x"), protocol),
        (masked(0x88, &1005_u16.to_be_bytes()), protocol),
        (masked(0x88, &[0x03, 0xE8, 0xFF]), not_utf8),
        (masked(0x81, &[0xFF]), not_utf8),
        ([masked(0x01, &[0xE2, 0x82]), masked(0x80, b"x")].concat(), not_utf8),
        (masked(0x81, &vec![b'x'; BYTES_MAX + 1]), large),
        ([masked(0x01, &vec![b'x'; BYTES_MAX]), masked(0x80, b"x")].concat(), large),
        // The length alone is enough.
        (vec![0x81, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4], large),
    ];
    for (index, (bytes, is)) in cases.into_iter().enumerate() {
        for piece in [1, 7, 1 << 20] {
            let (messages, error) = read(&bytes, piece);
            assert!(messages.is_empty() && is(error), "case {index}");
        }
    }
    // A character that is cut between two fragments is whole in the end.
    let cut = [masked(0x01, &[0xE2, 0x82]), masked(0x80, &[0xAC])].concat();
    assert_eq!(read(&cut, 64).0, [text("€")]);
}

#[test]
fn fragments_without_end_end() {
    let mut bytes = masked(0x01, b"");
    for _ in 0..10 * FRAGMENTS_MAX {
        bytes.extend(masked(0x00, b""));
    }
    let (messages, error) = read(&bytes, 1 << 20);
    assert!(messages.is_empty() && matches!(error, Some(ReadError::TooLarge)), "{error:?}");
}

#[tokio::test]
async fn pings_are_answered_by_the_next_flush_and_a_silent_socket_holds_nothing() {
    let (mut client, server) = duplex(1 << 20);
    let mut socket = WebSocket::new(server, masked(0x89, b"one"), BYTES_MAX);
    client.write_all(&masked(0x89, b"two")).await.unwrap();
    client.write_all(&masked(0x81, &vec![b'x'; 90_000])).await.unwrap();
    assert_eq!(socket.next().await.unwrap(), Message::PingPong);
    assert_eq!(socket.next().await.unwrap(), Message::PingPong);
    assert!(matches!(socket.next().await.unwrap(), Message::Text(text) if text.len() == 90_000));
    for _ in 0..500 {
        if socket.feed(EncodedFrames::text("some text")) {
            socket.drain().await.unwrap();
        }
    }
    assert!(socket.has_output());
    socket.flush().await.unwrap();
    assert!(!socket.has_output());
    assert_eq!((socket.input.capacity(), socket.message.is_none()), (0, true));
    assert!(socket.output.capacity() <= OUT_KEPT);
    let mut written = vec![0; 500 * 11 + 5];
    client.read_exact(&mut written).await.unwrap();
    assert!(written.ends_with(&[0x8A, 3, b't', b'w', b'o']), "the last ping's pong");
}

#[tokio::test]
async fn a_close_is_answered_with_its_code() {
    let (mut client, server) = duplex(1 << 10);
    let mut socket = WebSocket::new(server, Vec::new(), BYTES_MAX);
    client.write_all(&masked(0x88, &[0x03, 0xE8, b'b', b'y', b'e'])).await.unwrap();
    assert_eq!(socket.next().await.unwrap(), Message::Close);
    socket.flush().await.unwrap();
    socket.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [0x88, 2, 0x03, 0xE8]);
}

/// A client of the independent implementation, and our server.
async fn pair(piece: usize) -> (WebSocketStream<DuplexStream>, WebSocket<DuplexStream>) {
    let (client, server) = duplex(piece);
    let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    (client, WebSocket::new(server, Vec::new(), BYTES_MAX))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever an independent client sends comes out as it was, and it reads what is sent back, however the
    /// bytes are cut.
    #[test]
    fn what_another_implementation_says_is_heard_and_the_other_way_round(
        sent in proptest::collection::vec((".{0,40}", 0_usize..3_000), 1..8),
        piece in prop_oneof![1_usize..20, 100_usize..200_000],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let texts: Vec<String> = sent.iter().map(|(text, times)| text.repeat(times % 37)).collect();
            let (mut client, mut server) = pair(piece).await;
            let talk = async {
                for text in &texts {
                    client.send(other::Message::text(text.as_str())).await.unwrap();
                    let back = client.next().await.unwrap().unwrap();
                    assert_eq!(back.to_text().unwrap(), text);
                }
                client.close(None).await.unwrap();
                while client.next().await.is_some() {}
            };
            let echo = async {
                loop {
                    match server.next().await.unwrap() {
                        Message::Text(text) => {
                            server.feed_text(text);
                        }
                        Message::Close => break,
                        other => panic!("{other:?}"),
                    }
                    server.flush().await.unwrap();
                }
                server.flush().await.unwrap();
                server.shutdown().await.unwrap();
            };
            tokio::join!(talk, echo);
        });
    }

    /// Bytes of any kind neither panic nor make it hold more than a message.
    #[test]
    fn noise_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), piece in 1_usize..400) {
        read(&bytes, piece);
    }
}

#[test]
fn frames_that_nobody_thought_of() {
    let long = [masked(0x81, &[b'x'; 300]), masked(0x82, &[7; 70_000])].concat();
    let fragments =
        [masked(0x01, b"{\"id\""), masked(0x89, b"ping"), masked(0x00, b":"), masked(0x80, b"1}")].concat();
    let closing = [masked(0x81, "\u{e9}".as_bytes()), masked(0x88, &[3, 232, b'b', b'y', b'e'])].concat();
    crate::fuzzing::fuzz("websocket", &[&fragments, &closing, &long], |bytes| {
        // However it comes, the same comes out of it.
        let (whole, error) = read(bytes, 1 << 17);
        let (pieces, in_pieces) = read(bytes, 1 + bytes.len() / 5);
        assert_eq!(whole, pieces);
        assert_eq!(format!("{error:?}"), format!("{in_pieces:?}"));
        for message in whole {
            assert!(!matches!(message, Message::Text(text) if text.len() > BYTES_MAX));
        }
    });
}
