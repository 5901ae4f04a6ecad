//! The time of day, as everybody writes it: since 1970, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long 1970 is ago; nothing by a clock that stands before it.
pub(crate) fn now() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    #[cfg(feature = "fault-points")]
    let now = {
        let shift = crate::faults::clock_shift_ms();
        let by = Duration::from_millis(shift.unsigned_abs());
        if shift < 0 { now.saturating_sub(by) } else { now + by }
    };
    now
}

/// The same, in whole seconds.
pub(crate) fn now_s() -> u64 {
    now().as_secs()
}

/// The same, in milliseconds.
pub(crate) fn now_ms() -> u64 {
    now().as_millis() as u64
}
