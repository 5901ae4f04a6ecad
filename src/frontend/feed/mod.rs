//! A partition's feed: what its connections read, kept in step with the log.
//!
//! One task per watched partition (`task`) owns the live subscription, fills the gaps and appends to the
//! ring. Connections read from here at their own pace, each by its position; nothing is queued for them. The
//! feed looks at every event once, and tells the connections whose drafts they were before it moves the
//! head, so that an acceptance always comes before its broadcast.

mod broadcast;
pub(crate) mod event;
pub(crate) mod page_cache;
pub(crate) mod partition;
mod registry;
pub(crate) mod report;
pub(crate) mod ring;
pub(crate) mod state;
pub(crate) mod state_at;
mod state_cache;
mod task;

pub(crate) use registry::{Feeds, Watched};
pub(crate) use state_cache::{SerializedState, StateText};
