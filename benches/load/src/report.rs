//! What a run found, as JSON and as a table.

use serde::Serialize;

use crate::measure::{Percentiles, Taken};
use crate::verify::Findings;

/// What a run found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub scenario: String,
    /// How it was asked for.
    pub plan: serde_json::Value,
    /// How long was measured.
    pub seconds: f64,
    /// What was counted, by name: events answered, deliveries, bytes an idle connection takes, …
    pub figures: Vec<Figure>,
    /// Times by name, in milliseconds.
    pub times: Vec<Timed>,
    /// What the processes took while it was measured.
    pub processes: Vec<Taken>,
    /// The same figures over the run's course, where that is what the scenario is about.
    pub course: Vec<Point>,
    pub findings: Findings,
    /// Whether nothing was found to be wrong.
    pub ok: bool,
}

/// A number with its unit.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
}

/// A distribution of times.
#[derive(Debug, Clone, Serialize)]
pub struct Timed {
    pub name: &'static str,
    #[serde(flatten)]
    pub times: Percentiles,
}

/// A moment in a run.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    pub events: u64,
    pub events_per_s: f64,
    pub answer_p50_ms: f64,
    pub answer_p99_ms: f64,
    /// Memory of the processes, in the order of `processes`, without the generator.
    pub memory_bytes: Vec<u64>,
}

impl Report {
    pub fn figure(&mut self, name: &'static str, value: f64, unit: &'static str) {
        self.figures.push(Figure { name, value, unit });
    }

    pub fn time(&mut self, name: &'static str, times: Option<Percentiles>) {
        self.times.extend(times.map(|times| Timed { name, times }));
    }

    /// For a person.
    pub fn table(&self) -> String {
        let mut out = format!("{}, {:.1} s measured\n", self.scenario, self.seconds);
        for Figure { name, value, unit } in &self.figures {
            out += &format!("  {name:<28} {:>14} {unit}\n", number(*value));
        }
        if !self.times.is_empty() {
            out += &format!(
                "  {:<28} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
                "ms", "p50", "p90", "p99", "p99.9", "max"
            );
        }
        for Timed { name, times } in &self.times {
            out += &format!(
                "  {name:<28} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3}\n",
                times.p50, times.p90, times.p99, times.p999, times.max
            );
        }
        for point in &self.course {
            out += &format!(
                "  {:>10} events {:>9.0}/s   p50 {:>8.3} ms   p99 {:>8.3} ms   {}\n",
                point.events,
                point.events_per_s,
                point.answer_p50_ms,
                point.answer_p99_ms,
                point.memory_bytes.iter().map(|bytes| mib(*bytes)).collect::<Vec<_>>().join(", ")
            );
        }
        for process in &self.processes {
            out += &format!(
                "  {:<28} {:>8.2} CPU s   memory {} before, {} peak, {} after\n",
                process.name,
                process.cpu_s,
                mib(process.memory_before_bytes),
                mib(process.memory_peak_bytes),
                mib(process.memory_after_bytes)
            );
        }
        if self.findings.none() {
            out += "  nothing lost, doubled, reordered or wrong\n";
        } else {
            let said = serde_json::to_string_pretty(&self.findings);
            out += &format!("  WRONG: {}\n", said.unwrap_or_default());
        }
        out
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}
