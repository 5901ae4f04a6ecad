//! One request of plain HTTP, from its head to its answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderValue};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument, debug, error_span, info, warn};

use super::answer::Answer;
use super::body::{Framing, Input, NoBody};
use super::request::{Endpoint, Request};
use super::stream::Output;
use crate::auth::{self, AuthError, Identity, Occasion};
use crate::event::{EventId, FieldError, Reason};
use crate::frontend::admission::connection_limits::{Entrance, FrameLimit};
use crate::frontend::admission::registry::{ClientInfo, DisconnectReason, Disconnects};
use crate::frontend::feed::Watched;
use crate::frontend::feed::state_at::NoState;
use crate::frontend::listener::policy::Listener;
use crate::frontend::listener::{Head, Refusal, http};
use crate::frontend::metrics;
use crate::frontend::net::{AddressKey, Stream};
use crate::frontend::session::frames::FrameReader;
use crate::frontend::session::handshake::{Attached, Handshake, Opening, Refused, StartFrom, join};
use crate::frontend::session::lane::Lane;
use crate::frontend::session::let_in::{LetIn, let_in};
use crate::frontend::session::line::Line;
use crate::frontend::session::outcomes::{self, Outcome};
use crate::frontend::session::socket::{End, Socket};
use crate::frontend::session::token;
use crate::frontend::session::told::Told;
use crate::frontend::shared::FrontendShared;
use crate::partition::StateAtError;
use crate::protocol::{About, CloseCode, ErrorCode, PlainDraft, Sync};
use crate::serving::Unstalled;

/// What a page of another origin may send, ask with and see.
const CORS_HEADERS: &str = "authorization, content-type, idempotency-key, last-event-id";
const CORS_METHODS: &str = "GET, HEAD, POST, OPTIONS";
const CORS_EXPOSED: &str = "retry-after";
/// How long a browser need not ask again, in seconds.
const CORS_SECONDS: &str = "600";
/// How long an answer waits for the head to come to its event, so that the next read sees it.
const HEAD_WAIT: Duration = Duration::from_secs(1);

/// A request whose head was read.
pub(crate) struct Asked {
    pub head: Head,
    pub stream: Stream,
    /// What was read of the stream beyond the head.
    pub read: Vec<u8>,
    /// Who is at the other end of the connection.
    pub peer: IpAddr,
}

/// What is to become of a connection after a request.
pub(crate) enum After {
    /// It may make another request; some of that may have been read.
    Keep(Stream, Vec<u8>),
    /// It is told that it is closed.
    Close(Stream),
    /// It is gone.
    Gone,
}

/// Serves a request.
pub(crate) async fn serve(edge: &Listener, asked: Asked, limit: &FrameLimit) -> After {
    let Asked { head, stream, read, peer } = asked;
    let (endpoint, request) = Request::of(&head);
    let stall = Duration::from_millis(edge.shared.settings.write_stall_ms_max);
    let mut exchange = Exchange {
        shared: &edge.shared,
        peer: edge.gate.proxies.client(peer, &http::forwarded_for(&head.headers)),
        user_agent: http::user_agent(&head.headers),
        limit,
        input: Input::new(Unstalled::new(stream, stall), read),
        cors: None,
        is_read: request.as_ref().is_ok_and(|request| request.framing.is_empty()),
        retry_after_ms: edge.shared.limits.retry_after().as_millis() as u64,
    };
    let may_keep = head.is_1_1 && !http::names(&head.headers, &header::CONNECTION, "close");
    let answer = match exchange.origin(edge, &head.headers) {
        Ok(()) => match request {
            Ok(request) => exchange.answer(request).await,
            Err(answer) => Some(answer),
        },
        Err(answer) => Some(answer),
    };
    // A stream is over when its connection is.
    let Some(mut answer) = answer else { return After::Gone };
    metrics::http_request(endpoint.as_str(), answer.status.as_u16().to_string());
    for (name, value) in &exchange.headers() {
        answer = answer.with(name.clone(), value.clone());
    }
    let keeps = may_keep && exchange.is_read && !edge.shared.drain.is_cancelled();
    if !keeps {
        answer = answer.with(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let (mut stream, rest) = exchange.input.into_rest();
    if let Err(error) = answer.write(&mut stream, head.method == Method::HEAD).await {
        debug!(%error, "a request's answer was not taken");
        return After::Gone;
    }
    let stream = stream.into_inner();
    if keeps { After::Keep(stream, rest) } else { After::Close(stream) }
}

/// A request that is being served.
struct Exchange<'a> {
    shared: &'a Arc<FrontendShared>,
    peer: IpAddr,
    user_agent: Option<String>,
    limit: &'a FrameLimit,
    input: Input<Unstalled<Stream>>,
    /// The page that asks, which may see the answer.
    cors: Option<HeaderValue>,
    /// Whether the whole request was read.
    is_read: bool,
    retry_after_ms: u64,
}

/// A request of somebody who was let in, for a partition.
struct Visitor {
    connection: u64,
    identity: Arc<Identity>,
    known: LetIn,
    feed: Watched,
    request: Request,
}

impl Exchange<'_> {
    /// Checks the page that asks, as an upgrade does.
    fn origin(&mut self, edge: &Listener, headers: &HeaderMap) -> Result<(), Answer> {
        for origin in headers.get_all(header::ORIGIN) {
            if !origin.to_str().is_ok_and(|origin| edge.gate.origins.allow(origin)) {
                info!(?origin, peer = %self.peer, "a page may not connect (frontend.allowed_origins)");
                self.is_read = false;
                return Err(Answer::refused(Refusal::Origin, None));
            }
            self.cors = Some(origin.clone());
        }
        Ok(())
    }

    /// The headers of every answer.
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = &self.cors {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(CORS_EXPOSED));
        }
        headers
    }

    /// The answer; none where it was given as a stream.
    async fn answer(&mut self, request: Request) -> Option<Answer> {
        let answered = match request.endpoint {
            Endpoint::Preflight => self.count(&request).map(|()| {
                let mut answer = Answer::empty();
                for (name, value) in [
                    (header::ACCESS_CONTROL_ALLOW_METHODS, CORS_METHODS),
                    (header::ACCESS_CONTROL_ALLOW_HEADERS, CORS_HEADERS),
                    (header::ACCESS_CONTROL_MAX_AGE, CORS_SECONDS),
                    (header::ALLOW, CORS_METHODS),
                ] {
                    answer = answer.with(name, HeaderValue::from_static(value));
                }
                Some(answer)
            }),
            _ => self.admitted(request).await,
        };
        answered.unwrap_or_else(Some)
    }

    fn error(&self, code: ErrorCode, message: &str) -> Answer {
        Answer::error(code, message, None, self.retry_after_ms)
    }

    /// Counts a request, and what its body can have at most, against what one connection may ask for.
    fn count(&self, request: &Request) -> Result<(), Answer> {
        let bytes_max = self.shared.settings.frame_bytes_max;
        let bytes = match request.framing {
            Framing::Length(length) => usize::try_from(length).unwrap_or(bytes_max).min(bytes_max),
            Framing::Chunked => bytes_max,
        };
        let why = "more requests than allowed on this connection";
        let wrong = |wait: Duration| Answer::try_again(429, "rate_limited", why, wait.as_millis() as u64 + 1);
        self.limit.frame(bytes).map_err(wrong)
    }

    fn ended(&self, end: &End) -> Answer {
        Answer::ended(end, self.retry_after_ms)
    }

    /// Lets the client in, and answers it.
    async fn admitted(&mut self, request: Request) -> Result<Option<Answer>, Answer> {
        if self.shared.drain.is_cancelled() {
            return Err(Answer::refused(Refusal::GoingAway, Some(self.shared.limits.retry_after())));
        }
        self.count(&request)?;
        let entrance = self.shared.limits.enter(AddressKey::of(self.peer));
        let entrance = entrance.map_err(|(refusal, wait)| Answer::refused(refusal, wait))?;
        let rules = self.shared.entry.activation();
        let identity = tokio::select! {
            biased;
            identity = self.identity(&request) => Arc::new(identity?),
            () = entrance.given_way() => {
                metrics::count_by(metrics::GAVE_WAY, "stage", "connect");
                return Err(Answer::refused(Refusal::Full, Some(self.shared.limits.retry_after())));
            }
        };
        let connection = self.shared.number();
        let span = error_span!(
            "request",
            connection,
            client = identity.client_id.as_str(),
            partition = request.partition.as_str()
        );
        let visited = self.visited(connection, identity, rules, &entrance, request);
        Box::pin(visited.instrument(span)).await
    }

    /// Who asks, if he may read the partition.
    async fn identity(&self, request: &Request) -> Result<Identity, Answer> {
        let auth = &self.shared.auth;
        let failed = |error: AuthError| match error {
            AuthError::Refused(why) => self.error(ErrorCode::AuthFailed, &why.to_string()),
            error @ AuthError::Unavailable(_) => self.error(ErrorCode::Unavailable, &error.to_string()),
        };
        let token = request.token.as_deref();
        let client_id = match &request.client_id {
            Some(client_id) => client_id.clone(),
            None if auth.reads_tokens() => auth.whose(token).await.map_err(failed)?.client_id,
            None => {
                let why = "no token says here which client asks; name it in the parameter `clientId`";
                return Err(self.error(ErrorCode::BadRequest, why));
            }
        };
        let partition = &request.partition;
        let asked =
            auth::Asked { occasion: Occasion::Connect, client_id: &client_id, partition: Some(partition) };
        let identity = auth.authenticate(asked, token).await.map_err(failed)?;
        if !identity.may_read() {
            return Err(self.error(ErrorCode::Forbidden, "the token does not permit `read`"));
        }
        if !identity.may_enter(partition.as_str()) {
            return Err(self.error(ErrorCode::Forbidden, "the token does not permit this partition"));
        }
        if let Err(no) = self.shared.admit(&identity, partition).await {
            let Refused(code, message) = no.into();
            return Err(self.error(code, &message));
        }
        Ok(identity)
    }

    async fn visited(
        &mut self,
        connection: u64,
        identity: Arc<Identity>,
        rules: u64,
        entrance: &Entrance,
        request: Request,
    ) -> Result<Option<Answer>, Answer> {
        let info = ClientInfo { about: About::default(), user_agent: self.user_agent.take() };
        let partitions = vec![request.partition.clone()];
        let known = let_in(self.shared, connection, entrance, &identity, partitions, "http", info);
        let known = known.map_err(|end| self.ended(&end))?;
        if self.shared.entry.activation() != rules {
            return Err(self.ended(&token::end_of(DisconnectReason::OtherRules)));
        }
        let feed = self.shared.feeds.watch(&request.partition);
        let visitor = Visitor { connection, identity, known, feed, request };
        match visitor.request.endpoint {
            Endpoint::Submit => self.submit(visitor).await.map(Some),
            Endpoint::Stream => self.stream(visitor).await,
            _ => self.read(visitor).await.map(Some),
        }
    }

    /// Attaches a request to its partition; gives where it begins.
    async fn attach(&self, visitor: &Visitor, since: Option<EventId>) -> Result<EventId, Answer> {
        let from = StartFrom { last_event_id: since, live: since.is_none() };
        let Visitor { connection, identity, feed, .. } = visitor;
        match join(self.shared, *connection, from, identity, feed, None).await {
            Ok(Attached { position, .. }) => Ok(position),
            Err(Refused(code, message)) => Err(self.error(code, &message)),
        }
    }

    /// Answers with a page of the log, or with a state.
    async fn read(&mut self, mut visitor: Visitor) -> Result<Answer, Answer> {
        let outflow = &self.shared.outflow;
        if let Some(from) = outflow.not_before(&visitor.identity.client_id) {
            let wait_ms = from.saturating_duration_since(Instant::now().into_std()).as_millis() as u64 + 1;
            let why = "this client was answered with as much as it may be just now";
            return Err(Answer::try_again(429, "rate_limited", why, wait_ms));
        }
        let mut dismissals = std::mem::replace(&mut visitor.known.dismissals, Disconnects::none());
        let account = Arc::clone(&visitor.known.account);
        let answered = async {
            self.attach(&visitor, None).await?;
            match visitor.request.endpoint {
                Endpoint::State => self.state(&visitor).await,
                _ => self.page(visitor).await,
            }
        };
        tokio::select! {
            biased;
            why = dismissals.next() => Err(self.ended(&token::end_of(why))),
            () = account.gives_way() => Err(self.error(ErrorCode::Unavailable, "the frontend has no memory left")),
            answered = answered => answered,
        }
    }

    async fn page(&self, visitor: Visitor) -> Result<Answer, Answer> {
        let max = self.shared.settings.sync_events_max as u64;
        if visitor.request.limit.is_some_and(|limit| limit == 0 || limit > max) {
            return Err(self.error(ErrorCode::BadRequest, &format!("`limit` is 1 to {max}")));
        }
        let partition = visitor.request.partition.clone();
        let since = Some(visitor.request.since.unwrap_or(EventId::NONE));
        let sync = Sync { since, partition: None, limit: visitor.request.limit, snapshot: false };
        let (mut line, mut lane, _) = self.session(visitor);
        let told = match lane.sync(&mut line, None, sync).await {
            Ok(()) => line.socket.take_told(),
            Err(end) => return Err(self.ended(&end)),
        };
        let told = told.ok_or_else(Answer::defect)?;
        Ok(Answer::of_page(told, partition.as_str(), self.retry_after_ms))
    }

    async fn state(&self, visitor: &Visitor) -> Result<Answer, Answer> {
        let unreadable = |error: &dyn std::fmt::Display| {
            warn!(%error, "cannot make the state for a request");
            self.error(ErrorCode::Unavailable, "the partition's state is unreadable now; retry")
        };
        let state = match visitor.request.at {
            None => visitor.feed.state(EventId::NONE).await.map_err(|error| unreadable(&error))?,
            // No event has this id, and nothing can be asked for under it.
            Some(EventId::NONE) => return Err(Answer::problem(404, "bad_request", "there is no event 0")),
            Some(at) => visitor.feed.state_at(at).await.map_err(|error| match error {
                NoState::Busy => {
                    self.error(ErrorCode::Unavailable, "another state of the past is being made; retry")
                }
                NoState::At(StateAtError::Load(error)) => unreadable(&error),
                NoState::At(error @ StateAtError::TooFar { .. }) => {
                    Answer::problem(422, "bad_request", &error.to_string())
                }
                NoState::At(StateAtError::NoEvent(id) | StateAtError::OtherPartition(id)) => {
                    Answer::problem(404, "bad_request", &format!("the partition has no event {id}"))
                }
            })?,
        };
        self.shared.outflow.take(&visitor.identity.client_id, state.bytes);
        Ok(Answer::of_state(visitor.request.partition.as_str(), state))
    }

    /// A session of one request.
    fn session(&self, visitor: Visitor) -> (Line, Lane, Disconnects) {
        let Visitor { connection, identity, known, feed, .. } = visitor;
        let LetIn { admission, listed, dismissals, account } = known;
        let frames = FrameReader::new(&self.shared.settings);
        let opening = Opening::default();
        let greeted = Handshake { admission, frames, identity, listed, account, opening };
        let socket = Socket::of_exchange(connection, &self.shared.settings);
        let line = Line::new(Arc::clone(self.shared), connection, socket, greeted);
        let position = feed.head_now();
        let lane = Lane::new(&line, connection, feed, position, None);
        (line, lane, dismissals)
    }

    /// Takes a draft, and answers with what became of it.
    async fn submit(&mut self, visitor: Visitor) -> Result<Answer, Answer> {
        let settings = &self.shared.settings;
        let mut hold = visitor.known.account.hold();
        let Request { framing, expects_continue, .. } = visitor.request;
        let wait = Duration::from_millis(settings.handshake_timeout_ms);
        let body = timeout(wait, async {
            if matches!(framing, Framing::Length(length) if length > settings.frame_bytes_max as u64) {
                return Err(NoBody::TooLarge);
            }
            if expects_continue {
                let go_on = self.input.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                go_on.map_err(|_| NoBody::Gone)?;
            }
            self.input.body(framing, settings.frame_bytes_max, &mut hold).await
        });
        let body = match body.await {
            Ok(Ok(body)) => body,
            Ok(Err(NoBody::TooLarge)) => {
                let why = format!("a draft has at most {} bytes", settings.frame_bytes_max);
                return Err(self.error(ErrorCode::MessageTooLarge, &why));
            }
            Ok(Err(NoBody::Malformed)) => {
                return Err(self.error(ErrorCode::BadRequest, "the chunks are malformed"));
            }
            Ok(Err(NoBody::Gone)) => {
                return Err(self.error(ErrorCode::BadRequest, "the body is not all there"));
            }
            Err(_) => return Err(Answer::problem(408, "bad_request", "the body did not come in time")),
        };
        self.is_read = true;
        let Ok(text) = std::str::from_utf8(&body) else {
            return Err(self.error(ErrorCode::BadRequest, "the body is not UTF-8"));
        };
        let draft = PlainDraft::decode(text, visitor.request.key.as_deref(), settings.frame_depth_max);
        let PlainDraft { submit, client_id } = draft.map_err(|why| self.error(ErrorCode::BadRequest, why))?;
        drop((body, hold));
        let draft_id = submit.draft_id.clone();
        if client_id.is_some_and(|client_id| client_id != visitor.identity.client_id.as_str()) {
            let errors = vec![FieldError::new("clientId", "FORBIDDEN", "is not the client's")];
            let told = Told::Rejected { reason: Reason::Forbidden, errors, retry_after_ms: None };
            return Err(Answer::of_draft(told, &draft_id, EventId::NONE, self.retry_after_ms));
        }
        self.attach(&visitor, None).await?;
        let (mut line, mut lane, mut dismissals) = self.session(visitor);
        let taken = lane.submit(&mut line, String::new(), submit).await;
        if taken.is_ok() {
            decide(&mut line, &mut lane, &mut dismissals).await;
        }
        // What was never handed in is surely not stored; of the rest nobody knows.
        for done in lane.pending.give_up() {
            if let Err(end) = lane.answer_draft(&mut line, done, None).await {
                debug!(?end, "a draft was given up");
            }
        }
        lane.forget_drafts();
        let told = line.socket.take_told().ok_or_else(Answer::defect)?;
        if let Told::Committed { event_id, .. } = &told {
            let seen = lane.head.wait_for(|head| head.is_some_and(|head| head >= *event_id));
            // The event is committed, whenever this frontend's head comes to it.
            let _ = timeout(HEAD_WAIT, seen).await;
        }
        let end = lane.log_end_at_connect.unwrap_or(EventId::NONE);
        Ok(Answer::of_draft(told, &draft_id, end, self.retry_after_ms))
    }

    /// Follows the partition until there is a reason to end.
    async fn stream(&mut self, mut visitor: Visitor) -> Result<Option<Answer>, Answer> {
        let position = self.attach(&visitor, visitor.request.since).await?;
        let headers = self.headers();
        metrics::http_request(visitor.request.endpoint.as_str(), "200".to_owned());
        let LetIn { account, dismissals, .. } = &mut visitor.known;
        let mut output = Output::new(&mut self.input.stream, account.hold());
        if !output.begin(headers, visitor.request.head_only).await {
            return Ok(None);
        }
        let _counted =
            (metrics::Counted::one(metrics::CONNECTIONS), metrics::Counted::one(metrics::HTTP_STREAMS));
        info!(%position, "a stream begins");
        let expires = token::ends_at(&visitor.identity);
        let end = tokio::select! {
            biased;
            why = dismissals.next() => token::end_of(why),
            () = account.gives_way() => {
                let why = "the frontend has no memory left, and this connection holds most of it";
                End::Close(ErrorCode::Unavailable, why.into(), CloseCode::TryAgainLater)
            }
            end = output.run(self.shared, &visitor.feed, position, expires) => end,
        };
        let linger = Duration::from_millis(self.shared.settings.close_linger_ms);
        let ended = output.end(&end, self.retry_after_ms, linger).await;
        metrics::count_by(metrics::HTTP_STREAMS_ENDED, "reason", ended);
        info!(ended, "a stream ended");
        Ok(None)
    }
}

/// Waits for what becomes of a draft, as a session does, until it is told or there is a reason not to wait longer.
async fn decide(line: &mut Line, lane: &mut Lane, dismissals: &mut Disconnects) {
    let patience = Duration::from_millis(line.shared.settings.drain_ms_max);
    let account = Arc::clone(&line.account);
    let mut leave_by = None;
    while !line.socket.has_told() {
        if leave_by.is_some_and(|by| by <= Instant::now()) {
            return;
        }
        let wake = lane.wake_at().into_iter().chain(leave_by).min();
        let done = tokio::select! {
            biased;
            progress = lane.publishing.done() => lane.progress(line, progress).await,
            outcome = outcomes::next(&mut lane.outcomes) => match outcome {
                Outcome::Committed(entry) => lane.committed(line, &entry).await,
                Outcome::Answered(answer) => lane.answered(line, *answer).await,
            },
            () = std::future::ready(()), if lane.has_next() => {
                lane.publish_next(line);
                Ok(())
            }
            Ok(()) = line.log_state.changed() => {
                if line.lost_log() {
                    lane.pending.republish();
                }
                Ok(())
            }
            () = line.shared.drain.cancelled(), if leave_by.is_none() => {
                leave_by = Some(Instant::now() + patience);
                Ok(())
            }
            () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {
                lane.time_passed(line, Instant::now()).await
            }
            _ = dismissals.next() => return,
            () = account.gives_way() => return,
        };
        if done.is_err() {
            return;
        }
    }
}
