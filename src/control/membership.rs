//! Who is there, as far as the administration has heard.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::messages::{Answer, Audience, CommandReply, Process};

/// The most processes that are remembered: more than any deployment has.
pub(crate) const PROCESSES_MAX: usize = 4_096;
/// After how many announcements that did not come a process counts as gone.
const SILENCES_MAX: u32 = 3;

/// A process that was heard.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub version: String,
    pub started_ms: u64,
    pub at: Instant,
    gone_at: Instant,
}

/// The processes that were heard lately.
#[derive(Debug, Default)]
pub(crate) struct Membership(BTreeMap<Process, Heard>);

impl Membership {
    /// Takes note of what a process said.
    pub(crate) fn heard(&mut self, report: &CommandReply, now: Instant) {
        if report.answer == Answer::Leaving {
            self.0.remove(&report.by);
            return;
        }
        if self.0.len() >= PROCESSES_MAX && !self.0.contains_key(&report.by) {
            self.forget(now);
            if self.0.len() >= PROCESSES_MAX {
                return;
            }
        }
        let silence_max = Duration::from_millis(report.announce_ms.min(60_000)) * SILENCES_MAX;
        let heard = Heard {
            version: report.version.clone(),
            started_ms: report.started_ms,
            at: now,
            gone_at: now + silence_max,
        };
        self.0.insert(report.by.clone(), heard);
    }

    /// Forgets who has been silent for too long.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.0.retain(|_, heard| heard.gone_at > now);
    }

    /// Those who are there.
    pub(crate) fn present(
        &self,
        audience: Audience,
        now: Instant,
    ) -> impl Iterator<Item = (&Process, &Heard)> {
        self.0.iter().filter(move |(process, heard)| audience.includes(process.role) && heard.gone_at > now)
    }
}
