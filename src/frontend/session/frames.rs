//! What a connection's frames must keep to, before and after it is greeted: rate, size, depth, and being
//! understood.

use std::time::Duration;

use super::socket::{End, Incoming, Socket};
use crate::frontend::admission::connection_limits::FrameLimit;
use crate::frontend::settings::FrontendSettings;
use crate::protocol::{BadRequest, CloseCode, DecodeError, Dialect, ErrorCode, Frame, Notice, Request};

/// The allowance of one connection.
pub(crate) struct FrameReader {
    limit: FrameLimit,
    over_limit: u32,
    bad_requests: u32,
    over_limit_max: u32,
    bad_requests_max: u32,
    depth_max: usize,
}

/// Why a frame was not understood.
pub(crate) enum Refusal {
    /// More frames or bytes than allowed; so many more that the connection ends, or not yet.
    OverLimit { wait: Duration, ends: bool },
    /// Nested deeper than allowed.
    TooDeep,
    /// In a version of its dialect that we do not speak.
    UnsupportedVersion(Option<String>),
    /// Not a request.
    Bad(BadRequest),
}

impl FrameReader {
    pub(crate) fn new(settings: &FrontendSettings) -> Self {
        Self {
            limit: FrameLimit::new(settings),
            over_limit: 0,
            bad_requests: 0,
            over_limit_max: settings.frames_over_limit_max,
            bad_requests_max: settings.bad_requests_max,
            depth_max: settings.frame_depth_max,
        }
    }

    /// Understands a frame, or answers why not.
    pub(crate) async fn take(
        &mut self,
        socket: &mut Socket,
        incoming: &Incoming,
    ) -> Result<Option<Frame>, End> {
        match self.decode(socket, incoming) {
            Some(Ok(frame)) => Ok(Some(frame)),
            Some(Err(refusal)) => self.answer(socket, refusal).await.map(|()| None),
            None => Ok(None),
        }
    }

    /// Understands a frame, or says why not. A sign of life counts as a frame, and asks for nothing.
    pub(crate) fn decode(
        &mut self,
        socket: &mut Socket,
        incoming: &Incoming,
    ) -> Option<Result<Frame, Refusal>> {
        if let Err(wait) = self.limit.frame(incoming.bytes()) {
            self.over_limit += 1;
            let ends =
                self.over_limit > self.over_limit_max || socket.dialect().closes_on(ErrorCode::RateLimited);
            return Some(Err(Refusal::OverLimit { wait, ends }));
        }
        self.over_limit = 0;
        let text = match incoming {
            Incoming::Text(text) => text.as_str(),
            Incoming::PingPong => return None,
            Incoming::Binary(_) => {
                let message = "frames must be text".to_owned();
                return Some(Err(Refusal::Bad(BadRequest { reply_to: None, message })));
            }
        };
        socket.detect_dialect(text);
        Some(match socket.dialect().decode(text, self.depth_max) {
            Ok(Frame { id, request: Request::UnsupportedVersion }) => Err(Refusal::UnsupportedVersion(id)),
            Ok(frame) => Ok(frame),
            Err(DecodeError::TooDeep) => Err(Refusal::TooDeep),
            Err(DecodeError::Bad(bad)) => Err(Refusal::Bad(bad)),
        })
    }

    /// Answers a frame that was refused.
    pub(crate) async fn answer(&mut self, socket: &mut Socket, refusal: Refusal) -> Result<(), End> {
        match refusal {
            Refusal::OverLimit { wait, ends: true } => {
                let code = ErrorCode::RateLimited;
                socket.error(None, code, "far more frames than allowed", Some(wait)).await?;
                Err(End::Told(CloseCode::Policy))
            }
            Refusal::OverLimit { wait, ends: false } => {
                let message = "too many frames; this one was ignored";
                socket.error(None, ErrorCode::RateLimited, message, Some(wait)).await
            }
            Refusal::TooDeep => {
                let why = "the frame is nested deeper than allowed";
                Err(End::Close(ErrorCode::MessageTooLarge, why.into(), CloseCode::TooLarge))
            }
            Refusal::UnsupportedVersion(id) => {
                Err(super::socket::unsupported_version(socket, id.as_deref()).await)
            }
            Refusal::Bad(bad) => self.refuse(socket, bad).await,
        }
    }

    /// A frame was understood and in its place: the bad ones in a row are counted anew.
    pub(crate) fn reset_errors(&mut self) {
        self.bad_requests = 0;
    }

    /// Answers a bad request; too many in a row end the connection.
    pub(crate) async fn refuse(&mut self, socket: &mut Socket, bad: BadRequest) -> Result<(), End> {
        self.bad_requests += 1;
        if self.bad_requests >= self.bad_requests_max && socket.dialect() == Dialect::Classic {
            return Err(End::Close(ErrorCode::BadRequest, bad.message.into(), CloseCode::Policy));
        }
        let notice = Notice::Error { code: ErrorCode::BadRequest, message: &bad.message, details: None };
        socket.send(bad.reply_to.as_deref(), &notice).await
    }
}
