//! A rolling restart: every frontend and validator is asked to end, one after the other, and started again, as
//! a new version is rolled out; nothing else is done to them. More must hold then than under faults: nobody is
//! cut off, everybody is told before a connection ends, and at no time is nothing answered for long.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::client::LEFT;
use super::history::{Entry, History};
use super::judge::{Rule, Violation};
use super::world::{Counters, Managed, count};

/// How long a process may take to go, and to be ready again. Its own limit on the first is
/// `frontend.drain_ms_max`.
const GOING_MAX: Duration = Duration::from_secs(20);
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a process that is ready is left alone before the next one goes.
const BETWEEN: Duration = Duration::from_millis(500);
/// How long it may be, with all clients writing, from one acceptance to the next.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long one draft may wait, from when it was first sent to its answer, new connections included.
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// Restarts each of them, over and over until told to stop, but at least once; gives what went wrong.
pub async fn restart_all(
    processes: &mut [Managed],
    counters: &Counters,
    stop: &CancellationToken,
) -> Vec<String> {
    let mut wrong = Vec::new();
    loop {
        for process in processes.iter_mut() {
            wrong.extend(process.ended_by_itself());
            wrong.extend(process.go(GOING_MAX).await.err());
            process.start();
            wrong.extend(process.ready(READY_MAX).await.err());
            count(&counters.rolling);
            tokio::time::sleep(BETWEEN).await;
        }
        if stop.is_cancelled() || !wrong.is_empty() {
            return wrong;
        }
    }
}

/// What the clients noticed of it.
#[derive(Debug, Default)]
pub struct Noticed {
    /// Connections that were closed as a drain closes them.
    pub sent_off: usize,
    /// Drafts that came while their frontend was going, and were told to come again.
    pub put_off: usize,
    /// The longest time from one acceptance to the next, of anybody's.
    pub silence: Duration,
    /// The longest time that a draft waited for its answer.
    pub answer: Duration,
}

impl std::fmt::Display for Noticed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} connections sent off with 1001, {} drafts put off; at most {} ms without an acceptance of anybody's, and {} ms for one draft",
            self.sent_off,
            self.put_off,
            self.silence.as_millis(),
            self.answer.as_millis()
        )
    }
}

/// Judges what the clients noticed while all of them were writing, which ended at `until` (Unix milliseconds).
pub fn judge(histories: &[History], until: u64) -> (Noticed, Vec<Violation>) {
    let mut noticed = Noticed::default();
    let mut violations = Vec::new();
    let mut found = |what: String| violations.push(Violation::new(Rule::Rolling, what));
    let mut accepted = Vec::new();
    for history in histories {
        let mut waiting = HashMap::new();
        // Who comes to one that is just going or away is not let in, and tries another: a load balancer would
        // have known, clients here do not.
        let mut let_in = HashSet::new();
        for (connection, at, entry) in history.entries() {
            match entry {
                Entry::Connected { .. } => {
                    let_in.insert(connection);
                }
                Entry::Submitted { drafts, .. } => {
                    for draft in drafts {
                        waiting.entry(*draft).or_insert(at);
                    }
                }
                Entry::Accepted { draft, .. }
                | Entry::Rejected { draft, .. }
                | Entry::NotProcessed { draft } => {
                    if matches!(entry, Entry::Accepted { .. }) && at <= until {
                        accepted.push(at);
                    }
                    if let Some(since) = waiting.remove(draft) {
                        let waited = Duration::from_millis(at.saturating_sub(since));
                        noticed.answer = noticed.answer.max(waited);
                    }
                }
                Entry::Unavailable { .. } => noticed.put_off += 1,
                Entry::Gone(why) if let_in.contains(&connection) => {
                    if why.starts_with("closed: 1001") {
                        noticed.sent_off += 1;
                    } else if why != LEFT {
                        let whose = format!("{}, connection {connection}", history.client);
                        found(format!("{whose}, was not sent off, but: {why}"));
                    }
                }
                _ => {}
            }
        }
    }
    accepted.sort_unstable();
    let gaps = accepted.windows(2).map(|two| Duration::from_millis(two[1] - two[0]));
    noticed.silence = gaps.max().unwrap_or(Duration::MAX);
    if noticed.silence > SILENCE_MAX {
        found(format!("nobody's draft was accepted for {:?}", noticed.silence));
    }
    if noticed.answer > ANSWER_MAX {
        found(format!("a draft waited {:?} for its answer", noticed.answer));
    }
    if noticed.sent_off == 0 {
        found("nobody was sent off".to_owned());
    }
    (noticed, violations)
}
