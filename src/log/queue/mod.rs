//! The queue of drafts: publish them, and consume them slot by slot.

pub(crate) mod consumer;
pub(crate) mod publish;
