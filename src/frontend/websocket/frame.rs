//! Frames of RFC 6455, as a server reads and writes them. Plain functions on bytes: no I/O.

use bytes::Bytes;

/// The longest header that a client may send: two bytes, an eight-byte length, the mask.
pub(crate) const HEADER_BYTES_MAX: usize = 14;
/// The longest payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;

/// What kind of frame it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn of(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    pub(crate) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Whether it is its message's last frame.
    pub last: bool,
    pub opcode: Opcode,
    pub mask: [u8; 4],
    /// How many bytes the header has.
    pub bytes: usize,
    /// How many bytes follow it. May be any number: to be checked before room is made for it.
    pub payload: u64,
}

/// Reads the header at the front of `bytes`: `None` while it is not all there; an error says what is wrong.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<FrameHeader>, &'static str> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err("a reserved bit is set, though no extension was agreed on");
    }
    let opcode = Opcode::of(first & 0x0F).ok_or("a frame is of an unknown kind")?;
    let last = first & 0x80 != 0;
    if second & 0x80 == 0 {
        return Err("a client's frames must be masked");
    }
    let (payload, length) = match second & 0x7F {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (u64::from_be_bytes(*length), 8),
            None => return Ok(None),
        },
        short => (u64::from(short), 0),
    };
    if opcode.is_control() && (!last || payload > CONTROL_BYTES_MAX as u64) {
        return Err("a control frame is fragmented or too long");
    }
    let Some(mask) = rest.get(length..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
    Ok(Some(FrameHeader { last, opcode, mask: *mask, bytes: 2 + length + 4, payload }))
}

/// Takes the mask off a payload, or puts it on.
pub(crate) fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        // The chunks have eight bytes each.
        if let Ok(word) = <[u8; 8]>::try_from(&*chunk) {
            chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
        }
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A whole unmasked frame, as servers send it.
pub(crate) fn encode(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    push_header(&mut frame, opcode, payload.len());
    frame.extend_from_slice(payload);
    frame.into()
}

/// The header of such a frame.
pub(crate) fn header(opcode: Opcode, length: usize) -> Bytes {
    let mut header = Vec::with_capacity(10);
    push_header(&mut header, opcode, length);
    header.into()
}

fn push_header(frame: &mut Vec<u8>, opcode: Opcode, length: usize) {
    frame.push(0x80 | opcode.bits());
    match length {
        short @ 0..=125 => frame.push(short as u8),
        long @ 126..=0xFFFF => {
            frame.push(126);
            frame.extend_from_slice(&(long as u16).to_be_bytes());
        }
        longer => {
            frame.push(127);
            frame.extend_from_slice(&(longer as u64).to_be_bytes());
        }
    }
}

/// Whether a peer may close with this code.
pub(crate) fn may_close_with(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}
