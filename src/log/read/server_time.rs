//! The time of NATS, asked of the leader.

use crate::faults;
use crate::log::api::ApiError;
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::subjects;
use crate::util::time;
use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;
use bytes::Bytes;
use serde::Deserialize;
use std::time::Instant;

#[derive(Deserialize)]
pub(crate) struct Reply {
    ts: Option<String>,
    error: Option<ApiError>,
}

impl Log {
    /// NATS's time, in Unix milliseconds: never after it, unless its clock was set back since it was last asked. Before
    /// NATS was first asked, this process's own time.
    pub fn now_ms(&self) -> u64 {
        #[cfg(test)]
        if let Some(stand_in) = &self.stand_in {
            return stand_in.now_ms();
        }
        if faults::broken("own_clock") { time::now_ms() } else { self.clock.now_ms() }
    }

    /// Asks NATS for the time, and compares this process's clock with it.
    pub(crate) async fn read_clock(&self) -> Result<(), LogError> {
        const WHAT: &str = "asking NATS for the time";
        let subject = self.api(&format!("STREAM.INFO.{}", subjects::COMMITTED_STREAM));
        let asked = Instant::now();
        let reply = self.request(WHAT, subject, None, Bytes::new()).await?;
        let round_trip = asked.elapsed();
        let reply: Reply =
            serde_json::from_slice(&reply.payload).map_err(|error| LogError::malformed(WHAT, error))?;
        if let Some(error) = reply.error {
            return Err(LogError::unavailable(WHAT, error));
        }
        let text = reply.ts.ok_or_else(|| LogError::malformed(WHAT, "there is no time in the answer"))?;
        let sent =
            OffsetDateTime::parse(&text, &Rfc3339).map_err(|error| LogError::malformed(WHAT, error))?;
        let nats_ms = i64::try_from(sent.unix_timestamp_nanos() / 1_000_000)
            .map_err(|error| LogError::malformed(WHAT, error))?;
        self.clock.answered(nats_ms, round_trip);
        Ok(())
    }
}
