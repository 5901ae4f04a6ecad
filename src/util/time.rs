//! The time of day, as everybody writes it: since 1970, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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

/// Unix milliseconds as people read them (RFC 3339, to the second).
pub(crate) fn rfc3339(ms: u64) -> String {
    let date = i64::try_from(ms / 1000).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    date.and_then(|date| date.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{ms} ms"))
}

/// A time as people write it, in Unix milliseconds: that number, or a date such as `2026-01-31T12:00:00Z` (RFC 3339).
pub(crate) fn parse_ms(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("a time is Unix milliseconds or a date such as 2026-01-31T12:00:00Z, not {text:?}");
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let date = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| wrong())?;
    u64::try_from(date.unix_timestamp_nanos() / 1_000_000).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_or_a_date() {
        for (text, ms) in [
            ("0", 0),
            ("1700000000123", 1_700_000_000_123),
            ("1970-01-01T00:00:01Z", 1_000),
            ("1970-01-01T02:00:00.5+02:00", 500),
        ] {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
        }
        for bad in ["", "-1", "yesterday", "2026-01-31", "1969-12-31T23:59:59Z"] {
            assert!(parse_ms(bad).is_err(), "{bad}");
        }
    }
}
