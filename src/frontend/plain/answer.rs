//! Answers of plain HTTP: the codes of the classic dialect, under the status that says the same.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::event::{EventId, FieldError, Reason};
use crate::frontend::feed::{SerializedState, StateText};
use crate::frontend::listener::{Refusal, http};
use crate::frontend::session::socket::End;
use crate::frontend::session::told::Told;
use crate::protocol::ErrorCode;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    headers: Box<HeaderMap>,
    body: Body,
}

enum Body {
    Text(String),
    /// A state, and what stands before and behind it.
    State(String, Arc<SerializedState>, &'static str),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::State(before, state, _) => write!(f, "{before} {} bytes", state.bytes),
        }
    }
}

/// What is wrong.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    draft_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a [FieldError]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Committed<'a> {
    draft_id: &'a str,
    event_id: EventId,
    event: &'a RawValue,
    duplicate: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    partition: &'a str,
    events: &'a RawValue,
    next_since: EventId,
    has_more: bool,
    current_event_index: EventId,
}

impl Answer {
    fn new(status: u16, body: Body) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut headers = Box::new(HeaderMap::new());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        Self { status, headers, body }
    }

    fn json(status: u16, body: &impl Serialize) -> Self {
        // Of strings, numbers and JSON, which cannot fail to serialise.
        Self::new(status, Body::Text(serde_json::to_string(body).unwrap_or_default()))
    }

    /// No content.
    pub(super) fn empty() -> Self {
        let mut answer = Self::new(204, Body::Text(String::new()));
        answer.headers.remove(header::CONTENT_TYPE);
        answer
    }

    /// What is wrong.
    pub(super) fn problem(status: u16, code: &str, message: &str) -> Self {
        Self::json(status, &Problem { code, message, ..Problem::default() })
    }

    /// What is wrong, and when to try again.
    pub(super) fn try_again(status: u16, code: &str, message: &str, wait_ms: u64) -> Self {
        Self::wait(status, Problem { code, message, retry_after_ms: Some(wait_ms), ..Problem::default() })
    }

    fn wait(status: u16, problem: Problem<'_>) -> Self {
        let answer = Self::json(status, &problem);
        match problem.retry_after_ms {
            Some(wait_ms) => {
                answer.with(header::RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000).max(1)))
            }
            None => answer,
        }
    }

    /// With a header more.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// What the edge refuses.
    pub(super) fn refused(refusal: Refusal, wait: Option<std::time::Duration>) -> Self {
        let (status, code, message) = (refusal.status().as_u16(), refusal.code(), refusal.message());
        match wait {
            Some(wait) => Self::try_again(status, code, message, wait.as_millis() as u64 + 1),
            None => Self::problem(status, code, message),
        }
    }

    /// What ends a connection.
    pub(super) fn ended(end: &End, retry_after_ms: u64) -> Self {
        match end {
            End::Close(code, why, _) => Self::error(*code, why, None, retry_after_ms),
            End::Gone | End::Stalled | End::Told(_) => {
                Self::error(ErrorCode::Unavailable, "the connection ended", None, retry_after_ms)
            }
        }
    }

    /// An error, told as it is in the classic dialect. `draft_id` is of a draft whose outcome is not known.
    pub(super) fn error(code: ErrorCode, message: &str, draft_id: Option<&str>, retry_after_ms: u64) -> Self {
        let status = match code {
            ErrorCode::Unavailable if draft_id.is_some() => 504,
            ErrorCode::Unavailable => 503,
            ErrorCode::BadRequest | ErrorCode::ProtocolVersionUnsupported => 400,
            ErrorCode::AuthFailed => 401,
            ErrorCode::Forbidden => 403,
            ErrorCode::RateLimited => 429,
            ErrorCode::MessageTooLarge => 413,
            ErrorCode::CursorBeyondLog => 409,
            ErrorCode::ServerError => 500,
        };
        let waits = matches!(code, ErrorCode::Unavailable | ErrorCode::RateLimited);
        let retry_after_ms = waits.then_some(retry_after_ms);
        let answer = Self::wait(
            status,
            Problem { code: code.as_str(), message, draft_id, retry_after_ms, errors: None },
        );
        match code {
            ErrorCode::AuthFailed => {
                answer.with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
            }
            _ => answer,
        }
    }

    /// What became of a draft. `end` is where the log ended, at the earliest, when this was asked for.
    pub(super) fn of_draft(told: Told, draft_id: &str, end: EventId, retry_after_ms: u64) -> Self {
        match told {
            Told::Committed { event_id, event } => {
                let duplicate = event_id <= end;
                let Ok(event) = RawValue::from_string(event) else { return Self::defect() };
                let status = if duplicate { 200 } else { 201 };
                Self::json(status, &Committed { draft_id, event_id, event: &event, duplicate })
            }
            Told::Rejected { reason, errors, retry_after_ms } => {
                let (status, message) = match reason {
                    Reason::ValidationFailed => (422, "the draft is rejected; `errors` says why"),
                    Reason::Forbidden => (403, "the permissions do not allow this"),
                    Reason::DuplicateDraft => (409, "this draft id is committed already, with other content"),
                    Reason::Conflict => (409, "somebody else changed this after `baseEventId`"),
                    Reason::RateLimited => (429, "this client has submitted as much as it may just now"),
                    Reason::Unavailable => (503, "the draft is not stored; send it again under the same id"),
                };
                let problem = Problem {
                    code: reason.as_str(),
                    message,
                    draft_id: Some(draft_id),
                    errors: Some(&errors),
                    retry_after_ms,
                };
                Self::wait(status, problem)
            }
            Told::Failed { code, message, retry_after_ms: wait, is_of_draft } => {
                let draft_id = Some(draft_id).filter(|_| is_of_draft);
                Self::error(code, &message, draft_id, wait.unwrap_or(retry_after_ms))
            }
            Told::Page { .. } => Self::defect(),
        }
    }

    /// A page of a partition's log.
    pub(super) fn of_page(told: Told, partition: &str, retry_after_ms: u64) -> Self {
        match told {
            Told::Page { events, next, head, has_more } => {
                let Ok(events) = RawValue::from_string(events) else { return Self::defect() };
                let page = Page {
                    partition,
                    events: &events,
                    next_since: next,
                    has_more,
                    current_event_index: head,
                };
                Self::json(200, &page)
            }
            Told::Failed { code, message, retry_after_ms: wait, .. } => {
                Self::error(code, &message, None, wait.unwrap_or(retry_after_ms))
            }
            Told::Committed { .. } | Told::Rejected { .. } => Self::defect(),
        }
    }

    /// A partition's state.
    pub(super) fn of_state(partition: &str, state: Arc<SerializedState>) -> Self {
        let partition = serde_json::to_string(partition).unwrap_or_default();
        let before = format!("{{\"partition\":{partition},\"eventId\":{},\"state\":", state.event_id);
        Self::new(200, Body::State(before, state, "}"))
    }

    /// What must not happen.
    pub(super) fn defect() -> Self {
        tracing::error!("a defect: a request of plain HTTP has no answer");
        Self::problem(500, "server_error", "a defect of the server; it was logged")
    }

    /// How many bytes its body has.
    pub(super) fn bytes(&self) -> usize {
        match &self.body {
            Body::Text(text) => text.len(),
            Body::State(before, state, behind) => before.len() + state.bytes + behind.len(),
        }
    }

    /// Writes it. Without its body if only the head is asked for.
    pub(super) async fn write(
        mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        head_only: bool,
    ) -> std::io::Result<()> {
        if self.status != StatusCode::NO_CONTENT {
            self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(self.bytes()));
        }
        let mut head = http::head_on_the_wire(self.status, &self.headers);
        match self.body {
            _ if head_only => stream.write_all(&head).await?,
            Body::Text(text) => {
                head.extend_from_slice(text.as_bytes());
                stream.write_all(&head).await?;
            }
            Body::State(before, state, behind) => {
                head.extend_from_slice(before.as_bytes());
                stream.write_all(&head).await?;
                match &state.text {
                    StateText::Whole(json) => stream.write_all(json.get().as_bytes()).await?,
                    StateText::Parts(parts) => {
                        for part in parts {
                            let text: String = serde_json::from_str(part).map_err(std::io::Error::other)?;
                            stream.write_all(text.as_bytes()).await?;
                        }
                    }
                }
                stream.write_all(behind.as_bytes()).await?;
            }
        }
        stream.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(answer: &Answer) -> serde_json::Value {
        let Body::Text(text) = &answer.body else { panic!("{answer:?}") };
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_outcome_has_the_status_that_says_the_same() {
        let committed = || Told::Committed { event_id: EventId(7), event: "{}".to_owned() };
        for (end, status, duplicate) in [(6, 201, false), (7, 200, true)] {
            let answer = Answer::of_draft(committed(), "d", EventId(end), 5);
            assert_eq!(
                (answer.status.as_u16(), body(&answer)["duplicate"].as_bool()),
                (status, Some(duplicate))
            );
        }
        for (reason, status) in [
            (Reason::ValidationFailed, 422),
            (Reason::Forbidden, 403),
            (Reason::DuplicateDraft, 409),
            (Reason::Conflict, 409),
            (Reason::RateLimited, 429),
            (Reason::Unavailable, 503),
        ] {
            let told = Told::Rejected { reason, errors: Vec::new(), retry_after_ms: Some(1_001) };
            let answer = Answer::of_draft(told, "d", EventId(0), 5);
            assert_eq!((answer.status.as_u16(), &body(&answer)["code"]), (status, &reason.as_str().into()));
            assert_eq!(answer.headers[header::RETRY_AFTER], "2");
        }
        for (is_of_draft, status) in [(true, 504), (false, 503)] {
            let message = "m".to_owned();
            let told =
                Told::Failed { code: ErrorCode::Unavailable, message, retry_after_ms: None, is_of_draft };
            let answer = Answer::of_draft(told, "d", EventId(0), 5);
            assert_eq!(answer.status.as_u16(), status);
            assert_eq!(
                (&body(&answer)["retryAfterMs"], &answer.headers[header::RETRY_AFTER]),
                (&5.into(), &"1".parse().unwrap())
            );
        }
    }
}
