//! What a connection's frames must keep to, before and after it is greeted: rate, size, depth, and being
//! understood.

use axum::extract::ws::Utf8Bytes;

use super::socket::{End, Socket, too_large};
use crate::frontend::limits::FrameLimit;
use crate::frontend::settings::FrontendSettings;
use crate::protocol::{BadRequest, CloseCode, Dialect, ErrorCode, Frame, Notice, Request, deeper_than};

/// The allowance of one connection.
pub(super) struct Frames {
    limit: FrameLimit,
    over_limit: u32,
    bad_requests: u32,
    over_limit_max: u32,
    bad_requests_max: u32,
    bytes_max: usize,
    depth_max: usize,
}

impl Frames {
    pub(super) fn new(settings: &FrontendSettings) -> Self {
        Self {
            limit: FrameLimit::new(settings.frames_per_second_max),
            over_limit: 0,
            bad_requests: 0,
            over_limit_max: settings.frames_over_limit_max,
            bad_requests_max: settings.bad_requests_max,
            bytes_max: settings.frame_bytes_max,
            depth_max: settings.frame_depth_max,
        }
    }

    /// Understands a frame, or answers why not.
    pub(super) async fn take(
        &mut self,
        socket: &mut Socket,
        text: Option<&Utf8Bytes>,
    ) -> Result<Option<Frame>, End> {
        if let Err(wait) = self.limit.frame() {
            self.over_limit += 1;
            if self.over_limit > self.over_limit_max || socket.dialect().closes_on(ErrorCode::RateLimited) {
                let why = "far more frames than allowed";
                return Err(End::Close(ErrorCode::RateLimited, why.into(), CloseCode::Policy));
            }
            let details = serde_json::json!({ "retryAfterMs": wait.as_millis() as u64 + 1 });
            let message = "more frames than allowed; this one was not looked at";
            let notice = Notice::Error { code: ErrorCode::RateLimited, message, details: Some(&details) };
            socket.send(None, &notice).await?;
            return Ok(None);
        }
        self.over_limit = 0;
        let Some(text) = text else {
            let message = "frames must be text".to_owned();
            self.refuse(socket, BadRequest { reply_to: None, message }).await?;
            return Ok(None);
        };
        if text.as_str().len() > self.bytes_max {
            return Err(too_large());
        }
        if deeper_than(text.as_str(), self.depth_max) {
            let why = "the frame is nested deeper than allowed";
            return Err(End::Close(ErrorCode::MessageTooLarge, why.into(), CloseCode::TooLarge));
        }
        socket.listen_to(text.as_str());
        match socket.dialect().decode(text.as_str()) {
            Ok(Frame { id, request: Request::UnsupportedVersion }) => {
                Err(super::unsupported_version(socket, &id).await)
            }
            Ok(frame) => Ok(Some(frame)),
            Err(bad) => {
                self.refuse(socket, bad).await?;
                Ok(None)
            }
        }
    }

    /// A frame was understood and in its place: the bad ones in a row are counted anew.
    pub(super) fn good(&mut self) {
        self.bad_requests = 0;
    }

    /// Answers a bad request; too many in a row end the connection.
    pub(super) async fn refuse(&mut self, socket: &mut Socket, bad: BadRequest) -> Result<(), End> {
        self.bad_requests += 1;
        if self.bad_requests >= self.bad_requests_max && socket.dialect() == Dialect::Classic {
            return Err(End::Close(ErrorCode::BadRequest, bad.message.into(), CloseCode::Policy));
        }
        let notice = Notice::Error { code: ErrorCode::BadRequest, message: &bad.message, details: None };
        socket.send(bad.reply_to.as_deref(), &notice).await
    }
}
