//! Commits: which rounds travel together, and what that costs.

pub(crate) mod committer;
mod costs;
