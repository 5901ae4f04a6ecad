//! What must hold, checked while the load runs.
//!
//! A writer sends its events in order over one connection and nothing of them may be refused, so everybody
//! must see every writer's events as 0, 1, 2, …, each with the id that the writer was answered, and with
//! ids that only rise. That makes the check a comparison or two per event.

use serde::Serialize;

use crate::dialect::Mark;

/// How many findings are kept in words; all are counted.
const EXAMPLES_MAX: usize = 8;

/// What was sent and answered.
#[derive(Default)]
pub struct Ledger {
    pub writers: Vec<Writer>,
    pub findings: Findings,
}

/// One writer's events, by sequence.
pub struct Writer {
    pub partition: usize,
    /// When each was to be sent, in nanoseconds of the run.
    pub intended: Vec<u64>,
    /// The id that each was answered with.
    pub ids: Vec<u64>,
    /// How many viewers have yet to see each; kept only where the load waits for that.
    pub unseen: Vec<u32>,
    /// The sum of [`fingerprint`] over the answered ones.
    hash: u64,
}

/// What is wrong, counted.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Findings {
    /// Events that somebody did not get though a later one of the same writer came, or that never came.
    pub lost: u64,
    /// Events that came again.
    pub doubled: u64,
    /// Events whose id is not above the one before.
    pub reordered: u64,
    /// Events with another id than their writer was answered.
    pub wrong_id: u64,
    /// Events that nobody sent.
    pub foreign: u64,
    /// Requests without an answer.
    pub unanswered: u64,
    /// Refusals, errors, broken connections, and frames that were not understood.
    pub failures: u64,
    /// The first of them in words.
    pub examples: Vec<String>,
}

/// What one connection, or one look at the log, has seen of its partition.
pub struct View {
    name: String,
    partition: usize,
    /// The writer whose events this view is not sent.
    without: Option<u32>,
    first_writer: u32,
    /// Each writer's next sequence.
    next: Vec<u32>,
    /// The last event id.
    pub last: u64,
    /// Events seen.
    pub seen: u64,
    hash: u64,
}

impl Findings {
    /// Whether all is well.
    pub fn none(&self) -> bool {
        let Self { lost, doubled, reordered, wrong_id, foreign, unanswered, failures, examples: _ } = self;
        lost + doubled + reordered + wrong_id + foreign + unanswered + failures == 0
    }

    /// Notes a finding that its caller has counted.
    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text());
        }
    }

    /// Counts a refusal or a breakdown.
    pub fn fail(&mut self, text: String) {
        self.failures += 1;
        self.note(|| text);
    }
}

impl Ledger {
    /// Adds a writer and gives its number.
    pub fn add_writer(&mut self, partition: usize) -> u32 {
        self.writers.push(Writer {
            partition,
            intended: Vec::new(),
            ids: Vec::new(),
            unseen: Vec::new(),
            hash: 0,
        });
        self.writers.len() as u32 - 1
    }

    /// A writer's event was answered as stored.
    pub fn accepted(&mut self, writer: u32, mark: Mark, id: u64) {
        let record = &mut self.writers[writer as usize];
        let expected = record.ids.len();
        if mark.writer != writer || mark.sequence as usize != expected {
            self.findings.failures += 1;
            self.findings.note(|| format!("writer {writer}: {mark:?} was answered instead of {expected}"));
            return;
        }
        if record.ids.last().is_some_and(|last| id <= *last) {
            self.findings.reordered += 1;
            self.findings
                .note(|| format!("writer {writer}: {mark:?} was answered with {id}, not above the last"));
        }
        record.ids.push(id);
        record.hash = record.hash.wrapping_add(fingerprint(mark, id));
    }

    /// Counts what was sent and not answered.
    pub fn count_unanswered(&mut self) {
        for (number, writer) in self.writers.iter().enumerate() {
            let missing = writer.intended.len() - writer.ids.len();
            if missing > 0 {
                self.findings.unanswered += missing as u64;
                self.findings.note(|| format!("writer {number}: {missing} events have no answer"));
            }
        }
    }
}

impl View {
    /// A view that begins before the partition's first event. `writers` are the partition's.
    pub fn new(name: String, partition: usize, writers: std::ops::Range<u32>, without: Option<u32>) -> Self {
        Self {
            name,
            partition,
            without,
            first_writer: writers.start,
            next: vec![0; writers.len()],
            last: 0,
            seen: 0,
            hash: 0,
        }
    }

    /// An event came.
    pub fn event(&mut self, ledger: &mut Ledger, mark: Mark, id: u64) {
        let Ledger { writers, findings } = ledger;
        let known = writers.get(mark.writer as usize).filter(|writer| {
            writer.partition == self.partition && (mark.sequence as usize) < writer.intended.len()
        });
        let (Some(writer), Some(next)) =
            (known, self.next.get_mut(mark.writer.wrapping_sub(self.first_writer) as usize))
        else {
            findings.foreign += 1;
            findings.note(|| format!("{}: {mark:?} came, which nobody sent", self.name));
            return;
        };
        if id <= self.last {
            findings.reordered += 1;
            findings.note(|| format!("{}: {mark:?} came with id {id} behind {}", self.name, self.last));
        }
        if mark.sequence < *next || self.without == Some(mark.writer) {
            findings.doubled += 1;
            findings.note(|| format!("{}: {mark:?} came again, or to its own writer", self.name));
            return;
        }
        if mark.sequence > *next {
            findings.lost += u64::from(mark.sequence - *next);
            findings.note(|| format!("{}: {mark:?} came where {next} was expected", self.name));
        }
        if writer.ids.get(mark.sequence as usize).is_some_and(|answered| *answered != id) {
            findings.wrong_id += 1;
            findings.note(|| format!("{}: {mark:?} came with id {id}, not the answered one", self.name));
        }
        *next = mark.sequence + 1;
        self.last = self.last.max(id);
        self.seen += 1;
        self.hash = self.hash.wrapping_add(fingerprint(mark, id));
    }

    /// How many events this view should have seen by now.
    pub fn expected(&self, ledger: &Ledger) -> u64 {
        self.writers(ledger).map(|writer| writer.ids.len() as u64).sum()
    }

    /// Nothing more will come: everything that was answered must have.
    pub fn finish(&self, ledger: &mut Ledger) {
        let expected = self.expected(ledger);
        let hash = self.writers(ledger).fold(0u64, |sum, writer| sum.wrapping_add(writer.hash));
        let findings = &mut ledger.findings;
        if self.seen < expected {
            findings.lost += expected - self.seen;
            findings.note(|| format!("{}: {} of {expected} events came", self.name, self.seen));
        } else if self.seen > expected {
            findings.foreign += self.seen - expected;
            findings.note(|| format!("{}: {} events came, {expected} were answered", self.name, self.seen));
        } else if self.hash != hash {
            findings.wrong_id += 1;
            findings.note(|| format!("{}: the ids are not the answered ones", self.name));
        }
    }

    fn writers<'a>(&'a self, ledger: &'a Ledger) -> impl Iterator<Item = &'a Writer> {
        (self.first_writer..self.first_writer + self.next.len() as u32)
            .filter(|number| self.without != Some(*number))
            .filter_map(|number| ledger.writers.get(number as usize))
    }
}

/// Mixes an event's mark and id, so that sums over the same events are the same.
fn fingerprint(mark: Mark, id: u64) -> u64 {
    let mut mixed = id ^ (u64::from(mark.writer) << 32 | u64::from(mark.sequence)).rotate_left(17);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(factor);
    }
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two writers in a partition, who have sent four events each and were answered for them.
    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for writer in 0..2 {
            assert_eq!(ledger.add_writer(0), writer);
            ledger.writers[writer as usize].intended = vec![0; 4];
            for sequence in 0..4 {
                ledger.accepted(writer, Mark { writer, sequence }, id(writer, sequence));
            }
        }
        assert!(ledger.findings.none());
        ledger
    }

    fn id(writer: u32, sequence: u32) -> u64 {
        u64::from(1 + sequence * 2 + writer)
    }

    /// What a view finds that is given these events.
    fn seen(without: Option<u32>, events: &[(u32, u32, u64)]) -> Findings {
        let mut ledger = ledger();
        let mut view = View::new("a view".to_owned(), 0, 0..2, without);
        for &(writer, sequence, id) in events {
            view.event(&mut ledger, Mark { writer, sequence }, id);
        }
        view.finish(&mut ledger);
        ledger.findings
    }

    fn all() -> Vec<(u32, u32, u64)> {
        (0..4)
            .flat_map(|sequence| (0..2).map(move |writer| (writer, sequence, id(writer, sequence))))
            .collect()
    }

    #[test]
    fn everything_in_order_is_well() {
        assert!(seen(None, &all()).none());
        let of_others: Vec<_> = all().into_iter().filter(|event| event.0 == 1).collect();
        assert!(seen(Some(0), &of_others).none());
    }

    #[test]
    fn what_is_missing_is_lost_in_the_middle_and_at_the_end() {
        let mut events = all();
        events.remove(2);
        let findings = seen(None, &events);
        assert!(findings.lost >= 1, "{findings:?}");
        assert!(seen(None, &all()[..7]).lost == 1);
    }

    #[test]
    fn what_comes_again_is_doubled() {
        let mut events = all();
        events.push(events[7]);
        assert_eq!(seen(None, &events).doubled, 1);
        assert_eq!(seen(Some(0), &all()).doubled, 4, "a writer that is sent its own");
    }

    #[test]
    fn ids_that_do_not_rise_are_found() {
        let mut events = all();
        events.swap(0, 1);
        assert_eq!(seen(None, &events).reordered, 1);
    }

    #[test]
    fn another_id_than_the_answered_one_is_found_before_and_after_the_answer() {
        let mut events = all();
        events[7].2 = 99;
        assert!(seen(None, &events).wrong_id >= 1);

        let mut ledger = Ledger::default();
        ledger.add_writer(0);
        ledger.writers[0].intended = vec![0];
        let mut view = View::new("early".to_owned(), 0, 0..1, None);
        view.event(&mut ledger, Mark { writer: 0, sequence: 0 }, 5);
        ledger.accepted(0, Mark { writer: 0, sequence: 0 }, 6);
        view.finish(&mut ledger);
        assert_eq!(ledger.findings.wrong_id, 1);
    }

    #[test]
    fn what_nobody_sent_is_foreign() {
        let mut events = all();
        events.push((0, 4, 50));
        events.push((7, 0, 51));
        assert_eq!(seen(None, &events).foreign, 2);
    }

    #[test]
    fn an_answer_out_of_turn_and_one_that_never_comes_are_found() {
        let mut ledger = Ledger::default();
        ledger.add_writer(0);
        ledger.writers[0].intended = vec![0; 2];
        ledger.accepted(0, Mark { writer: 0, sequence: 1 }, 1);
        assert_eq!(ledger.findings.failures, 1);
        ledger.count_unanswered();
        assert_eq!(ledger.findings.unanswered, 2);
    }
}
