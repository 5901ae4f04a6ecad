//! Plain HTTP on the clients' port, for backends and for networks without WebSockets: one request, one answer.
//!
//! It is a classic session of one request. Who asks is let in, found, counted and ended as a connection is
//! (`session::let_in`); a draft goes through the same lane and outbox (`exchange`); pages are those of `sync`. Only a
//! stream (`stream`) writes by itself what a session writes as frames: from the same feed, by its position.

mod answer;
mod body;
mod exchange;
mod request;
mod stream;

pub(crate) use exchange::{After, Asked, serve};
pub(crate) use request::is_for;
