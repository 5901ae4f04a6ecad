//! Batched direct gets: many stored messages for one request, without a consumer.
//!
//! `async-nats` has no call for this yet; the request is one JSON object and the reply a run of messages
//! that ends with status 204. A consumer must be made and deleted, and needs rights that a frontend must not have;
//! it is the faster way where a long history is read in a row (`long_read.rs`).
//!
//! What comes back is checked against what was asked for. NATS sends a reply to whatever subject the request
//! names, so whoever knows a frontend's inbox and may ask the log something can have the answer sent there: a
//! genuine event, but of another partition, or another place.

use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber, header};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use serde::Serialize;
use tokio::time::timeout;

use crate::faults;
use crate::log::client::{Log, reconnected};
use crate::log::error::LogError;
use crate::log::{metrics, subjects};

/// What to get; the field names are NATS's.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct BatchGet {
    /// The first sequence number to look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Only messages on this subject, or that begin as it does if it ends in `>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_by_subj: Option<String>,
    /// The last message of every subject that is one of these, or begins as one that ends in `>`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub multi_last: Vec<String>,
    /// The most messages in the reply.
    pub batch: usize,
    /// The most bytes in the reply, headers and subjects included; the message that passes it is still sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<usize>,
}

/// A message as it is stored.
pub(crate) struct Stored {
    pub sequence: u64,
    pub subject: String,
    pub message: Message,
}

/// The reply to a [`BatchGet`], message by message.
///
/// Every message names the one before it in the answer (`Nats-Last-Sequence`), and the end names the last one. So
/// an answer that lost messages is noticed: when the connection is replaced in the middle, `async-nats` subscribes
/// the inbox again, and the rest of the answer arrives without the part that went down with the old connection. What
/// was given out until then is whole; the rest is asked for again, a bounded number of times.
pub(crate) struct Batch {
    log: Log,
    what: &'static str,
    stream: &'static str,
    /// What is still to come.
    request: BatchGet,
    replies: Subscriber,
    /// Reconnects before this answer was asked for.
    reconnects: u64,
    /// Messages of this answer so far, and their bytes as `max_bytes` counts them.
    got: usize,
    bytes: usize,
    /// The last of them; 0 before the first.
    last: u64,
    /// Its `Nats-Num-Pending`, where no more messages were asked for.
    left: Option<u64>,
    /// Answers in a row that were not whole and brought nothing.
    torn: u32,
    pending: u64,
}

/// The most subjects of which NATS tells the last messages at once; with more it refuses (413, too many results).
const SUBJECTS_MAX: usize = 1024;
/// The most bytes of subjects in a request: what NATS takes in a message is more (`limits.rs`).
const SUBJECT_BYTES_MAX: usize = 64 * 1024;
/// The most messages and bytes of all that are asked for at a time.
const ALL_AT_ONCE: usize = 4096;
const ALL_BYTES_AT_ONCE: usize = 4 << 20;

/// How often in a row an answer that is not whole is asked for again.
const TORN_MAX: u32 = 8;
/// How long the next message may take after a reconnect: it may have gone down with the old connection.
const AFTER_RECONNECT: Duration = Duration::from_millis(500);

/// Why there is no next message.
enum Flaw {
    /// The answer is not whole; asked again, it may be.
    Torn(String),
    Failed(LogError),
}

impl Log {
    /// Gets messages from `stream`. Nothing found is an empty answer. Each message may take the request
    /// time-out to arrive.
    pub(crate) async fn batch_get(
        &self,
        what: &'static str,
        stream: &'static str,
        request: BatchGet,
    ) -> Result<Vec<Stored>, LogError> {
        let mut torn = 0;
        loop {
            let mut batch = self.open_batch(what, stream, request.clone()).await?;
            let mut found = Vec::new();
            let failed = loop {
                match batch.next().await {
                    Ok(Some(stored)) => found.push(stored),
                    Ok(None) => return Ok(found),
                    Err(error) => break error,
                }
            };
            // The last messages of many subjects are one answer, which cannot be continued, only asked for again.
            torn += 1;
            if batch.torn == 0 || batch.resumes() || torn >= TORN_MAX {
                return Err(failed);
            }
        }
    }

    /// Gets all messages on subjects that begin as `subject`, which ends in `>`, in their order. What is replaced
    /// meanwhile may come twice, and what counts comes last; nothing is left out.
    ///
    /// For streams that keep the last message of each subject. NATS tells those of no more than [`SUBJECTS_MAX`]
    /// subjects at once.
    pub(crate) async fn get_all(
        &self,
        what: &'static str,
        stream: &'static str,
        subject: String,
    ) -> Result<Vec<Stored>, LogError> {
        let mut all: Vec<Stored> = Vec::new();
        loop {
            let before = all.len();
            let get = BatchGet {
                seq: Some(all.last().map_or(1, |last| last.sequence + 1)),
                next_by_subj: Some(subject.clone()),
                batch: ALL_AT_ONCE,
                max_bytes: Some(ALL_BYTES_AT_ONCE),
                ..BatchGet::default()
            };
            let mut batch = self.open_batch(what, stream, get).await?;
            while let Some(stored) = batch.next().await? {
                all.push(stored);
            }
            if all.len() == before || batch.pending() == 0 {
                return Ok(all);
            }
        }
    }

    /// Gets the last message of each of these subjects, in no order. Those without any are left out.
    pub(crate) async fn get_last_of(
        &self,
        what: &'static str,
        stream: &'static str,
        subjects: Vec<String>,
    ) -> Result<Vec<Stored>, LogError> {
        let mut found = Vec::with_capacity(subjects.len());
        for some in in_requests(subjects) {
            let get = BatchGet { batch: some.len(), multi_last: some, ..BatchGet::default() };
            found.extend(self.batch_get(what, stream, get).await?);
        }
        Ok(found)
    }

    /// Asks for messages from `stream`, to be taken one by one as they come.
    pub(crate) async fn open_batch(
        &self,
        what: &'static str,
        stream: &'static str,
        request: BatchGet,
    ) -> Result<Batch, LogError> {
        let (replies, reconnects) = self.ask_for_batch(what, stream, &request).await?;
        let log = self.clone();
        let (got, bytes, last, left, torn, pending) = (0, 0, 0, None, 0, 0);
        Ok(Batch { log, what, stream, request, replies, reconnects, got, bytes, last, left, torn, pending })
    }

    /// Sends the request. Gives the inbox, and the number of reconnects before.
    async fn ask_for_batch(
        &self,
        what: &'static str,
        stream: &str,
        request: &BatchGet,
    ) -> Result<(Subscriber, u64), LogError> {
        let reconnects = self.state().borrow().reconnects;
        let body = serde_json::to_vec(request).map_err(|error| LogError::malformed(what, error))?;
        let inbox = self.client.new_inbox();
        let replies =
            self.client.subscribe(inbox.clone()).await.map_err(|error| LogError::unavailable(what, error))?;
        self.client
            .publish_with_reply(self.api(&format!("DIRECT.GET.{stream}")), inbox, Bytes::from(body))
            .await
            .map_err(|error| LogError::unavailable(what, error))?;
        Ok((replies, reconnects))
    }
}

impl Batch {
    /// The next message; `None` after the last. After an error the batch is over.
    pub(crate) async fn next(&mut self) -> Result<Option<Stored>, LogError> {
        loop {
            match self.take().await {
                Ok(next) => return Ok(next),
                Err(Flaw::Failed(error)) => return Err(error),
                Err(Flaw::Torn(why)) => {
                    metrics::torn_read();
                    self.torn = if self.got > 0 { 1 } else { self.torn + 1 };
                    if self.torn >= TORN_MAX || !self.resumes() {
                        return Err(LogError::unavailable(self.what, format!("an incomplete answer: {why}")));
                    }
                    tracing::debug!(
                        what = self.what,
                        why,
                        torn = self.torn,
                        "an incomplete answer; asking again"
                    );
                    if let Some(pending) = self.left {
                        // Only the end of the answer is missing.
                        self.pending = pending;
                        return Ok(None);
                    }
                    self.ask_again().await?;
                }
            }
        }
    }

    /// How many more there were in the stream, known once [`next`](Self::next) has given the last.
    pub(crate) fn pending(&self) -> u64 {
        self.pending
    }

    /// Whether the rest of the answer can be asked for.
    fn resumes(&self) -> bool {
        self.request.multi_last.is_empty() || self.got == 0
    }

    /// Asks for what is still to come.
    async fn ask_again(&mut self) -> Result<(), LogError> {
        if self.got > 0 {
            self.request.seq = Some(self.last + 1);
            self.request.batch -= self.got;
            if let Some(bytes_max) = &mut self.request.max_bytes {
                *bytes_max = bytes_max.saturating_sub(self.bytes).max(1);
            }
        }
        (self.replies, self.reconnects) =
            self.log.ask_for_batch(self.what, self.stream, &self.request).await?;
        (self.got, self.bytes, self.last) = (0, 0, 0);
        Ok(())
    }

    async fn take(&mut self) -> Result<Option<Stored>, Flaw> {
        let what = self.what;
        let reply = self.reply().await?;
        match reply.status {
            // 204: the end of the answer.
            Some(status) if status.as_u16() == 204 => {
                self.check_joins(&reply)?;
                self.pending = header_u64(&reply, subjects::NUM_PENDING).unwrap_or(0);
                Ok(None)
            }
            // 404: there is nothing.
            Some(StatusCode::NOT_FOUND) if self.got == 0 => Ok(None),
            Some(StatusCode::NOT_FOUND) => Err(Flaw::Torn("it ends with 'not found'".to_owned())),
            Some(StatusCode::NO_RESPONDERS) => {
                Err(LogError::unavailable(what, format!("stream {} does not answer", self.stream)).into())
            }
            Some(status) if status != StatusCode::OK => {
                let why = reply.description.as_ref().map_or("no reason given", |text| text.as_str());
                Err(LogError::refused(what, format!("{status} {why}")).into())
            }
            _ => {
                self.check_joins(&reply)?;
                let stored = stored(what, reply)?;
                self.check(&stored)?;
                self.got += 1;
                self.bytes += stored.subject.len() + stored.message.length;
                self.last = stored.sequence;
                if self.got == self.request.batch {
                    self.left = header_u64(&stored.message, subjects::NUM_PENDING);
                }
                Ok(Some(stored))
            }
        }
    }

    /// The next reply, of whatever kind.
    async fn reply(&mut self) -> Result<Message, Flaw> {
        // Most replies are here already.
        if let Some(reply) = self.replies.next().now_or_never() {
            return reply.ok_or_else(|| self.closing());
        }
        let mut state = self.log.state();
        let replaced = tokio::select! {
            biased;
            reply = timeout(self.log.settings.request_timeout, self.replies.next()) => match reply {
                Ok(reply) => return reply.ok_or_else(|| self.closing()),
                Err(_) => return Err(LogError::unavailable(self.what, "timed out").into()),
            },
            () = reconnected(&mut state, self.reconnects) => timeout(AFTER_RECONNECT, self.replies.next()).await,
        };
        match replaced {
            Ok(reply) => reply.ok_or_else(|| self.closing()),
            Err(_) => Err(Flaw::Torn("the connection was replaced before the end".to_owned())),
        }
    }

    fn closing(&self) -> Flaw {
        LogError::unavailable(self.what, "the connection is closing").into()
    }

    /// Whether a reply follows the last one.
    fn check_joins(&self, reply: &Message) -> Result<(), Flaw> {
        let previous = header_u64(reply, header::NATS_LAST_SEQUENCE);
        if previous == Some(self.last) || faults::broken("believe_batches") {
            return Ok(());
        }
        let previous = previous.map_or("none".to_owned(), |previous| previous.to_string());
        Err(Flaw::Torn(format!("a reply follows message {previous}, and {} was the last", self.last)))
    }

    /// Whether this is what was asked for. What is not makes the whole answer unknown, so the question is asked
    /// again.
    fn check(&self, stored: &Stored) -> Result<(), LogError> {
        let Stored { sequence, subject, message } = stored;
        let from = header_str(message, header::NATS_STREAM);
        if from == Some(self.stream) && self.request.asks_for(subject, *sequence, self.last, self.got) {
            return Ok(());
        }
        tracing::warn!(
            subject,
            sequence,
            what = self.what,
            "a stored message that was not asked for; asking again"
        );
        Err(LogError::unavailable(self.what, format!("message {sequence} on {subject} was not asked for")))
    }
}

impl From<LogError> for Flaw {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

impl BatchGet {
    /// Whether a message can be in the answer, behind `got` others of which the last is `last`.
    fn asks_for(&self, subject: &str, sequence: u64, last: u64, got: usize) -> bool {
        let wanted = match &self.next_by_subj {
            Some(wanted) => is_of(wanted, subject),
            None => self.multi_last.is_empty() || self.multi_last.iter().any(|of| is_of(of, subject)),
        };
        wanted && sequence >= self.seq.unwrap_or(1) && sequence > last && got < self.batch
    }
}

/// Subjects in groups of which each can be asked for at once.
fn in_requests(subjects: Vec<String>) -> Vec<Vec<String>> {
    let mut requests: Vec<Vec<String>> = Vec::new();
    let mut bytes = 0;
    for subject in subjects {
        bytes += subject.len() + 3;
        match requests.last_mut() {
            Some(last) if last.len() < SUBJECTS_MAX && bytes <= SUBJECT_BYTES_MAX => last.push(subject),
            _ => {
                bytes = subject.len() + 3;
                requests.push(vec![subject]);
            }
        }
    }
    requests
}

fn is_of(pattern: &str, subject: &str) -> bool {
    pattern.strip_suffix('>').map_or(subject == pattern, |start| subject.starts_with(start))
}

fn stored(what: &'static str, message: Message) -> Result<Stored, LogError> {
    let sequence = header_u64(&message, header::NATS_SEQUENCE)
        .ok_or_else(|| LogError::unavailable(what, "a reply without a stored message's sequence number"))?;
    let subject = header_str(&message, header::NATS_SUBJECT)
        .ok_or_else(|| LogError::unavailable(what, "a reply without a stored message's subject"))?
        .to_owned();
    Ok(Stored { sequence, subject, message })
}

/// A header's text.
pub(crate) fn header_str(message: &Message, name: impl header::IntoHeaderName) -> Option<&str> {
    Some(message.headers.as_ref()?.get(name)?.as_str())
}

/// A header that holds a number.
pub(crate) fn header_u64(message: &Message, name: impl header::IntoHeaderName) -> Option<u64> {
    header_str(message, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_only_for_what_was_asked() {
        let page = BatchGet {
            seq: Some(5),
            next_by_subj: Some("committed.a".into()),
            batch: 2,
            ..BatchGet::default()
        };
        assert!(page.asks_for("committed.a", 5, 0, 0) && page.asks_for("committed.a", 9, 5, 1));
        assert!(!page.asks_for("committed.b", 5, 0, 0), "another partition's");
        assert!(!page.asks_for("committed.a", 4, 0, 0), "an earlier place");
        assert!(!page.asks_for("committed.a", 9, 9, 1), "the same again");
        assert!(!page.asks_for("committed.a", 9, 5, 2), "more than asked for");

        let last = |of: &str| BatchGet { multi_last: vec![of.into()], batch: 9, ..BatchGet::default() };
        assert!(last("committed.a").asks_for("committed.a", 7, 0, 0));
        assert!(!last("committed.a").asks_for("committed.ab", 7, 0, 0));
        assert!(last("$KV.SLOTS.>").asks_for("$KV.SLOTS.slot.1", 7, 0, 0));
        assert!(!last("$KV.SLOTS.>").asks_for("$KV.OTHER.slot.1", 7, 0, 0));
        let one = BatchGet { seq: Some(3), batch: 1, ..BatchGet::default() };
        assert!(one.asks_for("committed.whose", 3, 0, 0));
    }

    #[test]
    fn many_subjects_are_asked_for_in_as_many_requests_as_nats_answers() {
        let of = |count: usize, bytes: usize| (0..count).map(|n| format!("{n:0bytes$}")).collect::<Vec<_>>();
        let sizes = |subjects: &[String]| -> Vec<usize> {
            let requests = in_requests(subjects.to_vec());
            assert_eq!(requests.concat(), subjects, "each once, in order");
            let bytes = |request: &Vec<String>| serde_json::to_vec(request).unwrap().len();
            assert!(requests.iter().all(|request| bytes(request) <= SUBJECT_BYTES_MAX + 2));
            requests.iter().map(Vec::len).collect()
        };
        assert_eq!(sizes(&of(0, 9)), [0; 0]);
        assert_eq!(sizes(&of(1024, 9)), [1024]);
        assert_eq!(sizes(&of(2500, 9)), [1024, 1024, 452]);
        assert_eq!(sizes(&of(400, 350)), [185, 185, 30]);
    }
}
