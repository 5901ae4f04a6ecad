//! The asking side: sends an order, and gathers what the processes say to it.
//!
//! It waits until everybody who is there has answered, and for `admin.gather_ms` at most. Who is there is known
//! from what processes say of themselves; for a while after the start, and after every reconnect, that is not
//! known well enough, and the whole time is waited out.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::value::to_raw_value;
use tokio::sync::mpsc;
use tokio::time::{Instant as Deadline, timeout_at};
use tracing::{debug, warn};

use super::membership::{Membership, PROCESSES_MAX};
use super::messages::{Answer, Audience, Command, CommandEnvelope, CommandReply, Process};
use super::settings::ControlSettings;
use crate::log::{Log, LogError, Reports};

/// What came of an order.
#[derive(Debug)]
pub struct Gathered {
    /// What each process said; in the order of their names.
    pub answers: Vec<(Process, Answer)>,
    /// Who is there and has not answered in time.
    pub missing: Vec<Process>,
}

/// A process that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentProcess {
    /// Which one.
    pub process: Process,
    /// Its version.
    pub version: String,
    /// When it started, in Unix milliseconds.
    pub started_ms: u64,
    /// How long ago it was heard.
    pub heard_ago: Duration,
}

/// Whoever asks processes.
pub struct ControlClient {
    log: Log,
    name: String,
    gather: Duration,
    announce: Duration,
    numbers: AtomicU64,
    shared: Mutex<Shared>,
}

struct Shared {
    roll: Membership,
    /// When everybody who is there must have said so.
    settled_at: Instant,
    waiting: HashMap<u64, mpsc::Sender<CommandReply>>,
}

impl ControlClient {
    /// Listens from now on; the future keeps listening until it is dropped, or the connection to NATS is closed
    /// for good. `gather` bounds the wait for answers.
    pub async fn open(
        log: Log,
        settings: &ControlSettings,
        gather: Duration,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + 'static), LogError> {
        let name = format!("a-{:016x}", rand::random::<u64>());
        let reports = log.reports(&name).await?;
        let announce = Duration::from_millis(settings.announce_ms);
        let shared = Shared {
            roll: Membership::default(),
            settled_at: Instant::now() + announce,
            waiting: HashMap::new(),
        };
        let control = Arc::new(Self {
            log,
            name,
            gather,
            announce,
            numbers: AtomicU64::new(0),
            shared: Mutex::new(shared),
        });
        Ok((control.clone(), control.listen(reports)))
    }

    /// The name by which it goes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who is there, as far as was heard.
    pub fn present(&self) -> Vec<PresentProcess> {
        let now = Instant::now();
        let shared = self.lock();
        let present = shared.roll.present(Audience::Everyone, now);
        present
            .map(|(process, heard)| PresentProcess {
                process: process.clone(),
                version: heard.version.clone(),
                started_ms: heard.started_ms,
                heard_ago: now.saturating_duration_since(heard.at),
            })
            .collect()
    }

    /// Sends an order to all of an audience, and gathers the answers.
    pub async fn ask(&self, audience: Audience, demand: &Command) -> Result<Gathered, LogError> {
        const WHAT: &str = "asking the processes";
        if !self.log.state().borrow().connected {
            return Err(LogError::Unavailable {
                what: WHAT,
                why: "there is no connection to NATS".to_owned(),
            });
        }
        let malformed = |error: serde_json::Error| LogError::Malformed { what: WHAT, why: error.to_string() };
        let demand = to_raw_value(demand).map_err(malformed)?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let order = CommandEnvelope { asker: self.name.clone(), number, demand };
        let body = serde_json::to_vec(&order).map_err(malformed)?;
        let until = Deadline::now() + self.gather;
        let mut answers = Waiting::open(self, number);
        let whom = match audience {
            Audience::Everyone => None,
            Audience::Frontends => Some(super::messages::Role::Frontend.as_str()),
        };
        self.log.order(whom, body.into()).await?;
        let mut survey = Gathered { answers: Vec::new(), missing: Vec::new() };
        let mut answered = BTreeSet::new();
        loop {
            let (missing, settled_at) = self.missing(audience, &answered);
            let settled_at = Deadline::from_std(settled_at);
            if missing.is_empty() && settled_at <= Deadline::now() {
                break;
            }
            // Looked at again when everybody must have said that he is there.
            let look_at = if missing.is_empty() { settled_at.min(until) } else { until };
            match timeout_at(look_at, answers.reports.recv()).await {
                Ok(Some(report)) => {
                    answered.insert(report.by.clone());
                    survey.answers.push((report.by, report.answer));
                }
                Ok(None) => break,
                Err(_) if Deadline::now() >= until => {
                    survey.missing = missing;
                    break;
                }
                Err(_) => {}
            }
        }
        survey.answers.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(survey)
    }

    /// Who is there and has not answered, and when it is known who is there.
    fn missing(&self, audience: Audience, answered: &BTreeSet<Process>) -> (Vec<Process>, Instant) {
        let shared = self.lock();
        let present = shared.roll.present(audience, Instant::now()).map(|(process, _)| process);
        let missing = present.filter(|process| !answered.contains(process)).cloned().collect();
        (missing, shared.settled_at)
    }

    async fn listen(self: Arc<Self>, mut reports: Reports) {
        let mut state = self.log.state();
        let mut epoch = state.borrow_and_update().epoch;
        loop {
            let body = tokio::select! {
                body = reports.next() => body,
                Ok(()) = state.changed() => {
                    let now = state.borrow_and_update().epoch;
                    if now != epoch {
                        epoch = now;
                        // Who was there may have gone, and who came meanwhile has not been heard.
                        self.lock().settled_at = Instant::now() + self.announce;
                    }
                    continue;
                }
            };
            let Some(body) = body else { return };
            match serde_json::from_slice::<CommandReply>(&body) {
                Ok(report) => self.heard(report),
                Err(error) => warn!(%error, "a report that cannot be read; ignored"),
            }
        }
    }

    fn heard(&self, report: CommandReply) {
        let mut shared = self.lock();
        shared.roll.heard(&report, Instant::now());
        let Some(number) = report.number else { return };
        let taken = shared.waiting.get(&number).is_some_and(|waiting| waiting.try_send(report).is_ok());
        if !taken {
            debug!(number, "a reply arrived after its command had ended");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for reports on an order, until he is dropped.
struct Waiting<'a> {
    control: &'a ControlClient,
    number: u64,
    reports: mpsc::Receiver<CommandReply>,
}

impl<'a> Waiting<'a> {
    fn open(control: &'a ControlClient, number: u64) -> Self {
        let (sender, reports) = mpsc::channel(PROCESSES_MAX);
        control.lock().waiting.insert(number, sender);
        Self { control, number, reports }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.control.lock().waiting.remove(&self.number);
    }
}
