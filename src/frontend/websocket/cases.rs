//! The cases of RFC 6455 that a server has to get right, numbered as the sections 1 to 7 and 10 of the Autobahn
//! suite number what they cover: framing, pings, reserved bits, opcodes, fragmentation, UTF-8, closing, large
//! messages in small pieces. Written from the RFC.
//!
//! A case is what a client sends, and what comes of it: messages that are understood, in their order, and how the
//! reading ends. Every case is sent as a whole, in pieces of three bytes, and byte by byte.

use super::tests::{BYTES_MAX, masked, read};
use super::*;

/// How a case ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing is wrong.
    Open,
    /// Something is that the RFC forbids: close code 1002.
    Protocol,
    /// A text is none: 1007.
    NotUtf8,
}
use End::{NotUtf8, Open, Protocol};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const TEXT_BEGINS: u8 = 0x01;
const BINARY_BEGINS: u8 = 0x02;
const GOES_ON: u8 = 0x00;
const ENDS: u8 = 0x80;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

struct Case {
    number: String,
    sent: Vec<u8>,
    understood: Vec<Message>,
    end: End,
}

fn case(number: &str, frames: &[(u8, &[u8])], understood: Vec<Message>, end: End) -> Case {
    let sent = frames.iter().flat_map(|(first, payload)| masked(*first, payload)).collect();
    Case { number: number.to_owned(), sent, understood, end }
}

fn said(text: &str) -> Message {
    Message::Text(text.to_owned())
}

fn check(cases: Vec<Case>) -> usize {
    for Case { number, sent, understood, end } in &cases {
        // What is large is not sent byte by byte.
        let pieces: &[usize] = if sent.len() > 5_000 { &[997, 1 << 20] } else { &[1, 3, 1 << 20] };
        for piece in pieces {
            let (messages, error) = read(sent, *piece);
            let ended = match &error {
                None => Open,
                Some(ReadError::Protocol(_)) => Protocol,
                Some(ReadError::NotUtf8) => NotUtf8,
                Some(other) => panic!("{number}: {other:?}"),
            };
            assert_eq!(ended, *end, "{number}, in pieces of {piece}: {error:?}");
            assert_eq!(messages, *understood, "{number}, in pieces of {piece}");
        }
    }
    cases.len()
}

/// The sizes at which the length of a frame is written in another way, and their neighbours.
const SIZES: [usize; 8] = [0, 1, 125, 126, 127, 128, 65_535, 65_536];

#[test]
fn section_1_text_and_binary_of_every_length() {
    let mut cases = Vec::new();
    for (index, size) in SIZES.into_iter().enumerate() {
        let bytes = vec![b'*'; size];
        let text = String::from_utf8(bytes.clone()).unwrap();
        cases.push(case(&format!("1.1.{}", index + 1), &[(TEXT, &bytes)], vec![Message::Text(text)], Open));
        let binary = vec![0xFE; size];
        cases.push(case(
            &format!("1.2.{}", index + 1),
            &[(BINARY, &binary)],
            vec![Message::Binary(size)],
            Open,
        ));
    }
    assert_eq!(check(cases), 16);
}

#[test]
fn section_2_pings_and_pongs() {
    let binary: &[u8] = &[0x00, 0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0x00, 0xFF];
    let alive = |count: usize| (0..count).map(|_| Message::PingPong).collect::<Vec<_>>();
    let ten: Vec<(u8, &[u8])> = (0..10).map(|_| (PING, &b"payload"[..])).collect();
    let cases = vec![
        case("2.1", &[(PING, b"")], alive(1), Open),
        case("2.2", &[(PING, b"Hello, world!")], alive(1), Open),
        case("2.3", &[(PING, binary)], alive(1), Open),
        case("2.4", &[(PING, &[0xFE; 125])], alive(1), Open),
        case("2.5", &[(PING, &[0xFE; 126])], vec![], Protocol),
        case("2.6", &[(PING, &[0xFE; 125]), (PING, b"")], alive(2), Open),
        case("2.7", &[(PONG, b"")], alive(1), Open),
        case("2.8", &[(PONG, b"unsolicited")], alive(1), Open),
        case("2.9", &[(PONG, b"unsolicited"), (PING, b"ping")], alive(2), Open),
        case("2.10", &ten, alive(10), Open),
        case("2.11", &ten, alive(10), Open),
    ];
    assert_eq!(check(cases), 11);
}

#[test]
fn section_3_reserved_bits() {
    let mut cases = Vec::new();
    for (index, bits) in [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70].into_iter().enumerate() {
        for first in [TEXT, BINARY, TEXT_BEGINS, PING, PONG, CLOSE] {
            let number = format!("3.{}", index + 1);
            cases.push(case(&number, &[(first | bits, b"x")], vec![], Protocol));
            // What came before it is understood.
            let frames: [(u8, &[u8]); 3] = [(TEXT, b"small"), (first | bits, b"x"), (PING, b"")];
            cases.push(case(&number, &frames, vec![said("small")], Protocol));
        }
    }
    assert_eq!(check(cases), 84);
}

#[test]
fn section_4_reserved_opcodes() {
    let mut cases = Vec::new();
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xB, 0xC, 0xD, 0xE, 0xF] {
        let number = format!("4.{}.{opcode:x}", if opcode < 8 { 1 } else { 2 });
        for first in [opcode, 0x80 | opcode] {
            for payload in [&b""[..], b"reserved opcode payload"] {
                cases.push(case(&number, &[(first, payload)], vec![], Protocol));
                let frames: [(u8, &[u8]); 3] = [(TEXT, b"small"), (first, payload), (PING, b"")];
                cases.push(case(&number, &frames, vec![said("small")], Protocol));
            }
        }
    }
    assert_eq!(check(cases), 80);
}

#[test]
fn section_5_fragments() {
    let whole = || said("fragment1fragment2");
    let two = || Message::PingPong;
    let cases = vec![
        // Control frames are not cut into fragments.
        case("5.1", &[(PING & 0x0F, b"fragment1"), (ENDS, b"fragment2")], vec![], Protocol),
        case("5.2", &[(PONG & 0x0F, b"fragment1"), (ENDS, b"fragment2")], vec![], Protocol),
        case("5.3", &[(TEXT_BEGINS, b"fragment1"), (ENDS, b"fragment2")], vec![whole()], Open),
        case("5.4", &[(TEXT_BEGINS, b"fragment1"), (ENDS, b"fragment2")], vec![whole()], Open),
        case("5.5", &[(TEXT_BEGINS, b"fragment1"), (ENDS, b"fragment2")], vec![whole()], Open),
        // And may come between those of a message.
        case(
            "5.6",
            &[(TEXT_BEGINS, b"fragment1"), (PING, b"ping"), (ENDS, b"fragment2")],
            vec![two(), whole()],
            Open,
        ),
        case(
            "5.7",
            &[(TEXT_BEGINS, b"fragment1"), (PING, b"ping"), (ENDS, b"fragment2")],
            vec![two(), whole()],
            Open,
        ),
        case(
            "5.8",
            &[(TEXT_BEGINS, b"fragment1"), (PONG, b"pong"), (ENDS, b"fragment2")],
            vec![two(), whole()],
            Open,
        ),
        // A continuation of nothing, last or not.
        case("5.9", &[(ENDS, b"non-continuation"), (TEXT, b"Hello")], vec![], Protocol),
        case("5.10", &[(ENDS, b"non-continuation"), (TEXT, b"Hello")], vec![], Protocol),
        case("5.11", &[(ENDS, b""), (TEXT, b"Hello")], vec![], Protocol),
        case("5.12", &[(GOES_ON, b"non-continuation"), (TEXT, b"Hello")], vec![], Protocol),
        case("5.13", &[(GOES_ON, b"non-continuation"), (TEXT, b"Hello")], vec![], Protocol),
        case("5.14", &[(GOES_ON, b""), (TEXT, b"Hello")], vec![], Protocol),
        case(
            "5.15",
            &[
                (TEXT_BEGINS, b"fragment1"),
                (ENDS, b"fragment2"),
                (GOES_ON, b"fragment3"),
                (TEXT, b"fragment4"),
            ],
            vec![whole()],
            Protocol,
        ),
        case("5.16", &[(GOES_ON, b"fragment1"), (TEXT_BEGINS, b"f"), (ENDS, b"")], vec![], Protocol),
        case("5.17", &[(ENDS, b"fragment1"), (TEXT_BEGINS, b"f"), (ENDS, b"")], vec![], Protocol),
        // A message inside of another.
        case("5.18", &[(TEXT_BEGINS, b"fragment1"), (TEXT, b"fragment2")], vec![], Protocol),
        case("5.18", &[(TEXT_BEGINS, b"fragment1"), (BINARY, b"fragment2")], vec![], Protocol),
        case("5.18", &[(BINARY_BEGINS, b"fragment1"), (TEXT_BEGINS, b"fragment2")], vec![], Protocol),
        case(
            "5.19",
            &pinged_fragments(),
            vec![two(), two(), said("fragment1fragment2fragment3fragment4fragment5")],
            Open,
        ),
        case(
            "5.20",
            &pinged_fragments(),
            vec![two(), two(), said("fragment1fragment2fragment3fragment4fragment5")],
            Open,
        ),
    ];
    assert_eq!(check(cases), 22);
}

fn pinged_fragments() -> [(u8, &'static [u8]); 7] {
    [
        (TEXT_BEGINS, b"fragment1"),
        (GOES_ON, b"fragment2"),
        (PING, b"pongme 1"),
        (GOES_ON, b"fragment3"),
        (GOES_ON, b"fragment4"),
        (PING, b"pongme 2"),
        (ENDS, b"fragment5"),
    ]
}

/// Texts that are UTF-8 (RFC 3629), at the ends of every range, and those that are next to them and are not.
#[test]
fn section_6_utf_8() {
    let mut cases = vec![
        case("6.1.1", &[(TEXT, b"")], vec![said("")], Open),
        case("6.1.2", &[(TEXT_BEGINS, b""), (GOES_ON, b""), (ENDS, b"")], vec![said("")], Open),
        case(
            "6.1.3",
            &[(TEXT_BEGINS, b""), (GOES_ON, b"middle frame payload"), (ENDS, b"")],
            vec![said("middle frame payload")],
            Open,
        ),
    ];
    let good = [
        "Hello-µ@ßöäüàá-UTF-8!!",
        "κόσμε",
        "\u{0}",
        "\u{80}",
        "\u{800}",
        "\u{10000}",
        "\u{7F}",
        "\u{7FF}",
        "\u{FFFF}",
        "\u{10FFFF}",
        "\u{D7FF}",
        "\u{E000}",
        "\u{FFFD}",
        "\u{FFFE}",
        "\u{1FFFE}",
        "\u{1FFFF}",
        "\u{2FFFE}",
        "\u{10FFFE}",
        "\u{FEFF}",
        "a\u{300}\u{323}",
        "𝄞𝄞",
    ];
    for text in good {
        let bytes = text.as_bytes();
        cases.push(case("6.2/6.5/6.7", &[(TEXT, bytes)], vec![said(text)], Open));
        // Cut at every byte, also inside of a character.
        for at in 0..=bytes.len() {
            let frames = [(TEXT_BEGINS, &bytes[..at]), (ENDS, &bytes[at..])];
            cases.push(case("6.2.4", &frames, vec![said(text)], Open));
        }
    }
    let bad: [&[u8]; 34] = [
        // Behind good text.
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        // Characters that break off.
        b"\xce",
        b"\xe1\xbd",
        b"\xf0\x9d\x84",
        b"\xe1",
        b"\xf0",
        b"\xf0\x9d",
        // What goes on with nothing before it, and bytes that begin nothing.
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80",
        b"\xc0",
        b"\xc1",
        b"\xf5",
        b"\xf8",
        b"\xfc",
        b"\xfe",
        b"\xff",
        b"\xfe\xfe\xff\xff",
        // More bytes than it takes.
        b"\xc0\x80",
        b"\xc0\xaf",
        b"\xc1\xbf",
        b"\xe0\x80\xaf",
        b"\xe0\x9f\xbf",
        b"\xf0\x80\x80\xaf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf8\x80\x80\x80\xaf",
        b"\xfc\x80\x80\x80\x80\xaf",
        // Halves of pairs of UTF-16, and both.
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xed\xad\xbf\xed\xb0\x80",
        // Beyond the last character.
        b"\xf4\x90\x80\x80",
        b"\xf7\xbf\xbf\xbf",
        b"\xfb\xbf\xbf\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf\xbf",
    ];
    for bytes in bad {
        cases.push(case("6.3/6.6/6.8-6.21", &[(TEXT, bytes)], vec![], NotUtf8));
        for at in 0..=bytes.len() {
            let frames = [(TEXT_BEGINS, &bytes[..at]), (PING, &[]), (ENDS, &bytes[at..])];
            cases.push(case("6.4", &frames, vec![Message::PingPong], NotUtf8));
        }
        // As binary it is nobody's business.
        cases.push(case("6.4", &[(BINARY, bytes)], vec![Message::Binary(bytes.len())], Open));
    }
    assert!(check(cases) > 300);
}

#[test]
fn section_7_closing() {
    let with = |code: u16, reason: &[u8]| [&code.to_be_bytes()[..], reason].concat();
    let closed = || vec![Message::Close];
    let mut cases = vec![
        case(
            "7.1.1",
            &[(TEXT, b"Hello World!"), (CLOSE, b"")],
            vec![said("Hello World!"), Message::Close],
            Open,
        ),
        case(
            "7.1.6",
            &[(TEXT, &[b'x'; 70_000]), (TEXT, b"Hello World!"), (CLOSE, b"")],
            vec![said(&"x".repeat(70_000)), said("Hello World!"), Message::Close],
            Open,
        ),
        case("7.3.1", &[(CLOSE, b"")], closed(), Open),
        case("7.3.2", &[(CLOSE, b"a")], vec![], Protocol),
        case("7.3.3", &[(CLOSE, &with(1000, b""))], closed(), Open),
        case("7.3.4", &[(CLOSE, &with(1000, b"Hello World!"))], closed(), Open),
        case("7.3.5", &[(CLOSE, &with(1000, &[b'*'; 123]))], closed(), Open),
        case("7.3.6", &[(CLOSE, &with(1000, &[b'*'; 124]))], vec![], Protocol),
        case("7.5.1", &[(CLOSE, &with(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80edited"))], vec![], NotUtf8),
        // A close inside of a message ends it too.
        case("7.1.5", &[(TEXT_BEGINS, b"fragment1"), (CLOSE, b"")], closed(), Open),
        // Not cut into fragments.
        case("7.1", &[(CLOSE & 0x0F, b"")], vec![], Protocol),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        cases.push(case("7.7", &[(CLOSE, &with(code, b""))], closed(), Open));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(case("7.9/7.13", &[(CLOSE, &with(code, b""))], vec![], Protocol));
    }
    assert_eq!(check(cases), 36);
}

/// What comes after a close is not looked at.
#[tokio::test]
async fn section_7_nothing_is_said_after_a_close() {
    for after in [(PING, &b"x"[..]), (TEXT, b"after"), (CLOSE, b"")] {
        let sent = [masked(CLOSE, b""), masked(after.0, after.1)].concat();
        let (client, server) = tokio::io::duplex(1 << 10);
        let (mut reading, mut writing) = tokio::io::split(client);
        tokio::io::AsyncWriteExt::write_all(&mut writing, &sent).await.unwrap();
        let mut socket = WebSocket::new(server, Vec::new(), BYTES_MAX);
        assert_eq!(socket.next().await.unwrap(), Message::Close);
        socket.flush().await.unwrap();
        drop(socket);
        let mut answer = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer).await.unwrap();
        assert_eq!(answer, [0x88, 0], "one close, and no pong after it");
    }
}

#[test]
fn section_10_a_large_message_in_small_pieces() {
    let mut sent = Vec::new();
    let bytes = vec![b'*'; 65_536];
    for (index, piece) in bytes.chunks(1_300).enumerate() {
        let is_last = (index + 1) * 1_300 >= bytes.len();
        let first = if index == 0 { TEXT_BEGINS } else { GOES_ON };
        sent.extend(masked(if is_last { first | 0x80 } else { first }, piece));
    }
    let understood = vec![said(&"*".repeat(65_536))];
    assert_eq!(check(vec![Case { number: "10.1.1".to_owned(), sent, understood, end: Open }]), 1);
}
