//! What a connection's frames must keep to, before and after it is greeted: rate, size, depth, and being
//! understood.

use super::socket::{End, Incoming, Socket};
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
    depth_max: usize,
}

impl Frames {
    pub(super) fn new(settings: &FrontendSettings) -> Self {
        Self {
            limit: FrameLimit::new(settings),
            over_limit: 0,
            bad_requests: 0,
            over_limit_max: settings.frames_over_limit_max,
            bad_requests_max: settings.bad_requests_max,
            depth_max: settings.frame_depth_max,
        }
    }

    /// Understands a frame, or answers why not. A sign of life counts as a frame, and asks for nothing.
    pub(super) async fn take(
        &mut self,
        socket: &mut Socket,
        incoming: &Incoming,
    ) -> Result<Option<Frame>, End> {
        let bytes = match incoming {
            Incoming::Text(text) => text.len(),
            Incoming::Binary(bytes) => *bytes,
            Incoming::Alive => 0,
        };
        if let Err(wait) = self.limit.frame(bytes) {
            self.over_limit += 1;
            let code = ErrorCode::RateLimited;
            if self.over_limit > self.over_limit_max || socket.dialect().closes_on(code) {
                socket.error(None, code, "far more frames than allowed", Some(wait)).await?;
                return Err(End::Told(CloseCode::Policy));
            }
            let message = "more frames than allowed; this one was not looked at";
            socket.error(None, code, message, Some(wait)).await?;
            return Ok(None);
        }
        self.over_limit = 0;
        let text = match incoming {
            Incoming::Text(text) => text.as_str(),
            Incoming::Alive => return Ok(None),
            Incoming::Binary(_) => {
                let message = "frames must be text".to_owned();
                self.refuse(socket, BadRequest { reply_to: None, message }).await?;
                return Ok(None);
            }
        };
        if deeper_than(text, self.depth_max) {
            let why = "the frame is nested deeper than allowed";
            return Err(End::Close(ErrorCode::MessageTooLarge, why.into(), CloseCode::TooLarge));
        }
        socket.listen_to(text);
        match socket.dialect().decode(text) {
            Ok(Frame { id, request: Request::UnsupportedVersion }) => {
                Err(super::unsupported_version(socket, id.as_deref()).await)
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
