//! The log from its first event on, of one partition or of all, by direct gets.

use super::batch_get::{Batch, BatchGet};
use super::replay::StoredEvent;
use crate::event::{EventId, Token};
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::subjects;

/// The most events and bytes that are asked for at a time.
const EVENTS: usize = 4096;
const BYTES: usize = 4 << 20;

/// The log, being read.
pub struct Stretch {
    log: Log,
    subject: String,
    /// The events that are on their way, and whether there was one among them.
    batch: Option<(Box<Batch>, bool)>,
    last: EventId,
    upto: EventId,
}

impl Log {
    /// The events of a partition, or of all, up to and including `upto`, which must be one of them.
    pub fn from_the_first(&self, of: Option<&Token>, upto: EventId) -> Stretch {
        let subject = of.map_or(subjects::COMMITTED_ALL.to_owned(), subjects::committed);
        Stretch { log: self.clone(), subject, batch: None, last: EventId::NONE, upto }
    }
}

impl Stretch {
    /// The next event with its partition, which is `None` for a message that is no partition's.
    pub async fn next(&mut self) -> Result<Option<(Option<Token>, StoredEvent)>, LogError> {
        const WHAT: &str = "reading the log from its beginning";
        while self.last < self.upto {
            if self.batch.is_none() {
                let get = BatchGet {
                    seq: Some(self.last.0 + 1),
                    next_by_subj: Some(self.subject.clone()),
                    batch: EVENTS,
                    max_bytes: Some(BYTES),
                    ..BatchGet::default()
                };
                let batch = self.log.open_batch(WHAT, subjects::COMMITTED_STREAM, get).await?;
                self.batch = Some((Box::new(batch), false));
            }
            let Some((batch, any)) = &mut self.batch else { continue };
            let Some(stored) = batch.next().await? else {
                if !*any {
                    return Err(LogError::unavailable(WHAT, "a lagging replica, or a log without its end"));
                }
                self.batch = None;
                continue;
            };
            *any = true;
            self.last = EventId(stored.sequence);
            if self.last > self.upto {
                let why = format!("event {} is missing; the next one is {}", self.upto, self.last);
                return Err(LogError::malformed(WHAT, why));
            }
            let token = subjects::token_of_committed(&stored.subject);
            let token = token.and_then(|token| Token::parse(token).ok()).map(|(token, _)| token);
            return Ok(Some((token, StoredEvent { id: self.last, body: stored.message.payload })));
        }
        Ok(None)
    }
}
