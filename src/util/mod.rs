//! Small helpers that know nothing of the domain.

pub(crate) mod backoff;
pub(crate) mod hex;
pub(crate) mod percent;
pub(crate) mod sync;
pub(crate) mod time;
