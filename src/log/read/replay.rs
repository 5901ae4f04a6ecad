//! Reading the log: heads, single events, pages, and history.

use bytes::Bytes;
use tracing::debug;

use super::batch_get::{Batch, BatchGet, Stored};
use super::long_read::{BYTES_AT_ONCE, EVENTS_AT_ONCE, LongRead};
use crate::event::{EventId, Token};
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::subjects;

/// An event as it lies in the log: its id and the bytes of its record.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Its place.
    pub id: EventId,
    /// The body; [`EventRecord::parse`](crate::event::EventRecord::parse) reads it.
    pub body: Bytes,
}

impl StoredEvent {
    /// The record as it is stored, with its id in front, as one line of JSON. A payload stands as its client
    /// wrote it, so there may be line breaks between its parts; inside strings JSON has none.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = format!("{{\"eventId\":{},", self.id).into_bytes();
        let record = self.body.strip_prefix(b"{").unwrap_or(&self.body);
        line.extend(record.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
        line.push(b'\n');
        line
    }
}

/// Some events of a partition, in order, as they come from the log.
pub struct PageReader(Events);

/// Where they come from.
enum Events {
    Read(Box<Batch>),
    /// Out of a test's own log: those that are left, and whether it has more.
    #[cfg(test)]
    Given(std::collections::VecDeque<StoredEvent>, bool),
}

impl PageReader {
    /// The next event; `None` behind the last that was asked for.
    pub async fn next(&mut self) -> Result<Option<StoredEvent>, LogError> {
        match &mut self.0 {
            Events::Read(batch) => {
                let stored = batch.next().await?;
                Ok(stored.map(|it| StoredEvent { id: EventId(it.sequence), body: it.message.payload }))
            }
            #[cfg(test)]
            Events::Given(events, _) => Ok(events.pop_front()),
        }
    }

    /// Whether the limits ended it, and not the log; known once [`next`](Self::next) has given the last.
    pub fn more(&self) -> bool {
        match &self.0 {
            Events::Read(batch) => batch.pending() > 0,
            #[cfg(test)]
            Events::Given(_, more) => *more,
        }
    }
}

impl Log {
    /// The last event of a partition.
    ///
    /// A replica that lags may answer, so this can be behind; it is never ahead.
    pub async fn head(&self, token: &Token) -> Result<Option<StoredEvent>, LogError> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return stand_in.head(token).await;
        }
        let get = BatchGet { multi_last: vec![subjects::committed(token)], batch: 1, ..BatchGet::default() };
        self.get_events("reading a partition's head", get).await.map(|events| events.into_iter().next())
    }

    /// The first event of a partition behind `after`.
    pub async fn next(&self, token: &Token, after: EventId) -> Result<Option<StoredEvent>, LogError> {
        self.open_page(token, after, 1, usize::MAX).await?.next().await
    }

    /// At most `events_max` events of a partition behind `after`, and hardly more than `bytes_max` bytes.
    /// For gaps and pages; for long stretches there is [`Log::replay`].
    pub async fn page(
        &self,
        token: &Token,
        after: EventId,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredEvent>, LogError> {
        let mut reader = self.open_page(token, after, events_max, bytes_max).await?;
        let mut events = Vec::new();
        while let Some(event) = reader.next().await? {
            events.push(event);
        }
        Ok(events)
    }

    /// The same, to be taken one by one as they come.
    pub async fn open_page(
        &self,
        token: &Token,
        after: EventId,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<PageReader, LogError> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            let (events, more) = stand_in.page(token, after, events_max).await?;
            return Ok(PageReader(Events::Given(events.into(), more)));
        }
        let get = BatchGet {
            seq: Some(after.0 + 1),
            next_by_subj: Some(subjects::committed(token)),
            batch: events_max,
            max_bytes: (bytes_max < i32::MAX as usize).then_some(bytes_max),
            ..BatchGet::default()
        };
        let batch = self.open_batch("reading a page of the log", subjects::COMMITTED_STREAM, get).await?;
        Ok(PageReader(Events::Read(Box::new(batch))))
    }

    /// One event by its id, with its partition's token.
    pub async fn event(&self, id: EventId) -> Result<Option<(Token, StoredEvent)>, LogError> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return stand_in.event(id).await;
        }
        const WHAT: &str = "reading an event";
        let get = BatchGet { seq: Some(id.0), batch: 1, ..BatchGet::default() };
        let found = self.batch_get(WHAT, subjects::COMMITTED_STREAM, get).await?;
        let Some(stored) = found.into_iter().find(|stored| stored.sequence == id.0) else { return Ok(None) };
        let token = subjects::token_of_committed(&stored.subject)
            .and_then(|token| Token::parse(token).ok())
            .ok_or_else(|| LogError::malformed(WHAT, format!("subject {}", stored.subject)))?
            .0;
        Ok(Some((token, StoredEvent { id, body: stored.message.payload })))
    }

    /// Whether an event of a partition is in the log under this id. `None` if the log ends before it, as far as the
    /// server that answers knows: with replicas one may be behind the others.
    pub async fn holds(&self, token: &Token, id: EventId) -> Result<Option<bool>, LogError> {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return Ok(stand_in.event(id).await?.map(|(of, _)| of == *token));
        }
        const WHAT: &str = "looking for an event";
        let get = BatchGet { seq: Some(id.0), batch: 1, ..BatchGet::default() };
        let found = self.batch_get(WHAT, subjects::COMMITTED_STREAM, get).await?;
        let is_it = |stored: &Stored| stored.sequence == id.0 && stored.subject == subjects::committed(token);
        Ok(found.first().map(is_it))
    }

    async fn get_events(&self, what: &'static str, get: BatchGet) -> Result<Vec<StoredEvent>, LogError> {
        let found = self.batch_get(what, subjects::COMMITTED_STREAM, get).await?;
        Ok(found
            .into_iter()
            .map(|stored| StoredEvent { id: EventId(stored.sequence), body: stored.message.payload })
            .collect())
    }

    /// The events of a partition behind `after`, up to and including `upto`, which must be an event of the
    /// partition (its head, say): it is how the replay knows that it is through.
    pub fn replay(&self, token: &Token, after: EventId, upto: EventId) -> Replay {
        self.replay_of(subjects::committed(token), after, upto)
    }

    /// The events of all partitions up to and including `upto`, which must be one of them.
    pub fn replay_all(&self, upto: EventId) -> Replay {
        self.replay_of(subjects::COMMITTED_ALL.to_owned(), EventId::NONE, upto)
    }

    fn replay_of(&self, subject: String, after: EventId, upto: EventId) -> Replay {
        Replay { log: self.clone(), subject, way: Way::None, batches: 0, last: after, upto }
    }
}

const WHAT: &str = "replaying the log";

/// After so many answers that were not the last, a replay is a long one, and worth a consumer.
const SHORT_BATCHES: usize = 2;

/// A stretch of the history of a partition, or of all, being read.
pub struct Replay {
    log: Log,
    subject: String,
    way: Way,
    /// Answers read so far.
    batches: usize,
    last: EventId,
    upto: EventId,
}

/// How the next event comes.
enum Way {
    None,
    /// Events that are on their way, and whether there was one among them.
    Batch(Box<Batch>, bool),
    Consumer(Box<LongRead>),
}

impl Replay {
    /// The next event; `None` once the last one asked for was given. After an error the replay is over.
    pub async fn next(&mut self) -> Result<Option<StoredEvent>, LogError> {
        Ok(self.next_with_subject().await?.map(|(_, event)| event))
    }

    /// The next event with its partition, which is `None` for a message that is no partition's.
    pub async fn next_with_partition(&mut self) -> Result<Option<(Option<Token>, StoredEvent)>, LogError> {
        let Some((subject, event)) = self.next_with_subject().await? else { return Ok(None) };
        let token = subjects::token_of_committed(&subject).and_then(|token| Token::parse(token).ok());
        Ok(Some((token.map(|(token, _)| token), event)))
    }

    async fn next_with_subject(&mut self) -> Result<Option<(String, StoredEvent)>, LogError> {
        while self.last < self.upto {
            match std::mem::replace(&mut self.way, Way::None) {
                Way::None => self.way = self.next_way().await?,
                Way::Batch(mut batch, any) => match batch.next().await? {
                    Some(stored) => {
                        self.way = Way::Batch(batch, true);
                        return self.given(stored).map(Some);
                    }
                    None if !any => {
                        let why = "a lagging replica, or a log without its end";
                        return Err(LogError::unavailable(WHAT, why));
                    }
                    None => self.batches += 1,
                },
                Way::Consumer(mut read) => match read.next().await {
                    Ok(stored) => {
                        self.way = Way::Consumer(read);
                        return self.given(stored).map(Some);
                    }
                    Err(error) => {
                        debug!(%error, after = %self.last, "a long history goes on with direct gets");
                        read.end();
                        self.batches = 0;
                    }
                },
            }
        }
        if let Way::Consumer(read) = std::mem::replace(&mut self.way, Way::None) {
            read.end();
        }
        Ok(None)
    }

    async fn next_way(&self) -> Result<Way, LogError> {
        if self.batches >= SHORT_BATCHES
            && let Some(read) = LongRead::open(&self.log, &self.subject, self.last).await
        {
            return Ok(Way::Consumer(Box::new(read)));
        }
        let get = BatchGet {
            seq: Some(self.last.0 + 1),
            next_by_subj: Some(self.subject.clone()),
            batch: EVENTS_AT_ONCE.min((self.upto.0 - self.last.0) as usize),
            max_bytes: Some(BYTES_AT_ONCE),
            ..BatchGet::default()
        };
        let batch = self.log.open_batch(WHAT, subjects::COMMITTED_STREAM, get).await?;
        Ok(Way::Batch(Box::new(batch), false))
    }

    /// Takes note of an event that is given out.
    fn given(&mut self, stored: Stored) -> Result<(String, StoredEvent), LogError> {
        self.last = EventId(stored.sequence);
        if self.last > self.upto {
            // The event that was to be the last is no longer there.
            let why = format!("event {} is missing; the next one is {}", self.upto, self.last);
            return Err(LogError::malformed(WHAT, why));
        }
        Ok((stored.subject, StoredEvent { id: self.last, body: stored.message.payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_its_client_wrote() {
        let body = "{\"type\":\"set\",\"payload\":{\n  \"target\": \"a\\nb\"\r\n}}".into();
        let line = String::from_utf8(StoredEvent { id: EventId(7), body }.to_line()).unwrap();
        assert_eq!(line.trim_end_matches('\n').lines().count(), 1);
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["eventId"], 7);
        assert_eq!(event["payload"]["target"], "a\nb");
    }
}
