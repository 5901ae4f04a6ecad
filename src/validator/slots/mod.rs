//! Slots: which ones this process owns, and the drafts that it takes from each.

pub(crate) mod acknowledger;
mod floor;
pub(crate) mod hold;
pub(crate) mod manager;
mod rendezvous;
pub(crate) mod stale_filter;
mod worker;
