//! The file of an export: JSON lines.
//!
//! The first line says what it is, the last one how many events there are and the SHA-256 of all lines before it. So
//! a file that was cut off or changed is known before anything of it is stored. `docs/operations/move.md` describes
//! the lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::error::MoveError;
use crate::event::{ClientId, ContentHash, Draft, EventId, EventRecord, PartitionKey, Submitter};
use crate::log::StoredEvent;
use crate::util::hex;

/// The version of the lines that is written, and the only one that is read.
const VERSION: u32 = 1;
/// The longest line: NATS takes no message of more than 64 MiB.
const LINE_BYTES_MAX: u64 = 65 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// Always `export`.
    insieme: String,
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Trailer {
    end: End,
}

/// What the last line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) events: u64,
    /// The ids of the first and the last event; 0 if there is none.
    pub(super) first: u64,
    pub(super) last: u64,
    /// Of all lines before this one, with their line breaks.
    pub(super) sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    id: EventId,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// An event of another server: a draft that was accepted there, as the rules here see it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ForeignEvent {
    id: EventId,
    pub(super) partition: PartitionKey,
    pub(super) timestamp: u64,
    client_id: ClientId,
    #[serde(default)]
    user_id: Option<String>,
    pub(super) draft: Draft,
}

impl ForeignEvent {
    /// Who submitted it there. It may do everything: whether it was permitted was that server's to say.
    pub(super) fn submitter(&self) -> Submitter {
        Submitter {
            client_id: self.client_id.clone(),
            user_id: self.user_id.clone(),
            permissions: vec!["*".to_owned()],
            roles: Vec::new(),
            claims: None,
        }
    }

    /// The record that it becomes.
    pub(super) fn record(&self, hash: ContentHash, ordinal: u64) -> serde_json::Result<Bytes> {
        let submitter = self.submitter();
        let record =
            EventRecord::of_draft(&self.draft, &self.partition, &submitter, hash, ordinal, self.timestamp);
        Ok(record.to_json()?.into())
    }
}

/// What an event in a file is.
#[derive(Debug)]
pub(super) enum Content {
    /// The record of an event of this backend.
    Record(Bytes),
    Foreign(Box<ForeignEvent>),
}

/// Writes an export.
pub(super) struct ExportWriter<W: Write> {
    out: W,
    hash: Sha256,
    events: u64,
    first: u64,
    last: u64,
}

impl<W: Write> ExportWriter<W> {
    pub(super) fn new(out: W) -> std::io::Result<Self> {
        let mut writer = Self { out, hash: Sha256::new(), events: 0, first: 0, last: 0 };
        writer.line(&serde_json::to_vec(&Header { insieme: "export".to_owned(), version: VERSION })?)?;
        Ok(writer)
    }

    fn line(&mut self, text: &[u8]) -> std::io::Result<()> {
        // Between the parts of a payload a client may have written line breaks; inside strings JSON has none.
        let mut line: Vec<u8> =
            text.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
        line.push(b'\n');
        self.hash.update(&line);
        self.out.write_all(&line)
    }

    pub(super) fn event(&mut self, stored: &StoredEvent) -> std::io::Result<()> {
        let record: &RawValue = serde_json::from_slice(&stored.body)?;
        self.line(&serde_json::to_vec(&Line { id: stored.id, record })?)?;
        self.events += 1;
        self.last = stored.id.0;
        if self.first == 0 {
            self.first = self.last;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> std::io::Result<End> {
        let sha256 = hex::encode(&self.hash.clone().finalize());
        let end = End { events: self.events, first: self.first, last: self.last, sha256 };
        self.line(&serde_json::to_vec(&Trailer { end: end.clone() })?)?;
        self.out.flush()?;
        Ok(end)
    }
}

/// Reads an export.
pub(super) struct ExportReader {
    path: PathBuf,
    lines: BufReader<File>,
    line: Vec<u8>,
    number: u64,
    hash: Sha256,
    events: u64,
    first: u64,
    last: u64,
}

impl ExportReader {
    pub(super) fn open(path: &Path) -> Result<Self, MoveError> {
        let file = File::open(path).map_err(MoveError::file(path))?;
        let mut reader = Self {
            path: path.to_owned(),
            lines: BufReader::with_capacity(1 << 20, file),
            line: Vec::new(),
            number: 0,
            hash: Sha256::new(),
            events: 0,
            first: 0,
            last: 0,
        };
        reader.header()?;
        Ok(reader)
    }

    /// Begins again with the first event of the same file.
    pub(super) fn rewind(&mut self) -> Result<(), MoveError> {
        self.lines.seek(SeekFrom::Start(0)).map_err(MoveError::file(&self.path))?;
        (self.number, self.hash, self.events, self.first, self.last) = (0, Sha256::new(), 0, 0, 0);
        self.header()
    }

    fn header(&mut self) -> Result<(), MoveError> {
        let is_one = self.read_line()?;
        let header: Header = match serde_json::from_slice(&self.line) {
            Ok(header) if is_one => header,
            _ => return Err(self.damaged("this is no export of insieme-backend")),
        };
        if header.insieme != "export" || header.version != VERSION {
            let why = format!(
                "{} of version {}; this program reads version {VERSION} of an export",
                header.insieme, header.version
            );
            return Err(self.damaged(&why));
        }
        self.hash.update(&self.line);
        Ok(())
    }

    pub(super) fn damaged(&self, why: &str) -> MoveError {
        MoveError::Damaged { line: self.number, why: why.to_owned() }
    }

    /// Reads a line with its line break into `line`. False at the end of the file.
    fn read_line(&mut self) -> Result<bool, MoveError> {
        self.line.clear();
        self.number += 1;
        let mut some = (&mut self.lines).take(LINE_BYTES_MAX);
        some.read_until(b'\n', &mut self.line).map_err(MoveError::file(&self.path))?;
        match self.line.last() {
            None => Ok(false),
            Some(b'\n') => Ok(true),
            Some(_) if self.line.len() as u64 == LINE_BYTES_MAX => Err(self.damaged("it is too long")),
            Some(_) => Err(self.damaged("the file ends in the middle of it: it was cut off")),
        }
    }

    /// The next event; `None` after the last one, if the file is whole.
    pub(super) fn next(&mut self) -> Result<Option<(EventId, Content)>, MoveError> {
        if !self.read_line()? {
            return Err(self.damaged("the last line is missing: the file was cut off"));
        }
        if self.line.starts_with(b"{\"end\":") {
            return self.end();
        }
        self.hash.update(&self.line);
        let (id, content) = match serde_json::from_slice::<Line<'_>>(&self.line) {
            Ok(Line { id, record }) => (id, Content::Record(Bytes::copy_from_slice(record.get().as_bytes()))),
            Err(_) => match serde_json::from_slice::<ForeignEvent>(&self.line) {
                Ok(event) => (event.id, Content::Foreign(Box::new(event))),
                Err(error) => return Err(self.damaged(&format!("this is no event: {error}"))),
            },
        };
        if id.0 <= self.last {
            return Err(self.damaged(&format!("event {id} comes after event {}", self.last)));
        }
        self.events += 1;
        self.last = id.0;
        if self.first == 0 {
            self.first = id.0;
        }
        Ok(Some((id, content)))
    }

    fn end<T>(&mut self) -> Result<Option<T>, MoveError> {
        let Trailer { end } =
            serde_json::from_slice(&self.line).map_err(|error| self.damaged(&error.to_string()))?;
        let sha256 = hex::encode(&self.hash.clone().finalize());
        let is = End { events: self.events, first: self.first, last: self.last, sha256 };
        if is != end {
            return Err(self.damaged(&format!(
                "the file is not what was written: it has {} events, {} to {}, SHA-256 {}, and the last line says {}, \
                 {} to {}, {}",
                is.events, is.first, is.last, is.sha256, end.events, end.first, end.last, end.sha256
            )));
        }
        if self.read_line()? {
            return Err(self.damaged("something comes after the last line of the export"));
        }
        Ok(None)
    }
}
