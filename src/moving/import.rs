//! An import: checked whole, then stored in batches, each only if nothing else came in between.
//!
//! How far an import came is what the log says: one that was ended in the middle is run again, compares what is there
//! with the file, event by event, and goes on behind it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::check::{Checked, Checker, Records};
use super::error::MoveError;
use super::file::ExportReader;
use crate::event::{EventId, Token};
use crate::faults;
use crate::log::{BATCH_EVENTS_MAX, COMMIT_HEADERS_BYTES, CommitError, ImportedEvent, Log};
use crate::rules::Rules;
use crate::state::Fold;

/// How many bytes of events are stored at a time, about.
const BATCH_BYTES: usize = 4 << 20;
/// The most unused ids between the first and the last event of a file: each takes a message while it is imported.
const GAPS_MAX: u64 = 10_000_000;

/// Which ids the events get.
#[derive(Debug, Clone)]
pub enum Ids {
    /// Those that they have in the file. The log must be empty.
    Kept,
    /// The next ones of the log. Which became which is written into this file.
    Mapped(PathBuf),
}

/// An import that can begin.
pub struct Import<'a> {
    /// Where to.
    pub log: &'a Log,
    /// What events of another server must pass.
    pub rules: &'a Rules,
    /// What folds.
    pub fold: Arc<dyn Fold>,
    /// Which ids the events get.
    pub ids: Ids,
}

/// What was done.
#[derive(Debug)]
pub struct Imported {
    /// What the file holds.
    pub file: Checked,
    /// How many events were in the log already.
    pub present: u64,
    /// How many were stored.
    pub stored: u64,
}

/// What is done at the moment, and with how many events.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Events of the file are checked.
    Checking(u64),
    /// Events that are in the log are compared with the file.
    Comparing(u64),
    /// Events are stored.
    Storing(u64, u64),
}

impl Import<'_> {
    /// Imports a file. `progress` hears of every event, and may stop it.
    pub async fn run(
        &self,
        path: &Path,
        mut progress: impl FnMut(Step) -> Result<(), MoveError>,
    ) -> Result<Imported, MoveError> {
        let mut reader = ExportReader::open(path)?;
        let checker = Checker { rules: self.rules, fold: &self.fold };
        let checked = checker.check(&mut reader, |events| progress(Step::Checking(events)))?;
        self.check_fits(&checked).await?;
        reader.rewind()?;
        let mut writer = Writer { log: self.log, batch: Vec::new(), bytes: 0, stored: 0 };
        let present = match &self.ids {
            Ids::Kept => self.keep_ids(&checked, &mut reader, &mut writer, &mut progress).await?,
            Ids::Mapped(map) => self.map_ids(map, &checked, &mut reader, &mut writer, &mut progress).await?,
        };
        Ok(Imported { file: checked, present, stored: writer.stored })
    }

    async fn check_fits(&self, checked: &Checked) -> Result<(), MoveError> {
        let room = self.log.message_bytes_max().saturating_sub(COMMIT_HEADERS_BYTES);
        if checked.bytes_max > room {
            return Err(MoveError::Refused(format!(
                "the longest event has {} bytes, and NATS takes {room} here: raise its max_payload",
                checked.bytes_max
            )));
        }
        let in_force = self.log.rules_in_force().await?;
        if checked.is_foreign && in_force.is_some() {
            let why = "rules of your application are in force here. Import events of another server before you activate \
                       rules";
            return Err(MoveError::Refused(why.to_owned()));
        }
        if let Some(rules) = checked.rules
            && in_force.is_none_or(|known| known.activation < rules.activation)
        {
            return Err(MoveError::Refused(format!(
                "events of the file were decided under the application's rules {}, at activation {}, and this backend \
                 is at activation {}. Publish the rules here, and activate them until it is that far",
                rules.version,
                rules.activation,
                in_force.map_or(0, |known| known.activation)
            )));
        }
        Ok(())
    }

    /// Stores the events under the ids that they have. Tells how many were there.
    async fn keep_ids(
        &self,
        checked: &Checked,
        reader: &mut ExportReader,
        writer: &mut Writer<'_>,
        progress: &mut impl FnMut(Step) -> Result<(), MoveError>,
    ) -> Result<u64, MoveError> {
        let (first, last) = (checked.first.0, checked.last.0);
        if checked.events == 0 {
            return Ok(0);
        }
        let gaps = last + 1 - first - checked.events;
        if gaps > GAPS_MAX {
            return Err(MoveError::Refused(format!(
                "{gaps} ids between the file's events are not used, and at most {GAPS_MAX} can be left out: import it \
                 with --map"
            )));
        }
        let mut end = self.log.end_of_log().await?;
        if end.messages == 0 && end.last == 0 && first > 1 {
            self.log.begin_ids_at(EventId(first)).await?;
            end = self.log.end_of_log().await?;
        }
        let mut records = Records::default();
        let (present, mut next) = match end.messages {
            0 if end.last + 1 == first => (0, records.next(reader)?),
            0 => return Err(used()),
            _ => self.compare(reader, &mut records, progress).await?,
        };
        if next.is_none() && end.last > last {
            return Err(used());
        }
        // How far the log is stored, and how far it is with what waits for the next batch.
        let (mut at, mut placed) = (end.last, end.last);
        while let Some((id, token, body)) = next {
            if id.0 <= placed {
                return Err(used());
            }
            for _ in placed + 1..id.0 {
                let gap = ImportedEvent { token: None, body: Bytes::new(), expected: None };
                writer.push(gap, Some(&mut at)).await?;
            }
            let event = ImportedEvent { token: Some(token), body, expected: None };
            writer.push(event, Some(&mut at)).await?;
            placed = id.0;
            progress(Step::Storing(present + writer.stored, checked.events))?;
            next = records.next(reader)?;
        }
        writer.flush(Some(&mut at)).await?;
        if gaps > 0 {
            self.log.remove_gaps().await?;
        }
        self.log.accept_import().await?;
        Ok(present)
    }

    /// Compares all that the log has with the beginning of the file. Tells how many events that were, and gives the
    /// one after them.
    async fn compare(
        &self,
        reader: &mut ExportReader,
        records: &mut Records,
        progress: &mut impl FnMut(Step) -> Result<(), MoveError>,
    ) -> Result<(u64, Option<(EventId, Token, Bytes)>), MoveError> {
        let mut next = records.next(reader)?;
        let mut present = 0;
        let Some(last) = self.log.leader_last().await? else { return Ok((0, next)) };
        let mut replay = self.log.replay_all(last);
        while let Some((token, stored)) = replay.next_with_partition().await? {
            // A placeholder of an import that was ended in the middle.
            let Some(token) = token else { continue };
            match next {
                Some((id, of, body)) if id == stored.id && of == token && body == stored.body => {}
                _ => return Err(used()),
            }
            present += 1;
            progress(Step::Comparing(present))?;
            next = records.next(reader)?;
        }
        Ok((present, next))
    }

    /// Stores the events under new ids, and writes which became which. Tells how many were there.
    async fn map_ids(
        &self,
        map: &Path,
        checked: &Checked,
        reader: &mut ExportReader,
        writer: &mut Writer<'_>,
        progress: &mut impl FnMut(Step) -> Result<(), MoveError>,
    ) -> Result<u64, MoveError> {
        if map.exists() {
            return Err(MoveError::Refused(format!("{} is there already", map.display())));
        }
        // Only a whole one gets its name.
        let mut part = map.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let mut mapping =
            Mapping { out: BufWriter::new(File::create(&part).map_err(MoveError::file(&part))?), part };
        let mut heads: HashMap<Token, EventId> = HashMap::new();
        let mut records = Records::default();
        let mut present = 0;
        let mut next = records.next(reader)?;
        if self.log.has_events_of(checked.partitions.keys()).await?
            && let Some(last) = self.log.leader_last().await?
        {
            let mut replay = self.log.replay_all(last);
            while let Some((token, stored)) = replay.next_with_partition().await? {
                let Some(token) = token.filter(|token| checked.partitions.contains_key(token)) else {
                    continue;
                };
                match next {
                    Some((id, of, body)) if of == token && body == stored.body => {
                        mapping.add(id, stored.id)?
                    }
                    _ => {
                        return Err(MoveError::Refused(format!(
                            "the partition {token} has events here that are not the file's: event {}",
                            stored.id
                        )));
                    }
                }
                heads.insert(token, stored.id);
                present += 1;
                progress(Step::Comparing(present))?;
                next = records.next(reader)?;
            }
        }
        let (mut olds, mut in_batch) = (Vec::new(), HashSet::new());
        while let Some((id, token, body)) = next {
            // A partition's first event of a batch names the last one before; the others need not.
            let is_first = in_batch.insert(token.clone());
            let expected = is_first.then(|| heads.get(&token).copied().unwrap_or(EventId::NONE));
            olds.push((id, token.clone()));
            let event = ImportedEvent { token: Some(token), body, expected };
            if let Some(first) = writer.push(event, None).await? {
                in_batch.clear();
                mapping.add_all(&mut olds, first, &mut heads)?;
            }
            progress(Step::Storing(present + writer.stored, checked.events))?;
            next = records.next(reader)?;
        }
        if let Some(first) = writer.flush(None).await? {
            mapping.add_all(&mut olds, first, &mut heads)?;
        }
        mapping.finish(map)?;
        Ok(present)
    }
}

fn used() -> MoveError {
    let why = "the log has other events than the file, so the file's cannot keep their ids: import into a backend \
               without events, or with --map";
    MoveError::Refused(why.to_owned())
}

/// Collects events and stores them in batches.
struct Writer<'a> {
    log: &'a Log,
    batch: Vec<ImportedEvent>,
    bytes: usize,
    stored: u64,
}

impl Writer<'_> {
    /// Takes an event, and stores those before it if there are enough for a batch; then tells the id of the first.
    /// `last` is the last id of the log, if nobody else may have stored anything.
    async fn push(
        &mut self,
        event: ImportedEvent,
        last: Option<&mut u64>,
    ) -> Result<Option<EventId>, MoveError> {
        self.bytes += event.body.len();
        self.batch.push(event);
        match self.batch.len() >= BATCH_EVENTS_MAX || self.bytes >= BATCH_BYTES {
            true => self.flush(last).await,
            false => Ok(None),
        }
    }

    async fn flush(&mut self, last: Option<&mut u64>) -> Result<Option<EventId>, MoveError> {
        if self.batch.is_empty() {
            return Ok(None);
        }
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let expected = last.as_ref().map(|last| EventId(**last));
        let first = match self.log.store_imported(&batch, expected).await {
            Ok(first) => first,
            Err(CommitError::Conflict) => {
                return Err(MoveError::Refused(
                    "somebody else wrote into the log, or into a partition of the file, while it was imported. Stop \
                     validators for an import that keeps ids; with --map, keep clients away from the file's partitions"
                        .to_owned(),
                ));
            }
            Err(error) => return Err(MoveError::NotStored(error)),
        };
        faults::die_at(faults::DIE_IN_IMPORT);
        if let Some(last) = last {
            *last += batch.len() as u64;
        }
        self.stored += batch.iter().filter(|event| event.token.is_some()).count() as u64;
        Ok(Some(first))
    }
}

/// The file that says which id became which.
struct Mapping {
    part: PathBuf,
    out: BufWriter<File>,
}

impl Mapping {
    fn add(&mut self, from: EventId, to: EventId) -> Result<(), MoveError> {
        writeln!(self.out, "{{\"from\":{from},\"to\":{to}}}").map_err(MoveError::file(&self.part))
    }

    /// Adds a batch that was stored from this id on.
    fn add_all(
        &mut self,
        olds: &mut Vec<(EventId, Token)>,
        first: EventId,
        heads: &mut HashMap<Token, EventId>,
    ) -> Result<(), MoveError> {
        for ((from, token), to) in olds.drain(..).zip((first.0..).map(EventId)) {
            self.add(from, to)?;
            heads.insert(token, to);
        }
        Ok(())
    }

    fn finish(self, map: &Path) -> Result<(), MoveError> {
        let failed = MoveError::file(&self.part);
        let file = self.out.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(&failed)?;
        std::fs::rename(&self.part, map).map_err(failed)
    }
}
