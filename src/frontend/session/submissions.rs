//! A connection's drafts: taken in, published, answered.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::lane::Lane;
use super::line::{Line, reply_to};
use super::outcomes::Outcomes;
use super::publishing::Progress;
use super::socket::End;
use crate::event::{Answer, Draft, DraftKey, EventId, FieldError, Reason, ReplyTo, Submission};
use crate::faults;
use crate::frontend::feed::event::Entry;
use crate::frontend::metrics;
use crate::log::{LogError, PlacedTrace, PublishError};
use crate::outbox;
use crate::outbox::{Asked, Committed, Done, Published, Taken};
use crate::protocol::{Details, ErrorCode, Notice, Submit};
use crate::telemetry::traces;
use crate::telemetry::traces::Span;

impl Lane {
    /// Takes a draft in, or says why not.
    pub(crate) async fn submit(&mut self, line: &mut Line, id: String, submit: Submit) -> Result<(), End> {
        metrics::hot().submitted.increment(1);
        let Submit { draft_id, draft } = submit;
        let (partition, draft) = match draft {
            Ok(draft) => draft,
            Err(error) => return line.reject(&id, &draft_id, Reason::ValidationFailed, &[error], None).await,
        };
        if partition.is_some_and(|partition| partition != *self.feed.partition()) {
            let why = "is not the connection's partition";
            let errors = [FieldError::new("event.partition", "FORBIDDEN", why)];
            return line.reject(&id, &draft_id, Reason::Forbidden, &errors, None).await;
        }
        if let Err(wait) = line.shared.limits.submission(&line.identity.client_id) {
            let retry_after_ms = Some(wait.as_millis() as u64 + 1);
            return line.reject(&id, &draft_id, Reason::RateLimited, &[], retry_after_ms).await;
        }
        if line.leaves() {
            return line.reject(&id, &draft_id, Reason::Unavailable, &[], None).await;
        }
        if let Some(error) = self.too_large(line, &draft) {
            return line.reject(&id, &draft_id, Reason::ValidationFailed, &[error], None).await;
        }
        self.pending.begin_unit();
        match self.pending.submit(draft, Asked::Request(id.clone()), Instant::now().into_std()) {
            Taken::Queued(key) => {
                self.watch_draft(line, key);
                self.begin_trace(line, key, &draft_id);
            }
            Taken::Attached => debug!(draft = draft_id, "the same draft again; it is pending already"),
            Taken::Full => return line.reject(&id, &draft_id, Reason::Unavailable, &[], None).await,
        }
        Ok(())
    }

    /// Begins a draft's trace, if it is one of the sample. It ends with the draft's answer.
    pub(crate) fn begin_trace(&mut self, line: &Line, key: DraftKey, draft_id: &str) {
        let Some(mut span) = traces::begin("draft") else { return };
        span.set("insieme.partition", self.feed.partition().as_str().to_owned());
        span.set("insieme.client", line.identity.client_id.as_str().to_owned());
        span.set("insieme.connection", line.connection as i64);
        span.set("insieme.draft", draft_id.to_owned());
        self.traces.insert(key, span);
    }

    /// The spans of a publish, and what goes along with it.
    fn publish_spans(&self, line: &Line, drafts: &[Arc<Draft>]) -> (Vec<Span>, Vec<PlacedTrace>) {
        if self.traces.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let now = SystemTime::now();
        let traced = drafts.iter().enumerate().filter_map(|(place, draft)| {
            let above = self.traces.get(&draft.key(&line.identity.client_id))?;
            let span = above.parent().span("store", now)?;
            let header = span.parent().header();
            Some((span, (place, header)))
        });
        traced.unzip()
    }

    /// Starts the next publish, when none is under way and something is to be published.
    pub(crate) fn publish_next(&mut self, line: &Line) {
        if !self.publishing.is_idle() {
            return;
        }
        let Some(log_end_at_connect) = self.log_end_at_connect else {
            let (latest, now) = (Arc::clone(&line.shared.latest), Instant::now());
            self.publishing.0 = Some(Box::pin(async move { Progress::TailKnown(latest.since(now).await) }));
            return;
        };
        let known = self.feed.head_now().max(log_end_at_connect);
        self.pending.set_message_bytes_max(line.shared.log.message_bytes_max());
        let Some(publish) = self.pending.next(Instant::now().into_std(), known, line.shared.log.now_ms())
        else {
            return;
        };
        if publish.attempt == 1 {
            metrics::hot().received.record(publish.oldest.elapsed());
        } else {
            metrics::count(metrics::REPUBLISHED);
            let drafts = DraftIds(&publish.drafts);
            debug!(submission = publish.number, attempt = publish.attempt, %drafts, "publishing drafts again");
        }
        let submission = Submission {
            partition: self.feed.partition().clone(),
            submitter: line.identity.submitter(),
            reply_to: ReplyTo {
                frontend: line.shared.settings.id.clone(),
                connection: self.number,
                submission: publish.number,
                attempt: publish.attempt,
                since: publish.since,
                publish: publish.publish,
                storable_until: Some(publish.storable_until),
            },
            units: publish.units,
            drafts: publish.drafts,
        };
        let (mut spans, traces) = self.publish_spans(line, &submission.drafts);
        let (log, feed) = (line.shared.log.clone(), Arc::clone(&self.feed));
        let desk = Arc::clone(&line.shared.answers);
        self.publishing.0 = Some(Box::pin(async move {
            let Ok(body) = serde_json::to_vec(&submission) else {
                return Progress::Published(Published::NotStored);
            };
            let started = Instant::now();
            let stored = log.publish_traced_draft(feed.partition(), feed.token(), body.into(), &traces);
            let result = stored.await;
            if result.is_err() {
                spans.iter_mut().for_each(|span| span.fail("not stored"));
            }
            drop(spans);
            match &result {
                Ok(()) => {
                    desk.asked();
                    metrics::hot().stored.record(started.elapsed());
                    return Progress::Published(Published::Stored);
                }
                Err(error) => {
                    warn!(%error, drafts = %DraftIds(&submission.drafts), "drafts were not published");
                }
            }
            Progress::Published(match result {
                Err(PublishError::Full | PublishError::Refused(_)) => Published::NotStored,
                _ if faults::broken("unknown_is_unstored") => Published::NotStored,
                _ => Published::Unknown,
            })
        }));
    }

    /// What was under way has ended.
    pub(crate) async fn progress(&mut self, line: &mut Line, progress: Progress) -> Result<(), End> {
        let result = match progress {
            Progress::TailKnown(latest) => {
                self.log_end_at_connect = Some(latest);
                return Ok(());
            }
            Progress::Published(result) => result,
        };
        for done in self.pending.published(result, Instant::now().into_std()) {
            self.answer_draft(line, done, None).await?;
        }
        Ok(())
    }

    /// An event with the key of a pending draft has come by.
    pub(crate) async fn committed(&mut self, line: &mut Line, entry: &Arc<Entry>) -> Result<(), End> {
        while let Some(done) = self.pending.committed(entry.draft_key, |draft| entry.is_of(draft)) {
            self.answer_draft(line, done, Some(entry)).await?;
        }
        Ok(())
    }

    /// Answers what the feed has found so far. Done after a head is read and before anything up to that head
    /// is sent, it puts every acceptance before its event.
    pub(crate) async fn drain_committed(&mut self, line: &mut Line) -> Result<(), End> {
        while let Some(entry) = self.found() {
            Box::pin(self.committed(line, &entry)).await?;
        }
        Ok(())
    }

    /// A validator has answered.
    pub(crate) async fn answered(&mut self, line: &mut Line, answer: Answer) -> Result<(), End> {
        let (done, committed) = self.pending.answer(answer);
        // In the order of the submission, as far as the log gives the events just now.
        for done in done {
            self.answer_draft(line, done, None).await?;
        }
        for one in committed {
            self.answer_committed(line, one).await?;
        }
        Ok(())
    }

    /// Answers a draft that a validator found in the log, with the event from there. If that cannot be had
    /// now, the draft stays pending and is asked for again.
    async fn answer_committed(&mut self, line: &mut Line, committed: Committed) -> Result<(), End> {
        if committed.event_id > self.feed.head_now() {
            // It is on its way here; the feed tells of it before its broadcast.
            self.feed.request_check();
            return Ok(());
        }
        match self.event(line, committed.event_id).await {
            Ok(Some(entry)) => {
                if let Some(done) = self.pending.resolve(committed) {
                    self.answer_draft(line, done, Some(&entry)).await?;
                }
            }
            Ok(None) => {
                warn!(event = %committed.event_id, "an event that a validator named is not in the log")
            }
            Err(error) => {
                warn!(event = %committed.event_id, %error, "failed to read a committed event")
            }
        }
        Ok(())
    }

    async fn event(&mut self, line: &Line, id: EventId) -> Result<Option<Arc<Entry>>, LogError> {
        if let Some(entry) = self.feed.recent(id) {
            return Ok(Some(entry));
        }
        let Some((token, stored)) = line.shared.log.event(id).await? else { return Ok(None) };
        Ok((token == *self.feed.token()).then(|| Entry::parse(stored).ok()).flatten().map(Arc::new))
    }

    /// Answers every request that waits for a draft.
    pub(crate) async fn answer_draft(
        &mut self,
        line: &mut Line,
        done: Done,
        entry: Option<&Arc<Entry>>,
    ) -> Result<(), End> {
        let Done { draft, key, since, asked, end } = done;
        if !self.pending.holds(key) {
            self.feed.forget(key, self.number);
        }
        metrics::hot().answer.record(since.elapsed());
        if matches!(end, outbox::End::Accepted | outbox::End::Rejected(..)) {
            line.shared.answers.decided();
        }
        let draft_id = draft.draft_id.as_str();
        if let Some(mut span) = self.traces.remove(&key) {
            span.set("insieme.outcome", end.as_str());
            if let Some(entry) = entry {
                span.set("insieme.event", entry.id.0 as i64);
            }
        }
        debug!(draft = draft_id, event = entry.map(|entry| entry.id.0), end = end.as_str(), "draft answered");
        if !self.batches.is_empty() {
            return self.item_done(line, Done { draft, key, since, asked, end }, entry).await;
        }
        for asked in asked {
            let Asked::Request(id) = asked else { continue };
            let encoded = entry.map(|entry| (entry.id, entry.encoded(line.socket.dialect())));
            let notice = match (&end, &encoded) {
                (outbox::End::Accepted, Some((event_id, encoded))) => {
                    metrics::hot().accepted.increment(1);
                    Notice::Accepted { draft_id, event_id: *event_id, event: encoded.event() }
                }
                (outbox::End::Rejected(reason, errors), _) => {
                    metrics::count_by(metrics::REJECTED, "reason", reason.as_str());
                    let retry_after_ms = line.retry_after_ms(*reason);
                    Notice::Rejected { draft_id, reason: *reason, errors, retry_after_ms }
                }
                (outbox::End::Forgotten | outbox::End::NotProcessed | outbox::End::Accepted, _) => {
                    metrics::count(metrics::FORGOTTEN);
                    Notice::Error {
                        code: ErrorCode::Unavailable,
                        message: &line.outcome_unknown("draft"),
                        details: Some(Details {
                            draft_id: Some(draft_id),
                            retry_after_ms: Some(line.socket.retry_after_ms()),
                            partition: None,
                        }),
                    }
                }
            };
            line.socket.send(reply_to(&id), &notice).await?;
        }
        Ok(())
    }

    /// Looks out for no draft any more.
    pub(crate) fn forget_drafts(&self) {
        for key in self.pending.keys() {
            self.feed.forget(key, self.number);
        }
    }
}

/// The ids of some drafts, for a log line: the first few.
struct DraftIds<'a, D>(&'a [D]);

/// How many ids a line shows.
const IDS_SHOWN_MAX: usize = 8;

impl<D: Borrow<Draft>> std::fmt::Display for DraftIds<'_, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, draft) in self.0.iter().take(IDS_SHOWN_MAX).enumerate() {
            write!(f, "{}{}", if place == 0 { "" } else { " " }, draft.borrow().draft_id)?;
        }
        match self.0.len().saturating_sub(IDS_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Lane {
    /// Looks out for a draft's commit.
    pub(crate) fn watch_draft(&mut self, line: &Line, key: DraftKey) {
        let outcomes = self.outcomes.get_or_insert_with(|| Outcomes::open(&line.shared, self.number));
        self.feed.watch_draft(key, self.number, &outcomes.committed_sender);
    }

    /// An event that was found for a draft, if one was.
    pub(crate) fn found(&mut self) -> Option<Arc<Entry>> {
        self.outcomes.as_mut()?.committed.try_recv().ok()
    }
}
