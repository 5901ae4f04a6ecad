//! Drafts in no slot's reach. No frontend of ours publishes them, and no validator takes them. A thief of a
//! frontend's password could fill the queue with them for as long as drafts are kept, so validators throw them away.
//!
//! A look costs one question to NATS. Only when the oldest draft is the same as at the look before, which it is
//! never for long while validators get on, the queue's subjects are gone through.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use super::bootstrap::stream_info;
use crate::log::api::ApiError;
use crate::log::client::Log;
use crate::log::error::LogError;
use crate::log::metrics;
use crate::log::subjects;

/// How many slots that there are not are emptied at a look. More wait for the next.
const STRAYS_PER_LOOK_MAX: usize = 1_000;

#[derive(Deserialize)]
struct Purged {
    #[serde(default)]
    purged: u64,
    error: Option<ApiError>,
}

impl Log {
    /// Looks for drafts that are in no slot's reach, and throws them away, until it is dropped.
    pub async fn drop_strays(&self, every: Duration) -> Infallible {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut oldest_before = None;
        loop {
            ticks.tick().await;
            if !self.state().borrow().connected {
                continue;
            }
            let oldest = match stream_info(self, subjects::DRAFTS_STREAM).await {
                Ok(info) => info.filter(|info| info.state.messages > 0).map(|info| info.state.first_sequence),
                Err(error) => {
                    debug!(%error, "cannot look for stray drafts");
                    continue;
                }
            };
            if oldest.is_some() && oldest == oldest_before {
                match self.drop_strays_now().await {
                    Ok(0) => {}
                    Ok(count) => {
                        metrics::strays(count);
                        let why = "no frontend of ours publishes there; look who has a frontend's password";
                        warn!(count, why, "drafts in no slot's reach were thrown away");
                    }
                    Err(error) => warn!(%error, "cannot throw stray drafts away"),
                }
            }
            oldest_before = oldest;
        }
    }

    /// Throws away what is in no slot's reach; tells how many.
    async fn drop_strays_now(&self) -> Result<u64, LogError> {
        let mut strays = BTreeSet::new();
        const WHAT: &str = "looking for stray drafts";
        self.count_subjects(WHAT, subjects::DRAFTS_STREAM, subjects::DRAFTS_ALL, |subject, _| {
            if strays.len() < STRAYS_PER_LOOK_MAX
                && let Some(stray) = stray(&subject, self.settings.slots)
            {
                strays.insert(stray);
            }
        })
        .await?;
        let mut dropped = 0;
        for filter in strays {
            dropped += self.purge_drafts(&filter).await?;
        }
        Ok(dropped)
    }

    async fn purge_drafts(&self, filter: &str) -> Result<u64, LogError> {
        const WHAT: &str = "throwing stray drafts away (a validator needs $JS.API.STREAM.PURGE.DRAFTS)";
        let subject = self.api(&format!("STREAM.PURGE.{}", subjects::DRAFTS_STREAM));
        let body = Bytes::from(json!({ "filter": filter }).to_string());
        let reply = self.request(WHAT, subject, None, body).await?;
        let purged: Purged =
            serde_json::from_slice(&reply.payload).map_err(|error| LogError::malformed(WHAT, error))?;
        match purged.error {
            None => Ok(purged.purged),
            Some(error) => Err(LogError::unavailable(WHAT, error)),
        }
    }
}

/// What to empty because of a subject in the queue; nothing if it is in a slot's reach.
fn stray(subject: &str, slots: u16) -> Option<String> {
    let mut parts = subject.splitn(3, '.');
    let (_, slot, behind) = (parts.next()?, parts.next()?, parts.next());
    let is_slot = slot.parse::<u16>().is_ok_and(|number| number < slots && number.to_string() == slot);
    match behind {
        Some(_) if is_slot => None,
        Some(_) => Some(format!("draft.{slot}.>")),
        None => Some(format!("draft.{slot}")),
    }
}

#[cfg(test)]
mod tests {
    use super::stray;

    #[test]
    fn a_subject_is_in_a_slots_reach_or_says_what_to_empty() {
        for (subject, expected) in [
            ("draft.0.default", None),
            ("draft.63.a", None),
            ("draft.63.a.b", None),
            ("draft.64.a", Some("draft.64.>")),
            ("draft.99999.a.b", Some("draft.99999.>")),
            ("draft.007.a", Some("draft.007.>")),
            ("draft.+7.a", Some("draft.+7.>")),
            ("draft.x.a", Some("draft.x.>")),
            ("draft.7", Some("draft.7")),
        ] {
            assert_eq!(stray(subject, 64).as_deref(), expected, "{subject}");
        }
    }
}
