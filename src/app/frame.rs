//! The frames between a worker and its parent: a length, a kind, and parts that each have a length.

use std::io::{self, Read, Write};

use super::bounds::FRAME_BYTES_MAX;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// To the worker: load a module, by the name of its own file.
    Load = 1,
    /// To the worker: the file that it wanted, or why there is none.
    File,
    NoFile,
    /// To the worker: begin a partition, with the state in the frame or the initial one.
    Open,
    /// To the worker: events to review.
    Review,
    /// To the worker: say what the state is.
    State,
    /// To the worker: the state is of this version; make it this module's.
    Migrate,
    /// To the worker: a draft to decide.
    Decide,
    /// To the worker: events that were accepted, to be folded.
    Fold,
    /// To the worker: somebody who wants to open a partition.
    Authorize,
    /// To the worker: nobody asks for this session any more.
    Close,
    /// From the worker: the file of this name is wanted.
    Want,
    /// From the worker: the module's version, and the types that it knows.
    Loaded,
    /// From the worker: what is wrong with the module.
    NotLoaded,
    /// From the worker: whether he may.
    Authorized,
    /// From the worker: verdicts, each a part.
    Verdicts,
    /// From the worker: done; the state, where that was asked for.
    Done,
    /// From the worker: the module fails where no event is at fault.
    Fault,
}

const KINDS: [Kind; 18] = [
    Kind::Load,
    Kind::File,
    Kind::NoFile,
    Kind::Open,
    Kind::Review,
    Kind::State,
    Kind::Migrate,
    Kind::Decide,
    Kind::Fold,
    Kind::Authorize,
    Kind::Close,
    Kind::Want,
    Kind::Loaded,
    Kind::NotLoaded,
    Kind::Authorized,
    Kind::Verdicts,
    Kind::Done,
    Kind::Fault,
];

/// A frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub kind: Kind,
    pub parts: Vec<Vec<u8>>,
}

/// The bytes before a frame's body: the length of that.
pub(super) const HEAD_BYTES: usize = 4;

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Frame {
    pub(super) fn new<P: AsRef<[u8]>>(kind: Kind, parts: impl IntoIterator<Item = P>) -> Self {
        Self { kind, parts: parts.into_iter().map(|part| part.as_ref().to_vec()).collect() }
    }

    /// One that is of a session: a partition in the worker.
    pub(super) fn of_session<P: AsRef<[u8]>>(
        kind: Kind,
        session: u64,
        parts: impl IntoIterator<Item = P>,
    ) -> Self {
        let mut all = vec![session.to_le_bytes().to_vec()];
        all.extend(parts.into_iter().map(|part| part.as_ref().to_vec()));
        Self { kind, parts: all }
    }

    /// The session that it is of, and what is behind that.
    pub(super) fn session(&self) -> io::Result<(u64, &[Vec<u8>])> {
        let (session, parts) = self.parts.split_first().ok_or_else(|| malformed("a frame of no session"))?;
        let session = session.as_slice().try_into().map_err(|_| malformed("a session that is none"))?;
        Ok((u64::from_le_bytes(session), parts))
    }

    /// A frame without parts.
    pub(super) fn bare(kind: Kind) -> Self {
        Self { kind, parts: Vec::new() }
    }

    /// The first part, as text.
    pub(super) fn text(&self) -> io::Result<&str> {
        let part = self.parts.first().map_or(&[][..], Vec::as_slice);
        std::str::from_utf8(part).map_err(|error| malformed(error.to_string()))
    }

    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let body: usize = 1 + self.parts.iter().map(|part| 4 + part.len()).sum::<usize>();
        if body > FRAME_BYTES_MAX {
            return Err(malformed(format!("a frame of {body} bytes; at most {FRAME_BYTES_MAX} are sent")));
        }
        let mut out = Vec::with_capacity(HEAD_BYTES + body);
        out.extend_from_slice(&(body as u32).to_le_bytes());
        out.push(self.kind as u8);
        for part in &self.parts {
            out.extend_from_slice(&(part.len() as u32).to_le_bytes());
            out.extend_from_slice(part);
        }
        Ok(out)
    }

    /// The length of the body behind a head.
    pub(super) fn body_len(head: [u8; HEAD_BYTES]) -> io::Result<usize> {
        match u32::from_le_bytes(head) as usize {
            length if (1..=FRAME_BYTES_MAX).contains(&length) => Ok(length),
            length => Err(malformed(format!("a frame of {length} bytes"))),
        }
    }

    pub(super) fn decode(body: &[u8]) -> io::Result<Self> {
        let (kind, mut rest) = body.split_first().ok_or_else(|| malformed("an empty frame"))?;
        let kind = KINDS.into_iter().find(|known| *known as u8 == *kind);
        let kind = kind.ok_or_else(|| malformed("a frame of no known kind"))?;
        let mut parts = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let (part, behind) =
                behind.split_at_checked(length).ok_or_else(|| malformed("a part that is cut off"))?;
            parts.push(part.to_vec());
            rest = behind;
        }
        match rest {
            [] => Ok(Self { kind, parts }),
            _ => Err(malformed("bytes after the last part")),
        }
    }

    /// Reads one, waiting for it; `None` when there are no more.
    pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; HEAD_BYTES];
        match from.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let mut body = vec![0; Self::body_len(head)?];
        from.read_exact(&mut body)?;
        Self::decode(&body).map(Some)
    }

    pub(super) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.encode()?)?;
        to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        for frame in [
            Frame::bare(Kind::State),
            Frame::new(Kind::Review, ["a", "", "ccc"]),
            Frame::new(Kind::Fault, ["x"]),
        ] {
            let bytes = frame.encode().unwrap();
            assert_eq!(Frame::read(&mut bytes.as_slice()).unwrap().unwrap(), frame);
        }
        assert!(Frame::read(&mut [].as_slice()).unwrap().is_none());
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let whole = Frame::new(Kind::Review, ["abc"]).encode().unwrap();
        for cut in 5..whole.len() {
            assert!(Frame::decode(&whole[HEAD_BYTES..cut]).is_err() || cut == 5, "{cut}");
        }
        for bad in [&[][..], &[0], &[99], &[4, 1], &[4, 255, 255, 255, 255]] {
            assert!(Frame::decode(bad).is_err(), "{bad:?}");
        }
        assert!(Frame::body_len(u32::MAX.to_le_bytes()).is_err());
        assert!(Frame::body_len([0; 4]).is_err());
    }
}
