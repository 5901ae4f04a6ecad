//! `/rejections`: drafts that are rejected, as it happens, as server-sent events.
//!
//! What validators tell frontends is heard along. Nothing is kept: what nobody follows is not there later. In a second
//! so many are told and no more. How many were left out is told with the next one, or by itself when the second is over.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::events::{EVENT_STREAM, RETRY_MS, body, ends_of};
use crate::admin::access::Admin;
use crate::admin::place::Place;
use crate::admin::problem::Problem;
use crate::admin::query::Query;
use crate::admin::request::AdminRequest;
use crate::admin::state::AdminState;
use crate::event::{Answer, Outcome};
use crate::log::HeardAnswers;
use crate::util::time;

/// How many rejections are told in a second: more than anybody reads.
const TOLD_PER_SECOND_MAX: u32 = 50;
/// How many findings of a rejection are told. The draft's client has them all.
const FINDINGS_MAX: usize = 8;

/// `GET /rejections`
pub(crate) async fn follow(
    AdminRequest { hub, admin, query }: AdminRequest,
    Extension(place): Extension<Arc<Place>>,
) -> Result<Response, Problem> {
    admin.require_global()?;
    Query::parse(query.as_deref(), &[])?;
    let answers = hub.log.answers_to_all().await?;
    let alive = Duration::from_millis(hub.settings.stream_alive_ms);
    let hearing = Hearing {
        revoked: hub.revoked.clone(),
        ends: ends_of(&admin),
        alive_at: Instant::now() + alive,
        window: Window { until: Instant::now(), left: 0, skipped: 0 },
        hub,
        admin,
        answers,
        begun: false,
        _place: place,
    };
    Ok(body(EVENT_STREAM, stream::unfold(hearing, next)))
}

struct Hearing {
    hub: Arc<AdminState>,
    admin: Admin,
    answers: HeardAnswers,
    /// Changes when something was revoked.
    revoked: watch::Receiver<()>,
    /// When the token ends.
    ends: Option<Instant>,
    /// When the client is to hear something.
    alive_at: Instant,
    window: Window,
    begun: bool,
    /// The request's place among those at work.
    _place: Arc<Place>,
}

/// How many more may be told in this second.
struct Window {
    until: Instant,
    left: u32,
    skipped: u64,
}

impl Window {
    /// Whether another one is told; if so, how many were left out before it.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if now >= self.until {
            (self.until, self.left) = (now + Duration::from_secs(1), TOLD_PER_SECOND_MAX);
        }
        if self.left == 0 {
            self.skipped += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.skipped))
    }

    /// When those that were left out are told by themselves, if nothing else comes.
    fn tells_at(&self) -> Option<Instant> {
        (self.skipped > 0).then_some(self.until)
    }

    /// How many were left out in the second that is over.
    fn left_out(&mut self, now: Instant) -> Option<u64> {
        self.tells_at().filter(|at| *at <= now).map(|_| std::mem::take(&mut self.skipped))
    }
}

/// The next piece of the stream.
async fn next(mut hearing: Hearing) -> Option<(Result<Bytes, Infallible>, Hearing)> {
    if !hearing.begun {
        hearing.begun = true;
        return Some((Ok(format!("retry: {RETRY_MS}\n\n").into()), hearing));
    }
    loop {
        let is_over = hearing.ends.is_some_and(|ends| ends <= Instant::now());
        if is_over || hearing.hub.stop.is_cancelled() || hearing.hub.auth.is_revoked(&hearing.admin.0) {
            return None;
        }
        let until = [hearing.ends, hearing.window.tells_at()]
            .into_iter()
            .flatten()
            .fold(hearing.alive_at, Instant::min);
        let heard = tokio::select! {
            () = hearing.hub.stop.cancelled() => return None,
            Ok(()) = hearing.revoked.changed() => continue,
            heard = timeout_at(until, hearing.answers.next()) => heard,
        };
        let text = match heard {
            Ok(Some((frontend, answer))) => told(&frontend, &answer, &mut hearing.window),
            Ok(None) => return None,
            Err(_) => match hearing.window.left_out(Instant::now()) {
                Some(skipped) => format!("data: {}\n\n", json!({ "at": time::now_ms(), "skipped": skipped })),
                None if hearing.alive_at <= Instant::now() => ": \n\n".to_owned(),
                None => continue,
            },
        };
        if !text.is_empty() {
            let alive = Duration::from_millis(hearing.hub.settings.stream_alive_ms);
            hearing.alive_at = Instant::now() + alive;
            return Some((Ok(text.into()), hearing));
        }
    }
}

/// The rejections of an answer, as events.
fn told(frontend: &str, answer: &Answer, window: &mut Window) -> String {
    let mut text = String::new();
    for outcome in &answer.outcomes {
        let Outcome::Rejected { reason, errors } = outcome else { continue };
        let Some(skipped) = window.take(Instant::now()) else { continue };
        let found: Vec<Value> = errors
            .iter()
            .take(FINDINGS_MAX)
            .map(|error| json!({ "code": error.code, "field": error.field, "message": error.message }))
            .collect();
        let rejection = json!({
            "at": time::now_ms(), "frontend": frontend,
            // Larger than what JavaScript can count with.
            "connection": answer.connection.to_string(),
            "reason": reason, "errors": found, "findings": errors.len(), "skipped": skipped,
        });
        text.push_str(&format!("data: {rejection}\n\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EventId, FieldError, Reason};

    #[test]
    fn so_many_are_told_in_a_second_and_what_was_left_out_is_counted() {
        let rejected = Outcome::Rejected {
            reason: Reason::ValidationFailed,
            errors: vec![FieldError::new("payload", "WRONG\n", "a\nb"); 20],
        };
        let committed = Outcome::Committed { event_id: EventId(1) };
        let outcomes = vec![committed, rejected.clone(), rejected];
        let answer = Answer { connection: u64::MAX, submission: 1, attempt: 0, outcomes };
        let now = Instant::now();
        let mut window = Window { until: now + Duration::from_secs(60), left: 1, skipped: 0 };
        let text = told("f-1", &answer, &mut window);
        assert_eq!(text.lines().filter(|line| line.starts_with("data: ")).count(), 1, "{text}");
        assert_eq!(text.lines().count(), 2, "nothing that was written breaks a line: {text}");
        let event: Value = serde_json::from_str(text.trim().strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["connection"], u64::MAX.to_string());
        assert_eq!(
            (event["errors"].as_array().unwrap().len(), &event["findings"]),
            (FINDINGS_MAX, &json!(20))
        );
        assert_eq!((window.left, window.skipped), (0, 1));
        let mut alone = Window { until: window.until, left: 0, skipped: 1 };
        assert_eq!(alone.left_out(now), None);
        assert_eq!(alone.left_out(now + Duration::from_secs(61)), Some(1));
        assert_eq!((alone.tells_at(), alone.left_out(now + Duration::from_secs(61))), (None, None));
        assert_eq!(window.take(now + Duration::from_secs(61)), Some(1));
        assert_eq!(window.take(now + Duration::from_secs(61)), Some(0));
    }
}
